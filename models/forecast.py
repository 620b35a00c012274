"""How long the rest of a run takes, from what it has shown of itself so far."""

import math
import time
from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from datasets.excerpt import excerpt
from datasets.grid import Box, Grid
from datasets.residual import LevelTargets
from datasets.source import Source
from models.level_fit import LevelFit
from models.recipe import Recipe

# Values of the finest level that a guess looks at, and seconds that are left from which on a run is worth one.
GUESSED_VALUES, WORTH_A_GUESS = 2**22, 10.0
# Blocks of the finest level, and their epochs, that are timed: what at most FEW take says little of many.
TIMED_BLOCKS, TIMED_EPOCHS, FEW = 64, 2, 16
# The source's own coarser level stands for the fitted one, whose error comes on top: a block is counted as active from
# this part of the threshold on. Measured on a 4096x2048 Moon: 7211 blocks above 1.0 of it, 7466 above 0.85, 7590 in
# the fit.
ERROR_SHARE = 0.85
# What older rounds count beside a new one: the speed of a machine changes.
OLDER = 0.9
# Where a line through two noisy times says that a block takes no time, it takes this part of its share of the time.
LEAST_OF_SHARE = 0.25


class Guess(NamedTuple):
    """Before a run knows better: the part of each level's blocks that looks active, finest first, and what that took.

    `blocks` were surveyed in so many `seconds`. `timed` are blocks of the finest level, epochs, and the seconds that
    these blocks trained for so many epochs.
    """

    shares: list[float]
    blocks: int
    seconds: float
    timed: tuple[int, int, float]


def guess(source: Source, grid: Grid, inputs: Tensor, recipe: Recipe, engine) -> Guess:
    """Survey an excerpt of a source as if the coarser levels were perfect, and train some of its blocks for a moment.

    Args:
        inputs: [in, p], the encoded cells of a block.
    """
    started = time.perf_counter()
    small = excerpt(source, grid, max(GUESSED_VALUES // source.signal.channels, grid.block_cells))
    own, shares, finest = small.grid, [], None
    for level in range(own.n_levels):
        top = level == grid.n_levels - 1

        def upsampled(region: Box, level: int = level) -> Tensor:
            return small.up(lambda box: small.source.read(box, level + 1), region, level)

        targets = LevelTargets(small.source, None if top else upsampled, own, level, recipe.residual, kept_values=0)
        fit = LevelFit(targets, recipe, inputs, engine, row_bytes=0)
        threshold = recipe.loss_thr * (recipe.coarse_share if level else 1.0) * (1.0 if top else ERROR_SHARE)
        shares.append((fit.energy > threshold).float().mean().item())
        finest = finest or fit
    blocks, surveyed = sum(map(own.n_blocks, range(own.n_levels))), time.perf_counter() - started
    return Guess(shares + [1.0] * (grid.n_levels - own.n_levels), blocks, surveyed, _timed(finest))


def _timed(fit: LevelFit) -> tuple[int, int, float]:
    """How many blocks were trained for how many epochs, and the seconds that took."""
    if not len(fit.target):
        return 0, 0, 0.0
    index = torch.arange(min(len(fit.target), TIMED_BLOCKS), device=fit.energy.device)
    copy, epochs = fit.fresh(index), min(fit.epochs, TIMED_EPOCHS)
    started = time.perf_counter()
    fit.train(copy, range(epochs))[1].sum().item()
    return len(copy), epochs, time.perf_counter() - started


class Forecast:
    """Foretells the rest of a run that tells it of every round.

    A run's time is that of training, which grows with the blocks in training, and that of all else, which grows with
    the blocks that are surveyed, once or twice. How many blocks of finer levels are active is guessed, and the guess
    corrected by how far it is off at the level in training; of a run that is too short for a guess all are. A round is
    expected to prune what the same one did before, or more than the latest.

    Args:
        epochs: of each level, finest first.
        val_freq: epochs of a round.
        most_blocks: cap of a chunk.
        kept_blocks: blocks of the largest level whose targets are kept from its survey; those of a larger one are
            made again, chunk by chunk.
        guess: asked once, if finer levels will take a while.
        processes: how many share the run.
    """

    def __init__(
        self,
        grid: Grid,
        epochs: tuple[int, ...],
        val_freq: int,
        most_blocks: int,
        kept_blocks: int,
        guess: Callable[[], Guess],
        processes: int = 1,
    ):
        self.grid, self.epochs, self.val_freq, self.most_blocks = grid, epochs, val_freq, most_blocks
        self.kept_blocks, self.processes, self._guess = kept_blocks, processes, guess
        self._guessed: Guess | None = None
        # Blocks before and after each round of a level.
        self._rounds: dict[tuple[int, int], tuple[int, int]] = defaultdict(lambda: (0, 0))
        self._sums, self._known = [0.0] * 5, 0
        # Seconds of a block's survey, and of an active one's beginning at this level as far as that is known.
        self._surveyed: float = 0.0
        self._gathered: float | None = None
        self._level, self._begun, self._other, self._level_other = grid.n_levels, 0, 0.0, 0.0

    def trained(self, level: int, epoch: int, epochs: int, before: int, after: int, seconds: float) -> None:
        """Hear of blocks that were trained for some epochs, up to `epoch`, and how many of them go on."""
        if epoch % self.val_freq == 0 or epoch == self.epochs[level]:
            n, m = self._rounds[level, (epoch - 1) // self.val_freq]
            self._rounds[level, (epoch - 1) // self.val_freq] = n + before, m + after
        # The first round warms up, or compiles, and counts only as long as there is no other.
        self._heard(before, epochs, seconds, OLDER if self._known > 1 else 0.0)
        self._known += 1

    def _heard(self, blocks: int, epochs: int, seconds: float, older: float = 1.0) -> None:
        """Take in how long some blocks trained for some epochs."""
        work = blocks * epochs
        products = epochs * epochs, epochs * work, work * work, epochs * seconds, work * seconds
        self._sums = [older * total + new for total, new in zip(self._sums, products, strict=True)]

    def left(self, level: int, training: list[tuple[int, int]], later: int, active: int, other: float) -> float:
        """Seconds that the rest takes.

        Args:
            training: the epoch that each chunk in training has reached, and how many of its blocks train on.
            later: active blocks of the level in chunks that are not begun.
            active: active blocks of the level.
            other: seconds of the run so far that were not training.
        """
        self._note(level, active - later, other)
        left = self._rest(level, training, later, active)
        if level and not self._guessed and left > WORTH_A_GUESS:
            started = time.perf_counter()
            self._guessed = self._guess()
            if max((blocks for blocks, _ in self._rounds.values()), default=0) <= FEW:
                self._heard(*self._guessed.timed)
            self._surveyed = self._surveyed or self._guessed.seconds / self._guessed.blocks
            seconds = time.perf_counter() - started
            # The next survey did not take what this did.
            self._other += seconds
            self._level_other += seconds
            left = self._rest(level, training, later, active)
        return left

    def _rest(self, level: int, training: list[tuple[int, int]], later: int, active: int) -> float:
        here = sum(self._training(level, epoch, blocks, 1) for epoch, blocks in training)
        again = self._surveyed * self._again(level) / active if self._gathered is None else self._gathered
        shared = self._training(level, 0, later, math.ceil(later / self.most_blocks)) + later * again
        for finer in range(level):
            count = self._active(finer, level, active)
            shared += self._training(finer, 0, count, math.ceil(count / self.most_blocks))
            shared += self._surveyed * (self.grid.n_blocks(finer) + self._again(finer))
        return here + shared / self.processes

    def _note(self, level: int, begun: int, other: float) -> None:
        """Take in how long all but training took."""
        if level < self._level:
            # The first survey says little, for the levels of the source are made for it.
            if self._level < self.grid.n_levels:
                self._surveyed = (other - self._other) / sum(map(self.grid.n_blocks, range(level, self._level)))
            self._level, self._begun, self._level_other, self._gathered = level, begun, other, None
        elif begun > self._begun:
            self._gathered = (other - self._level_other) / (begun - self._begun)
        self._other = other

    def _again(self, level: int) -> int:
        """Blocks of a level whose targets are made a second time."""
        n = self.grid.n_blocks(level)
        return n if n > self.kept_blocks else 0

    def _active(self, finer: int, level: int, active: int) -> float:
        """Blocks of a finer level that will be active."""
        shares = self._guessed.shares if self._guessed else [1.0] * self.grid.n_levels
        share = active / self.grid.n_blocks(level)
        return self.grid.n_blocks(finer) * min(1.0, shares[finer] * (share / shares[level] if shares[level] else 1.0))

    def _training(self, level: int, epoch: int, blocks: float, chunks: int) -> float:
        """Seconds of training blocks from an epoch of a level on."""
        constant, per_block = self._pace()
        seconds = 0.0
        while epoch < self.epochs[level] and blocks:
            number = epoch // self.val_freq
            stop = min((number + 1) * self.val_freq, self.epochs[level])
            seconds += (stop - epoch) * (constant * min(chunks, blocks) + per_block * blocks)
            blocks *= self._survival(level, number)
            epoch = stop
        return seconds

    def _pace(self) -> tuple[float, float]:
        """Seconds of an epoch, and of each block in it: the line of least squares through all rounds."""
        ee, ew, ww, es, ws = self._sums
        if not ww:
            return 0.0, 0.0
        share, spread = ws / ww, ee * ww - ew * ew
        if spread < 1e-2 * ee * ww:
            return 0.0, share
        per_block = min(max((ws * ee - es * ew) / spread, LEAST_OF_SHARE * share), share)
        return max(0.0, (es - per_block * ew) / ee), per_block

    def _survival(self, level: int, number: int) -> float:
        """The part of the blocks that a round leaves in training."""
        # As this level has shown, or the next coarser one; else as the latest round that any of them has shown.
        known = [key for key in self._rounds if key[0] >= level]
        if not known:
            return 1.0
        found = min(known, key=lambda key: (key[1] != number, key[0], -key[1]))
        before, after = self._rounds[found]
        # The rounds of a level prune ever more, as the learning rate falls.
        return (after / before) ** ((number + 1) / (found[1] + 1) if found[0] == level else 1)
