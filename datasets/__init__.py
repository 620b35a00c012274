"""Sources: what a pyramid is fitted to, opened by task."""

import os
from collections.abc import Callable

import torch

from datasets.image import read_image, resize_image
from datasets.occupancy import OccupancyGrid
from datasets.samples import planet
from datasets.source import Signal, Source
from datasets.volume import read_volume
from utils import UserError

PLANET_SIZE = (1024, 512)


def open_source(
    task: str, path: str | None, size: tuple[int, ...] | None = None, device: torch.device | str = "cpu"
) -> Source:
    """The signal of a task, in memory on a device.

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
    return _OPEN[task](path, size, device)


def _open_image(path: str | None, size: tuple[int, ...] | None, device: torch.device | str) -> Source:
    if path is None:
        width, height = size or PLANET_SIZE
        return Source(array := planet(height, width), Signal.of(array, "RGB"), device)
    array, mode = read_image(path)
    if size is not None:
        array = resize_image(array, *size)
    return Source(array, Signal.of(array, mode), device)


def _open_occupancy(path: str, size: tuple[int, ...] | None, device: torch.device | str) -> Source:
    grid = OccupancyGrid(path)
    _check_size(path, grid.shape, size)
    cells = grid.read()[..., None]
    about = {"bounds": grid.bounds, "mesh": grid.source}
    return Source(cells, Signal.of(cells, "occupancy"), device, about)


def _open_volume(path: str, size: tuple[int, ...] | None, device: torch.device | str) -> Source:
    array = read_volume(path)
    _check_size(path, array.shape[:3], size)
    return Source(array, Signal.of(array, "volume"), device)


def _check_size(path: str | os.PathLike, shape: tuple[int, ...], size: tuple[int, ...] | None) -> None:
    if size is not None and tuple(size) != shape[::-1]:
        given, is_ = (" ".join(map(str, numbers)) for numbers in (size, shape[::-1]))
        raise UserError(f"--input_size {given} does not match {path}, which is {is_} (x y z): leave it out")


_OPEN: dict[str, Callable[..., Source]] = {"image": _open_image, "mesh": _open_occupancy, "volume": _open_volume}
