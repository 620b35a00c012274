"""What is left to learn at a level: the source minus what the coarser levels already say, block by block."""

import functools
import itertools
from collections.abc import Callable
from concurrent.futures import Future, wait

import numpy as np
import torch
from torch import Tensor

from datasets.beside import Beside
from datasets.grid import Box, Grid, is_zero
from datasets.source import Source
from machine.cores import TILE_VALUES, in_threads
from machine.ranks import Ranks

# What makes the residual and the targets of some blocks, [n, c, p] each.
Blocks = Callable[[], tuple[Tensor, Tensor]]


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
        energy, amplitude = (torch.zeros(shape[0], device=self.source.device) for _ in range(2))
        # Which chunks a process of several will train is not known yet.
        if ranks.count == 1 and shape[0] * shape[1] * shape[2] <= self.kept_values:
            self._kept = torch.zeros(shape, device=self.source.device)
        kind = self.grid.kind_of(torch.arange(shape[0], device=energy.device), self.level)
        counts = self.grid.count_real(kind, self.level) * shape[1]

        def see(numbers: range, blocks: Blocks) -> None:
            here, (residual, targets) = slice(numbers.start, numbers.stop), blocks()
            energy[here] = residual.square().sum((1, 2)) / counts[here]
            amplitude[here] = residual.abs().amax((1, 2))
            if self._kept is not None:
                self._kept[here] = targets

        self._visit(list(ranks.share(self._strips)), see)
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
            self.source.expect(map(self._cells, self._parts_of(ids.cpu().numpy())), self.level)

    def forget(self) -> None:
        """Free the targets kept from the survey or expected, as there is nothing left to gather, or little."""
        self._kept = None
        if self._expected:
            wait([self._expected[1]])
            self._expected = None

    def _gather(self, ids: Tensor) -> Tensor:
        shape, wanted = (len(ids), self.source.signal.channels, self.grid.block_cells), ids.cpu().numpy()
        found = torch.zeros(shape, device=self.source.device)

        def see(numbers: range, blocks: Blocks) -> None:
            a, b = np.searchsorted(wanted, [numbers.start, numbers.stop]).tolist()
            if a < b:
                torch.index_select(blocks()[1], 0, ids[a:b] - numbers.start, out=found[a:b])

        self._visit(self._parts_of(wanted), see)
        return found

    def _parts_of(self, wanted: np.ndarray) -> list[Box]:
        """The parts of the level's strips that hold blocks, by number in rising order."""
        parts = []
        ends = np.append(np.searchsorted(wanted, self._firsts), len(wanted))
        for n in np.flatnonzero(np.diff(ends)):
            strip, a, b = self._strips[n], int(ends[n]), int(ends[n + 1])
            # Along the first axis that has more than one block, numbers and places rise together.
            axis = next((k for k, n in enumerate(strip.shape) if n > 1), 0)
            place = np.unravel_index(wanted[[a, b - 1]], self.grid.block_counts(self.level))[axis].tolist()
            low, high = ((*box[:axis], end, *box[axis + 1 :]) for box, end in
                         ((strip.start, place[0]), (strip.stop, place[1] + 1)))  # fmt: skip
            parts.append(Box(low, high))
        return parts

    def _cells(self, strip: Box) -> Box:
        return self.grid.clip(self.grid.cells_of(strip), self.level)

    def _visit(self, strips: list[Box], see: Callable[[range, Blocks], None]) -> None:
        """Show the blocks of strips, their numbers and what makes them; not those of which all cells are zero in the
        source as in the prediction."""
        regions = [self._cells(strip) for strip in strips]
        # While one is worked on, the source reads the next.
        self.source.expect(regions, self.level)
        for strip, region in zip(strips, regions, strict=True):
            cells = self.source.read(region, self.level)
            said = self.prediction(region) if self.prediction else None

            def show(part: Box, region=region, cells=cells, said=said) -> None:
                here = self._cells(part)
                true, told = (None if whole is None else region.crop(whole, here) for whole in (cells, said))
                if not is_zero(true) or (told is not None and not is_zero(told)):
                    see(self.grid.run(part, self.level), lambda: self._blocks(part, true, told))

            if cells.is_cuda:
                see(self.grid.run(strip, self.level), functools.partial(self._blocks, strip, cells, said))
            else:
                in_threads(show, self.grid.boxes(self.level, TILE_VALUES // cells.shape[-1], region))

    def _blocks(self, blocks: Box, cells: Tensor, said: Tensor | None) -> tuple[Tensor, Tensor]:
        """Residual and targets of a box of blocks: [n, c, p], zero in the padding."""
        residual = self.grid.split(cells if said is None else cells - said, blocks)
        return residual, residual if self.residual else self.grid.split(cells, blocks)
