"""What is left to learn at a level: the source minus what the coarser levels already say, block by block."""

from collections.abc import Callable

import torch
from torch import Tensor

from datasets.grid import Box, Grid
from datasets.source import Source
from ranks import Ranks

# Cells of a level handled at once, which bounds the memory of a survey; and the most values of a level whose targets
# are kept from the survey on, rather than made again for each chunk.
STRIP_CELLS = 2**22
KEPT_VALUES = 2**27


class LevelTargets:
    """The targets of the blocks of one level.

    Args:
        source: the signal.
        prediction: what the coarser levels say of a region of this level, [*region, c] in [0, 1]; None at the
            coarsest level, of which nothing is known.
        residual: whether a block learns source minus prediction, or the source itself (Gaussian pyramid).
    """

    def __init__(
        self, source: Source, prediction: Callable[[Box], Tensor] | None, grid: Grid, level: int, residual: bool = True
    ):
        self.source, self.prediction, self.grid, self.level, self.residual = source, prediction, grid, level, residual
        self.real_cells = torch.tensor([len(grid.real_cells(kind, level)) for kind in range(grid.n_kinds)])
        self._kept: Tensor | None = None

    def survey(self, ranks: Ranks = Ranks()) -> tuple[Tensor, Tensor]:  # noqa: B008 (one alone has no state here)
        """Mean square and largest absolute residual of every block over its real cells: [n_blocks], [n_blocks].

        Several processes share the strips, and all of them must call this.
        """
        shape = (self.grid.n_blocks(self.level), self.source.signal.channels, self.grid.block_cells)
        energy, amplitude = (torch.empty(shape[0], device=self.source.device) for _ in range(2))
        # Which chunks a process of several will train is not known yet.
        if ranks.count == 1 and shape[0] * shape[1] * shape[2] <= KEPT_VALUES:
            self._kept = torch.empty(shape, device=self.source.device)
        strips = self._strips()
        for strip, ids in ranks.share(strips):
            residual, targets = self._blocks(strip)
            real = self.real_cells[self.grid.kind_of(torch.arange(ids.start, ids.stop), self.level)]
            here = slice(ids.start, ids.stop)
            energy[here] = residual.square().sum((1, 2)) / (real * shape[1]).to(energy.device)
            amplitude[here] = residual.abs().amax((1, 2))
            if self._kept is not None:
                self._kept[here] = targets
        owned = [
            (owner, slice(ids.start, ids.stop)) for owner, (_, ids) in zip(ranks.owners(strips), strips, strict=True)
        ]
        ranks.exchange([(owner, values[here]) for owner, here in owned for values in (energy, amplitude)])
        return energy, amplitude

    def gather(self, ids: Tensor) -> Tensor:
        """The targets of blocks, by number in rising order: int64 [n] -> [n, c, p]."""
        if self._kept is not None:
            return self._kept[ids]
        found = [torch.empty(0, self.source.signal.channels, self.grid.block_cells, device=self.source.device)]
        for strip, numbers in self._strips():
            inside = ids[(ids >= numbers.start) & (ids < numbers.stop)] - numbers.start
            if len(inside):
                found.append(self._blocks(strip)[1][inside])
        return torch.cat(found)

    def forget(self) -> None:
        """Free the targets kept from the survey, as there is nothing left to gather, or little."""
        self._kept = None

    def _strips(self) -> list[tuple[Box, range]]:
        """Boxes of blocks that cover the level, and the numbers of their blocks, which are consecutive."""
        strips = []
        for strip in self.grid.strips(self.level, STRIP_CELLS):
            numbers = self.grid.ids(strip, self.level)
            strips.append((strip, range(int(numbers.flatten()[0]), int(numbers.flatten()[-1]) + 1)))
        return strips

    def _blocks(self, strip: Box) -> tuple[Tensor, Tensor]:
        """Residual and targets of a box of blocks, [n, c, p] each, zero in the padding."""
        region = self.grid.clip(self.grid.cells_of(strip), self.level)
        cells = self.source.read(region, self.level)
        residual = self.grid.split(cells - self.prediction(region) if self.prediction else cells, strip)
        return residual, residual if self.residual else self.grid.split(cells, strip)
