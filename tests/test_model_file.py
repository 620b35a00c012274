"""The model file: what is saved is what is decoded, and a cut, foreign, newer or hostile file is one line."""

import json
import os
import struct

import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import GRIDS, grid_id, random_box, random_pyramid
from safetensors import safe_open
from safetensors.torch import save_file

from datasets.grid import Box, Grid
from models import draft
from models.encoding import Encoding
from models.engine import ReferenceEngine
from models.model_file import check_features, load, save
from models.precision import DTYPES, pack, row_bytes
from models.pyramid import Pyramid
from utils import UserError

SIGNAL = {"dtype": "uint8", "channels": 2, "low": 0.0, "high": 255.0, "mode": "grey+alpha"}
VOLUME = SIGNAL | {"mode": "volume"}
ABOUT = {"signal": SIGNAL, "options": {"patch_size": [4, 3], "n_freq": None}, "text": "ü"}
GRID = Grid((13, 37), (5, 7), 3)


def saved(path, grid=GRID, **options):
    pyramid = random_pyramid(grid, **options)
    save(path, pyramid, about_of(grid))
    return pyramid


def about_of(grid):
    return ABOUT if grid.ndim == 2 else ABOUT | {"signal": VOLUME}


def contents(path):
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["miner"]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def refused(path):
    """The line that a file is refused with, at the latest when its rows are read."""
    for lazy in (True, False):
        with pytest.raises(UserError) as error:
            load(path, lazy=lazy)[0].decode()
        line = str(error.value)
        assert "\n" not in line and path.name in line and len(line) < 500
    return line


@pytest.mark.parametrize("grid", GRIDS, ids=grid_id)
@pytest.mark.parametrize("gaussian", [False, True], ids=["laplacian", "gaussian"])
@pytest.mark.parametrize("lazy", [False, True], ids=["in memory", "in the file"])
def test_what_is_loaded_decodes_to_the_same_bits(tmp_path, grid, gaussian, lazy):
    path, generator = tmp_path / "model.safetensors", np.random.default_rng(0)
    pyramid = saved(path, grid, gaussian=gaussian)
    found, about = load(path, lazy=lazy)
    assert about == about_of(grid)
    assert (found.grid, found.encoding, found.channels) == (pyramid.grid, pyramid.encoding, pyramid.channels)
    assert found.n_params == pyramid.n_params
    for level in range(grid.n_levels):
        assert torch.equal(found.decode(level=level), pyramid.decode(level=level))
        region = random_box(generator, grid.level_box(level).stop)
        assert torch.equal(found.decode(region, level), pyramid.decode(region, level))


@pytest.mark.parametrize("keep", [0, 2], ids=["no network", "every block"])
@pytest.mark.parametrize("n_freq", [0, 3])
def test_levels_that_are_empty_or_full_come_back(tmp_path, keep, n_freq):
    path = tmp_path / "model.safetensors"
    pyramid = saved(path, keep=keep, n_freq=n_freq, n_layers=1)
    assert torch.equal(load(path)[0].decode(), pyramid.decode())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("grid", [GRIDS[0], GRIDS[4], GRIDS[7]], ids=grid_id)
def test_rows_of_every_dtype_come_back_and_regions_of_them_are_the_crop(tmp_path, grid, dtype):
    path, generator = tmp_path / "model.safetensors", np.random.default_rng(0)
    pyramid = saved(path, grid, dtype=dtype, n_layers=3)
    loaded, _ = load(path)
    lazy, _ = load(path, lazy=True)
    assert all(networks.dtype == dtype for found in (loaded, lazy) for networks in found.levels.values())
    for level in range(grid.n_levels):
        whole, decoded = grid.level_box(level), pyramid.decode(level=level)
        assert torch.equal(loaded.decode(level=level), decoded)
        for _ in range(5):
            region = random_box(generator, whole.stop)
            assert torch.equal(lazy.decode(region, level), whole.crop(decoded, region))
    save(tmp_path / "again.safetensors", lazy, about_of(grid))
    assert path.read_bytes() == (tmp_path / "again.safetensors").read_bytes()


def test_levels_may_be_of_unlike_dtypes(tmp_path):
    path = tmp_path / "model.safetensors"
    pyramid = random_pyramid(GRID)
    for level, dtype in enumerate(DTYPES):
        pyramid.add(level, random_pyramid(GRID, dtype=dtype).level(level))
    save(path, pyramid, ABOUT)
    assert torch.equal(load(path, lazy=True)[0].decode(), pyramid.decode())


def test_levels_that_were_never_reached_are_absent(tmp_path):
    path = tmp_path / "model.safetensors"
    pyramid = random_pyramid(GRID)
    del pyramid.levels["0"]
    save(path, pyramid, ABOUT)
    found, _ = load(path)
    assert found.level(0) is None and torch.equal(found.decode(), pyramid.decode())
    save(path, Pyramid(GRID, Encoding(2, 1), 2, ReferenceEngine()), ABOUT)
    assert not load(path)[0].decode().any()


def test_a_region_reads_the_rows_that_it_touches_and_no_other(tmp_path):
    path = tmp_path / "model.safetensors"
    saved(path, Grid((512, 512), (8, 8), 3), keep=2)
    pyramid, _ = load(path, lazy=True)
    assert pyramid.bytes_read == 0 and pyramid.n_params * 4 > path.stat().st_size * 0.9
    pyramid.decode(Box((100, 100), (101, 101)))
    rows = sum(4 * level.network.row_size for level in pyramid.levels.values())
    assert rows <= pyramid.bytes_read <= 4 * rows
    whole, _ = load(path)
    assert whole.bytes_read == 0


def test_a_lazy_model_is_saved_as_it_was(tmp_path):
    path, again = tmp_path / "model.safetensors", tmp_path / "again.safetensors"
    saved(path)
    save(again, *load(path, lazy=True))
    assert path.read_bytes() == again.read_bytes()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_file_is_as_large_as_its_rows(tmp_path, dtype):
    path = tmp_path / "model.safetensors"
    pyramid = saved(path, Grid((512, 512), (8, 8), 2), dtype=dtype)
    size = sum(len(level) * (row_bytes(level.network, dtype) + 12) for level in pyramid.levels.values())
    assert size < path.stat().st_size < size + 4096


def test_saving_twice_gives_the_same_bytes(tmp_path):
    for name in ("a.safetensors", "b.safetensors"):
        saved(tmp_path / name)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=repr)
def test_a_save_that_fails_half_way_leaves_the_old_file(tmp_path, monkeypatch, error):
    path = tmp_path / "model.safetensors"
    pyramid = saved(path)
    before = path.read_bytes()

    pwrite, places = os.pwrite, []

    def half(file, view, place):
        places.append(place)
        if len(places) > 3:
            raise error
        return pwrite(file, view, place)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", half)
        with pytest.raises(type(error)):
            save(path, pyramid, ABOUT)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("grid", GRIDS, ids=grid_id)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_file_is_what_the_library_writes_whatever_the_parts(grid, dtype, tmp_path, monkeypatch):
    pyramid = saved(tmp_path / "a.safetensors", grid, dtype=dtype)
    tensors = {}
    for name, networks in pyramid.levels.items():
        parts = {"blocks": networks.blocks, "amplitude": networks.amplitude}
        parts |= pack(networks.network, dtype, networks.rows.detach())
        tensors |= {f"{name}.{key}": value for key, value in parts.items()}
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        want = safetensors.torch.save(tensors, file.metadata())
    assert (tmp_path / "a.safetensors").read_bytes() == want
    monkeypatch.setitem(draft.WRITTEN_BYTES, "cpu", 1)
    saved(tmp_path / "b.safetensors", grid, dtype=dtype)
    assert (tmp_path / "b.safetensors").read_bytes() == want


@pytest.mark.parametrize("grid", GRIDS, ids=grid_id)
def test_a_model_whose_rows_are_in_its_file_is_saved_as_the_same_bytes(grid, tmp_path):
    saved(tmp_path / "a.safetensors", grid)
    pyramid, about = load(tmp_path / "a.safetensors", lazy=True)
    save(tmp_path / "b.safetensors", pyramid, about)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_facts_that_are_no_json_leave_the_old_file(tmp_path):
    path = tmp_path / "model.safetensors"
    pyramid = saved(path)
    before = path.read_bytes()
    with pytest.raises(ValueError):
        save(path, pyramid, {"psnr": float("inf")})
    assert path.read_bytes() == before


def test_a_file_cut_anywhere_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    saved(path)
    whole = path.read_bytes()
    lengths = {0, 1, 7, 8, 9, 100, len(whole) - 1} | set(np.random.default_rng(0).integers(0, len(whole), 60).tolist())
    for length in sorted(lengths):
        path.write_bytes(whole[:length])
        refused(path)


def test_a_file_with_a_wrong_byte_is_refused_or_decoded_but_never_a_traceback(tmp_path):
    path, generator = tmp_path / "model.safetensors", np.random.default_rng(0)
    saved(path)
    whole = bytearray(path.read_bytes())
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    places = [
        *range(8),
        *generator.integers(8, header, 300).tolist(),
        *generator.integers(header, len(whole), 20).tolist(),
    ]
    for place in places:
        spoilt = bytearray(whole)
        spoilt[place] ^= int(generator.integers(1, 256))
        path.write_bytes(spoilt)
        try:
            load(path, lazy=bool(place % 2))[0].decode()
        except UserError as error:
            assert "\n" not in str(error)


FOREIGN = {
    "empty": b"",
    "text": b"not a model at all\n" * 100,
    "zeros": bytes(1000),
    "png": b"\x89PNG\r\n\x1a\n" + bytes(100),
    "endless header": struct.pack("<Q", 2**63) + b"{}",
    "header that is no json": struct.pack("<Q", 4) + b"abcd",
    "header that is a list": struct.pack("<Q", 4) + b"[]  ",
    "deep header": struct.pack("<Q", 200000) + b"[" * 200000,
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_no_safetensors_file_is_refused(tmp_path, name):
    path = tmp_path / "model.safetensors"
    path.write_bytes(FOREIGN[name])
    refused(path)


@pytest.mark.parametrize(
    "metadata", [None, {}, {"format": "pt"}, {"miner": "null"}, {"miner": "[1, 2]"}, {"miner": '{"format": "other"}'}]
)
def test_a_safetensors_file_of_somebody_else_is_refused(tmp_path, metadata):
    path = tmp_path / "model.safetensors"
    save_file({"weight": torch.zeros(2, 2)}, path, metadata)
    assert "not a model that train.py wrote" in refused(path)


@pytest.mark.parametrize(
    "text", ["", "{", "nonsense", "[" * 100_000, '{"format": "miner", "version": ' + "9" * 5000 + "}"]
)
def test_metadata_that_is_no_json_is_refused(tmp_path, text):
    path = tmp_path / "model.safetensors"
    save_file({"weight": torch.zeros(2, 2)}, path, {"miner": text})
    refused(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    assert "no such model file" in refused(tmp_path / "absent.safetensors")
    (tmp_path / "folder").mkdir()
    refused(tmp_path / "folder")


class Bomb:
    def __reduce__(self):
        return (open, ("bomb.txt", "w"))


def test_code_in_a_pickle_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model.safetensors"
    torch.save({"rows": Bomb()}, path)
    refused(path)
    assert not (tmp_path / "bomb.txt").exists()


def edited(tmp_path, edit, **options):
    """A file like a good one, whose header and tensors `edit` has changed."""
    path = tmp_path / "model.safetensors"
    saved(path, **options)
    header, tensors = contents(path)
    edit(header, tensors)
    save_file(tensors, path, {"miner": json.dumps(header)})
    return path


def test_a_file_of_version_1_is_float32_throughout(tmp_path):
    def older(header, _):
        header["version"] = 1
        for facts in header["levels"].values():
            del facts["dtype"]

    assert torch.equal(load(edited(tmp_path, older))[0].decode(), random_pyramid(GRID).decode())


def test_a_file_that_is_written_again_unchanged_is_loaded(tmp_path):
    load(edited(tmp_path, lambda header, tensors: None))


@pytest.mark.parametrize("version", [3, 10**9, pytest.param(10**4000, id="of 4001 digits")])
def test_a_newer_version_is_said(tmp_path, version):
    path = edited(tmp_path, lambda header, _: header.update(version=version))
    assert "newer version" in refused(path)


@pytest.mark.parametrize("version", [None, "1", 1.5, [], -1, 0])
def test_a_version_that_never_was_is_refused(tmp_path, version):
    refused(edited(tmp_path, lambda header, _: header.update(version=version)))


NUMBERS = [None, "3", 3.0, 2.5, -1, 0, True, [], {}, 2**40, 2**62, 10**30, float("nan"), float("inf")]
PLACES = ["grid shape", "grid patch", "grid n_levels", "channels", "n_in", "n_hidden", "n_layers", "n_out"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("value", NUMBERS, ids=repr)
def test_an_impossible_number_in_the_header_is_refused(tmp_path, place, value):
    def edit(header, _):
        if place in ("grid shape", "grid patch"):
            header["grid"][place[5:]][1] = value
        elif place == "grid n_levels":
            header["grid"]["n_levels"] = value
        elif place == "channels":
            header["channels"] = value
        else:
            header["levels"]["0"][place] = value

    refused(edited(tmp_path, edit))


@pytest.mark.parametrize("place", ["n_in", "n_hidden", "n_layers", "n_out"])
def test_a_right_number_of_the_wrong_type_is_refused(tmp_path, place):
    refused(
        edited(tmp_path, lambda header, _: header["levels"]["0"].update({place: float(header["levels"]["0"][place])}))
    )


@pytest.mark.parametrize("value", [None, "1", 1.0, -1, True, [], 2**40, 10**30, float("nan")], ids=repr)
def test_an_impossible_number_of_frequencies_is_refused(tmp_path, value):
    refused(edited(tmp_path, lambda header, _: header["encoding"].update(n_freq=value)))


PARTS = [
    (part, value)
    for part in ("grid", "encoding", "channels", "levels", "about")
    for value in ("absent", None, 3, "text", [], [1, 2, 3])
    if (part, value) != ("channels", 3)
]


@pytest.mark.parametrize(("part", "value"), PARTS, ids=str)
def test_a_part_of_the_header_that_is_missing_or_of_another_type_is_refused(tmp_path, part, value):
    def edit(header, _):
        header.pop(part) if value == "absent" else header.update({part: value})

    refused(edited(tmp_path, edit))


HEADERS = {
    "one axis": lambda h: h["grid"].update(shape=[13], patch=[5]),
    "four axes": lambda h: h["grid"].update(shape=[1, 2, 3, 4], patch=[1, 1, 1, 1]),
    "axes that do not match": lambda h: h["grid"].update(patch=[5, 7, 3]),
    "no shape": lambda h: h["grid"].pop("shape"),
    "more cells than there are": lambda h: h["grid"].update(shape=[2**39, 2**39]),
    "a huge patch": lambda h: h["grid"].update(patch=[2**39, 2**39]),
    "dimensions that do not match": lambda h: h["encoding"].update(n_freq=2),
    "a level that is not there": lambda h: h["levels"].update({"3": h["levels"]["0"]}),
    "a negative level": lambda h: h["levels"].update({"-1": h["levels"]["0"]}),
    "a level called 00": lambda h: h["levels"].update({"00": h["levels"]["0"]}),
    "a level that is no number": lambda h: h["levels"].update({"a.b": h["levels"]["0"]}),
    "another output": lambda h: h["levels"]["0"].update(output="eval"),
    "an output of another type": lambda h: h["levels"]["0"].update(output=["sin"]),
    "a number too many": lambda h: h["levels"]["0"].update(more=1),
    "a number too few": lambda h: h["levels"]["0"].pop("n_out"),
    "a level that is a list": lambda h: h["levels"].update({"0": [1, 2]}),
    "wider networks than there are": lambda h: h["levels"]["0"].update(n_hidden=6),
    "deeper networks than there are": lambda h: h["levels"]["0"].update(n_layers=3),
    "no dtype": lambda h: h["levels"]["0"].pop("dtype"),
    "an unknown dtype": lambda h: h["levels"]["0"].update(dtype="bfloat16"),
    "a dtype that is no word": lambda h: h["levels"]["0"].update(dtype=["int8"]),
    "another dtype than the rows have": lambda h: h["levels"]["0"].update(dtype="float16"),
    "a dtype that needs more tables": lambda h: h["levels"]["0"].update(dtype="int8"),
    "a dtype in version 1": lambda h: h.update(version=1),
    "channels that do not match": lambda h: h.update(channels=1),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_that_contradicts_itself_or_the_rows_is_refused(tmp_path, name):
    refused(edited(tmp_path, lambda header, _: HEADERS[name](header)))


def solid(header, tensors, **about):
    """Make a header that of a shape, and change what it says about it."""
    signal = {"dtype": "bool", "channels": 1, "low": 0.0, "high": 1.0, "mode": "occupancy"}
    header["grid"].update(shape=[5, 6, 7], patch=[4, 4, 4])
    header["about"].update({"signal": signal, "bounds": [[0, 0, 0], [1.5, 1, 1]]} | about)
    header.update(channels=1, levels={})
    tensors.clear()
    tensors["x"] = torch.zeros(1)


BOUNDS = {
    "six points": [[1], [2], [3], [4], [5], [6]],
    "three points": [[0, 0], [0, 1], [1, 1]],
    "words": [["0", "0", "0"], ["1", "1", "1"]],
    "a word": "012345",
    "a dict": {"012": 1, "345": 2},
    "truths": [[True, False, False], [True, True, True]],
    "an integer that no array holds": [[0, 0, 0], [2**63, 1, 1]],
    "more than a float between them": [[-1e308, 0, 0], [1e308, 1, 1]],
    "nothing": None,
}


def test_a_shape_without_networks_is_loaded(tmp_path):
    load(edited(tmp_path, solid))


@pytest.mark.parametrize("name", BOUNDS)
def test_bounds_that_are_no_two_points_in_space_are_refused(tmp_path, name):
    assert "bounds" in refused(edited(tmp_path, lambda *of: solid(*of, bounds=BOUNDS[name])))


@pytest.mark.parametrize("mode", ["grey", "channels"])
def test_a_picture_with_three_axes_is_refused(tmp_path, mode):
    signal = SIGNAL | {"channels": 1, "mode": mode}
    assert "mode" in refused(edited(tmp_path, lambda *of: solid(*of, signal=signal)))


def test_a_volume_with_two_axes_is_refused(tmp_path):
    assert "mode" in refused(edited(tmp_path, lambda header, _: header["about"]["signal"].update(mode="volume")))


@pytest.mark.parametrize("value", [2.0, "2", None])
def test_channels_of_a_signal_that_are_no_integer_are_refused(tmp_path, value):
    refused(edited(tmp_path, lambda header, _: header["about"]["signal"].update(channels=value)))


def spoil(tensors, key, function):
    tensors[key] = function(tensors[key]).contiguous()


TENSORS = {
    "no rows": lambda t: t.pop("0.rows"),
    "no blocks": lambda t: t.pop("0.blocks"),
    "no amplitude": lambda t: t.pop("0.amplitude"),
    "fewer rows": lambda t: spoil(t, "0.rows", lambda x: x[1:]),
    "narrower rows": lambda t: spoil(t, "0.rows", lambda x: x[:, 1:]),
    "flat rows": lambda t: spoil(t, "0.rows", lambda x: x.flatten()),
    "a scalar for rows": lambda t: spoil(t, "0.rows", lambda x: x[0, 0]),
    "double rows": lambda t: spoil(t, "0.rows", lambda x: x.double()),
    "half rows": lambda t: spoil(t, "0.rows", lambda x: x.half()),
    "integer rows": lambda t: spoil(t, "0.rows", lambda x: x.int()),
    "NaN rows": lambda t: spoil(t, "0.rows", lambda x: x * torch.nan),
    "an infinite row": lambda t: spoil(t, "0.rows", lambda x: torch.cat([x[:-1], x[-1:] * torch.inf])),
    "more amplitudes": lambda t: spoil(t, "0.amplitude", lambda x: torch.cat([x, x])),
    "wide amplitudes": lambda t: spoil(t, "0.amplitude", lambda x: x[:, None]),
    "half amplitudes": lambda t: spoil(t, "0.amplitude", lambda x: x.half()),
    "NaN amplitudes": lambda t: spoil(t, "0.amplitude", lambda x: x * torch.nan),
    "float blocks": lambda t: spoil(t, "0.blocks", lambda x: x.float()),
    "short blocks": lambda t: spoil(t, "0.blocks", lambda x: x.int()),
    "a scalar for blocks": lambda t: spoil(t, "0.blocks", lambda x: x[0]),
    "unsorted blocks": lambda t: spoil(t, "0.blocks", lambda x: x.flip(0)),
    "a block twice": lambda t: spoil(t, "0.blocks", lambda x: torch.cat([x[:1], x[:-1]])),
    "a negative block": lambda t: spoil(t, "0.blocks", lambda x: torch.cat([x[:1] * 0 - 1, x[1:]])),
    "a block beyond the level": lambda t: spoil(t, "0.blocks", lambda x: torch.cat([x[:-1], x[:1] * 0 + 18])),
    "a block beyond everything": lambda t: spoil(t, "0.blocks", lambda x: torch.cat([x[:-1], x[:1] * 0 + 2**62])),
}


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_that_contradict_the_header_are_refused(tmp_path, name):
    refused(edited(tmp_path, lambda _, tensors: TENSORS[name](tensors)))


REST = {
    "absent": lambda t: t.pop("0.rest"),
    "narrower": lambda t: spoil(t, "0.rest", lambda x: x[:, 1:]),
    "fewer": lambda t: spoil(t, "0.rest", lambda x: x[1:]),
    "float32": lambda t: spoil(t, "0.rest", lambda x: x.float()),
    "NaN": lambda t: spoil(t, "0.rest", lambda x: x * torch.nan),
}


@pytest.mark.parametrize("name", REST)
def test_scales_that_contradict_the_header_are_refused(tmp_path, name):
    refused(edited(tmp_path, lambda _, tensors: REST[name](tensors), dtype="int8"))


@pytest.mark.parametrize("columns", [1, 2])
def test_blocks_and_amplitudes_in_a_table_are_refused(tmp_path, columns):
    def edit(_, tensors):
        for key in ("0.blocks", "0.amplitude"):
            spoil(tensors, key, lambda x: torch.stack([x + n for n in range(columns)], 1))

    refused(edited(tmp_path, edit))


@pytest.mark.parametrize(("patch", "most"), [((101, 101, 101), 6), ((1, 1000, 1000), 6), ((100, 100, 100), 6)])
def test_frequencies_that_no_reader_would_take_are_refused_before_a_fit(tmp_path, monkeypatch, patch, most):
    grid = Grid((110, 110, 110), patch, 1)
    with pytest.raises(UserError, match=f"--n_freq 7: with --patch_size .* at most {most}"):
        check_features(grid, Encoding(3, most + 1))
    check_features(grid, Encoding(3, most))
    monkeypatch.setattr(Encoding, "__call__", lambda *_: torch.zeros(1))
    for n_freq in (most, most + 1):

        def edit(header, tensors, n_freq=n_freq):
            solid(header, tensors)
            header["grid"].update(shape=grid.shape, patch=patch)
            header["encoding"].update(ndim=3, n_freq=n_freq)

        path = edited(tmp_path, edit)
        load(path) if n_freq == most else refused(path)


def test_a_hostile_header_costs_no_memory(tmp_path, monkeypatch):
    """A patch and frequencies whose features would fill 17 GB: refused before they are made."""

    def edit(header, tensors):
        header["grid"]["patch"] = [2**12, 2**12]
        header["encoding"]["n_freq"] = 64
        header["levels"] = {}
        tensors.clear()
        tensors["x"] = torch.zeros(1)

    path = edited(tmp_path, edit)

    def never(*_):
        pytest.fail("the features were made")

    monkeypatch.setattr(Encoding, "__call__", never)
    refused(path)
