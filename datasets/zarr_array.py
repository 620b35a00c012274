"""Zarr arrays and OME-Zarr images, read by region."""

from pathlib import Path

import numpy as np

from datasets.file_array import handed
from datasets.grid import Box
from utils import UserError

ADVICE = "save one array of numbers as (y, x), (z, y, x), or with channels last"


class ZarrArray:
    """An array in a Zarr store, of a group the first array (an OME-Zarr image's finest), with channels last.

    Args:
        path: the store, a folder or a .zip file.
        ndim: axes of space: 2 or 3.

    Raises:
        UserError: zarr is missing, or the store cannot be used.
    """

    def __init__(self, path: Path, ndim: int):
        try:
            import zarr
        except ImportError:
            raise UserError(f"{path}: to read Zarr, install it (pip install zarr), or save the array as .npy") from None
        self.path = path
        self._array, names = self._try(lambda: _open(zarr, path))
        shape, dtype = self._array.shape, np.dtype(self._array.dtype)
        self._order = _order(names, shape, ndim)
        if self._order is None or dtype.kind not in "biuf" or 0 in shape:
            raise UserError(f"{path}: a Zarr array of {dtype} and shape {list(shape)} {names or ''}: {ADVICE}")
        cells = [shape[axis] for axis in self._order]
        self.shape, self.dtype = (*cells, *[1] * (ndim + 1 - len(cells))), dtype.newbyteorder("=")

    def read(self, region: Box, out: np.ndarray | None = None) -> np.ndarray:
        """The cells of a region, [*region, c], put into `out` if it is given."""
        index = [slice(0, 1)] * self._array.ndim
        for axis, a, b in zip(self._order, (*region.start, 0), (*region.stop, self.shape[-1]), strict=False):
            index[axis] = slice(a, b)
        found = self._try(lambda: np.asarray(self._array[tuple(index)]))
        rest = [axis for axis in range(found.ndim) if axis not in self._order]
        found = found.transpose([*self._order, *rest]).reshape(*region.shape, -1)
        return handed(found.astype(self.dtype, copy=False), out)

    def _try(self, function):
        try:
            return function()
        except UserError:
            raise
        # Stores and codecs report damage by any kind of exception.
        except Exception as error:
            what = " ".join(str(error).split())[:120] or type(error).__name__
            raise UserError(f"{self.path}: not a usable Zarr array ({what}): get a complete copy") from None


def _open(zarr, path: Path):
    """The array of a store, and the names of its axes if it has any."""
    # Of a path zarr takes every store for a folder.
    node = zarr.open(zarr.storage.ZipStore(path, mode="r") if path.is_file() else path, mode="r")
    if isinstance(node, zarr.Array):
        return node, None
    attributes = dict(node.attrs)
    scales = attributes.get("ome", attributes).get("multiscales")
    if scales:
        names = [axis["name"] if isinstance(axis, dict) else axis for axis in scales[0].get("axes", [])]
        return node[scales[0]["datasets"][0]["path"]], names or None
    arrays = sorted(name for name, _ in node.arrays())
    if len(arrays) != 1:
        raise UserError(f"{path}: a group of {len(arrays)} arrays ({', '.join(arrays[:5])}): name one of them")
    return node[arrays[0]], None


def _order(names: list[str] | None, shape: tuple[int, ...], ndim: int) -> list[int] | None:
    """Axes of space, slow to fast, then that of channels if there is one; None where others are longer than 1."""
    if names is None:
        return list(range(len(shape))) if len(shape) in (ndim, ndim + 1) else None
    space = "zyx"[-ndim:]
    if len(names) != len(shape) or not set(space) <= set(names):
        return None
    order = [names.index(name) for name in space] + ([names.index("c")] if "c" in names else [])
    return order if all(n == 1 or axis in order for axis, n in enumerate(shape)) else None
