"""What is left to learn at a level: the source minus what the coarser levels already say, block by block."""

from collections.abc import Callable

import torch
from torch import Tensor

from datasets.grid import Box, Grid, parent, up
from datasets.source import Source

# Cells of a level handled at once; bounds the memory of a survey.
STRIP_CELLS = 2**25


class LevelTargets:
    """The targets of the blocks of one level.

    Args:
        source: the signal.
        coarse: gives the prediction of level + 1 for a box of it, [*box, c] in [0, 1]; None at the coarsest level,
            where the prediction is zero.
        residual: whether a block learns source minus prediction, or the source itself (Gaussian pyramid).
    """

    def __init__(
        self, source: Source, coarse: Callable[[Box], Tensor] | None, grid: Grid, level: int, residual: bool = True
    ):
        self.source, self.coarse, self.grid, self.level, self.residual = source, coarse, grid, level, residual
        self._last: tuple[Box, Tensor] | None = None
        kinds = range(grid.n_kinds)
        self.real_cells = torch.tensor([len(grid.real_cells(kind, level)) for kind in kinds])

    def survey(self) -> tuple[Tensor, Tensor]:
        """Mean square and largest absolute residual of every block over its real cells: [n_blocks], [n_blocks]."""
        energy, amplitude = [], []
        for blocks in self.grid.strips(self.level, STRIP_CELLS):
            residual = self._residual(blocks)
            ids = torch.from_numpy(self.grid.ids(blocks, self.level)).flatten()
            real = self.real_cells[self.grid.kind_of(ids, self.level)].to(residual.device)
            energy.append(residual.square().sum((1, 2)) / (real * residual.shape[1]))
            amplitude.append(residual.abs().amax((1, 2)))
        return torch.cat(energy), torch.cat(amplitude)

    def gather(self, ids: Tensor) -> Tensor:
        """The targets of blocks, by number in rising order: int64 [n] -> [n, c, p]."""
        found = []
        for blocks in self.grid.strips(self.level, STRIP_CELLS):
            numbers = self.grid.ids(blocks, self.level)
            first, last = numbers.flat[0], numbers.flat[-1]
            inside = ids[(ids >= first) & (ids <= last)] - first
            if not len(inside):
                continue
            if self.residual:
                found.append(self._residual(blocks)[inside])
            else:
                region = self.grid.clip(self.grid.cells_of(blocks), self.level)
                found.append(self.grid.split(self.source.read(region, self.level), blocks)[inside])
        if len(found) == 1:
            return found[0]
        empty = torch.empty(0, self.source.signal.channels, self.grid.block_cells, device=self.source.device)
        return torch.cat([empty, *found])

    def _residual(self, blocks: Box) -> Tensor:
        """Source minus prediction of a box of blocks, [n, c, p], zero in the padding. The last one is remembered."""
        if self._last is None or self._last[0] != blocks:
            region = self.grid.clip(self.grid.cells_of(blocks), self.level)
            cells = self.source.read(region, self.level)
            if self.coarse:
                box = parent(region, self.grid, self.level)
                cells = cells - up(self.coarse(box), box, region, self.grid.level_box(self.level + 1))
            self._last = (blocks, self.grid.split(cells, blocks))
        return self._last[1]
