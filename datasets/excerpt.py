"""A small source made of parts of a large one, which stands for it where looking at all of it would take too long."""

import math

import torch

from datasets.grid import Box, Grid
from datasets.source import ArraySource, Signal, Source
from utils import hash_uniform

# Least parts of an excerpt: many small ones tell more of a picture than a large one, but hold fewer of its levels.
PARTS = 16


def excerpt(source: Source, grid: Grid, most_cells: int) -> tuple[Source, Grid]:
    """At most about `most_cells` cells of a source, and their levels and blocks.

    It is the source itself where that is small enough. Else it is made of equal boxes spread over the source and laid
    end to end along its longest axis. A box is whole blocks of each level of the excerpt, which are the finest ones.
    """
    if math.prod(grid.shape) <= most_cells:
        return source, grid
    sizes = _box(grid, 0)
    levels = 1
    while levels < grid.n_levels and math.prod(_box(grid, levels)) * PARTS <= most_cells:
        sizes, levels = _box(grid, levels), levels + 1
    axis = max(range(grid.ndim), key=grid.shape.__getitem__)
    places = [max(1, n // size) for n, size in zip(grid.shape, sizes, strict=True)]
    count = min(max(1, most_cells // math.prod(sizes)), math.prod(places))
    cells = torch.cat([source.read(box, 0) for box in _spread(places, sizes, count)], axis)
    signal = Signal("float32", source.signal.channels, 0.0, 1.0, source.signal.mode)
    return (
        ArraySource(cells.cpu().numpy(), signal, source.device, source.about),
        Grid(tuple(cells.shape[:-1]), grid.patch, levels),
    )


def _box(grid: Grid, level: int) -> tuple[int, ...]:
    """The cells of the finest level that a block of a level covers, as far as they are there."""
    return tuple(min(p << level, n) for p, n in zip(grid.patch, grid.shape, strict=True))


def _spread(places: list[int], sizes: tuple[int, ...], count: int) -> list[Box]:
    """Boxes of cells, one at random in each of `count` equal spans of all places where such boxes lie side by side.

    Args:
        places: how many lie side by side along each axis.
    """
    boxes = []
    for n in range(count):
        place = int((n + hash_uniform(0, n).item()) * math.prod(places) / count)
        start = []
        for many, size in zip(reversed(places), reversed(sizes), strict=True):
            place, here = divmod(place, many)
            start.insert(0, here * size)
        boxes.append(Box(tuple(start), tuple(a + size for a, size in zip(start, sizes, strict=True))))
    return boxes
