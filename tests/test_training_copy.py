"""The pruned copy: parameters, moments and targets shrink together, and what is pruned never moves again."""

import pytest
import torch
from conftest import random_blocks, same

from datasets.grid import Grid
from models.block_mlp import BlockMLP
from models.encoding import Encoding
from models.engine import ReferenceEngine, Round
from models.engine.contract import cell_order
from models.network import Network
from models.training_copy import TrainingCopy

INPUTS = Encoding(2, 1)(Grid((8, 4), (8, 4), 1).coordinates())
NETWORK = Network(len(INPUTS), 6, 3, 1, "sin")
ROUND = Round([cell_order(0, 0, range(4), torch.arange(32), 1)], [0.02] * 4, 0.03)


def start(n):
    """A target whose positions 0, 2, 4 ... are in training, and their copy after one round."""
    target = BlockMLP(NETWORK, torch.arange(2 * n), torch.ones(2 * n), torch.rand(2 * n, NETWORK.row_size))
    copy = TrainingCopy(random_blocks(NETWORK, n, 32), torch.arange(0, 2 * n, 2), target)
    return target, train(copy)


def train(copy):
    return copy.trained(ReferenceEngine().train(NETWORK, INPUTS, copy.blocks, ROUND))


DONE = [[], [False], [True], [True, True], [False, True, False, True, True], [False] * 5]


@pytest.mark.parametrize("done", DONE, ids=str)
def test_pruning_keeps_rows_moments_targets_and_places_of_the_others(done):
    _, copy = start(len(done))
    kept = [n for n, is_done in enumerate(done) if not is_done]
    found = copy.pruned(torch.tensor(done, dtype=torch.bool))
    assert len(found) == len(found.blocks) == len(kept)
    assert found.index.tolist() == [2 * n for n in kept]
    for name in ("rows", "targets", "amplitude", "kind"):
        assert torch.equal(getattr(found.blocks, name), getattr(copy.blocks, name)[kept])
    if done:
        had, has = (each.blocks.moments["state"][0] for each in (copy, found))
        assert same({k: v[kept] if v.shape == copy.blocks.rows.shape else v for k, v in had.items()}, has)


def test_pruned_blocks_never_move_again_and_the_others_train_as_if_none_had_been_pruned():
    target, copy = start(6)
    copy.sync()
    frozen = target.rows.detach().clone()
    done = torch.tensor([True, False, True, True, False, False])
    unpruned, pruned = copy, copy.pruned(done)
    for _ in range(3):
        unpruned, pruned = train(unpruned), train(pruned)
        pruned.sync()
        assert torch.equal(pruned.blocks.rows, unpruned.blocks.rows[~done])
    moving = torch.zeros(12, dtype=torch.bool)
    moving[pruned.index] = True
    assert torch.equal(target.rows[~moving], frozen[~moving])
    assert (target.rows[moving] != frozen[moving]).any(1).all()
    assert torch.equal(target.rows[moving], pruned.blocks.rows)


def test_zeroed_gradients_add_up_go_with_their_blocks_and_leave_all_of_them_in_training():
    _, copy = start(4)
    first, second = (torch.tensor(done) for done in ([True, False, False, False], [False, False, True, False]))
    zeroed = copy.zeroed(first).zeroed(second)
    assert zeroed.blocks.zeroed.tolist() == [True, False, True, False] and copy.blocks.zeroed is None
    assert len(zeroed) == 4 and zeroed.pruned(first).blocks.zeroed.tolist() == [False, True, False]
    usual, after = train(copy), train(zeroed)
    moved = (after.blocks.rows != copy.blocks.rows).any(1)
    assert moved.all() and (after.blocks.rows == usual.blocks.rows).all(1).tolist() == [False, True, False, True]


def test_a_copy_of_no_blocks_is_trained_synced_and_pruned():
    target, copy = start(1)
    empty = copy.pruned(torch.tensor([True]))
    before = target.rows.detach().clone()
    after = train(empty)
    after.sync()
    assert len(after.pruned(torch.zeros(0, dtype=torch.bool))) == 0
    assert torch.equal(target.rows, before)
