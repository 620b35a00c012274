"""Zarr stores as cells with channels last."""

import gc
import sys

import numpy as np
import pytest
from conftest import random_box

from datasets import open_source
from datasets.grid import Box
from datasets.zarr_array import ZarrArray
from utils import UserError

zarr = pytest.importorskip("zarr")


def numbers(*shape, dtype=np.uint16):
    return np.random.default_rng(0).integers(0, 60000, shape).astype(dtype)


def check(path, ndim, want):
    found, generator = ZarrArray(path, ndim), np.random.default_rng(0)
    assert found.shape == want.shape and found.dtype == want.dtype
    whole = Box((0,) * ndim, want.shape[:-1])
    for box in [whole, *(random_box(generator, want.shape[:-1]) for _ in range(4))]:
        cells = found.read(box)
        np.testing.assert_array_equal(found.read(box, np.zeros_like(cells)), cells)
        assert cells.dtype.isnative
        np.testing.assert_array_equal(cells, whole.crop(want, box))


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize(
    ("ndim", "shape"), [(2, (1, 1)), (2, (17, 9)), (2, (17, 9, 3)), (3, (5, 6, 7)), (3, (5, 6, 7, 2))]
)
def test_an_array_is_read_with_channels_last(tmp_path, ndim, shape, zarr_format):
    array = numbers(*shape)
    zarr.create_array(str(tmp_path / "a.zarr"), data=array, zarr_format=zarr_format, chunks=(4,) * len(shape))
    check(tmp_path / "a.zarr", ndim, array if len(shape) > ndim else array[..., None])


@pytest.mark.parametrize(("axes", "shape", "ndim"), [("tczyx", (1, 3, 1, 8, 9), 2), ("yxc", (8, 9, 3), 2),
                                                     ("czyx", (2, 4, 5, 6), 3), ("yx", (8, 9), 2)])  # fmt: skip
def test_the_axes_of_an_ome_zarr_image_are_put_in_order(tmp_path, axes, shape, ndim):
    group = zarr.open_group(str(tmp_path / "a.zarr"), mode="w", zarr_format=2)
    array = numbers(*shape)
    group.create_array("0", data=array)
    group.create_array("1", data=array[..., ::2])
    group.attrs["multiscales"] = [
        {"axes": [{"name": name} for name in axes], "datasets": [{"path": "0"}, {"path": "1"}]}
    ]
    order = [axes.index(name) for name in ("zyx"[-ndim:] + "c") if name in axes]
    rest = [axis for axis in range(len(axes)) if axis not in order]
    want = array.transpose([*rest, *order]).reshape([shape[axis] for axis in order])
    check(tmp_path / "a.zarr", ndim, want if "c" in axes else want[..., None])


def test_a_store_in_a_zip_file_is_read(tmp_path):
    values = numbers(7, 9, 3)
    with zarr.storage.ZipStore(tmp_path / "a.zip", mode="w") as store:
        zarr.create_array(store, data=values, chunks=(4, 4, 3))
    check(tmp_path / "a.zip", 2, values)
    source = open_source("image", str(tmp_path / "a.zip"))
    np.testing.assert_array_equal(source.cells.numpy(), values)
    gc.collect()


def test_what_is_no_such_array_is_one_line(tmp_path, monkeypatch):
    path = tmp_path / "a.zarr"
    with pytest.raises(UserError, match=r"a\.zarr"):
        ZarrArray(path, 2)
    zarr.create_array(str(path), data=numbers(4, 4, 4, 4))
    with pytest.raises(UserError, match=r"a\.zarr.*shape"):
        ZarrArray(path, 2)
    group = zarr.open_group(str(tmp_path / "g.zarr"), mode="w")
    group.create_array("p", data=numbers(4, 4))
    group.create_array("q", data=numbers(4, 4))
    with pytest.raises(UserError, match="2 arrays"):
        ZarrArray(tmp_path / "g.zarr", 2)
    check(tmp_path / "g.zarr" / "p", 2, numbers(4, 4)[..., None])
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(UserError, match="pip install zarr"):
        ZarrArray(path, 2)


def test_a_damaged_chunk_is_one_line(tmp_path):
    zarr.create_array(str(tmp_path / "a.zarr"), data=numbers(16, 16), chunks=(8, 8))
    found = ZarrArray(tmp_path / "a.zarr", 2)
    for file in (tmp_path / "a.zarr" / "c").rglob("*"):
        if file.is_file():
            file.write_bytes(b"no zstd")
    with pytest.raises(UserError, match=r"a\.zarr"):
        found.read(Box((0, 0), (16, 16)))
