"""Any region at any size: means of what a cell covers, a cubic above the finest level, whatever part is asked for."""

import math

import numpy as np
import pytest
import torch
from conftest import GRIDS, grid_id, random_box, random_pyramid

from datasets.grid import Box, Grid
from models.frame import Frame

grids = pytest.mark.parametrize("grid", GRIDS, ids=grid_id)


def coverage(n, start, stop, scale, size):
    """How much of each output cell every one of n source cells covers, [size, n]: by brute force over fractions."""
    found = np.zeros((size, n))
    width = (stop - start) * scale / size
    for i in range(size):
        a, b = start * scale + i * width, start * scale + (i + 1) * width
        for cell in range(math.floor(a), math.ceil(b)):
            found[i, min(cell, n - 1)] += (min(b, cell + 1) - max(a, cell)) / width
    return found


def cubic(n, start, stop, scale, size):
    """The same where the source is interpolated."""
    found = np.zeros((size, n))
    for i in range(size):
        x = start * scale + (i + 0.5) * (stop - start) * scale / size - 0.5
        for cell in range(math.floor(x) - 1, math.floor(x) + 3):
            t = abs(x - cell)
            weight = 1.5 * t**3 - 2.5 * t**2 + 1 if t < 1 else -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
            found[i, min(max(cell, 0), n - 1)] += weight
    return found


def brute_force(pyramid, region, level, size):
    """A frame, by one dense matrix an axis over the whole of the level that it should be made from."""
    grid = pyramid.grid
    steps = [n / m for n, m in zip(region.shape, size, strict=True)]
    source = max((j for j in range(grid.n_levels) if all(s * 2.0 ** (level - j) >= 1 for s in steps)), default=0)
    values = pyramid.decode(level=source).double().numpy()
    scale = 2.0 ** (level - source)
    for axis, (a, b, m) in enumerate(zip(region.start, region.stop, size, strict=True)):
        matrix = (coverage if (b - a) * scale >= m else cubic)(values.shape[axis], a, b, scale, m)
        values = np.moveaxis(np.tensordot(matrix, values, (1, axis)), 0, axis)
    return values.clip(0, 1)


def frames(grid, seed=0, count=6):
    """Random regions of every level at random sizes, smaller and larger, none a size that a level has."""
    generator = np.random.default_rng(seed)
    for level in range(grid.n_levels):
        for _ in range(count):
            region = random_box(generator, grid.level_box(level).stop)
            size = tuple(int(generator.integers(1, 2 * n + 2)) for n in region.shape)
            yield region, level, size


@grids
def test_a_frame_is_the_mean_of_what_its_cells_cover_or_the_cubic_through_them(grid):
    pyramid, tried = random_pyramid(grid), 0
    for region, level, size in frames(grid):
        found = pyramid.decode(region, level, size)
        assert found.shape == (*size, pyramid.channels) and found.dtype == torch.float32
        assert found.min() >= 0 and found.max() <= 1
        if Frame(grid, region, level, size)._own is None:
            tried += 1
            assert np.abs(found.numpy() - brute_force(pyramid, region, level, size)).max() < 1e-5, (region, level, size)
    assert tried or max(grid.shape) == 1


@grids
def test_a_size_that_a_level_has_gives_the_cells_of_that_level_bit_for_bit(grid):
    pyramid = random_pyramid(grid)
    for level in range(grid.n_levels):
        for other in range(grid.n_levels):
            size = grid.level_box(other).stop
            # Where several levels have this size, that of the region is taken, or the nearest to it.
            same = [j for j in range(grid.n_levels) if grid.level_box(j).stop == size]
            nearest = min(same, key=lambda j: abs(j - level))
            assert torch.equal(pyramid.decode(level=level, size=size), pyramid.decode(level=nearest))


def test_a_region_at_the_size_of_another_level_is_the_region_of_that_level():
    grid = Grid((40, 48), (8, 8), 3)
    pyramid = random_pyramid(grid)
    region = Box((8, 4), (24, 40))
    assert torch.equal(pyramid.decode(region, 0, (4, 9)), pyramid.decode(Box((2, 1), (6, 10)), 2))
    assert torch.equal(pyramid.decode(Box((2, 1), (6, 10)), 2, (16, 36)), pyramid.decode(region, 0))


@grids
def test_a_part_of_a_frame_is_the_crop_of_the_frame_bit_for_bit(grid):
    pyramid, generator = random_pyramid(grid), np.random.default_rng(1)
    for region, level, size in frames(grid, seed=1, count=4):
        whole = Frame(grid, region, level, size).whole
        decoded = pyramid.decode(region, level, size)
        for _ in range(3):
            part = random_box(generator, size)
            assert torch.equal(pyramid.decode(region, level, size, part), whole.crop(decoded, part))


@grids
@pytest.mark.parametrize("cells", [1, 100, 10**9])
def test_strips_of_a_frame_cover_it_once(grid, cells):
    pyramid = random_pyramid(grid)
    for region, level, size in [*frames(grid, seed=2, count=2), (grid.level_box(0), 0, grid.level_box(0).stop)]:
        strips = list(pyramid.strips(level, region, cells, size))
        assert [strip.start[0] for strip in strips[1:]] == [strip.stop[0] for strip in strips[:-1]]
        assert (strips[0].start, strips[-1].stop) == ((0,) * grid.ndim, size)
        parts = [pyramid.decode(region, level, size, strip) for strip in strips]
        assert torch.equal(torch.cat(parts), pyramid.decode(region, level, size))


@pytest.mark.parametrize("size", [(1000, 3), (37, 1500), (1000, 2000)])
def test_a_strip_of_a_large_frame_is_small_and_made_from_little(size):
    grid = Grid((400, 900), (8, 8), 3)
    frame = Frame(grid, grid.level_box(0), 0, size)
    for part in frame.strips(20_000):
        assert part.size <= 20_000
        assert frame.cells(part).size <= 20_000 + 12 * 900


def test_only_the_cells_that_count_are_decoded():
    grid = Grid((64, 64), (8, 8), 1)
    frame = Frame(grid, Box((8, 8), (40, 40)), 0, (10, 4))
    assert (frame.source, frame.cells(frame.whole)) == (0, Box((8, 8), (40, 40)))
    assert frame.cells(Box((5, 1), (6, 2))) == Box((24, 16), (28, 24))
    assert not frame.interpolated


def test_more_cells_than_the_finest_level_has_are_interpolated_through_its_cells():
    grid = Grid((13, 37), (5, 7), 3)
    pyramid = random_pyramid(grid)
    size = tuple(3 * n for n in grid.shape)
    assert Frame(grid, grid.level_box(0), 0, size).interpolated
    # The middle one of three cells lies where the cell that they divide does.
    torch.testing.assert_close(pyramid.decode(size=size)[1::3, 1::3], pyramid.decode(), rtol=0, atol=1e-6)
    # One axis may ask for more while another asks for less.
    assert Frame(grid, grid.level_box(0), 0, (20, 5)).interpolated
    assert not Frame(grid, grid.level_box(2), 2, grid.shape).interpolated


@pytest.mark.parametrize("size", [(0, 4), (4,), (4, 4, 4), (-1, 4)], ids=str)
def test_an_impossible_size_is_refused(size):
    with pytest.raises(ValueError, match="size"):
        random_pyramid(GRIDS[4]).decode(size=size)


@pytest.mark.parametrize(
    "part", [Box((0, 0), (5, 1)), Box((0, 0), (0, 1)), Box((-1, 0), (1, 1)), Box((0,), (1,))], ids=str
)
def test_a_part_outside_of_its_frame_is_refused(part):
    with pytest.raises(ValueError, match="part"):
        random_pyramid(GRIDS[4]).decode(size=(4, 4), part=part)
