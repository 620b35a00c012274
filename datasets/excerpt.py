"""A small source made of parts of a large one, which stands for it where looking at all of it would take too long."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from datasets.grid import Box, Grid, parent, up
from datasets.source import ArraySource, Signal, Source
from utils import hash_uniform

# Least parts of an excerpt: many small ones tell more of a picture than a large one, but hold fewer of its levels.
PARTS = 16


@dataclass(frozen=True)
class Excerpt:
    """Boxes of a source, laid end to end.

    Args:
        source: their cells.
        grid: their levels and blocks.
        axis: along which they lie.
        length: cells of the finest level of each of them, along it.
    """

    source: Source
    grid: Grid
    axis: int
    length: int

    def up(self, read: Callable[[Box], Tensor], region: Box, level: int) -> Tensor:
        """What the next coarser level says of a region of a level, [*region, c], of each box by its own cells alone.

        Args:
            read: gives the cells of a box of the coarser level.
        """
        grid = Grid(self.grid.shape, self.grid.patch, level + 2)
        edge, n = grid.level_box(level + 1), self.length >> level
        if n % 2:
            # Boxes that share a coarse cell are not told apart.
            coarse = parent(region, grid, level)
            return up(read(coarse), coarse, region, edge)
        parts = []
        for first in range(region.start[self.axis] // n * n, region.stop[self.axis], n):
            part = self._between(region, first, first + n)
            coarse = self._between(parent(part, grid, level), first // 2, (first + n) // 2)
            boxes = self._moved(coarse, -first // 2), self._moved(part, -first), self._between(edge, 0, n // 2)
            parts.append(up(read(coarse), *boxes))
        return torch.cat(parts, self.axis)

    def _between(self, box: Box, low: int, high: int) -> Box:
        return box.map(lambda a, b, here: (max(a, low), min(b, high)) if here else (a, b), self._along)

    def _moved(self, box: Box, by: int) -> Box:
        return box.map(lambda a, b, here: (a + by * here, b + by * here), self._along)

    @property
    def _along(self) -> tuple[bool, ...]:
        return tuple(axis == self.axis for axis in range(self.grid.ndim))


def excerpt(source: Source, grid: Grid, most_cells: int) -> Excerpt:
    """At most about `most_cells` cells of a source, and their levels and blocks.

    It is the source itself where that is small enough. Else it is made of equal boxes spread over the source and laid
    end to end along its longest axis. A box is whole blocks of each level of the excerpt, which are the finest ones.
    """
    axis = max(range(grid.ndim), key=grid.shape.__getitem__)
    if math.prod(grid.shape) <= most_cells:
        # One box, whose end no level reaches.
        return Excerpt(source, grid, axis, 2 * grid.shape[axis] << grid.n_levels)
    sizes = _box(grid, 0)
    levels = 1
    while levels < grid.n_levels and math.prod(_box(grid, levels)) * PARTS <= most_cells:
        sizes, levels = _box(grid, levels), levels + 1
    places = [max(1, n // size) for n, size in zip(grid.shape, sizes, strict=True)]
    count = min(max(1, most_cells // math.prod(sizes)), math.prod(places))
    cells = torch.cat([source.read(box, 0) for box in _spread(places, sizes, count)], axis)
    signal = Signal("float32", source.signal.channels, 0.0, 1.0, source.signal.mode)
    laid = ArraySource(cells.cpu().numpy(), signal, source.device, source.about)
    return Excerpt(laid, Grid(laid.shape, grid.patch, levels), axis, sizes[axis])


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
