"""Occupancy files: round trips, region reads, cut and hostile files."""

import json
import os
import shutil
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest

from datasets.occupancy import OccupancyGrid, write_occupancy
from utils import UserError

SHAPE = (5, 7, 19)
BOUNDS = ((-1.0, -2.5, 0.125), (2.0, 1.1, 1.0))


def random_grid(shape=SHAPE):
    return np.random.default_rng(1).random(shape) > 0.5


def write(path, grid, bounds=BOUNDS, source="meshes/bunny ü.obj"):
    with write_occupancy(path, grid.shape, bounds, source) as slab:
        slab(grid[:2])
        slab(grid[2:])


def test_round_trip(tmp_path):
    grid = random_grid()
    write(tmp_path / "a.npy", grid)
    back = OccupancyGrid(tmp_path / "a.npy")
    assert back.shape == SHAPE and back.bounds == BOUNDS and back.source == "meshes/bunny ü.obj"
    np.testing.assert_allclose(back.cell, [3 / 19, 3.6 / 7, 0.875 / 5])
    assert back.read().dtype == bool
    np.testing.assert_array_equal(back.read(), grid)
    # As the docstring says, by hand.
    raw = np.load(tmp_path / "a.npy", allow_pickle=False)
    first = 16 + int.from_bytes(raw[8:16].tobytes(), "little")
    np.testing.assert_array_equal(np.unpackbits(raw[first:].reshape(5, 7, -1), axis=2, count=19), grid)


@pytest.mark.parametrize("kind", ["packed", "bool", "uint8", "fortran"])
def test_regions_equal_crops(tmp_path, kind):
    grid, path = random_grid(), tmp_path / "a.npy"
    if kind == "packed":
        write(path, grid)
    elif kind == "fortran":
        np.save(path, np.asfortranarray(grid))
    else:
        np.save(path, grid.astype(np.uint8) * 200 if kind == "uint8" else grid)
    back = OccupancyGrid(path)
    generator = np.random.default_rng(2)
    for _ in range(200):
        ends = np.sort([generator.integers(0, n + 1, 2) for n in SHAPE], axis=1)
        start, stop = tuple(ends[:, 0].tolist()), tuple(ends[:, 1].tolist())
        region = back.read(start, stop)
        assert region.dtype == bool
        np.testing.assert_array_equal(region, grid[tuple(map(slice, start, stop))])
    for start, stop in (((-1, 0, 0), SHAPE), ((0, 0, 0), (5, 7, 20)), ((3, 0, 0), (2, 7, 19))):
        with pytest.raises(ValueError):
            back.read(start, stop)


def test_plain_arrays_have_cells_of_one(tmp_path):
    np.save(tmp_path / "a.npy", random_grid())
    back = OccupancyGrid(tmp_path / "a.npy")
    assert back.bounds == ((0, 0, 0), (19, 7, 5)) and back.cell == (1, 1, 1) and back.source is None


def test_an_unfinished_file_does_not_appear(tmp_path):
    path = tmp_path / "a.npy"
    grid = random_grid()
    with pytest.raises(ValueError), write_occupancy(path, SHAPE, BOUNDS) as slab:
        slab(grid[:2])
    with pytest.raises(ValueError), write_occupancy(path, SHAPE, BOUNDS) as slab:
        slab(grid[:, :, 1:])
    with pytest.raises(KeyboardInterrupt), write_occupancy(path, SHAPE, BOUNDS) as slab:
        slab(grid)
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def forge(path, change=None, text=None, cells=5 * 7 * 3):
    """A packed file whose header is changed by the dict `change`, or replaced by `text`."""
    header = {"version": 1, "axes": "zyx", "shape": list(SHAPE), "bounds": [list(b) for b in BOUNDS], "source": None}
    text = json.dumps(header | (change or {})).encode() if text is None else text
    data = b"OCCUGRID" + len(text).to_bytes(8, "little") + text + bytes(cells)
    np.save(path, np.frombuffer(data, np.uint8))


BAD_HEADERS = [
    {"version": 2},
    {"version": [1]},
    {"axes": "xyz"},
    {"shape": [5, 7]},
    {"shape": [5, 7, 0]},
    {"shape": [5, 7, -19]},
    {"shape": [5, 7, 19.0]},
    {"shape": [True, 7, 19]},
    {"shape": [5, 7, 2**62]},
    {"shape": [6, 7, 19]},
    {"shape": [1 << 20] * 3},
    {"shape": "567"},
    {"shape": None},
    {"bounds": None},
    {"bounds": [[0, 0, 0]]},
    {"bounds": [[0, 0], [1, 1]]},
    {"bounds": [[0, 0, 0], [1, 1, "1"]]},
    {"bounds": [[0, 0, 0], [1, 1, float("nan")]]},
    {"bounds": [[0, 0, 0], [1, 1, float("inf")]]},
    {"bounds": [[0, 0, 0], [1, 1, 10**400]]},
    {"bounds": [[0, 0, 0], [1, 1, 0]]},
    {"bounds": [[1, 1, 1], [0, 0, 0]]},
    {"source": 7},
]


def test_headers_are_checked(tmp_path):
    path = tmp_path / "a.npy"
    forge(path)
    assert OccupancyGrid(path).shape == SHAPE
    for change in BAD_HEADERS:
        forge(path, change)
        with pytest.raises(UserError, match=r"a\.npy: "):
            OccupancyGrid(path)
    for text in (b"", b"[1]", b"{", b"\xff\xfe", b"[" * 100_000, b"null"):
        forge(path, text=text)
        with pytest.raises(UserError, match=r"a\.npy: "):
            OccupancyGrid(path)
    forge(path, cells=104)
    with pytest.raises(UserError, match=r"a\.npy: "):
        OccupancyGrid(path)


def write_bad_files(folder):
    np.save(folder / "float.npy", np.zeros((3, 3, 3)))
    np.save(folder / "int8.npy", np.zeros((3, 3, 3), np.int8))
    np.save(folder / "flat.npy", np.zeros((3, 3), bool))
    np.save(folder / "empty.npy", np.zeros((3, 0, 3), bool))
    np.save(folder / "line.npy", np.zeros(100, np.uint8))
    np.save(folder / "short.npy", np.zeros(3, np.uint8))
    np.save(folder / "none.npy", np.zeros(0, np.uint8))
    np.save(folder / "text.npy", np.array("text"))
    np.save(folder / "record.npy", np.zeros((3, 3, 3), [("a", "u1")]))
    np.save(folder / "object.npy", np.array([{}, []], dtype=object), allow_pickle=True)
    np.save(folder / "length.npy", np.frombuffer(b"OCCUGRID" + b"\xff" * 8 + bytes(100), np.uint8))
    (folder / "zero.npy").write_bytes(b"")
    (folder / "junk.npy").write_bytes(np.random.default_rng(0).bytes(1000))
    np.savez(folder / "zip.npz", a=np.zeros((3, 3, 3), bool))
    with zipfile.ZipFile(folder / "zip.npy", "w") as file:
        file.writestr("a", "a")
    write(folder / "whole.npy", random_grid())
    whole = (folder / "whole.npy").read_bytes()
    for length in (5, 60, 130, 150, len(whole) - 1):
        (folder / f"cut{length}.npy").write_bytes(whole[:length])
    (folder / "long.npy").write_bytes(whole + b"0")
    (folder / "whole.npy").unlink()
    for i, shape in enumerate(("(3, 3, 9)", "(-3, 3, -3)", "(99999999999, 99999999999, 99999999999)", "(3.5,)", "7")):
        text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
        data = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + bytes(27)
        (folder / f"shape{i}.npy").write_bytes(data)
    (folder / "folder.npy").mkdir()
    return [*sorted(folder.iterdir()), folder / "missing.npy"]


def test_a_grid_that_the_disk_has_no_room_for_is_refused_before_it_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
    with pytest.raises(UserError, match="free some space"), write_occupancy(tmp_path / "a.npy", SHAPE, BOUNDS):
        pytest.fail("it was begun")
    assert not list(tmp_path.iterdir())


def test_a_pipe_is_refused_rather_than_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.npy")
    with pytest.raises(UserError, match="not a regular file"):
        OccupancyGrid(tmp_path / "pipe.npy")


def test_bad_files_are_named(tmp_path):
    for path in write_bad_files(tmp_path):
        with pytest.raises(UserError) as caught:
            OccupancyGrid(path)
        assert str(caught.value).startswith(f"{path}: "), path
