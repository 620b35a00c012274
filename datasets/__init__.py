"""Sources: what a pyramid is fitted to, opened by task."""

import contextlib
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import gettempdir

import numpy as np
import torch

from datasets.big_picture import BigPicture
from datasets.file_array import FileArray, handed, open_npy, spool
from datasets.grid import Box
from datasets.image import decoded_bytes, read_image
from datasets.image_format import COUNT_MODES
from datasets.image_writer import TooLarge
from datasets.occupancy import OccupancyGrid, is_packed
from datasets.resize import resized
from datasets.samples import MAX_SIZE, TILE, planet
from datasets.source import ArraySource, Signal, Source, levels_bytes, points
from datasets.streamed_source import Reader, StreamedSource
from datasets.tiff import page_count
from datasets.volume import read_volume
from datasets.zarr_array import ZarrArray
from machine.memory import Memory, memory_of
from utils import UserError

PLANET_SIZE = (1024, 512)
ZARR = (".zarr", ".zip")
MESHES = (".obj", ".ply", ".stl", ".off", ".glb", ".gltf")
UNLIMITED = Memory(2**62, 2**62)


@dataclass(frozen=True)
class Place:
    """Where a source is to live: its device, the memory that it may take, and a folder for scratch files."""

    device: torch.device | str = "cpu"
    memory: Memory = UNLIMITED
    folder: Path = Path()

    @classmethod
    def beside(cls, path: str | os.PathLike, device: torch.device, memory: int | None = None) -> "Place":
        """For looking at what lies at a path: `memory` bytes, or what the machine has free, and scratch files beside
        it, or where temporary files go if that folder may not be written."""
        folder = Path(path).absolute().parent
        return cls(device, memory_of(memory, device), folder if os.access(folder, os.W_OK) else Path(gettempdir()))


def open_source(task: str, path: str | None, size: tuple[int, ...] | None = None, place: Place | None = None) -> Source:
    """The signal of a task: in memory on a device if there is room for it, else read from its file by region.

    Args:
        task: "image", "mesh" (an occupancy grid) or "volume".
        path: its file; None for the built-in planet, an image.
        size: as on the command line, X Y [Z] or one number for all. An image is resized to it; a grid must
            have it. None keeps the file's.

    Raises:
        UserError: the file cannot be read, or is not of that size.
    """
    if path is not None and Path(path).suffix.lower() in MESHES:
        raise UserError(f"{path}: a mesh: make a grid of it first, with python preprocess_mesh.py --path {path}")
    if path is not None and task != "mesh" and is_packed(path):
        raise UserError(f"{path}: an occupancy grid: fit it with --task mesh")
    if size is not None and len(size) == 1:
        size = size * (2 if task == "image" else 3)
    return _OPEN[task](path, size, place or Place())


def _open_image(path: str | None, size: tuple[int, ...] | None, place: Place) -> Source:
    if path is None:
        return _open_planet(*(size or PLANET_SIZE), place)
    reader, mode = _open_picture(Path(path), place)
    own, notes = reader.shape[1::-1], []
    if Path(path).is_file() and (pages := page_count(Path(path))) > 1:
        notes.append(f"{path}: a TIFF of {pages} pages, of which the first is read")
    if size is not None and size != own:
        reader = _resized(path, reader, size, place)
        notes.append(f"{path}: resized from {own[0]} x {own[1]} to {size[0]} x {size[1]} pixels")
    source = _source(path, reader, mode, place)
    source.notes, source.resized = tuple(notes), reader.shape[1::-1] != own
    return source


def _open_picture(path: Path, place: Place) -> tuple[Reader, str]:
    """The cells of a picture, in memory if there is room for them, and its mode."""
    ending = path.suffix.lower()
    if ending in ZARR:
        array = ZarrArray(path, 2)
        return array, COUNT_MODES.get(array.shape[2], "channels")
    npy = ending == ".npy"
    stored = path.stat().st_size if npy and path.is_file() else decoded_bytes(path)
    # Of a picture with one wide channel the coarser levels, of 4 bytes a value, take the most.
    if place.memory.holds(stored, 4 * stored // 3):
        with contextlib.suppress(TooLarge):
            array, mode = read_image(path)
            return _Held(array), mode
    if npy:
        array = _big_npy(path, (2, 3))
        return array, COUNT_MODES.get(array.shape[2], "channels")
    array = BigPicture(path, place.folder)
    return array, array.mode


def _resized(path: str, reader: Reader, size: tuple[int, ...], place: Place) -> Reader:
    """A picture resized once, into memory if there is room for it, else into a scratch file."""
    *space, channels = reader.shape
    shape, dtype = (*size[::-1], channels), reader.dtype.newbyteorder("=")
    if place.memory.holds(math.prod(shape) * dtype.itemsize, levels_bytes(shape[:2], channels)):
        made = _Held(np.empty(shape, dtype))
    else:
        made = FileArray.scratch(place.folder, shape, dtype)

    def read(region: Box) -> np.ndarray:
        return _finite(path, region, reader.read(region))

    for part, cells in resized(read, tuple(space), shape[:2], place.memory.strip_cells(channels, streamed=False)):
        made.write(part, cells)
    return made


def _open_planet(width: int, height: int, place: Place) -> Source:
    if max(width, height) > MAX_SIZE:
        raise UserError(f"--input_size {width} {height}: the sample has at most {MAX_SIZE} pixels along an axis")
    shape = (height, width, 3)
    if place.memory.holds(math.prod(shape), levels_bytes(shape[:2], 3)):
        return ArraySource(array := planet(height, width), Signal.of(array, "RGB"), place.device)
    # Rendering is slower than any disk, so it is done once.
    rows = (planet(height, width, (top, min(top + TILE, height))) for top in range(0, height, TILE))
    stored = spool(rows, shape, np.dtype(np.uint8), place.folder)
    return _streamed(None, stored, "RGB", place)


def _open_occupancy(path: str, size: tuple[int, ...] | None, place: Place) -> Source:
    grid = OccupancyGrid(path)
    _check_size(path, grid.shape, size)
    about = {"bounds": grid.bounds, "mesh": grid.source}
    if place.memory.holds(math.prod(grid.shape), levels_bytes(grid.shape, 1)):
        cells = grid.read()[..., None]
        return ArraySource(cells, Signal.of(cells, "occupancy"), place.device, about)
    return _streamed(path, _Occupancy(grid), "occupancy", place, about)


def _open_volume(path: str, size: tuple[int, ...] | None, place: Place) -> Source:
    file = Path(path)
    if file.suffix.lower() in ZARR:
        array = ZarrArray(file, 3)
        _check_size(path, array.shape[:3], size)
        return _source(path, array, "volume", place)
    stored = file.stat().st_size if file.is_file() else 0
    if place.memory.holds(stored, 4 * stored // 7) or file.suffix.lower() == ".npz":
        array = read_volume(path)
        _check_size(path, array.shape[:3], size)
        return ArraySource(array, Signal.of(array, "volume"), place.device)
    array = _big_npy(file, (3, 4))
    _check_size(path, array.shape[:3], size)
    return _streamed(path, array, "volume", place)


def _big_npy(path: Path, axes: tuple[int, int]):
    try:
        return open_npy(path, axes)
    except ValueError as error:
        advice = f"save one array of {' or '.join(map(str, axes))} axes of bool, integers or floats by numpy"
        raise UserError(f"{path}: not a whole .npy array ({error}): {advice}") from None


def _source(path: str, reader: Reader, mode: str, place: Place) -> Source:
    """A source of what a reader gives, held if there is room for it."""
    *space, channels = reader.shape
    raw = math.prod(reader.shape) * reader.dtype.itemsize
    if not place.memory.holds(raw, levels_bytes(tuple(space), channels)):
        return _streamed(path, reader, mode, place)
    whole = Box((0,) * len(space), tuple(space))
    array = _finite(path, whole, reader.read(whole))
    return ArraySource(array, Signal.of(array, mode), place.device)


def _streamed(path: str | None, reader: Reader, mode: str, place: Place, about=None) -> Source:
    """A source that is read by region."""
    *space, channels = reader.shape
    limits = place.memory.reading(channels, reader.dtype.itemsize)

    def parts() -> Iterator[np.ndarray]:
        for box in points(space, 0).boxes(0, limits.strip_cells):
            yield _finite(path, box, reader.read(box))

    signal = Signal.of_parts(parts(), reader.dtype.newbyteorder("="), channels, mode)
    return StreamedSource(reader, tuple(space), signal, place.device, about, place.folder, limits)


def _finite(path: str | None, box: Box, cells: np.ndarray) -> np.ndarray:
    if cells.dtype.kind == "f" and not (finite := np.isfinite(cells)).all():
        *place, channel = np.unravel_index(finite.argmin(), cells.shape)
        where = [int(first + n) for first, n in zip(box.start, place, strict=True)]
        raise UserError(f"{path}: not a finite number at cell {where}, channel {channel}: replace such values")
    return cells


class _Held:
    """An array [*space, c] in memory."""

    def __init__(self, array: np.ndarray):
        self._array, self.shape, self.dtype = array, array.shape, array.dtype
        self._whole = Box((0,) * (array.ndim - 1), array.shape[:-1])

    def read(self, region: Box, out: np.ndarray | None = None) -> np.ndarray:
        return handed(self._whole.crop(self._array, region), out)

    def write(self, region: Box, cells: np.ndarray) -> None:
        self._whole.crop(self._array, region)[...] = cells


class _Occupancy:
    """An occupancy grid as cells with a channel."""

    def __init__(self, grid: OccupancyGrid):
        self._grid, self.shape, self.dtype = grid, (*grid.shape, 1), np.dtype(bool)

    def read(self, region: Box, out: np.ndarray | None = None) -> np.ndarray:
        return handed(self._grid.read(region.start, region.stop)[..., None], out)


def _check_size(path: str | os.PathLike, shape: tuple[int, ...], size: tuple[int, ...] | None) -> None:
    if size is not None and tuple(size) != shape[::-1]:
        given, is_ = (" ".join(map(str, numbers)) for numbers in (size, shape[::-1]))
        raise UserError(f"--input_size {given} does not match {path}, which is {is_} (x y z): leave it out")


_OPEN: dict[str, Callable[..., Source]] = {"image": _open_image, "mesh": _open_occupancy, "volume": _open_volume}
