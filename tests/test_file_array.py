"""Arrays in files: any box of them is that of the array in memory."""

import os
from pathlib import Path

import numpy as np
import pytest
from conftest import random_box

import datasets.file_array
from datasets.file_array import FileArray, open_npy, spool
from datasets.grid import Box
from utils import UserError

SHAPES = [(1, 1, 1), (1, 7, 3), (5, 3, 1), (13, 37, 2), (5, 11, 7, 2)]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)


def numbers(shape, dtype="uint8"):
    return np.random.default_rng(0).integers(0, 200, shape).astype(dtype)


@shapes
@pytest.mark.parametrize("dtype", ["uint8", ">u2", "<i4", "float32", ">f8", "bool"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("least", [1, 2**20], ids=["threads", "alone"])
def test_any_box_of_a_npy_file_is_read(tmp_path, monkeypatch, shape, dtype, order, least):
    monkeypatch.setattr(datasets.file_array, "LEAST_READ", least)
    array = numbers(shape, dtype)
    np.save(tmp_path / "a.npy", np.asarray(array, order=order))
    found, generator = open_npy(tmp_path / "a.npy", (len(shape) - 1, len(shape))), np.random.default_rng(0)
    assert found.shape == shape
    for box in [Box((0,) * (len(shape) - 1), shape[:-1]), *(random_box(generator, shape[:-1]) for _ in range(6))]:
        cells = found.read(box)
        assert cells.dtype.isnative
        wanted = Box((0,) * len(box.start), shape[:-1]).crop(array, box)
        np.testing.assert_array_equal(cells, wanted)
        out = np.zeros_like(wanted, dtype=cells.dtype, order="C")
        assert found.read(box, out) is out
        np.testing.assert_array_equal(out, wanted)


def test_an_array_without_channels_gets_one(tmp_path):
    for order in "CF":
        array = np.asarray(numbers((4, 6)), order=order)
        np.save(tmp_path / "a.npy", array)
        found = open_npy(tmp_path / "a.npy", (2, 3))
        np.testing.assert_array_equal(found.read(Box((1, 2), (3, 6))), array[1:3, 2:, None])


@shapes
def test_what_is_written_box_by_box_is_read(tmp_path, shape):
    array, generator = np.zeros(shape, np.float32), np.random.default_rng(1)
    scratch = FileArray.scratch(tmp_path, shape, np.float32)
    whole = Box((0,) * (len(shape) - 1), shape[:-1])
    scratch.write(whole, array)
    for _ in range(6):
        box = random_box(generator, shape[:-1])
        cells = generator.random((*box.shape, shape[-1]), np.float32)
        whole.crop(array, box)[...] = cells
        scratch.write(box, cells)
    np.testing.assert_array_equal(scratch.read(whole), array)


def test_strips_are_spooled_in_order(tmp_path):
    array = numbers((10, 3, 2))
    found = spool(iter([array[:4], array[4:5], array[5:]]), array.shape, array.dtype, tmp_path)
    np.testing.assert_array_equal(found.read(Box((0, 0), (10, 3))), array)


def test_a_scratch_file_has_no_name_and_its_place_is_given_back(tmp_path):
    before = len(list(Path("/proc/self/fd").iterdir()))
    scratch = FileArray.scratch(tmp_path, (4, 4, 1), np.uint8)
    scratch.write(Box((0, 0), (4, 4)), np.ones((4, 4, 1)))
    assert not list(tmp_path.iterdir())
    del scratch
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize("least", [1, 2**20], ids=["threads", "alone"])
def test_a_file_that_is_cut_later_is_one_line(tmp_path, monkeypatch, least):
    monkeypatch.setattr(datasets.file_array, "LEAST_READ", least)
    path = tmp_path / "a.npy"
    np.save(path, numbers((40, 40)))
    found = open_npy(path, (2, 3))
    path.write_bytes(path.read_bytes()[:-300])
    assert found.read(Box((0, 0), (5, 40))).shape == (5, 40, 1)
    with pytest.raises(UserError, match=r"a\.npy: ends before"):
        found.read(Box((0, 0), (40, 40)))


@pytest.mark.parametrize("array", [numbers((4,)), np.zeros((2, 2, 2, 2)), np.zeros((0, 4)), np.array([["a"]])])
def test_arrays_of_another_kind_are_refused(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(ValueError, match="array of"):
        open_npy(tmp_path / "a.npy", (2, 3))


def test_a_file_that_is_cut_or_no_array_is_refused(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, numbers((40, 40)))
    whole = path.read_bytes()
    for damaged in (whole[:-1], whole + b"x", b"", b"text", whole[:20]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError):
            open_npy(path, (2, 3))


def test_a_full_disk_names_the_folder(tmp_path, monkeypatch):
    scratch = FileArray.scratch(tmp_path, (4, 4, 1), np.uint8)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError) as error:
        scratch.write(Box((0, 0), (4, 4)), np.ones((4, 4, 1)))
    assert str(tmp_path) in error.value.filename
