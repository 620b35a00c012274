"""Opening a source: where its numbers are depends on the memory, and what they are does not."""

import numpy as np
import pytest
import torch
from conftest import random_box
from test_tiff import write_pages

from datasets import Place, open_source
from datasets.image_writer import write_image
from datasets.occupancy import write_occupancy
from datasets.samples import planet
from datasets.source import ArraySource, points
from datasets.streamed_source import StreamedSource
from machine.memory import Memory
from utils import UserError

LITTLE = Memory(4096, 4096)


def values(shape, dtype):
    return np.random.default_rng(0).normal(90, 30, shape).clip(0, 255).astype(dtype)


def occupancy(path):
    with write_occupancy(path, (9, 17, 13), ((0, 0, 0), (1, 2, 3)), "m.obj") as write:
        write(values((9, 17, 13), np.uint8) > 90)


WRITERS = {
    "image a.png": lambda path: write_image(path, planet(70, 90), "RGB"),
    "image a.npy": lambda path: np.save(path, values((70, 90, 2), np.float32)),
    "image f.npy": lambda path: np.save(path, np.asfortranarray(values((70, 90), ">i2"))),
    "mesh a.npy": occupancy,
    "mesh p.npy": lambda path: np.save(path, np.asfortranarray(values((19, 17, 13), np.uint8) > 90)),
    "volume a.npy": lambda path: np.save(path, values((9, 17, 13, 2), np.float64)),
    "volume b.npy": lambda path: np.save(path, values((19, 17, 13), np.uint16)),
}


def same_at_every_level(a, b):
    generator = np.random.default_rng(0)
    assert (a.signal, a.shape, a.about, a.raw_bytes) == (b.signal, b.shape, b.about, b.raw_bytes)
    for level in range(4):
        whole = points(a.shape, level).level_box(level)
        for region in (whole, random_box(generator, whole.stop)):
            assert torch.equal(a.read(region, level), b.read(region, level))


@pytest.mark.parametrize("name", WRITERS)
def test_the_same_numbers_come_from_memory_and_from_the_file(tmp_path, name):
    if name.endswith(".png"):
        pytest.importorskip("pyvips")
    task, file = name.split()
    WRITERS[name](tmp_path / file)
    held = open_source(task, str(tmp_path / file))
    streamed = open_source(task, str(tmp_path / file), place=Place("cpu", LITTLE, tmp_path))
    assert isinstance(held, ArraySource) and isinstance(streamed, StreamedSource)
    same_at_every_level(held, streamed)
    assert [file.name for file in tmp_path.iterdir()] == [file]


def test_the_sample_is_rendered_strip_by_strip_where_it_does_not_fit(tmp_path):
    held = open_source("image", None, (70, 45))
    streamed = open_source("image", None, (70, 45), Place("cpu", LITTLE, tmp_path))
    assert isinstance(streamed, StreamedSource)
    same_at_every_level(held, streamed)


@pytest.mark.parametrize(("task", "shape"), [("image", (70, 90, 3)), ("volume", (9, 17, 13))])
def test_zarr_is_read_into_memory_or_by_region(tmp_path, task, shape):
    zarr = pytest.importorskip("zarr")
    path, array = tmp_path / "a.zarr", values(shape, np.int16)
    zarr.create_array(str(path), data=array, chunks=(8,) * len(shape))
    held, streamed = (open_source(task, str(path), place=place) for place in (None, Place("cpu", LITTLE, tmp_path)))
    assert isinstance(held, ArraySource) and isinstance(streamed, StreamedSource)
    same_at_every_level(held, streamed)
    np.save(tmp_path / "a.npy", array)
    same_at_every_level(open_source(task, str(tmp_path / "a.npy")), held)


@pytest.mark.parametrize(("task", "shape"), [("image", (70, 90, 2)), ("volume", (19, 17, 13, 1))])
def test_a_value_that_is_not_finite_is_found_and_named(tmp_path, task, shape):
    array = values(shape, np.float32)
    array[(5,) * len(shape[:-1])] = np.nan
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(UserError, match=r"a\.npy.*cell \[5, 5.*channel 0"):
        open_source(task, str(tmp_path / "a.npy"), place=Place("cpu", LITTLE, tmp_path))


SIZES = [(23, 17), (45, 36), (62, 10), (51, 40)]


@pytest.mark.parametrize("name", ["a.png", "a.npy", "deep.tif"])
@pytest.mark.parametrize("size", SIZES)
def test_a_picture_is_resized_to_the_same_numbers_whatever_the_memory(tmp_path, name, size):
    if not name.endswith(".npy"):
        pytest.importorskip("pyvips")
    path = tmp_path / name
    array = values((35, 45, 3), {"a.png": np.uint8, "a.npy": np.float32, "deep.tif": np.uint16}[name])
    np.save(path, array) if name == "a.npy" else write_image(path, array, "RGB")
    held, streamed = (open_source("image", str(path), size, place) for place in (None, Place("cpu", LITTLE, tmp_path)))
    assert held.shape == size[::-1] and isinstance(held, ArraySource) and isinstance(streamed, StreamedSource)
    same_at_every_level(held, streamed)
    assert [file.name for file in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("shape", "size", "kind"), [((9, 7), (200, 150), StreamedSource), ((300, 200), (9, 7), ArraySource)]
)
def test_what_it_is_resized_to_is_held_where_that_fits(tmp_path, shape, size, kind):
    np.save(tmp_path / "a.npy", values(shape, np.uint8))
    held = open_source("image", str(tmp_path / "a.npy"), size)
    found = open_source("image", str(tmp_path / "a.npy"), size, Place("cpu", Memory(2**16, 2**16), tmp_path))
    assert isinstance(found, kind)
    same_at_every_level(held, found)


def test_a_zarr_picture_is_resized_as_well(tmp_path):
    zarr = pytest.importorskip("zarr")
    array = values((70, 90, 3), np.uint8)
    zarr.create_array(str(tmp_path / "a.zarr"), data=array, chunks=(16, 16, 3))
    np.save(tmp_path / "a.npy", array)
    held = open_source("image", str(tmp_path / "a.npy"), (45, 35))
    same_at_every_level(held, open_source("image", str(tmp_path / "a.zarr"), (45, 35)))
    same_at_every_level(held, open_source("image", str(tmp_path / "a.zarr"), (45, 35), Place("cpu", LITTLE, tmp_path)))


def test_a_value_that_is_not_finite_is_found_before_it_is_spread(tmp_path):
    array = values((70, 90), np.float32)
    array[5, 7] = np.inf
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(UserError, match=r"a\.npy.*cell \[5, 7\]"):
        open_source("image", str(tmp_path / "a.npy"), (45, 35), Place("cpu", LITTLE, tmp_path))


def test_a_cut_file_is_one_line(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, values((70, 90), np.uint8))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"a\.npy: not a whole"):
        open_source("image", str(path), place=Place("cpu", LITTLE, tmp_path))


@pytest.mark.parametrize("size", [(10**11, 10**11), (10**6, 10**6)])
def test_an_absurd_size_is_refused_before_anything_is_done(tmp_path, size):
    np.save(tmp_path / "a.npy", values((70, 90), np.uint8))
    with pytest.raises(UserError, match="GB on disk"):
        open_source("image", str(tmp_path / "a.npy"), size, Place("cpu", LITTLE, tmp_path))
    with pytest.raises(UserError, match="--input_size"):
        open_source("image", None, size, Place("cpu", LITTLE, tmp_path))


@pytest.mark.parametrize(("pages", "notes"), [(1, 0), (3, 1)])
@pytest.mark.parametrize("size", [None, (45, 35)])
def test_pages_that_are_not_read_are_noted_and_that_a_picture_is_resized(tmp_path, pages, notes, size):
    pytest.importorskip("pyvips")
    write_pages(tmp_path / "a.tif", pages)
    for place in (Place(), Place("cpu", LITTLE, tmp_path)):
        source = open_source("image", str(tmp_path / "a.tif"), size, place)
        told = [f"{tmp_path}/a.tif: a TIFF of 3 pages, of which the first is read"][:notes]
        resized = [f"{tmp_path}/a.tif: resized from 90 x 70 to 45 x 35 pixels"] if size else []
        assert source.notes == (*told, *resized) and source.resized == bool(size)
        assert source.shape == (size or (90, 70))[::-1]
