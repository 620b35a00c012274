"""Which blocks of each level a run would train, and for how long: the run in small, on an excerpt of its source.

An excerpt's blocks are surveyed as the run surveys them, level by level. Of the active ones some are trained, and
stand for those of like energy: for when they leave training, and for what they leave to the next finer level.
"""

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from datasets.excerpt import Excerpt, excerpt
from datasets.grid import Box, Grid
from datasets.residual import LevelTargets
from datasets.source import Source, points
from models.level_fit import LevelFit
from models.recipe import Recipe

# Values of the finest level that are surveyed.
SURVEYED_VALUES = 2**24
# Least blocks of a level that are trained, and about how many multiplications and additions that may take.
LEAST_TRAINED, TRIAL_FLOPS = 16, 2**33


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
    small = excerpt(source, grid, most_cells)
    levels, courses, fitted = small.grid.n_levels, [], None

    def fit_level(level: int) -> Course:
        nonlocal fitted
        prediction = None if fitted is None else _Upsampled(small, level, fitted)
        own = dataclasses.replace(small.grid, n_levels=level + 1 + (fitted is not None))
        targets = LevelTargets(small.source, prediction, own, level, recipe.residual, kept_values=2**62)
        fit = LevelFit(targets, recipe, inputs, engine)
        index, training = _trial(fit)
        stands_for, better = _stand_ins(fit, index)
        active, kept = len(fit.target), int(better[stands_for].sum())
        fitted = _fitted(fit, prediction, index, stands_for, better)
        return Course(active / len(fit.energy), kept / max(active, 1), training)

    if levels < grid.n_levels:
        # Of these the excerpt has no blocks: each is taken to leave as much as its own coarsest would in that place.
        true, coarse = (small.source.read(points(small.grid.shape, k).level_box(k), k) for k in (levels - 1, levels))
        for _ in range(levels, grid.n_levels):
            fit_level(levels - 1)
            fitted = coarse + (fitted - true)[(slice(None, None, 2),) * grid.ndim]
    for level in reversed(range(levels)):
        courses.insert(0, fit_level(level))
    # Blocks so large have something to learn wherever any of theirs has.
    full = [Course(1.0, 1.0, _rounds(recipe, level, [])) for level in range(len(courses), grid.n_levels)]
    return courses + (full if courses[-1].active else [dataclasses.replace(c, active=0.0) for c in full])


@dataclass(frozen=True)
class _Upsampled:
    """What the next coarser level, [*space, c], says of a region of a level."""

    excerpt: Excerpt
    level: int
    coarse: Tensor

    def __call__(self, region: Box) -> Tensor:
        whole = Box((0,) * len(region.start), tuple(self.coarse.shape[:-1]))
        return self.excerpt.up(lambda box: whole.crop(self.coarse, box), region, self.level)


def _trial(fit: LevelFit) -> tuple[Tensor, tuple[float, ...]]:
    """Train some of the active blocks: their positions, int64 [k], and the part of them in each round."""
    recipe, n = fit.recipe, len(fit.target)
    flops = 6 * fit.network.row_size * fit.grid.block_cells
    count = min(n, max(LEAST_TRAINED, TRIAL_FLOPS // (flops * fit.epochs)))
    index = torch.linspace(0, n - 1, count, device=fit.energy.device).round().long()
    if not n:
        return index, _rounds(recipe, fit.level, [])
    # Where even few blocks take too long, they are trained for a part of the epochs.
    epochs = min(fit.epochs, max(1, 2 * TRIAL_FLOPS // (flops * count)))
    copy, shares = fit.fresh(index), [1.0]
    for start in range(0, epochs, recipe.val_freq):
        stop = min(start + recipe.val_freq, epochs)
        if len(copy):
            copy, mse = fit.train(copy, range(start, stop))
            copy = fit.sync(copy, mse)
        if stop % recipe.val_freq == 0:
            shares.append(len(copy) / count)
    return index, _rounds(recipe, fit.level, shares)


def _stand_ins(fit: LevelFit, index: Tensor) -> tuple[Tensor, Tensor]:
    """Which of the trained blocks stands for each active one, int64 [n], and which are better than none, bool [k]."""
    blocks = fit.target.blocks
    before, after = (values[blocks[index]] for values in (fit.energy, fit.errors))
    order = before.argsort()
    return order[_nearest(before[order], fit.energy[blocks])], after < before


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


def _fitted(fit: LevelFit, prediction: _Upsampled | None, index: Tensor, stands_for: Tensor, better: Tensor) -> Tensor:
    """A level as a run would have it, [*space, c]: a block's error is that of its stand-in, as large as its energy."""
    grid, whole, target = fit.grid, fit.grid.level_box(fit.level), fit.target
    cells = fit.targets.source.read(whole, fit.level)
    blocks = grid.blocks_touching(whole)
    errors = grid.split(cells if prediction is None else cells - prediction(whole), blocks)
    if len(index):
        trained = target.blocks[index]
        left = fit.targets.gather(trained)
        left -= fit.engine.predict(target.network, fit.inputs, *target.take(index))
        stands_for, stood_for = (values[better[stands_for]] for values in (stands_for, target.blocks))
        scale = (fit.energy[stood_for] / fit.energy[trained[stands_for]]).sqrt()
        # Of few blocks the pieces are a view of the source.
        errors = errors.index_put((stood_for,), left[stands_for] * scale[:, None, None])
    return cells - grid.cells_of(blocks).crop(grid.join(errors, blocks), whole)
