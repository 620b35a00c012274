"""Equal cells laid over others: means where they are the larger ones, a cubic where they are the smaller ones.

Axis by axis. Every cell is a fixed sum of the same neighbours, so a part of what is made is the crop of the whole bit
for bit.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from datasets.grid import Box


@dataclass(frozen=True)
class Axis:
    """How cells lie over source cells along one axis, in a common unit.

    Args:
        begin: of cell 0, from the begin of source cell 0.
        step: width of a cell.
        unit: width of a source cell.
    """

    begin: int
    step: int
    unit: int

    def reach(self, a: int, b: int) -> tuple[int, int]:
        """The source cells, from and up to, that cells a to b have a weight of; some may lie beyond the edge."""
        if self.step < self.unit:
            first, weights = self.taps(a, b)
            return first[0].item(), first[-1].item() + len(weights)
        return (self.begin + self.step * a) // self.unit, -(-(self.begin + self.step * b) // self.unit)

    def taps(self, a: int, b: int) -> tuple[Tensor, list[Tensor]]:
        """The first source cell that each of cells a to b is made of, int64 [b - a], and the weights, float64 [b - a]
        each, of that and of the next ones."""
        lo = self.begin + self.step * torch.arange(a, b)
        if self.step < self.unit:
            centre = (lo.double() + self.step / 2) / self.unit - 0.5
            near = centre.floor()
            return near.long() - 1, _cubic(centre - near)
        first = lo // self.unit
        left = (first * self.unit - lo).double()
        # Source cell k of those that a cell may cover begins at left + k * unit from its begin.
        spans = [
            (left + (k + 1) * self.unit).clamp_(max=self.step) - (left + k * self.unit).clamp_(0, self.step)
            for k in range(-(-self.step // self.unit) + 1)
        ]
        return first, [span / self.step for span in spans]


def made_from(axes: Sequence[Axis], part: Box, edge: tuple[int, ...]) -> Box:
    """The source cells, of which there are `edge` along each axis, that a part is made from."""
    box = part.map(lambda a, b, axis: axis.reach(a, b), axes)
    return box.map(lambda a, b, n: (min(max(a, 0), n - 1), min(max(b, 1), n)), edge)


def resample(axes: Sequence[Axis], values: Tensor, box: Box, part: Box) -> Tensor:
    """A part, [*part, c], from the source cells that it is made from, [*box, c] of a float dtype.

    What would lie beyond the edge repeats the last cell.
    """
    for k, (axis, a, b) in enumerate(zip(axes, part.start, part.stop, strict=True)):
        first, weights = axis.taps(a, b)
        shape = [-1 if k == other else 1 for other in range(values.ndim)]
        found = 0
        for tap, weight in enumerate(weights):
            if not weight.any():
                continue
            index = (first + tap).clamp_(box.start[k], box.stop[k] - 1) - box.start[k]
            near = values.index_select(k, index.to(values.device))
            found = near.mul_(weight.to(values.device, values.dtype).view(shape)).add_(found)
        values = found
    return values


def _cubic(t: Tensor) -> list[Tensor]:
    """Catmull-Rom's weights of the four cells around a place, 0 <= t < 1 beyond the second of them."""
    return [
        ((2 - t) * t - 1) * t / 2,
        ((3 * t - 5) * t * t + 2) / 2,
        ((4 - 3 * t) * t + 1) * t / 2,
        (t - 1) * t * t / 2,
    ]
