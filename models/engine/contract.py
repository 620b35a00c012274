"""What an engine is given and gives back. Shapes: n blocks, c channels, p cells of a block, s steps, b cells a step."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from datasets.grid import Box, Grid, parent
from models.optimizers import map_rows
from utils import hash_bits


@dataclass
class Blocks:
    """Blocks in training: everything that is per block, so that pruning is one indexing.

    Args:
        rows: [n, row], the networks.
        targets: [n, c, p], what they are to give; padding cells hold anything.
        amplitude: [n], the scale of a sin output.
        kind: [n] int64, which cells of a block are real (Grid.kind_of).
        moments: an optimizer's state_dict over `rows`, empty before the first round.
        zeroed: [n] bool, whose gradients are set to zero before each step; nobody's if None.
    """

    rows: Tensor
    targets: Tensor
    amplitude: Tensor
    kind: Tensor
    moments: dict = field(default_factory=dict)
    zeroed: Tensor | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, index: Tensor) -> "Blocks":
        """The blocks at `index` (int64 [m]), with their moments, as copies."""
        return Blocks(
            self.rows[index],
            self.targets[index],
            self.amplitude[index],
            self.kind[index],
            map_rows(lambda x: x[index], self.rows.shape, self.moments),
            None if self.zeroed is None else self.zeroed[index],
        )


@dataclass(frozen=True)
class Round:
    """One round: the steps between two prunings.

    Args:
        cells: for each kind of block, int64 [s, b_kind], the cells that a step of such blocks sees; all are real. A
            kind of which there is no block has none.
        lr: [s], the learning rate of each step.
        start_lr: the rate the run began with, which some optimizers scale against.
    """

    cells: list[Tensor]
    lr: list[float]
    start_lr: float

    @cached_property
    def table(self) -> tuple[Tensor, Tensor]:
        """The cells of all kinds as `joined` has them."""
        return joined(self.cells)


@dataclass(frozen=True)
class Window:
    """A region of a level to be put together from the coarser level and blocks of its own.

    Args:
        region: cells of the level.
    """

    grid: Grid
    level: int
    region: Box

    @cached_property
    def blocks(self) -> Box:
        """The blocks that share a cell with the region."""
        return self.grid.blocks_touching(self.region)

    @cached_property
    def parent(self) -> Box:
        """The cells of level + 1 that upsampling to the region needs."""
        return parent(self.region, self.grid, self.level)

    def cut(self, most_cells: int) -> Iterator["Window"]:
        """Parts of the region, of at most `most_cells` cells or one block each."""
        for blocks in self.grid.boxes(self.level, most_cells, self.region):
            cells = self.grid.cells_of(blocks)
            yield Window(
                self.grid,
                self.level,
                self.region.map(lambda a, b, low, high: (max(a, low), min(b, high)), cells.start, cells.stop),
            )

    @property
    def edge(self) -> Box:
        """All cells of level + 1."""
        return self.grid.level_box(self.level + 1)


def joined(cells: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Cells [s, b_kind] of each kind as one table int32 [kinds, s, most], padded with 0, and b_kind, int32 [kinds]."""
    counts = [part.shape[1] for part in cells]
    table = torch.stack([F.pad(part.int(), (0, max(counts) - part.shape[1])) for part in cells])
    # From pinned memory, not to wait for the round that runs on the GPU.
    sizes = torch.tensor(counts, dtype=torch.int32, pin_memory=table.is_cuda)
    return table, sizes.to(table.device, non_blocking=True)


def steps_per_epoch(block_cells: int, batch_size: int) -> int:
    """Steps in which a block's cells are seen once, at most `batch_size` at a time."""
    return math.ceil(block_cells / batch_size)


def cell_order(seed: int, level: int, epochs: range, real_cells: Tensor, steps: int) -> Tensor:
    """The cells of every step of some epochs, int64 [len(epochs) * steps, b].

    An epoch is a random permutation of the real cells of a block, the same for all blocks of a kind, cut into `steps`
    equal batches; where it does not divide, the last batch is filled from the front of the permutation. So every
    batch holds real cells only and at least one, also in a block of which a single cell is real. It lies where
    `real_cells` does, and is empty where that is.
    """
    n, device = len(real_cells), real_cells.device
    batch = math.ceil(n / steps)
    if not n:
        return real_cells.new_empty(len(epochs) * steps, 0)
    epoch = torch.arange(epochs.start, epochs.stop, device=device)[:, None]
    order = hash_bits(seed, level, epoch, torch.arange(n, device=device)).argsort(dim=1, stable=True)
    cyclic = torch.arange(steps * batch, device=device) % n
    return real_cells[order[:, cyclic]].reshape(len(epochs) * steps, batch)


def cosine_lr(lr: float, epoch: int, epochs: int) -> float:
    """Cosine decay per epoch from `lr` towards lr / 30 (SGDR without restarts, Loshchilov and Hutter, 2017)."""
    low = lr / 30
    return low + (lr - low) * 0.5 * (1 + math.cos(math.pi * epoch / epochs))
