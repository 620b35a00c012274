"""Which blocks of each level a run would train, and for how long: the run in small, on an excerpt of its source.

An excerpt's blocks are surveyed as the run surveys them, level by level. Of the active ones a few are trained, and
stand for those of like energy: for when they leave training, and for what they leave to the next finer level.
"""

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from datasets.excerpt import excerpt
from datasets.grid import Box, Grid, parent, up
from datasets.residual import LevelTargets
from datasets.source import Source
from models.level_fit import LevelFit, Recipe

# Values of the finest level that are surveyed.
SURVEYED_VALUES = 2**24
# Blocks of a level that are trained, and about how many multiplications and additions that may take.
LEAST_TRAINED, MOST_TRAINED, TRIAL_FLOPS = 16, 48, 2**33


@dataclass(frozen=True)
class Course:
    """What a run would make of a level.

    Args:
        active: the part of its blocks that are trained.
        kept: the part of those whose networks are better than none.
        training: the part of the active blocks that is in training in each round.
    """

    active: float
    kept: float
    training: tuple[float, ...]


def rehearse(source: Source, grid: Grid, inputs: Tensor, recipe: Recipe, engine) -> list[Course]:
    """What a run would make of each level, finest first.

    Args:
        inputs: [in, p], the encoded cells of a block.
    """
    most_cells = max(SURVEYED_VALUES // source.signal.channels, grid.block_cells)
    small, own = excerpt(source, grid, most_cells)
    courses: list[Course] = []
    fitted = None
    if own.n_levels < grid.n_levels:
        # The coarser levels, too few to matter, are taken to be as this one's own cells have them.
        own = dataclasses.replace(own, n_levels=own.n_levels + 1)
        fitted = small.read(own.level_box(own.n_levels - 1), own.n_levels - 1)
    for level in reversed(range(own.n_levels - (fitted is not None))):
        prediction = None if fitted is None else _Upsampled(own, level, fitted)
        targets = LevelTargets(small, prediction, own, level, recipe.residual, kept_values=2**62)
        fit = LevelFit(targets, recipe, inputs, engine)
        left, training = _trial(fit)
        active, kept = len(fit.target), int((left < 1).sum())
        courses.insert(0, Course(active / len(fit.energy), kept / max(active, 1), training))
        fitted = _fitted(fit, prediction, left)
    # Blocks so large have something to learn wherever any of theirs has.
    full = [Course(1.0, 1.0, _rounds(recipe, level, [])) for level in range(len(courses), grid.n_levels)]
    return courses + (full if courses[-1].active else [dataclasses.replace(c, active=0.0) for c in full])


@dataclass(frozen=True)
class _Upsampled:
    """What the next coarser level, [*space, c], says of a region of a level."""

    grid: Grid
    level: int
    coarse: Tensor

    def __call__(self, region: Box) -> Tensor:
        whole, part = self.grid.level_box(self.level + 1), parent(region, self.grid, self.level)
        return up(whole.crop(self.coarse, part), part, region, whole)


def _trial(fit: LevelFit) -> tuple[Tensor, tuple[float, ...]]:
    """What share of their energy training leaves the active blocks, [n], and the part of them in each round."""
    recipe, n = fit.recipe, len(fit.target)
    if not n or not fit.epochs:
        return fit.energy.new_ones(n), _rounds(recipe, fit.level, [])
    flops = 6 * fit.network.row_size * fit.grid.block_cells
    count = min(n, MOST_TRAINED, max(LEAST_TRAINED, TRIAL_FLOPS // (flops * fit.epochs)))
    # Where even few blocks take too long, they are trained for a part of the epochs.
    epochs = min(fit.epochs, max(1, 2 * TRIAL_FLOPS // (flops * count)))
    index = torch.linspace(0, n - 1, count, device=fit.energy.device).round().long()
    trained = copy = fit.fresh(index)
    shares = []
    for start in range(0, epochs, recipe.val_freq):
        shares.append(len(copy) / count)
        if len(copy):
            copy, mse = fit.train(copy, range(start, min(start + recipe.val_freq, epochs)))
            copy = fit.sync(copy, mse)
    if epochs == fit.epochs or not epochs % recipe.val_freq:
        shares.append(len(copy) / count)
    blocks = fit.target.blocks
    before, after = (energy[blocks[trained.index]] for energy in (fit.energy, fit.errors))
    order = before.argsort()
    nearest = _nearest(before[order], fit.energy[blocks])
    return (after / before)[order][nearest].clamp(max=1), _rounds(recipe, fit.level, shares)


def _nearest(values: Tensor, wanted: Tensor) -> Tensor:
    """Which of some rising values is the nearest to each of those wanted, int64 like them."""
    return torch.bucketize(wanted, (values[1:] + values[:-1]) / 2)


def _rounds(recipe: Recipe, level: int, shares: list[float]) -> tuple[float, ...]:
    """The part of the active blocks in each round of a level; rounds that were not seen go on as the last ones did."""
    rounds = -(-recipe.epochs[level] // recipe.val_freq)
    shares = shares or [1.0]
    while len(shares) < rounds:
        shares = [*shares, shares[-1] * (shares[-1] / shares[-2] if len(shares) > 1 and shares[-2] else 1)]
    return tuple(shares[:rounds])


def _fitted(fit: LevelFit, prediction: _Upsampled | None, left: Tensor) -> Tensor:
    """A level as a run would have it, [*space, c]: what is left of a block's residual looks like the residual."""
    grid, whole = fit.grid, fit.grid.level_box(fit.level)
    cells = fit.targets.source.read(whole, fit.level)
    part = torch.ones_like(fit.energy)
    part[fit.target.blocks] = left.sqrt()
    blocks = grid.blocks_touching(whole)
    part = grid.join(part[:, None, None].expand(-1, 1, grid.block_cells), blocks)
    residual = cells if prediction is None else cells - prediction(whole)
    return cells - residual * grid.cells_of(blocks).crop(part, whole)
