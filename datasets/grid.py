"""The one owner of geometry: axis order, levels, blocks, padding, and 2x down and up, for images and volumes alike.

Axes go from slow to fast: (y, x) or (z, y, x). Cells are centred: cell i of a level covers [i, i + 1) in units of
that level, and cell i of level j + 1 covers cells 2i and 2i + 1 of level j. Level 0 is the finest. The last blocks of
an axis may hang over the edge; cells beyond it are padding, which no loss and no metric ever sees.

Arrays of cells are shaped [*space, channels]; blocks of cells are shaped [n, channels, p].
"""

import functools
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

# Cells of whole blocks [*space, c] to blocks [n, c, p], and back.
SPLIT = {2: "(y py) (x px) c -> (y x) c (py px)", 3: "(z pz) (y py) (x px) c -> (z y x) c (pz py px)"}
JOIN = {2: "(y x) c (py px) -> (y py) (x px) c", 3: "(z y x) c (pz py px) -> (z pz) (y py) (x px) c"}


@dataclass(frozen=True)
class Box:
    """A half-open region of cells, or of blocks: start <= index < stop on every axis."""

    start: tuple[int, ...]
    stop: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(b - a for a, b in zip(self.start, self.stop, strict=True))

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def map(self, function, *per_axis) -> "Box":
        """Apply `function(start, stop, *values of that axis) -> (start, stop)` axis by axis."""
        pairs = [function(*axis) for axis in zip(self.start, self.stop, *per_axis, strict=True)]
        return Box(tuple(a for a, _ in pairs), tuple(b for _, b in pairs))

    def crop(self, array, region: "Box"):
        """The part `region` of an array whose leading axes are this box."""
        return array[tuple(slice(a - o, b - o) for a, b, o in zip(region.start, region.stop, self.start, strict=True))]


@dataclass(frozen=True)
class Grid:
    """The levels of a signal and the blocks of each level.

    Args:
        shape: cells of level 0 along each axis, slow to fast; 2 or 3 axes.
        patch: cells of a block along each axis, the same at every level.
        n_levels: number of levels; level j has ceil(shape / 2^j) cells.
    """

    shape: tuple[int, ...]
    patch: tuple[int, ...]
    n_levels: int

    def __post_init__(self):
        if len(self.shape) != len(self.patch) or len(self.shape) not in (2, 3):
            raise ValueError(f"shape {self.shape} and patch {self.patch} must both have 2 or 3 axes")
        if min(*self.shape, *self.patch, self.n_levels) < 1:
            raise ValueError(f"shape {self.shape}, patch {self.patch} and n_levels {self.n_levels} must be positive")

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def block_cells(self) -> int:
        """p, the number of cells of a block."""
        return math.prod(self.patch)

    def level_box(self, level: int) -> Box:
        """All cells of a level."""
        return Box((0,) * self.ndim, tuple(-(-n // 2**level) for n in self.shape))

    def block_counts(self, level: int) -> tuple[int, ...]:
        """Number of blocks along each axis."""
        return tuple(-(-n // p) for n, p in zip(self.level_box(level).stop, self.patch, strict=True))

    def n_blocks(self, level: int) -> int:
        return math.prod(self.block_counts(level))

    def blocks_touching(self, region: Box) -> Box:
        """The box of blocks, in units of blocks, that share a cell with `region`."""
        return region.map(lambda a, b, p: (a // p, -(-b // p)), self.patch)

    def cells_of(self, blocks: Box) -> Box:
        """The cells, padding included, of a box of blocks."""
        return blocks.map(lambda a, b, p: (a * p, b * p), self.patch)

    def clip(self, region: Box, level: int) -> Box:
        """The part of `region` that lies inside the level."""
        return region.map(lambda a, b, n: (max(a, 0), min(b, n)), self.level_box(level).stop)

    def ids(self, blocks: Box, level: int, device: torch.device | str = "cpu") -> Tensor:
        """The numbers, in raster order over the level, of a box of blocks: int64 shaped like the box."""
        numbers = torch.zeros((), dtype=torch.int64, device=device)
        for a, b, count in zip(blocks.start, blocks.stop, self.block_counts(level), strict=True):
            numbers = numbers[..., None] * count + torch.arange(a, b, device=device)
        return numbers

    def run(self, blocks: Box, level: int) -> range | None:
        """The numbers of a box of blocks if they are consecutive, as those of whole rows are."""
        counts, first, last = self.block_counts(level), 0, 0
        for a, b, count in zip(blocks.start, blocks.stop, counts, strict=True):
            first, last = first * count + a, last * count + b - 1
        return range(first, last + 1) if last + 1 - first == blocks.size else None

    def strips(self, level: int, most_cells: int, region: Box | None = None) -> Iterator[Box]:
        """Cut a level, or the blocks that touch a region of it, into runs of whole rows of blocks along the slow axis.

        Yields boxes of blocks of at most `most_cells` cells each, but never less than one row.
        """
        blocks = self.blocks_touching(region or self.level_box(level))
        row = math.prod(blocks.shape[1:]) * self.block_cells
        yield from self._cut(blocks, 0, max(most_cells, row))

    def boxes(self, level: int, most_cells: int, region: Box | None = None) -> Iterator[Box]:
        """Cut a level, or the blocks that touch a region of it, into boxes of blocks in raster order.

        They are `strips`; where a row has more than `most_cells` cells it is cut along the next axis, and so on, down
        to single blocks. So the numbers of a box of a level's are consecutive.
        """
        yield from self._cut(self.blocks_touching(region or self.level_box(level)), 0, most_cells)

    def _cut(self, blocks: Box, axis: int, most_cells: int) -> Iterator[Box]:
        row = math.prod(blocks.shape[axis + 1 :]) * self.block_cells
        rows = max(1, most_cells // max(row, 1))
        for a in range(blocks.start[axis], blocks.stop[axis], rows):
            b = min(a + rows, blocks.stop[axis])
            part = blocks.map(lambda low, high, k, a=a, b=b: (a, b) if k == axis else (low, high), range(self.ndim))
            if row > most_cells and axis < self.ndim - 1:
                yield from self._cut(part, axis + 1, most_cells)
            else:
                yield part

    def split(self, cells: Tensor, blocks: Box) -> Tensor:
        """Cut the real cells of a box of blocks, [*space, c], into [n, c, p]; padding is zero."""
        missing = [want - have for want, have in zip(self.cells_of(blocks).shape, cells.shape[:-1], strict=True)]
        if any(missing):
            cells = F.pad(cells, (0, 0, *(n for m in reversed(missing) for n in (0, m))))
        sizes = dict(zip(("z", "y", "x")[-self.ndim :], blocks.shape, strict=True))
        # Of a single block it would be a view, whose sums over cells torch rounds otherwise.
        return rearrange(cells, SPLIT[self.ndim], **sizes).contiguous()

    def join(self, pieces: Tensor, blocks: Box) -> Tensor:
        """Put [n, c, p], all blocks of a box in raster order, together to [*space, c], padding included."""
        names = ("z", "y", "x")[-self.ndim :]
        sizes = dict(zip(names, blocks.shape, strict=True)) | {
            f"p{n}": p for n, p in zip(names, self.patch, strict=True)
        }
        return rearrange(pieces, JOIN[self.ndim], **sizes)

    def coordinates(self) -> Tensor:
        """Local coordinates of a block's cells, [p, d] in [-1, 1], columns fast to slow (x, y[, z])."""
        axes = [torch.linspace(-1, 1, n) if n > 1 else torch.zeros(1) for n in self.patch]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, self.ndim).flip(-1)

    @property
    def n_kinds(self) -> int:
        """Number of kinds of blocks: along each axis a block is whole or hangs over the edge."""
        return 2**self.ndim

    def kind_of(self, ids: Tensor, level: int) -> Tensor:
        """Which kind each block is, int64 [n]: bit d is set where the block hangs over the edge along axis d."""
        kind = torch.zeros_like(ids)
        rest = ids
        for axis in reversed(range(self.ndim)):
            count = self.block_counts(level)[axis]
            if self.level_box(level).stop[axis] % self.patch[axis]:
                kind += (rest % count == count - 1) << axis
            rest = rest // count
        return kind

    def kinds(self, level: int) -> set[int]:
        """The kinds of the blocks of a level."""
        sizes = zip(self.level_box(level).stop, self.patch, strict=True)
        axes = ([0] * (n >= p) + [1 << axis] * (n % p > 0) for axis, (n, p) in enumerate(sizes))
        return set(map(sum, itertools.product(*axes)))

    def count_real(self, kinds: Tensor, level: int) -> Tensor:
        """How many cells of blocks of these kinds, int64 [n], are not padding, int64 [n] on the device of `kinds`."""
        return _real_counts(self, level).to(kinds.device)[kinds]

    def real_cells(self, kind: int, level: int) -> Tensor:
        """The cells of a block of this kind that are not padding, int64 [n_real] in raster order."""
        stop = self.level_box(level).stop
        sizes = [
            n % p or p if kind >> axis & 1 else p for axis, (n, p) in enumerate(zip(stop, self.patch, strict=True))
        ]
        axes = [torch.arange(size) for size in sizes]
        cell = torch.zeros(1, dtype=torch.int64)
        for axis, p in zip(axes, self.patch, strict=True):
            cell = (cell[:, None] * p + axis).reshape(-1)
        return cell


@functools.lru_cache
def _real_counts(grid: Grid, level: int) -> Tensor:
    """The real cells of each kind of block, asked for strip by strip."""
    return torch.tensor([len(grid.real_cells(kind, level)) for kind in range(grid.n_kinds)])


def parent(region: Box, grid: Grid, level: int) -> Box:
    """The cells of level + 1 that `up` needs for `region` of `level`: its own and a halo of one."""
    return grid.clip(region.map(lambda a, b: (a // 2 - 1, (b + 1) // 2 + 1)), level + 1)


def child(region: Box, grid: Grid, level: int) -> Box:
    """The cells of level - 1 that `down` averages into `region` of `level`."""
    return grid.clip(region.map(lambda a, b: (2 * a, 2 * b)), level - 1)


def is_zero(cells: Tensor) -> bool:
    """Whether float32 cells, at least one, of values in [0, 1] are all zero. torch's `any` takes six times as long."""
    return not cells.amax()


def down(cells: Tensor) -> Tensor:
    """Halve [*space, c] by the mean of 2 cells per axis; an odd last cell is its own mean.

    The first cell of every axis must be an even one of its level, and an odd length must end at the level's edge.
    """
    for axis in range(cells.ndim - 1):
        n = cells.shape[axis]
        if n % 2:
            cells = torch.cat([cells, cells.narrow(axis, n - 1, 1)], axis)
        pairs = cells.unflatten(axis, (-1, 2))
        cells = (pairs.select(axis + 1, 0) + pairs.select(axis + 1, 1)) * 0.5
    return cells


def up(coarse: Tensor, box: Box, region: Box, edge: Box) -> Tensor:
    """Double by linear interpolation between cell centres, as align_corners=False, clamped at the level's edge.

    Every cell is a fixed sum of the same neighbours whatever the region, so the upsampled crop is the crop of the
    upsampled bit for bit.

    Args:
        coarse: [*space, c], the cells `box` of the coarser level, at least `parent(region)`.
        region: the cells of the finer level that are wanted.
        edge: all cells of the coarser level.
    """
    for axis, (a, b) in enumerate(zip(region.start, region.stop, strict=True)):
        # Each coarse cell, between its neighbours, becomes two.
        index = torch.arange(a // 2 - 1, (b - 1) // 2 + 2, device=coarse.device).clamp_(0, edge.stop[axis] - 1)
        coarse = coarse.index_select(axis, index - box.start[axis])
        n = len(index) - 2
        near, far = coarse.narrow(axis, 1, n) * 0.75, coarse.mul_(0.25)
        pairs = near.new_empty(*near.shape[: axis + 1], 2, *near.shape[axis + 1 :])
        for side in range(2):
            torch.add(near, far.narrow(axis, 2 * side, n), out=pairs.select(axis + 1, side))
        coarse = pairs.flatten(axis, axis + 1).narrow(axis, a % 2, b - a)
    return coarse.contiguous()
