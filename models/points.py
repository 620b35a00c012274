"""The value of a pyramid at points between its cells, differentiable in the points and in the rows."""

import functools
import itertools
import operator

import torch
from torch import Tensor

from models.block_mlp import BlockMLP
from models.engine.reference import forward
from models.network import COLOUR

# Points evaluated at once, of a level as of the coarser ones: in space each lies between up to eight of their cells.
MOST_POINTS = 2**16


def values_at(pyramid, points: Tensor, level: int) -> Tensor:
    """What a level says at points, [m, c] in [0, 1]: its networks there, on the decoded cells of the coarser level.

    Args:
        pyramid: a models.pyramid.Pyramid.
        points: float64 [m, d] inside the level, columns slow to fast, in its cells: the centre of cell i is i + 1/2.
    """
    return torch.cat([_values_at(pyramid, part, level) for part in points.split(MOST_POINTS)])


def _values_at(pyramid, points: Tensor, level: int) -> Tensor:
    if level < pyramid.grid.n_levels - 1 and len(points):
        values = _between_cells(pyramid, points / 2, level + 1)
    else:
        values = pyramid.inputs.new_zeros(len(points), pyramid.channels)
    networks = pyramid.level(level)
    if networks is None or not len(points):
        return values
    ids, local = _places(pyramid, points, level)
    blocks, owner = ids.unique(return_inverse=True)
    hit, place = networks.find(blocks)
    if not len(hit):
        return values
    slot = torch.full_like(blocks, -1).index_copy(0, hit, torch.arange(len(hit), device=hit.device))[owner]
    here = (slot >= 0).nonzero()[:, 0]
    # Points of a block next to one another.
    here = here[slot[here].argsort()]
    found = _evaluate(networks, place, slot[here], pyramid.encoding(local[here]).float())
    if networks.network.output == COLOUR:
        values = values.index_fill(0, here, 0)
    return values.index_add(0, here, found).clamp(0, 1)


def _between_cells(pyramid, points: Tensor, level: int) -> Tensor:
    """Linear interpolation between the centres of a level's cells, clamped at the edge: as `up`, but at any points."""
    shape = pyramid.grid.level_box(level).stop
    near = (points.detach() - 0.5).floor()
    t = (points - 0.5 - near).float()
    corners, weights = [], []
    for steps in itertools.product((0, 1), repeat=len(shape)):
        cell = torch.zeros_like(near[:, 0], dtype=torch.int64)
        for axis, (step, n) in enumerate(zip(steps, shape, strict=True)):
            cell = cell * n + (near[:, axis].long() + step).clamp(0, n - 1)
        corners.append(cell)
        weights.append(functools.reduce(operator.mul, [t[:, k] if s else 1 - t[:, k] for k, s in enumerate(steps)]))
    # Neighbouring points share cells, and each is decoded once.
    cells, which = torch.stack(corners).unique(return_inverse=True)
    centres = torch.stack(torch.unravel_index(cells, shape), 1).double() + 0.5
    return (values_at(pyramid, centres, level)[which] * torch.stack(weights)[:, :, None]).sum(0)


def _places(pyramid, points: Tensor, level: int) -> tuple[Tensor, Tensor]:
    """The number of the block that each point is in, int64 [m], and where in it, [m, d] as Grid.coordinates has it."""
    grid = pyramid.grid
    ids, local = torch.zeros_like(points[:, 0], dtype=torch.int64), []
    axes = zip(points.T, grid.level_box(level).stop, grid.patch, grid.block_counts(level), strict=True)
    for x, n, p, count in axes:
        # The outer face belongs to the last cell.
        block = (x.detach().long().clamp(max=n - 1)) // p
        ids = ids * count + block
        local.append((x - block * p - 0.5) * (2 / (p - 1)) - 1 if p > 1 else x * 0)
    return ids, torch.stack(local[::-1], 1)


def _evaluate(networks: BlockMLP, place: Tensor, slot: Tensor, x: Tensor) -> Tensor:
    """The networks at positions `place` [n], each at points of its own: slot [m], rising, and x [in, m] -> [m, c]."""
    rows, amplitude = networks.take(place)
    counts = torch.bincount(slot, minlength=len(place))
    rank = torch.arange(len(slot), device=slot.device) - (counts.cumsum(0) - counts)[slot]
    # Blocks with about as many points are evaluated together, each filled up to a power of two.
    widths = 2 ** counts.double().log2().ceil().long()
    values = x.new_zeros(len(slot), networks.network.n_out)
    for width in widths.unique().tolist():
        members, mine = ((what == width).nonzero()[:, 0] for what in (widths, widths[slot]))
        position = torch.searchsorted(members, slot[mine]) * width + rank[mine]
        filled = x.new_zeros(len(x), len(members) * width).index_copy(1, position, x[:, mine])
        found = forward(
            networks.network, rows[members], amplitude[members], filled.unflatten(1, (-1, width)).movedim(1, 0)
        )
        values = values.index_copy(0, mine, found.movedim(1, 0).flatten(1)[:, position].T)
    return values
