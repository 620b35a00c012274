"""Arrays that stay in a file: any box of cells is read by its place, nothing is mapped.

Pages of a memory map count as memory of the process that touched them; what is read by offset does not, and the
system keeps of it what it has room for.
"""

import functools
import itertools
import math
import os
import tempfile
import weakref
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from datasets.grid import Box
from utils import UserError, check_room

# Threads that read a region together, and bytes that are worth one. Copying from the system's pages is what takes time.
READ_THREADS, LEAST_READ = 4, 2**20


class FileArray:
    """An array [*space, c] of one dtype in a file.

    Args:
        file: a descriptor, which is closed with the array.
        shape: of the array, slow to fast.
        dtype: as stored, of any byte order.
        offset: bytes before the first number.
        name: what messages call the file.
        fortran: whether the first axis is the fastest one in the file.

    Raises:
        UserError: the file ends before the array does.
    """

    def __init__(
        self, file: int, shape: tuple[int, ...], dtype: np.dtype, offset: int, name: str, fortran: bool = False
    ):
        self.shape, self.dtype, self.name = tuple(shape), np.dtype(dtype), name
        self._file, self._offset, self._fortran = file, offset, fortran
        weakref.finalize(self, os.close, file)

    @classmethod
    def scratch(cls, folder: Path, shape: tuple[int, ...], dtype: np.dtype | type) -> "FileArray":
        """A new array in a file without a name in `folder`: however the process ends, nothing of it is left.

        Raises UserError where the disk has no room for it.
        """
        check_room(folder, math.prod(shape) * np.dtype(dtype).itemsize)
        with tempfile.TemporaryFile(dir=folder) as file:
            return cls(os.dup(file.fileno()), shape, dtype, 0, f"a scratch file in {folder}")

    def read(self, region: Box, out: np.ndarray | None = None) -> np.ndarray:
        """The cells of a region, [*region, c] in native byte order, put into `out` if it is given.

        A large region is read by several threads.
        """
        box = self._box(region)
        fits = out is not None and self.dtype.isnative and not self._fortran and out.flags.c_contiguous
        found = out if fits else np.empty(box.shape, self.dtype)
        n = min(READ_THREADS, box.shape[0], found.nbytes // LEAST_READ)
        if n < 2:
            self._fill(box, found)
        else:
            rows = -(-box.shape[0] // n)
            parts = (Box((a, *box.start[1:]), (min(a + rows, box.stop[0]), *box.stop[1:]))
                     for a in range(box.start[0], box.stop[0], rows))  # fmt: skip
            list(_threads().map(lambda part: self._fill(part, box.crop(found, part)), parts))
        if fits:
            return found
        found = found.astype(self.dtype.newbyteorder("="), copy=False)
        return handed(found.transpose() if self._fortran else found, out)

    def _fill(self, box: Box, found: np.ndarray) -> None:
        """Read a box, in the order of the file, into an array that is as it lies there."""
        for offset, run in zip(*self._runs(box, found), strict=True):
            view = memoryview(run).cast("B")
            while view:
                count = os.preadv(self._file, [view], offset)
                if not count:
                    raise UserError(f"{self.name}: ends before its cells do: get a complete copy of the file")
                view, offset = view[count:], offset + count

    def write(self, region: Box, cells: np.ndarray) -> None:
        """Write the cells [*region, c] of a region of a scratch array."""
        cells = np.ascontiguousarray(cells, self.dtype)
        for offset, run in zip(*self._runs(self._box(region), cells), strict=True):
            view = memoryview(run).cast("B")
            while view:
                try:
                    count = os.pwrite(self._file, view, offset)
                except OSError as error:
                    raise OSError(error.errno, error.strerror, self.name) from None
                view, offset = view[count:], offset + count

    def _box(self, region: Box) -> Box:
        """A region of the leading axes as a box of all of them, in the order of the file."""
        box = Box((*region.start, *[0] * (len(self.shape) - len(region.start))),
                  (*region.stop, *self.shape[len(region.stop) :]))  # fmt: skip
        return Box(box.start[::-1], box.stop[::-1]) if self._fortran else box

    def _runs(self, box: Box, cells: np.ndarray) -> tuple[Iterable[int], Iterable[np.ndarray]]:
        """The places in the file of the runs of neighbours that a box is made of, and those runs in `cells`."""
        shape = self.shape[::-1] if self._fortran else self.shape
        axis = len(shape) - 1
        while axis and box.shape[axis] == shape[axis]:
            axis -= 1
        strides = [math.prod(shape[k + 1 :]) * self.dtype.itemsize for k in range(len(shape))]
        ranges = (
            range(a * step, b * step, step)
            for a, b, step in zip(box.start[:axis], box.stop[:axis], strides, strict=False)
        )
        first = self._offset + box.start[axis] * strides[axis]
        places = [first + sum(steps) for steps in itertools.product(*ranges)] if cells.size else []
        return places, cells.reshape(len(places), -1) if places else []


def handed(cells: np.ndarray, out: np.ndarray | None) -> np.ndarray:
    """Cells as a caller wants them: in `out` if it has given that."""
    if out is None:
        return cells
    np.copyto(out, cells)
    return out


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(READ_THREADS, "file")


def open_npy(path: Path, axes: tuple[int, ...]) -> FileArray:
    """The array of a .npy file, with an axis of channels added to one of axes[0] axes.

    Args:
        axes: how many axes it may have: without and with channels.

    Raises:
        ValueError: it is no array of numbers with so many axes, or the file is longer or shorter than it says.
    """
    with open(path, "rb") as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)
        offset, size = file.tell(), os.fstat(file.fileno()).st_size
        if dtype.kind not in "biuf" or len(shape) not in axes or not math.prod(shape):
            raise ValueError(f"an array of {dtype} and shape {list(shape)}")
        if size != offset + math.prod(shape) * dtype.itemsize:
            raise ValueError(f"{size} bytes, where its header announces {offset + math.prod(shape) * dtype.itemsize}")
        shape = shape if len(shape) == axes[1] else (*shape, 1)
        return FileArray(os.dup(file.fileno()), shape, dtype, offset, str(path), fortran)


def spool(strips: Iterable[np.ndarray], shape: tuple[int, ...], dtype: np.dtype, folder: Path) -> FileArray:
    """Write strips [rows, *rest], in order, to a scratch array of `shape`, for what cannot be read by region."""
    array, first = FileArray.scratch(folder, shape, dtype), 0
    for strip in strips:
        stop = first + len(strip)
        array.write(Box((first,), (stop,)), strip)
        first = stop
    return array
