"""Hashes, atomic writes and the one-line ending of a command."""

import ctypes
import errno
import json
import math
import platform
import re
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import utils
from utils import Interrupted, UserError, atomic_write, complaint, hash_bits, hash_uniform, jsonable, run_command


def test_equal_keys_give_equal_hashes_whatever_was_asked_before():
    first = hash_bits(1, 2, torch.arange(100))
    torch.rand(3)
    hash_bits(9)
    assert torch.equal(hash_bits(1, 2, torch.arange(100)), first)


def test_keys_broadcast_and_a_part_is_the_part_of_the_whole():
    whole = hash_bits(5, torch.arange(6)[:, None], torch.arange(4))
    assert whole.shape == (6, 4)
    assert hash_bits(5, 3, 2) == whole[3, 2]
    assert torch.equal(hash_bits(5, torch.tensor([4, 1])[:, None], torch.arange(1, 3)), whole[[4, 1]][:, 1:3])
    assert hash_bits(5, torch.arange(0)[:, None], torch.arange(4)).shape == (0, 4)


def test_order_number_and_value_of_keys_matter():
    keys = [(), (0,), (0, 0), (1, 0), (0, 1), (1, 2), (2, 1), (-1, 0), (2**62, 1)]
    assert len({hash_bits(*key).item() for key in keys}) == len(keys)


def test_hashes_of_a_range_do_not_collide_and_every_bit_is_even():
    bits = hash_bits(0, 0, torch.arange(100_000))
    assert len(bits.unique()) == len(bits)
    for position in range(64):
        assert ((bits >> position) & 1).float().mean() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("keys", [(0, torch.arange(100_000)), (7, 3, torch.arange(316)[:, None], torch.arange(316))])
def test_uniform_numbers_fill_0_to_1_evenly(keys):
    values = hash_uniform(*keys).flatten()
    assert values.dtype == torch.float32
    assert values.min() >= 0 and values.max() < 1
    share = torch.histc(values, 20, 0, 1) / len(values)
    assert (share - 0.05).abs().max() < 0.004
    assert torch.corrcoef(torch.stack([values[:-1], values[1:]]))[0, 1].abs() < 0.02


def test_uniform_of_the_largest_hash_is_below_1(monkeypatch):
    monkeypatch.setattr("utils.hash_bits", lambda *keys: torch.tensor(-1))
    assert hash_uniform(0) < 1


def test_an_atomic_write_replaces_the_file_and_makes_its_folder(tmp_path):
    path = tmp_path / "new" / "a.json"
    for text in ("one", "two"):
        with atomic_write(path) as temporary:
            assert temporary.suffix == ".json" and temporary.parent == path.parent
            temporary.write_text(text)
        assert path.read_text() == text
    assert [file.name for file in path.parent.iterdir()] == ["a.json"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError])
@pytest.mark.parametrize("written", [False, True])
def test_an_error_leaves_the_old_file_and_no_temporary_one(tmp_path, error, written):
    path = tmp_path / "a.bin"
    path.write_text("old")
    with pytest.raises(error), atomic_write(path) as temporary:
        if written:
            temporary.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["a.bin"]


def test_what_cannot_be_written_is_named_as_the_user_knows_it(tmp_path, monkeypatch):
    def complaint_of(path, write):
        with pytest.raises(OSError) as error, atomic_write(path) as temporary:
            write(temporary)
        assert ".part" not in complaint(error.value)
        return complaint(error.value)

    def full(temporary):
        with open(temporary, "wb"):
            raise OSError(errno.ENOSPC, "No space left on device")

    def forbidden(temporary):
        raise PermissionError(errno.EACCES, "Permission denied", str(temporary))

    def lost(_):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "input.png")

    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for path, write, says in (
        (tmp_path / "a.bin", full, f"{tmp_path}/a.bin: No space left on device: free some space"),
        (tmp_path / "a.bin", forbidden, f"{tmp_path}/a.bin: Permission denied: change its permissions"),
        (tmp_path / "a.bin", lost, "input.png: No such file"),
        (tmp_path / "folder", lambda temporary: temporary.touch(), f"{tmp_path}/folder: Is a directory: a folder is"),
        (tmp_path / "file" / "a.bin", full, f"{tmp_path}/file: File exists: a file is where a folder should be"),
        (tmp_path / "file" / "new" / "a.bin", full, f"{tmp_path}/file/new: Not a directory: a file is where"),
    ):
        assert complaint_of(path, write).startswith(says)


def ended(capsys, error):
    def main():
        if error is not None:
            raise error

    try:
        run_command(main)
        code = 0
    except SystemExit as stop:
        code = stop.code
    out, err = capsys.readouterr()
    assert out == ""
    return code, err


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (None, 0, ""),
        (UserError("--lr must be\na positive number"), 2, "--lr must be a positive number"),
        (Interrupted("interrupted; to go on: ..."), 130, "to go on"),
        (OSError(errno.ENOSPC, "full", "a.bin"), 2, "a.bin"),
        (PermissionError(errno.EACCES, "no", "b.bin"), 2, "b.bin"),
        (torch.OutOfMemoryError("CUDA out of memory"), 2, "--b_chunks"),
        (FileNotFoundError(errno.ENOENT, "No such file", "c.png"), 2, "mend the path"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "c.png"), 2, "shorter name"),
        (KeyboardInterrupt(), 130, ""),
    ],
    ids=str,
)
def test_what_the_user_can_mend_is_one_line_and_an_exit_code(capsys, error, code, says):
    found, err = ended(capsys, error)
    assert found == code
    assert says in err and err.count("\n") == bool(says)


def test_a_terminated_command_ends_in_good_order_and_leaves_no_handler_behind():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stop:
        run_command(lambda: signal.raise_signal(signal.SIGTERM))
    assert stop.value.code == 143 and signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("error", [ZeroDivisionError(), RuntimeError("shapes do not match")], ids=repr)
def test_a_bug_is_not_dressed_up_as_a_user_error(error):
    def main():
        raise error

    with pytest.raises(type(error)):
        run_command(main)


def test_jsonable_is_json_with_null_for_what_is_infinite_or_undefined():
    value = {
        0: (1, np.float32(0.5)),
        "a": [math.inf, -math.inf, math.nan, np.float64("nan")],
        "b": {"c": np.int64(3), "d": None},
    }
    text = json.dumps(jsonable(value), allow_nan=False)
    assert json.loads(text) == {"0": [1, 0.5], "a": [None] * 4, "b": {"c": 3, "d": None}}


def test_a_missing_package_is_named():
    assert "needs the package mcubes: pip install" in complaint(ModuleNotFoundError("no", name="mcubes"))


CPU = torch.device("cpu")


def test_what_a_result_ran_on_is_named_and_what_cannot_be_known_is_left_out(tmp_path, monkeypatch):
    assert {"miner", "python", "torch", "numpy", "opencv"} <= utils.versions(CPU).keys()
    assert not utils.versions(CPU).keys() & {"cuda", "driver"}
    monkeypatch.setattr(utils, "CPUS", tmp_path / "cpuinfo")
    assert utils.device_name(CPU) in (platform.processor(), platform.machine())
    utils.CPUS.write_text("processor\t: 0\nmodel name\t: Some: CPU 9\nmodel name\t: Some: CPU 9\n")
    assert utils.device_name(CPU) == "Some: CPU 9"
    # No library, and one of another kind.
    assert utils._driver("libnone.so.1") is None and utils._driver("libc.so.6") is None


@pytest.mark.parametrize(("begun", "asked", "driver"), [(0, 0, "580.1"), (9, 0, None), (0, 9, None)])
def test_the_driver_is_what_its_library_says(begun, asked, driver, monkeypatch):
    def ask(said, size):
        said.value = b"580.1"
        return asked

    nvml = SimpleNamespace(nvmlInit_v2=lambda: begun, nvmlSystemGetDriverVersion=ask, nvmlShutdown=lambda: 0)
    monkeypatch.setattr(ctypes, "CDLL", lambda _: nvml)
    assert utils._driver.__wrapped__() == driver


@pytest.mark.gpu
def test_a_gpu_s_driver_and_cuda_are_named():
    device = torch.device("cuda")
    found = utils.versions(device)
    assert found["cuda"] == torch.version.cuda and re.fullmatch(r"\d+\.[\d.]+", found["driver"])
    assert utils.device_name(device) == torch.cuda.get_device_name(device)


def test_the_program_says_its_version_as_the_citation_does_and_tells_changed_files_apart(tmp_path, monkeypatch):
    citation = (Path(utils.__file__).parent / "CITATION.cff").read_text().splitlines()
    assert f"version: {utils.VERSION}" in citation and utils.versions(CPU)["miner"].startswith(
        f"{utils.VERSION} (files "
    )
    monkeypatch.setattr(utils, "__file__", str(tmp_path / "utils.py"))
    seen = set()
    for text in ("a", "b"):
        (tmp_path / "train.py").write_text(text)
        seen.add(utils.program.__wrapped__())
    assert len(seen) == 2 and not any("commit" in words for words in seen)
