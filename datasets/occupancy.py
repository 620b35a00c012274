"""Occupancy grids on disk: one bit per cell, read region by region without loading the whole grid.

The packed file is an ordinary .npy file of one-dimensional uint8, so `np.load(path)` opens it without pickle:

    8 bytes   the magic b"OCCUGRID"
    8 bytes   little-endian length of the JSON text in bytes, a multiple of 8 (the text is padded with spaces)
    JSON      {"version": 1, "axes": "zyx", "shape": [nz, ny, nx], "bounds": [[x, y, z], [x, y, z]],
               "source": path of the mesh or null}
    bits      nz * ny rows of x in that order, each padded with zeros to ceil(nx / 8) bytes;
              the first cell of a row is the highest bit of its first byte, as `np.packbits` has it

Cells are centred: cell (k, j, i) has its centre at lo + (i + 0.5, j + 0.5, k + 0.5) * cell size. By hand, a file comes
back as `np.unpackbits(a[16 + n :].reshape(nz, ny, -1), axis=2, count=nx)` with n the length in bytes 8 to 15.

Plain .npy arrays of bool or uint8 with three axes (z, y, x) are read as well; nonzero means occupied.
"""

import contextlib
import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from datasets.file_array import FileArray
from datasets.grid import Box
from utils import UserError, atomic_write, check_room

_MAGIC = b"OCCUGRID"
_VERSION = 1
_PREFIX = 16
_LONGEST_HEADER = 1 << 20
_LARGEST_AXIS = 1 << 20

Bounds = tuple[tuple[float, float, float], tuple[float, float, float]]
Index = tuple[int, int, int]


class OccupancyGrid:
    """A read-only occupancy grid on disk, of which only what is asked for is read.

    Attributes: `shape` (z, y, x); `bounds` (lo, hi), the outer faces of the grid as xyz in the units of the source
    mesh; `cell`, the size of a cell as xyz; `source`, the path of the mesh or None. A plain array has cells of
    size 1 that start at 0.

    Raises UserError, in one line that names the file, when it is missing, cut, or not an occupancy grid.
    """

    shape: Index
    bounds: Bounds
    source: str | None

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        array = _open_array(self.path)
        self._packed = array.ndim == 1
        if self._packed:
            header, first = _read_header(self.path, array)
            self.shape, self.bounds, self.source = header
            stored, first = (*self.shape[:2], -(-self.shape[2] // 8)), array.offset + first
        else:
            if array.ndim != 3 or array.size == 0:
                raise UserError(f"{self.path}: an occupancy grid has three axes (z, y, x), this array is {array.shape}")
            self.shape = array.shape
            stored, first = self.shape, array.offset
            self.bounds = ((0.0, 0.0, 0.0), tuple(float(n) for n in reversed(self.shape)))
            self.source = None
        fortran = array.flags.f_contiguous and not array.flags.c_contiguous
        self._cells = FileArray(os.open(self.path, os.O_RDONLY), stored, array.dtype, first, str(self.path), fortran)

    @property
    def cell(self) -> tuple[float, float, float]:
        """Size of a cell as xyz."""
        lo, hi = self.bounds
        return tuple((b - a) / n for a, b, n in zip(lo, hi, reversed(self.shape), strict=True))

    def read(self, start: Index = (0, 0, 0), stop: Index | None = None) -> np.ndarray:
        """Cells start <= (z, y, x) < stop as a bool array of shape stop - start; only these are unpacked."""
        stop = self.shape if stop is None else stop
        if not all(0 <= a <= b <= n for a, b, n in zip(start, stop, self.shape, strict=True)):
            raise ValueError(f"region {start}..{stop} does not lie in {self.shape}")
        (z0, y0, x0), (z1, y1, x1) = start, stop
        if not self._packed:
            return self._cells.read(Box(start, stop)) != 0
        # Whole bytes around the columns asked for, then the bits in front are cut off.
        rows = self._cells.read(Box((z0, y0, x0 // 8), (z1, y1, -(-x1 // 8))))
        if x0 == x1 or rows.size == 0:
            return np.zeros((z1 - z0, y1 - y0, x1 - x0), bool)
        return np.unpackbits(rows, axis=2)[:, :, x0 % 8 : x0 % 8 + x1 - x0].view(bool)


@contextlib.contextmanager
def write_occupancy(
    path: str | os.PathLike, shape: Index, bounds: Bounds, source: str | None = None
) -> Iterator[Callable[[np.ndarray], None]]:
    """Write a packed grid slab by slab: yields `write(slab)` for bool slabs [z, y, x] in order of z.

    `shape` is (z, y, x), `bounds` (lo, hi) as xyz. The file appears under its name only when the block ends without
    an error and every layer has been written; ValueError when layers are missing or of the wrong shape, UserError where
    the disk has no room for it.
    """
    shape = tuple(int(n) for n in shape)
    bounds = [[float(value) for value in corner] for corner in bounds]
    header = {"version": _VERSION, "axes": "zyx", "shape": list(shape), "bounds": bounds, "source": source}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    _parse_header(Path(path), text)
    row_bytes = -(-shape[2] // 8)
    size = _PREFIX + len(text) + shape[0] * shape[1] * row_bytes
    layers = 0

    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        check_room(temporary.parent, size)
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (size,)})
        file.write(_MAGIC + len(text).to_bytes(8, "little") + text)

        def write(slab: np.ndarray) -> None:
            nonlocal layers
            if slab.shape[1:] != shape[1:] or layers + len(slab) > shape[0]:
                raise ValueError(f"slab {slab.shape} after layer {layers} does not fit in {shape}")
            file.write(np.packbits(slab, axis=2))
            layers += len(slab)

        yield write
        if layers != shape[0]:
            raise ValueError(f"{layers} of {shape[0]} layers were written")


def is_packed(path: str | os.PathLike) -> bool:
    """Whether a file is a packed occupancy grid, as far as its first bytes say."""
    path = Path(path)
    if path.suffix.lower() != ".npy" or not path.is_file():
        return False
    with open(path, "rb") as file:
        return _MAGIC in file.read(256)


def _open_array(path: Path) -> np.ndarray:
    """The array of a .npy file, memory-mapped; UserError unless it is bool or uint8 and exactly as long as it says."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise UserError(f"{path}: not a regular file: save the grid to disk first")
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file: make it with preprocess_mesh.py or mend the path") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder: name a .npy file") from None
    except PermissionError:
        raise UserError(f"{path}: cannot be read: permission denied") from None
    except Exception as error:
        # A hostile header reaches the parser of literals, the dtype constructor and mmap, each with its own errors.
        raise UserError(f"{path}: not a whole .npy file ({error}): save the grid with np.save") from None
    if array.dtype not in (np.bool_, np.uint8):
        raise UserError(f"{path}: an occupancy grid is of bool or uint8, this array is {array.dtype}")
    if path.stat().st_size != array.offset + array.nbytes:
        raise UserError(f"{path}: the size of the file does not match its header: make it again")
    return array


def _read_header(path: Path, array: np.ndarray) -> tuple[tuple[Index, Bounds, str | None], int]:
    """The checked header of a packed file and the offset of its first bit row."""
    prefix = array[:_PREFIX].tobytes()
    if len(prefix) < _PREFIX or not prefix.startswith(_MAGIC):
        raise UserError(f"{path}: a one-dimensional array that is no packed occupancy grid: save it as (z, y, x)")
    length = int.from_bytes(prefix[len(_MAGIC) :], "little")
    if length > min(_LONGEST_HEADER, len(array) - _PREFIX):
        raise UserError(f"{path}: broken header of an occupancy grid (length {length}): make the file again")
    header = _parse_header(path, array[_PREFIX : _PREFIX + length].tobytes())
    nz, ny, nx = header[0]
    expected, found = nz * ny * -(-nx // 8), len(array) - _PREFIX - length
    if found != expected:
        raise UserError(f"{path}: {found} bytes of cells where shape {header[0]} needs {expected}: make the file again")
    return header, _PREFIX + length


def _parse_header(path: Path, text: bytes) -> tuple[Index, Bounds, str | None]:
    def check(condition: bool, what: str) -> None:
        if not condition:
            raise UserError(f"{path}: broken header of an occupancy grid ({what}): make the file again")

    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        header = None
    check(isinstance(header, dict), "no JSON object")
    check(header.get("version") == _VERSION, f"version is {header.get('version')!r}, not {_VERSION}"[:80])
    check(header.get("axes") == "zyx", "axes are not zyx")
    shape, bounds, source = header.get("shape"), header.get("bounds"), header.get("source")
    check(isinstance(shape, list) and len(shape) == 3, "shape is no list of three")
    check(all(type(n) is int and 0 < n <= _LARGEST_AXIS for n in shape), "shape is out of range")
    check(isinstance(bounds, list) and len(bounds) == 2, "bounds are no pair")
    check(all(isinstance(corner, list) and len(corner) == 3 for corner in bounds), "bounds are no pair of xyz")
    check(all(_is_coordinate(value) for corner in bounds for value in corner), "bounds are no finite numbers")
    lo, hi = (tuple(float(value) for value in corner) for corner in bounds)
    check(all(0 < b - a < math.inf for a, b in zip(lo, hi, strict=True)), "bounds are empty")
    check(source is None or isinstance(source, str), "source is no text")
    return tuple(shape), (lo, hi), source


def _is_coordinate(value) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300
