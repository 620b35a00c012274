"""A region at any size: which level is decoded for it, and how its cells become the cells that are asked for."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from datasets.grid import Box, Grid
from datasets.resample import Axis, made_from, resample


@dataclass(frozen=True)
class Frame:
    """Equal cells laid over a region of a level, as many along each axis as `size` says.

    They are made from the coarsest level whose cells are not larger than they are: each is the mean of what it covers,
    cells covered in part counted in part. Where even the finest level's cells are larger, it is interpolated, by
    Catmull-Rom's cubic: through the values of the cells, with a continuous slope. What would lie beyond the edge
    repeats the last cell. A size that a level has for this region gives the cells of that level as they are, also
    where the last of them hangs over the edge.

    Args:
        grid: levels and their sizes.
        region: cells of `level`.
        level: 0 is the finest.
        size: cells of the frame along each axis, slow to fast.

    Raises:
        ValueError: the size has another number of axes, or is not positive.
    """

    grid: Grid
    region: Box
    level: int
    size: tuple[int, ...]

    def __post_init__(self):
        if len(self.size) != self.grid.ndim or min(self.size) < 1:
            raise ValueError(f"size {self.size} must be {self.grid.ndim} positive numbers")

    @property
    def whole(self) -> Box:
        """All cells of the frame."""
        return Box((0,) * len(self.size), self.size)

    @property
    def extent(self) -> tuple[int, Box]:
        """A level and the cells of it that the frame covers to its outer faces."""
        return self._own or (self.level, self.region)

    def holds(self, part: Box) -> bool:
        """Whether a part is not empty and lies inside the frame."""
        return len(part.start) == len(self.size) and all(
            0 <= a < b <= n for a, b, n in zip(part.start, part.stop, self.size, strict=True)
        )

    @cached_property
    def source(self) -> int:
        """The level that is decoded."""
        if self._own:
            return self._own[0]
        for level in reversed(range(self.grid.n_levels)):
            if all(axis.step >= axis.unit for axis in self._axes(level)):
                return level
        return 0

    @property
    def interpolated(self) -> bool:
        """Whether it asks for more cells than the finest level has, along any axis."""
        return not self._own and any(axis.step < axis.unit for axis in self._axes(self.source))

    def cells(self, part: Box) -> Box:
        """The cells of the level `source` that a part of the frame is made from."""
        if self._own:
            return part.map(lambda a, b, first: (a + first, b + first), self._own[1].start)
        return made_from(self._axes(self.source), part, self.grid.level_box(self.source).stop)

    def resample(self, values: Tensor, part: Box) -> Tensor:
        """A part of the frame, [*part, c], from its `cells`, [*cells, c]. The same bits whatever part is asked for."""
        if self._own:
            return values
        return resample(self._axes(self.source), values, self.cells(part), part)

    def strips(self, most_cells: int) -> Iterator[Box]:
        """Cut the frame along its slow axis into parts of at most `most_cells` cells, and made from about as many.

        A part is never less than what one row of blocks or one row of the frame takes.
        """
        if self._own:
            level, box = self._own
            for blocks in self.grid.strips(level, most_cells, box):
                cells = self.grid.cells_of(blocks)
                a, b = max(cells.start[0], box.start[0]), min(cells.stop[0], box.stop[0])
                yield Box((a - box.start[0], *self.whole.start[1:]), (b - box.start[0], *self.size[1:]))
            return
        first = self.cells(Box(self.whole.start, (1, *self.size[1:])))
        slow = self._axes(self.source)[0]
        below = math.prod(first.shape[1:]) * slow.step // slow.unit
        rows = max(1, most_cells // max(below, math.prod(self.size[1:])))
        if slow.step >= slow.unit:
            # Thinner strips would decode every row of blocks several times.
            rows = max(rows, self.grid.patch[0] * slow.unit // slow.step)
        for a in range(0, self.size[0], rows):
            yield Box((a, *self.whole.start[1:]), (min(a + rows, self.size[0]), *self.size[1:]))

    def _axes(self, level: int) -> list[Axis]:
        """How the frame lies over the cells of a level."""
        finer, coarser = 2 ** max(self.level - level, 0), 2 ** max(level - self.level, 0)
        return [
            Axis(a * n * finer, (b - a) * finer, n * coarser)
            for a, b, n in zip(self.region.start, self.region.stop, self.size, strict=True)
        ]

    @cached_property
    def _own(self) -> tuple[int, Box] | None:
        """The level, nearest to that of the region, whose cells in the region are as many as the size says."""
        for level in sorted(range(self.grid.n_levels), key=lambda level: abs(level - self.level)):
            box = self._box(level)
            if box and box.shape == self.size:
                return level, box
        return None

    def _box(self, level: int) -> Box | None:
        """The region as whole cells of another level; those at the edge may hang over it."""
        if level <= self.level:
            factor = 2 ** (self.level - level)
            return self.grid.clip(self.region.map(lambda a, b: (a * factor, b * factor)), level)
        factor, edge = 2 ** (level - self.level), self.grid.level_box(self.level).stop
        for a, b, n in zip(self.region.start, self.region.stop, edge, strict=True):
            if a % factor or (b % factor and b != n):
                return None
        return self.region.map(lambda a, b: (a // factor, -(-b // factor)))
