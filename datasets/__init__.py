"""Sources: what a pyramid is fitted to."""

import torch

from datasets.image import read_image, resize_image
from datasets.samples import planet
from datasets.source import Signal, Source

PLANET_SIZE = (1024, 512)


def open_source(path: str | None, size: tuple[int, ...] | None, device: torch.device | str = "cpu") -> Source:
    """The image of a file, or a generated planet without one.

    Args:
        path: an image file; None for the planet.
        size: (width, height) to resize to, or to generate; None keeps the file's.

    Raises:
        UserError: the file cannot be read.
    """
    if path is None:
        width, height = size or PLANET_SIZE
        return Source(array := planet(height, width), Signal.of(array, "RGB"), device)
    array, info = read_image(path)
    if size is not None:
        array = resize_image(array, *size)
    return Source(array, Signal.of(array, info.mode), device)
