"""The rounds of all levels: what their steps see, made once."""

import dataclasses

import torch
from test_level_fit import RECIPE

from datasets.grid import Grid
from models.engine.contract import cell_order, cosine_lr
from models.rounds import KEPT_ROUNDS, Rounds

RECIPE = dataclasses.replace(RECIPE, epochs=(4, 6), val_freq=4, batch_size=5)
# Blocks of three kinds at the finest level; one block, that hangs over both edges, at the coarser one.
GRID = Grid((6, 4), (4, 4), 2)


def test_a_round_is_the_steps_of_its_epochs_for_each_kind_of_block_that_there_is():
    rounds = Rounds(GRID, torch.device("cpu"))
    real = rounds.real(0)
    assert [len(cells) for cells in real] == [16, 8, 0, 0]
    found = rounds.take(RECIPE, 0, range(1, 3))
    for kind, cells in enumerate(real):
        assert torch.equal(found.cells[kind], cell_order(RECIPE.seed, 0, range(1, 3), cells, 4))
    assert found.lr == [cosine_lr(RECIPE.lr, epoch, 4) for epoch in (1, 2) for _ in range(4)]
    assert [len(cells) for cells in rounds.real(1)] == [0, 0, 0, 6]


def test_coarser_levels_have_a_rate_of_their_own():
    rounds, recipe = Rounds(GRID, torch.device("cpu")), dataclasses.replace(RECIPE, coarse_lr=2.0)
    finest, coarser = (rounds.take(recipe, level, range(4)) for level in (0, 1))
    assert finest.lr == rounds.take(RECIPE, 0, range(4)).lr and finest.start_lr == RECIPE.lr
    assert coarser.lr == [2 * lr for lr in rounds.take(RECIPE, 1, range(4)).lr] and coarser.start_lr == 2 * RECIPE.lr


def test_a_round_is_made_once_and_few_are_kept_where_they_are_large(monkeypatch):
    rounds = Rounds(GRID, torch.device("cpu"))
    first = rounds.take(RECIPE, 0, range(0, 1))
    assert rounds.take(RECIPE, 0, range(0, 1)) is first
    assert rounds.take(dataclasses.replace(RECIPE, lr=RECIPE.lr / 2), 0, range(0, 1)) is not first
    monkeypatch.setattr("models.rounds.KEPT_CELLS", 0)
    last = [rounds.take(RECIPE, 1, range(n, n + 1)) for n in range(KEPT_ROUNDS)]
    assert rounds.take(RECIPE, 0, range(0, 1)) is not first
    assert rounds.take(RECIPE, 1, range(KEPT_ROUNDS - 1, KEPT_ROUNDS)) is last[-1]
