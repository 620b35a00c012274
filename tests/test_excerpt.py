"""A small source that stands for a large one: itself where that is small, else boxes of whole blocks of every level."""

import itertools

import pytest
import torch
from conftest import GRIDS, make_source

from datasets.excerpt import excerpt
from datasets.grid import Grid
from datasets.residual import LevelTargets

LARGE = [
    Grid((128, 96), (8, 4), 3),
    Grid((203, 61), (8, 8), 2),
    Grid((7, 600), (16, 8), 3),
    Grid((24, 40, 18), (4, 2, 4), 2),
]


@pytest.mark.parametrize("grid", GRIDS + LARGE, ids=str)
def test_a_small_source_is_its_own_excerpt(grid):
    source = make_source(grid.shape)
    assert excerpt(source, grid, grid.level_box(0).size) == (source, grid)


@pytest.mark.parametrize("part", [3, 40])
@pytest.mark.parametrize("grid", LARGE, ids=str)
def test_its_blocks_are_blocks_of_the_source_at_every_level(grid, part):
    source = make_source(grid.shape, 2)
    small, own = excerpt(source, grid, grid.level_box(0).size // part)
    assert own.patch == grid.patch and 1 <= own.n_levels <= grid.n_levels and small.shape == own.shape
    assert own.level_box(0).size < grid.level_box(0).size
    for level in range(own.n_levels):
        all_blocks, mine = (
            LevelTargets(s, None, g, level).gather(torch.arange(g.n_blocks(level)))
            for s, g in ((source, grid), (small, own))
        )
        assert all((all_blocks == block).flatten(1).all(1).any() for block in mine)


@pytest.mark.parametrize("grid", LARGE, ids=str)
def test_no_box_is_there_twice(grid):
    small, own = excerpt(make_source(grid.shape), grid, grid.level_box(0).size // 2)
    blocks = LevelTargets(small, None, own, 0).gather(torch.arange(own.n_blocks(0)))
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(blocks, 2) if a.numel() > 8)


def test_a_block_larger_than_the_excerpt_is_an_excerpt():
    source, grid = make_source((64, 64)), Grid((64, 64), (32, 32), 2)
    small, own = excerpt(source, grid, 10)
    assert own == Grid((32, 32), (32, 32), 1) and small.shape == (32, 32)
