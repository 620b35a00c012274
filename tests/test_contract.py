"""Which cells a step sees, and at which learning rate; cutting blocks."""

import itertools
import math

import pytest
import torch
from conftest import random_blocks, same

from datasets.grid import Grid
from models.engine.contract import cell_order, cosine_lr, steps_per_epoch
from models.network import Network


@pytest.mark.parametrize(
    ("cells", "batch", "steps"), [(1, 1, 1), (1, 256, 1), (1024, 256, 4), (625, 192, 4), (35, 36, 1), (7, 1, 7)]
)
def test_an_epoch_has_as_many_steps_as_see_every_cell_once(cells, batch, steps):
    assert steps_per_epoch(cells, batch) == steps


@pytest.mark.parametrize("n", [1, 2, 7, 32, 100])
@pytest.mark.parametrize("steps", [1, 3, 4, 9])
def test_every_epoch_sees_every_real_cell_in_equal_batches_of_real_cells(n, steps):
    real = torch.arange(n) * 3 + 5
    order = cell_order(0, 1, range(2, 7), real, steps)
    assert order.dtype == torch.int64
    assert order.shape == (5 * steps, math.ceil(n / steps))
    for epoch in order.reshape(5, -1):
        assert set(epoch.tolist()) == set(real.tolist())
        counts = epoch.unique(return_counts=True)[1]
        assert counts.max() - counts.min() <= 1 or n < steps


@pytest.mark.parametrize("grid", [Grid((33, 65), (32, 32), 1), Grid((9, 9, 9), (4, 4, 4), 1)], ids=str)
def test_batches_of_a_block_with_one_real_cell_hold_that_cell(grid):
    real = grid.real_cells(grid.n_kinds - 1, 0)
    assert real.tolist() == [0]
    steps = steps_per_epoch(grid.block_cells, 16)
    assert torch.equal(cell_order(0, 0, range(2), real, steps), torch.zeros(2 * steps, 1, dtype=torch.int64))


def test_a_kind_of_no_cells_has_the_same_steps_without_cells():
    order = cell_order(0, 0, range(3), torch.zeros(0, dtype=torch.int64), 4)
    assert order.shape == (12, 0) and order.dtype == torch.int64


@pytest.mark.parametrize("cuts", [[0, 6], [0, 1, 6], [0, 2, 4, 6], range(7)])
def test_the_order_does_not_depend_on_how_epochs_are_cut_into_rounds(cuts):
    real = torch.arange(35)
    rounds = [cell_order(3, 0, range(a, b), real, 4) for a, b in itertools.pairwise(cuts)]
    assert torch.equal(torch.cat(rounds), cell_order(3, 0, range(6), real, 4))


def test_the_order_differs_between_epochs_seeds_and_levels():
    real = torch.arange(64)
    orders = [cell_order(seed, level, range(8), real, 1) for seed, level in ((0, 0), (1, 0), (0, 1))]
    assert len({tuple(epoch.tolist()) for order in orders for epoch in order}) == 24


def test_a_cell_is_equally_likely_in_every_batch():
    order = cell_order(0, 0, range(2000), torch.arange(12), 3).reshape(2000, 3, 4)
    share = (order == 5).any(2).float().mean(0)
    assert (share - 1 / 3).abs().max() < 0.04


def test_the_learning_rate_falls_from_lr_to_a_thirtieth():
    rates = [cosine_lr(0.03, epoch, 40) for epoch in range(41)]
    assert rates[0] == 0.03
    assert rates[20] == pytest.approx((0.03 + 0.001) / 2)
    assert rates[40] == pytest.approx(0.001)
    assert rates == sorted(rates, reverse=True)
    assert cosine_lr(0.03, 0, 1) == 0.03


def test_selected_blocks_are_copies_with_their_own_moments():
    network = Network(2, 3, 2, 1, "sin")
    blocks = random_blocks(network, 4, 6)
    blocks.moments = {
        "state": {0: {"m": torch.rand_like(blocks.rows), "step": 5}},
        "param_groups": [{"lr": 0.1, "params": [0]}],
    }
    index = torch.tensor([3, 1])
    found = blocks.select(index)
    assert len(found) == 2
    for name in ("rows", "targets", "amplitude", "kind"):
        assert torch.equal(getattr(found, name), getattr(blocks, name)[index])
    assert torch.equal(found.moments["state"][0]["m"], blocks.moments["state"][0]["m"][index])
    assert found.moments["state"][0]["step"] == 5
    before = blocks.rows.clone()
    found.rows.zero_()
    assert same(before, blocks.rows)
    assert len(blocks.select(index[:0])) == 0
