"""What is left to learn at a level: the source minus what the coarser levels already say, block by block."""

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait

import numpy as np
import torch
from torch import Tensor

from datasets.beside import Beside
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
            chunk. Where they are not, those of a chunk that is expected take that room on a GPU.
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
        self.kept_values = kept_values
        self._strips = list(grid.boxes(level, strip_cells))
        self._firsts = np.array([self.grid.run(strip, self.level).start for strip in self._strips])
        self._kept: Tensor | None = None
        # On a CPU training has all cores, so that nothing is gained beside it but the reading of files.
        self._beside = Beside(source.device) if source.device.type == "cuda" else None
        self._expected: tuple[Tensor, Future] | None = None

    def survey(self, ranks: Ranks = Ranks()) -> tuple[Tensor, Tensor]:  # noqa: B008 (one alone has no state here)
        """Mean square and largest absolute residual of every block over its real cells: [n_blocks], [n_blocks].

        Several processes share the strips, and all of them must call this.
        """
        shape = (self.grid.n_blocks(self.level), self.source.signal.channels, self.grid.block_cells)
        energy, amplitude = (torch.empty(shape[0], device=self.source.device) for _ in range(2))
        # Which chunks a process of several will train is not known yet.
        if ranks.count == 1 and shape[0] * shape[1] * shape[2] <= self.kept_values:
            self._kept = torch.empty(shape, device=self.source.device)
        kind = self.grid.kind_of(torch.arange(shape[0], device=energy.device), self.level)
        counts = self.grid.count_real(kind, self.level) * shape[1]
        for ids, residual, targets in self._read(list(ranks.share(self._strips))):
            here = slice(ids.start, ids.stop)
            energy[here] = residual.square().sum((1, 2)) / counts[here]
            amplitude[here] = residual.abs().amax((1, 2))
            if self._kept is not None:
                self._kept[here] = targets
        ends = itertools.pairwise([*self._firsts.tolist(), shape[0]])
        owned = list(zip(ranks.owners(self._strips), ends, strict=True))
        ranks.exchange([(owner, values[a:b]) for owner, (a, b) in owned for values in (energy, amplitude)])
        return energy, amplitude

    def gather(self, ids: Tensor) -> Tensor:
        """The targets of blocks, by number in rising order: int64 [n] -> [n, c, p]."""
        if self._kept is not None:
            return self._kept[ids]
        expected, self._expected = self._expected, None
        if expected:
            # Also where it is not what is wanted, so that no more of it is made.
            found = self._beside.take(expected[1])
            if torch.equal(expected[0], ids):
                return found
        return self._gather(ids)

    def expect(self, ids: Tensor) -> None:
        """Begin with what is gathered next, blocks by number in rising order.

        On a GPU their targets are made beside other work there; else the source begins to read their cells.
        """
        if self._kept is not None:
            return
        if self._beside:
            self._expected = ids, self._beside.begin(lambda: self._gather(ids))
        else:
            self.source.expect([self._cells(part) for part, _ in self._parts_of(ids)], self.level)

    def forget(self) -> None:
        """Free the targets kept from the survey or expected, as there is nothing left to gather, or little."""
        self._kept = None
        if self._expected:
            wait([self._expected[1]])
            self._expected = None

    def _gather(self, ids: Tensor) -> Tensor:
        found = torch.empty(len(ids), self.source.signal.channels, self.grid.block_cells, device=self.source.device)
        parts = self._parts_of(ids)
        for (_, here), (numbers, _, targets) in zip(parts, self._read([part for part, _ in parts]), strict=True):
            torch.index_select(targets, 0, ids[here] - numbers.start, out=found[here])
        return found

    def _parts_of(self, ids: Tensor) -> list[tuple[Box, slice]]:
        """The parts of the level's strips that hold blocks, by number in rising order, and which blocks each holds."""
        wanted, parts = ids.cpu().numpy(), []
        ends = np.append(np.searchsorted(wanted, self._firsts), len(wanted))
        for n in np.flatnonzero(np.diff(ends)):
            strip, a, b = self._strips[n], int(ends[n]), int(ends[n + 1])
            # Along the first axis that has more than one block, numbers and places rise together.
            axis = next((k for k, n in enumerate(strip.shape) if n > 1), 0)
            place = np.unravel_index(wanted[[a, b - 1]], self.grid.block_counts(self.level))[axis].tolist()
            low, high = ((*box[:axis], end, *box[axis + 1 :]) for box, end in
                         ((strip.start, place[0]), (strip.stop, place[1] + 1)))  # fmt: skip
            parts.append((Box(low, high), slice(a, b)))
        return parts

    def _cells(self, strip: Box) -> Box:
        return self.grid.clip(self.grid.cells_of(strip), self.level)

    def _read(self, strips: list[Box]) -> Iterator[tuple[range, Tensor, Tensor]]:
        """Numbers, residual and targets of the blocks of each strip: [n, c, p], zero in the padding."""
        regions = [self._cells(strip) for strip in strips]
        # While one is worked on, the source reads the next.
        self.source.expect(regions, self.level)
        for strip, region in zip(strips, regions, strict=True):
            yield self.grid.run(strip, self.level), *self._blocks(strip, region)

    def _blocks(self, strip: Box, region: Box) -> tuple[Tensor, Tensor]:
        cells = self.source.read(region, self.level)
        residual = self.grid.split(cells - self.prediction(region) if self.prediction else cells, strip)
        return residual, residual if self.residual else self.grid.split(cells, strip)
