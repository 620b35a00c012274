"""A small source that stands for a large one: itself where that is small, else boxes of whole blocks of every level."""

import itertools

import numpy as np
import pytest
import torch
from conftest import GRIDS, make_source

from datasets.excerpt import excerpt
from datasets.grid import Box, Grid, up
from datasets.residual import LevelTargets
from datasets.source import ArraySource, Signal, points

LARGE = [
    Grid((128, 96), (8, 4), 3),
    Grid((203, 61), (8, 8), 2),
    Grid((7, 600), (16, 8), 3),
    Grid((24, 40, 18), (4, 2, 4), 2),
]


@pytest.mark.parametrize("grid", GRIDS + LARGE, ids=str)
def test_a_small_source_is_its_own_excerpt(grid):
    source = make_source(grid.shape)
    small = excerpt(source, grid, grid.level_box(0).size)
    assert (small.source, small.grid) == (source, grid)
    for level in range(grid.n_levels):
        whole = grid.level_box(level)
        coarse = points(grid.shape, level + 1).level_box(level + 1)
        want = up(source.read(coarse, level + 1), coarse, whole, coarse)
        assert torch.equal(small.up(lambda box, level=level: source.read(box, level + 1), whole, level), want)


@pytest.mark.parametrize("part", [3, 40])
@pytest.mark.parametrize("grid", LARGE, ids=str)
def test_its_blocks_are_blocks_of_the_source_at_every_level(grid, part):
    source = make_source(grid.shape, 2)
    found = excerpt(source, grid, grid.level_box(0).size // part)
    small, own = found.source, found.grid
    assert own.patch == grid.patch and 1 <= own.n_levels <= grid.n_levels and small.shape == own.shape
    assert own.level_box(0).size < grid.level_box(0).size
    for level in range(own.n_levels):
        all_blocks, mine = (
            LevelTargets(s, None, g, level).gather(torch.arange(g.n_blocks(level)))
            for s, g in ((source, grid), (small, own))
        )
        assert {block.numpy().tobytes() for block in mine} <= {block.numpy().tobytes() for block in all_blocks}


@pytest.mark.parametrize("grid", LARGE, ids=str)
def test_no_box_is_there_twice(grid):
    small = excerpt(make_source(grid.shape), grid, grid.level_box(0).size // 2)
    blocks = LevelTargets(small.source, None, small.grid, 0).gather(torch.arange(small.grid.n_blocks(0)))
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(blocks, 2) if a.numel() > 8)


def test_a_block_larger_than_the_excerpt_is_an_excerpt():
    source, grid = make_source((64, 64)), Grid((64, 64), (32, 32), 2)
    small = excerpt(source, grid, 10)
    assert small.grid == Grid((32, 32), (32, 32), 1) and small.source.shape == (32, 32)


@pytest.mark.parametrize("grid", LARGE, ids=str)
def test_what_a_coarser_level_says_of_a_box_does_not_depend_on_those_beside_it(grid):
    array = np.random.default_rng(0).integers(0, 256, (*grid.shape, 1)).astype(np.uint8)
    small = excerpt(ArraySource(array, Signal.of(array, "grey")), grid, grid.level_box(0).size // 3)
    axis, length, cells = small.axis, small.length, small.source.cells
    assert small.grid.shape[axis] // length > 1
    for n in range(small.grid.shape[axis] // length):
        alone = ArraySource(cells.narrow(axis, n * length, length).numpy(), small.source.signal)
        for level in range(small.grid.n_levels):
            box = small.grid.level_box(level)
            start, stop = (list(corner) for corner in (box.start, box.stop))
            start[axis], stop[axis] = n * length >> level, (n + 1) * length >> level
            found = small.up(
                lambda box, level=level: small.source.read(box, level + 1), Box(tuple(start), tuple(stop)), level
            )
            whole, coarse = (points(alone.shape, k).level_box(k) for k in (level, level + 1))
            assert torch.equal(found, up(alone.read(coarse, level + 1), coarse, whole, coarse))
