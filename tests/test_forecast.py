"""How long the rest takes, of runs on a machine whose every act takes a known time."""

import dataclasses
import math

import numpy as np
import pytest
from conftest import make_source, smooth_source
from test_level_fit import RECIPE

from datasets.grid import Grid
from datasets.source import ArraySource, Signal
from models import forecast
from models.encoding import Encoding
from models.engine import ReferenceEngine
from models.forecast import Forecast, Guess, guess

GRID = Grid((512, 512), (16, 16), 4)
EPOCHS = (200, 50, 50, 50)
SHARES = [0.4, 0.6, 0.9, 1.0]


def play(
    told, shares=SHARES, epochs=EPOCHS, grid=GRID, survival=0.5, chunk=10**6, step=0.0, block=1e-4, survey=1e-3,
    again=0.0, start=0, first=3,
):  # fmt: skip
    """Tell a forecast of a run: after every round, what it says is left and what has passed; and what all took."""
    training = other = 0.0
    said = []
    for level in reversed(range(start, first + 1)):
        n = grid.n_blocks(level)
        active = round(shares[level] * n)
        other += survey * n
        for begin in range(0, active, chunk):
            blocks, epoch = min(chunk, active - begin), 0
            other += again * survey * n * blocks / active
            while epoch < epochs[level] and blocks:
                stop = min(epoch + 50, epochs[level])
                seconds = (stop - epoch) * (step + block * blocks)
                training += seconds
                after = int(blocks * survival)
                told.trained(level, stop, stop - epoch, blocks, after, seconds)
                epoch, blocks = stop, after
                later = max(0, active - begin - chunk)
                said.append((told.left(level, [(epoch, blocks)], later, active, other), training + other))
    return said, training + other


def forecast_of(
    guess=SHARES, grid=GRID, epochs=EPOCHS, chunk=10**6, kept=10**6, processes=1, step=0.0, block=1e-4
):  # fmt: skip
    timed = 64, 2, 2 * (step + 64 * block)
    return Forecast(grid, epochs, 50, chunk, kept, lambda: Guess(list(guess), 1000, 1.0, timed), processes)


@pytest.fixture(autouse=True)
def a_guess_is_always_worth_it(monkeypatch):
    monkeypatch.setattr(forecast, "WORTH_A_GUESS", 0.0)


RUNS = {
    "plain": {},
    "nothing is pruned": {"survival": 1.0},
    "nearly all is pruned": {"survival": 0.05},
    "one epoch": {"epochs": (1, 1, 1, 1)},
    "steps cost more than blocks": {"step": 0.2, "block": 1e-5},
    "chunks": {"chunk": 60},
    "surveyed twice": {"epochs": (1, 1, 1, 1), "chunk": 60, "again": 1.0},
    "surveys cost more than training": {"epochs": (1, 1, 1, 1), "survey": 1e-2},
}


@pytest.mark.parametrize("run", RUNS.values(), ids=list(RUNS))
@pytest.mark.parametrize("off", [0.5, 1.0], ids=["half", "right"])
def test_from_half_of_a_run_on_the_rest_is_right_within_a_half(run, off):
    kept = 0 if "again" in run else 10**6
    given = {name: run[name] for name in ("epochs", "chunk", "step", "block") if name in run}
    said, total = play(forecast_of([share * off for share in SHARES], kept=kept, **given), **run)
    for left, passed in said:
        if total / 2 < passed < 0.99 * total:
            assert (total - passed) / 1.5 < left < 1.5 * (total - passed)
    assert said[-1][0] == pytest.approx(0, abs=0.02 * total)


@pytest.mark.parametrize("grid", [Grid((1, 1), (1, 1), 1), Grid((1, 1), (4, 3), 3), Grid((5, 11, 7), (2, 3, 4), 2)])
def test_the_smallest_runs_end_at_nothing(grid):
    n = grid.n_levels
    said, _ = play(forecast_of([1.0] * n, grid, (3,) * n), [1.0] * n, (3,) * n, grid, first=n - 1)
    assert all(math.isfinite(left) and left >= 0 for left, _ in said) and said[-1][0] == 0


def test_a_run_that_is_resumed_at_its_finest_level_needs_no_guess():
    def refuse():
        raise AssertionError("asked")

    said, total = play(Forecast(GRID, EPOCHS, 50, 10**6, 10**6, refuse), first=0)
    assert all((total - passed) / 1.6 < left + 1e-9 < 1.6 * (total - passed) + 1e-6 for left, passed in said[1:])


def test_processes_share_what_is_not_begun():
    alone, both = (play(forecast_of(processes=n))[0][0][0] for n in (1, 2))
    assert alone / 2 == pytest.approx(both)


@pytest.mark.parametrize("step", [0.0, 1e-3, 4e-3])
def test_with_a_right_guess_the_first_word_is_right_though_it_has_seen_few_blocks(step):
    said, total = play(forecast_of(step=step), step=step)
    left, passed = said[0]
    assert left == pytest.approx(total - passed, rel=0.05)


def test_later_rounds_of_a_level_are_expected_to_prune_more():
    told = forecast_of(epochs=(150,) * 4)
    told.trained(0, 50, 50, 100, 90, 50 * 100 * 1e-4)
    assert told.left(0, [(50, 90)], 0, 100, 0.0) == pytest.approx(50 * 1e-4 * 90 * (1 + 0.9**2))


def test_it_asks_for_a_guess_once_and_only_if_the_run_takes_a_while(monkeypatch):
    monkeypatch.setattr(forecast, "WORTH_A_GUESS", 1.0)
    asked = []

    def guess():
        asked.append(1)
        return Guess(SHARES, 1000, 0.0, (0, 0, 0.0))

    play(Forecast(GRID, EPOCHS, 50, 10**6, 10**6, guess), block=1e-9, survey=0.0)
    assert not asked
    play(Forecast(GRID, EPOCHS, 50, 10**6, 10**6, guess))
    assert asked == [1]


def guess_of(source, grid):
    recipe = dataclasses.replace(RECIPE, epochs=(12,) * grid.n_levels)
    return guess(source, grid, Encoding(grid.ndim, 1)(grid.coordinates()), recipe, ReferenceEngine())


def test_a_guess_is_of_the_source():
    grid = Grid((64, 96), (8, 8), 3)
    smooth, noisy = (guess_of(source, grid) for source in (smooth_source(grid.shape), make_source(grid.shape)))
    assert noisy.shares == [1, 1, 1] and noisy.blocks == 96 + 24 + 6
    assert smooth.shares[0] < 1 and all(0 <= share <= 1 for share in smooth.shares)
    assert noisy.timed[:2] == (64, 2) and noisy.timed[2] > 0


@pytest.mark.parametrize("grid", [Grid((1, 1), (1, 1), 1), Grid((1, 1), (4, 3), 3), Grid((5, 11, 7), (2, 3, 4), 2)])
def test_there_is_a_guess_of_the_smallest_sources(grid):
    assert len(guess_of(make_source(grid.shape), grid).shares) == grid.n_levels


def test_where_nothing_is_active_nothing_is_timed():
    black = ArraySource(np.zeros((16, 24, 3), np.uint8), Signal("uint8", 3, 0.0, 1.0, "RGB"))
    said = guess_of(black, Grid((16, 24), (8, 8), 2))
    assert said.shares == [0, 0] and said.timed == (0, 0, 0.0)
