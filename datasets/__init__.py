"""Sources: what a pyramid is fitted to, opened by task."""

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from datasets.big_picture import BigPicture
from datasets.file_array import open_npy, spool
from datasets.grid import Box
from datasets.image import decoded_bytes, read_image, resize_image
from datasets.image_format import COUNT_MODES
from datasets.occupancy import OccupancyGrid
from datasets.samples import TILE, planet
from datasets.source import ArraySource, Signal, Source, levels_bytes, points
from datasets.streamed_source import Reader, StreamedSource
from datasets.volume import read_volume
from datasets.zarr_array import ZarrArray
from memory import Memory
from utils import UserError

PLANET_SIZE = (1024, 512)
ZARR = (".zarr", ".zip")
UNLIMITED = Memory(2**62, 2**62)


@dataclass(frozen=True)
class Place:
    """Where a source is to live: its device, the memory that it may take, and a folder for scratch files."""

    device: torch.device | str = "cpu"
    memory: Memory = UNLIMITED
    folder: Path = Path()


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
    if size is not None and len(size) == 1:
        size = size * (2 if task == "image" else 3)
    return _OPEN[task](path, size, place or Place())


def _open_image(path: str | None, size: tuple[int, ...] | None, place: Place) -> Source:
    if path is None:
        return _open_planet(*(size or PLANET_SIZE), place)
    file = Path(path)
    if file.suffix.lower() in ZARR:
        return _open_zarr(file, size, place, 2)
    npy = file.suffix.lower() == ".npy"
    stored = file.stat().st_size if npy and file.is_file() else decoded_bytes(file)
    # Of a picture with one wide channel the coarser levels, of 4 bytes a value, take the most.
    if place.memory.holds(stored, 4 * stored // 3):
        array, mode = read_image(path)
        if size is not None:
            array = resize_image(array, *size)
        return ArraySource(array, Signal.of(array, mode), place.device)
    if npy:
        array = _big_npy(file, (2, 3))
        mode = COUNT_MODES.get(array.shape[2], "channels")
    else:
        array = BigPicture(file, place.folder)
        mode = array.mode
    if size is not None and size != array.shape[1::-1]:
        raise UserError(f"--input_size: {path} is larger than --memory has room for, and is not resized by region: "
                        "resize it before, or raise --memory")  # fmt: skip
    return _streamed(path, array, array.shape, array.dtype, mode, place)


def _open_planet(width: int, height: int, place: Place) -> Source:
    shape = (height, width, 3)
    if place.memory.holds(math.prod(shape), levels_bytes(shape[:2], 3)):
        return ArraySource(array := planet(height, width), Signal.of(array, "RGB"), place.device)
    # Rendering is slower than any disk, so it is done once.
    rows = (planet(height, width, (top, min(top + TILE, height))) for top in range(0, height, TILE))
    stored = spool(rows, shape, np.dtype(np.uint8), place.folder)
    return _streamed(None, stored, shape, stored.dtype, "RGB", place)


def _open_occupancy(path: str, size: tuple[int, ...] | None, place: Place) -> Source:
    grid = OccupancyGrid(path)
    _check_size(path, grid.shape, size)
    about = {"bounds": grid.bounds, "mesh": grid.source}
    if place.memory.holds(math.prod(grid.shape), levels_bytes(grid.shape, 1)):
        cells = grid.read()[..., None]
        return ArraySource(cells, Signal.of(cells, "occupancy"), place.device, about)
    return _streamed(path, _Occupancy(grid), (*grid.shape, 1), np.dtype(bool), "occupancy", place, about)


def _open_volume(path: str, size: tuple[int, ...] | None, place: Place) -> Source:
    file = Path(path)
    if file.suffix.lower() in ZARR:
        return _open_zarr(file, size, place, 3)
    stored = file.stat().st_size if file.is_file() else 0
    if place.memory.holds(stored, 4 * stored // 7) or file.suffix.lower() == ".npz":
        array = read_volume(path)
        _check_size(path, array.shape[:3], size)
        return ArraySource(array, Signal.of(array, "volume"), place.device)
    array = _big_npy(file, (3, 4))
    _check_size(path, array.shape[:3], size)
    return _streamed(path, array, array.shape, array.dtype, "volume", place)


def _open_zarr(path: Path, size: tuple[int, ...] | None, place: Place, ndim: int) -> Source:
    array = ZarrArray(path, ndim)
    shape, raw = array.shape[:-1], math.prod(array.shape) * array.dtype.itemsize
    _check_size(str(path), shape, size)
    mode = "volume" if ndim == 3 else COUNT_MODES.get(array.shape[-1], "channels")
    source = _streamed(str(path), array, array.shape, array.dtype, mode, place)
    if not place.memory.holds(raw, levels_bytes(shape, array.shape[-1])):
        return source
    return ArraySource(array.read(Box((0,) * ndim, shape)), source.signal, place.device)


def _big_npy(path: Path, axes: tuple[int, int]):
    try:
        return open_npy(path, axes)
    except ValueError as error:
        advice = f"save one array of {' or '.join(map(str, axes))} axes of bool, integers or floats by numpy"
        raise UserError(f"{path}: not a whole .npy array ({error}): {advice}") from None


def _streamed(
    path: str | None, reader: Reader, shape: tuple[int, ...], dtype: np.dtype, mode: str, place: Place, about=None
) -> Source:
    """A source that is read by region; `shape` ends with the channels."""
    *space, channels = shape
    strip_cells = place.memory.strip_cells(channels)

    def parts() -> Iterator[np.ndarray]:
        for box in points(space, 0).boxes(0, strip_cells):
            yield _finite(path, box, reader.read(box))

    signal = Signal.of_parts(parts(), dtype.newbyteorder("="), channels, mode)
    return StreamedSource(reader, tuple(space), signal, place.device, about, place.folder, strip_cells)


def _finite(path: str | None, box: Box, cells: np.ndarray) -> np.ndarray:
    if cells.dtype.kind == "f" and not (finite := np.isfinite(cells)).all():
        *place, channel = np.unravel_index(finite.argmin(), cells.shape)
        where = [int(first + n) for first, n in zip(box.start, place, strict=True)]
        raise UserError(f"{path}: not a finite number at cell {where}, channel {channel}: replace such values")
    return cells


class _Occupancy:
    """An occupancy grid as cells with a channel."""

    def __init__(self, grid: OccupancyGrid):
        self._grid = grid

    def read(self, region: Box) -> np.ndarray:
        return self._grid.read(region.start, region.stop)[..., None]


def _check_size(path: str | os.PathLike, shape: tuple[int, ...], size: tuple[int, ...] | None) -> None:
    if size is not None and tuple(size) != shape[::-1]:
        given, is_ = (" ".join(map(str, numbers)) for numbers in (size, shape[::-1]))
        raise UserError(f"--input_size {given} does not match {path}, which is {is_} (x y z): leave it out")


_OPEN: dict[str, Callable[..., Source]] = {"image": _open_image, "mesh": _open_occupancy, "volume": _open_volume}
