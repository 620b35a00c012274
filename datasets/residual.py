"""What is left to learn at a level: the source minus what the coarser levels already say, block by block."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from datasets.grid import Box, Grid
from datasets.source import Source
from ranks import Ranks


class LevelTargets:
    """The targets of the blocks of one level.

    Args:
        source: the signal.
        prediction: what the coarser levels say of a region of this level, [*region, c] in [0, 1]; None at the
            coarsest level, of which nothing is known.
        residual: whether a block learns source minus prediction, or the source itself (Gaussian pyramid).
        strip_cells: cells of the level handled at once.
        kept_values: most values of a level whose targets are kept from its survey on, rather than made again for each
            chunk.
    """

    def __init__(
        self,
        source: Source,
        prediction: Callable[[Box], Tensor] | None,
        grid: Grid,
        level: int,
        residual: bool = True,
        strip_cells: int = 2**22,
        kept_values: int = 2**27,
    ):
        self.source, self.prediction, self.grid, self.level, self.residual = source, prediction, grid, level, residual
        self.strip_cells, self.kept_values = strip_cells, kept_values
        self._kept: Tensor | None = None

    def survey(self, ranks: Ranks = Ranks()) -> tuple[Tensor, Tensor]:  # noqa: B008 (one alone has no state here)
        """Mean square and largest absolute residual of every block over its real cells: [n_blocks], [n_blocks].

        Several processes share the strips, and all of them must call this.
        """
        shape = (self.grid.n_blocks(self.level), self.source.signal.channels, self.grid.block_cells)
        energy, amplitude = (torch.empty(shape[0], device=self.source.device) for _ in range(2))
        # Which chunks a process of several will train is not known yet.
        if ranks.count == 1 and shape[0] * shape[1] * shape[2] <= self.kept_values:
            self._kept = torch.empty(shape, device=self.source.device)
        strips = list(self.grid.boxes(self.level, self.strip_cells))
        for ids, residual, targets in self._read(list(ranks.share(strips))):
            kind = self.grid.kind_of(torch.arange(ids.start, ids.stop), self.level)
            real = self.grid.count_real(kind, self.level)
            here = slice(ids.start, ids.stop)
            energy[here] = residual.square().sum((1, 2)) / (real * shape[1]).to(energy.device)
            amplitude[here] = residual.abs().amax((1, 2))
            if self._kept is not None:
                self._kept[here] = targets
        owned = [
            (owner, slice(ids.start, ids.stop))
            for owner, ids in zip(ranks.owners(strips), map(self._numbers, strips), strict=True)
        ]
        ranks.exchange([(owner, values[here]) for owner, here in owned for values in (energy, amplitude)])
        return energy, amplitude

    def gather(self, ids: Tensor) -> Tensor:
        """The targets of blocks, by number in rising order: int64 [n] -> [n, c, p]."""
        if self._kept is not None:
            return self._kept[ids]
        found = torch.empty(len(ids), self.source.signal.channels, self.grid.block_cells, device=self.source.device)
        for numbers, _, targets in self._read(self._strips_of(ids)):
            a, b = torch.searchsorted(ids, ids.new_tensor([numbers.start, numbers.stop])).tolist()
            found[a:b] = targets[ids[a:b] - numbers.start]
        return found

    def expect(self, ids: Tensor) -> None:
        """Let the source begin to read the cells of blocks, by number in rising order, that are gathered next."""
        if self._kept is None:
            self.source.expect([self._cells(strip) for strip in self._strips_of(ids)], self.level)

    def forget(self) -> None:
        """Free the targets kept from the survey, as there is nothing left to gather, or little."""
        self._kept = None

    def _strips_of(self, ids: Tensor) -> list[Box]:
        """The parts of the level's strips that hold blocks, by number in rising order."""
        wanted, parts = ids.cpu().numpy(), []
        for strip in self.grid.boxes(self.level, self.strip_cells) if len(wanted) else ():
            numbers = self._numbers(strip)
            a, b = np.searchsorted(wanted, [numbers.start, numbers.stop])
            if a < b:
                # Along the first axis that has more than one block, numbers and places rise together.
                axis = next((k for k, n in enumerate(strip.shape) if n > 1), 0)
                place = np.unravel_index(wanted[[a, b - 1]], self.grid.block_counts(self.level))[axis].tolist()
                low, high = ((*box[:axis], end, *box[axis + 1 :]) for box, end in
                             ((strip.start, place[0]), (strip.stop, place[1] + 1)))  # fmt: skip
                parts.append(Box(low, high))
        return parts

    def _numbers(self, strip: Box) -> range:
        """The numbers of the blocks of a strip, which are consecutive."""
        counts = self.grid.block_counts(self.level)
        last = tuple(b - 1 for b in strip.stop)
        return range(int(np.ravel_multi_index(strip.start, counts)), int(np.ravel_multi_index(last, counts)) + 1)

    def _cells(self, strip: Box) -> Box:
        return self.grid.clip(self.grid.cells_of(strip), self.level)

    def _read(self, strips: list[Box]) -> Iterator[tuple[range, Tensor, Tensor]]:
        """Numbers, residual and targets of the blocks of each strip: [n, c, p], zero in the padding."""
        regions = [self._cells(strip) for strip in strips]
        # While one is worked on, the source reads the next.
        self.source.expect(regions, self.level)
        for strip, region in zip(strips, regions, strict=True):
            yield self._numbers(strip), *self._blocks(strip, region)

    def _blocks(self, strip: Box, region: Box) -> tuple[Tensor, Tensor]:
        cells = self.source.read(region, self.level)
        residual = self.grid.split(cells - self.prediction(region) if self.prediction else cells, strip)
        return residual, residual if self.residual else self.grid.split(cells, strip)
