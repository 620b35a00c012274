"""The networks of a level: who is active, and what sync writes."""

import pytest
import torch

from models.block_mlp import BlockMLP
from models.network import Network

NETWORK = Network(2, 3, 2, 1, "sin")


def make(numbers):
    blocks = torch.tensor(numbers, dtype=torch.int64)
    return BlockMLP(NETWORK, blocks, torch.ones(len(blocks)), NETWORK.initial_rows(0, 0, blocks, 0.1))


@pytest.mark.parametrize("active", [[], [0], [7], [0, 1, 2], [3, 5, 6, 9]])
@pytest.mark.parametrize("asked", [[], [0], [9], [10], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9], [4, 6, 8], [100, 200]])
def test_find_tells_which_blocks_are_active_and_where(active, asked):
    hit, place = make(active).find(torch.tensor(asked, dtype=torch.int64))
    assert hit.tolist() == [n for n, block in enumerate(asked) if block in active]
    assert [active[n] for n in place.tolist()] == [block for block in asked if block in active]
    assert hit.dtype == place.dtype == torch.int64


@pytest.mark.parametrize("active", [[], [0], [7], [0, 1, 2], [3, 5, 6, 9]])
@pytest.mark.parametrize(
    "numbers", [range(0), range(4, 4), range(10), range(3, 4), range(6, 200), range(100, 200)], ids=str
)
def test_a_run_of_numbers_gives_what_find_and_take_give(active, numbers):
    level = make(active)
    hit, found = level.run(numbers)
    wanted, place = level.find(torch.tensor(list(numbers), dtype=torch.int64))
    assert hit.dtype == torch.int64 and torch.equal(hit, wanted)
    assert all(torch.equal(a, b) for a, b in zip(found, level.take(place), strict=True))


@pytest.mark.parametrize(("active", "index"), [([], []), ([4], [0]), ([1, 3, 5], [2, 0]), ([1, 3, 5], [])])
def test_sync_writes_the_rows_it_names_and_no_other(active, index):
    target = make(active)
    before = target.rows.detach().clone()
    index = torch.tensor(index, dtype=torch.int64)
    rows = torch.rand(len(index), NETWORK.row_size)
    target.sync(index, rows)
    want = before.clone()
    want[index] = rows
    assert torch.equal(target.rows, want)


def test_size_and_parameters():
    assert (len(make([])), make([]).n_params) == (0, 0)
    assert (len(make([1, 9])), make([1, 9]).n_params) == (2, 2 * NETWORK.row_size)


def test_the_target_is_never_trained_itself():
    assert not any(parameter.requires_grad for parameter in make([1, 2]).parameters())
