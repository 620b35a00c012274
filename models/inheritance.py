"""Where networks may begin: with the weights of the coarser level's, whose block contains theirs.

A child sees half of its parent's block along every axis. Its cell at local coordinate x' is the parent's place

    x = x' / 2 + shift,    shift = (part - 1/2) p / (p - 1),    part 0 or 1,

for p cells along the axis, as both count from -1 at their first cell's centre to 1 at their last one's; where there is
only one, it is at 0 for both. A first layer without encoding moves exactly: W/2 and b + W shift. With encoding, the
addition theorem turns the parent's frequency 2^k into the child's 2^(k-1), and the lowest one would need the child's
2^-1, which it has not. So the parent's features are written in the child's by least squares over the cells of a block:
exact but for the lowest frequency, the same matrix for all blocks of a part, and the least-squares change of any first
layer, whatever its weights.

A Gaussian layer is the same function when its weights, biases and a are scaled alike, yet it trains otherwise. Heirs of
"inherit" that keep their parents' a did best on one shape and failed on another; those scaled to the a that a network
begins with did neither. "inherit" scales them to halfway between, by ratio, as measured best; why is not known.
"exact" keeps the a, for scaling made it worse on a shape (docs/experiments.md, docs/method.md).
"""

import math

import torch
from torch import Tensor

from datasets.grid import Grid
from models.block_mlp import BlockMLP
from models.encoding import Encoding
from models.network import COLOUR, Network

# How far the a of heirs goes, by ratio, from what their parents have to what a network begins with.
HALFWAY = 0.5
# Singular values below this part of the largest are taken for zero: features of neighbouring directions differ little.
SMALLEST = 1e-6


class Inheritance:
    """The networks of a level as heirs of the coarser level's.

    Args:
        way: "paper": all numbers of the parent's row, divided by 2 in the plane and by sqrt(8) in space, from the third
            level on; "inherit": the functions of the parent's hidden layers, for a residual looks alike at every scale;
            "exact": its hidden layers as seen from the child, and where both give colours its whole function.
        parents: the networks of the coarser level.
        grid, level: where the heirs are.
        encoding: of both levels.
    """

    def __init__(self, way: str, parents: BlockMLP, grid: Grid, level: int, encoding: Encoding):
        self.way, self.parents, self.grid, self.level, self.encoding = way, parents, grid, level, encoding
        self._changes: dict[int, Tensor] = {}

    def rows(self, network: Network, blocks: Tensor, fresh: Tensor) -> Tensor:
        """Rows [n, row] of blocks, int64 [n] in rising order: inherited where there is a parent, else `fresh`."""
        parent, part = parents_of(self.grid, self.level, blocks)
        order = parent.argsort(stable=True)
        found, at = self.parents.find(parent[order])
        heirs = order[found]
        old, rows = self.parents.take(at)[0].detach().to(fresh), fresh.clone()
        if self.way == "paper":
            if self.level < self.grid.n_levels - 2:
                rows[heirs] = old / (2 if self.grid.ndim == 2 else math.sqrt(8))
            return rows
        whole = self.way == "exact" and network.output == COLOUR
        kept = network.row_size if whole else sum(network.sizes[:-3])
        rows[heirs, :kept] = old[:, :kept]
        if self.way == "inherit":
            return scaled_towards(network, rows, fresh)
        for which in range(2**self.grid.ndim) if kept else ():
            of_part = heirs[part[heirs] == which]
            if len(of_part):
                rows[of_part] = self._moved(network, rows[of_part], which)
        return rows

    def _moved(self, network: Network, rows: Tensor, part: int) -> Tensor:
        """Rows whose first layer sees the child's features instead of the parent's."""
        if len(rows) == 1:
            # A product of one matrix is rounded otherwise than one of many.
            return self._moved(network, rows.expand(2, -1), part)[:1]
        (n_in, n_out), change = network.widths[0], self._change(part).to(rows.device)
        w, rest = rows[:, : n_in * n_out].unflatten(1, (n_in, n_out)), rows[:, n_in * n_out :].clone()
        moved = change.expand(len(rows), -1, -1) @ w
        rest[:, :n_out] += moved[:, -1]
        return torch.cat([moved[:, :-1].flatten(1), rest], 1)

    def _change(self, part: int) -> Tensor:
        """[in + 1, in]: the parent's features in terms of the child's and of one, for children of a part."""
        if part not in self._changes:
            here = self.grid.coordinates().double()
            there = parent_coordinates(self.grid, part)
            mine, parents = (self.encoding(x).double().T for x in (here, there))
            mine = torch.cat([mine, mine.new_ones(len(mine), 1)], 1)
            solution = torch.linalg.lstsq(mine, parents, rcond=SMALLEST, driver="gelsd").solution
            self._changes[part] = solution.float()
        return self._changes[part]


def scaled_towards(network: Network, rows: Tensor, fresh: Tensor) -> Tensor:
    """Rows [n, row] with their hidden layers' weights, biases and a scaled, in place, so that each a lies HALFWAY
    between what it is and that of `fresh`.
    """
    for layer, first in list(zip(network.unpack(rows), network.unpack(fresh), strict=True))[:-1]:
        if layer.a is not None:
            scale = (first.a / layer.a).abs() ** HALFWAY
            layer.w.mul_(scale[:, :, None])
            layer.b.mul_(scale)
            layer.a.mul_(scale)
    return rows


def parents_of(grid: Grid, level: int, blocks: Tensor) -> tuple[Tensor, Tensor]:
    """The block of level + 1 that contains each block, int64 [n], and which part of it that is.

    Bit d of a part is set in the later half along axis d.
    """
    parent, part, stride, rest = torch.zeros_like(blocks), torch.zeros_like(blocks), 1, blocks
    for axis in reversed(range(grid.ndim)):
        count = grid.block_counts(level)[axis]
        place = rest % count
        rest = rest // count
        parent += place // 2 * stride
        part += (place % 2) << axis
        stride *= grid.block_counts(level + 1)[axis]
    return parent, part


def parent_coordinates(grid: Grid, part: int) -> Tensor:
    """Where the cells of a block are in its parent's local coordinates, float64 [p, d], columns fast to slow."""
    shift = [((part >> axis & 1) - 0.5) * p / (p - 1) if p > 1 else 0.0 for axis, p in enumerate(grid.patch)]
    return grid.coordinates().double() / 2 + torch.tensor(shift[::-1], dtype=torch.float64)
