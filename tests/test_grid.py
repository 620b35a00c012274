"""Geometry against brute force, in 2-D and 3-D by the same tests."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import GRIDS, all_cells, grid_id, level_cells, random_box

from datasets.grid import Box, Grid, child, down, parent, up

grids = pytest.mark.parametrize("grid", GRIDS, ids=grid_id)


def levels(grid):
    return range(grid.n_levels)


def all_blocks(grid, level):
    return Box((0,) * grid.ndim, grid.block_counts(level))


def cell_in_block(grid, cell):
    """Block index along each axis, and place in the block in raster order."""
    block = tuple(i // p for i, p in zip(cell, grid.patch, strict=True))
    return block, np.ravel_multi_index([i % p for i, p in zip(cell, grid.patch, strict=True)], grid.patch)


@grids
def test_a_level_has_ceil_n_over_2_to_the_j_cells_in_ceil_blocks(grid):
    for level in levels(grid):
        shape = grid.level_box(level).stop
        assert shape == tuple(math.ceil(n / 2**level) for n in grid.shape)
        assert grid.block_counts(level) == tuple(math.ceil(n / p) for n, p in zip(shape, grid.patch, strict=True))
        assert grid.n_blocks(level) == math.prod(grid.block_counts(level))


@pytest.mark.parametrize(
    ("shape", "patch", "n_levels"),
    [
        ((0, 1), (1, 1), 1),
        ((1, 1), (1, 0), 1),
        ((1, 1), (1, 1), 0),
        ((1,), (1,), 1),
        ((1, 1), (1,), 1),
        ((1,) * 4, (1,) * 4, 1),
    ],
)
def test_a_grid_without_cells_or_of_other_than_2_or_3_axes_is_refused(shape, patch, n_levels):
    with pytest.raises(ValueError):
        Grid(shape, patch, n_levels)


@grids
@pytest.mark.parametrize("channels", [1, 3])
def test_split_then_join_is_the_identity_and_the_padding_is_zero(grid, channels):
    for level in levels(grid):
        shape = grid.level_box(level).stop
        cells = level_cells(shape, channels) + 1
        joined = grid.join(grid.split(cells, all_blocks(grid, level)), all_blocks(grid, level))
        inside = tuple(slice(n) for n in shape)
        assert torch.equal(joined[inside], cells)
        joined[inside] = 0
        assert not joined.any()


@grids
def test_split_puts_every_cell_into_its_block(grid):
    for level in levels(grid):
        shape, blocks = grid.level_box(level).stop, all_blocks(grid, level)
        cells = level_cells(shape, 2)
        pieces = grid.split(cells, blocks)
        assert pieces.shape == (grid.n_blocks(level), 2, grid.block_cells)
        for cell in all_cells(shape):
            block, place = cell_in_block(grid, cell)
            number = np.ravel_multi_index(block, blocks.shape)
            assert torch.equal(pieces[number, :, place], cells[cell])


@grids
def test_split_of_some_blocks_is_the_same_as_of_all(grid):
    generator = np.random.default_rng(0)
    whole = all_blocks(grid, 0)
    cells = level_cells(grid.shape, 2)
    pieces = grid.split(cells, whole)
    for _ in range(5):
        blocks = random_box(generator, whole.shape)
        region = grid.clip(grid.cells_of(blocks), 0)
        found = grid.split(grid.level_box(0).crop(cells, region), blocks)
        assert torch.equal(found, pieces[grid.ids(blocks, 0).flatten()])


@grids
def test_ids_are_in_raster_order(grid):
    for level in levels(grid):
        blocks = all_blocks(grid, level)
        everything = np.arange(grid.n_blocks(level)).reshape(blocks.shape)
        np.testing.assert_array_equal(grid.ids(blocks, level), everything)
        part = random_box(np.random.default_rng(level), blocks.shape)
        np.testing.assert_array_equal(grid.ids(part, level), blocks.crop(everything, part))


@grids
def test_numbers_are_a_run_where_they_are_consecutive(grid):
    generator = np.random.default_rng(0)
    for level in range(grid.n_levels):
        counts = grid.block_counts(level)
        for blocks in [Box((0,) * grid.ndim, counts), *(random_box(generator, counts) for _ in range(10))]:
            ids, run = grid.ids(blocks, level).flatten().tolist(), grid.run(blocks, level)
            assert (list(run) == ids) if run else ids != list(range(ids[0], ids[-1] + 1))


@grids
@pytest.mark.parametrize("most_cells", [1, 50, 10**9])
def test_boxes_of_a_region_cover_the_blocks_it_touches_once_and_keep_to_their_size(grid, most_cells):
    region = random_box(np.random.default_rng(1), grid.shape)
    touched = grid.ids(grid.blocks_touching(region), 0).flatten().tolist()
    boxes = list(grid.boxes(0, most_cells, region))
    assert sorted(number for box in boxes for number in grid.ids(box, 0).flatten().tolist()) == touched
    assert all(box.size * grid.block_cells <= max(most_cells, grid.block_cells) for box in boxes)


@grids
def test_the_blocks_touching_a_region_are_those_that_share_a_cell_with_it(grid):
    generator = np.random.default_rng(1)
    for _ in range(5):
        region = random_box(generator, grid.shape)
        touched = {cell_in_block(grid, cell)[0] for cell in itertools.product(*map(range, region.start, region.stop))}
        found = grid.blocks_touching(region)
        assert touched == set(itertools.product(*map(range, found.start, found.stop)))


@grids
@pytest.mark.parametrize("most_cells", [0, 1, 40, 10**9])
def test_strips_cover_every_block_once_in_order_and_keep_to_their_size(grid, most_cells):
    for level in levels(grid):
        for cut, least in ((grid.strips, lambda strip: strip.shape[0]), (grid.boxes, lambda box: box.size)):
            strips = list(cut(level, most_cells))
            numbers = np.concatenate([grid.ids(strip, level).flatten() for strip in strips])
            np.testing.assert_array_equal(numbers, np.arange(grid.n_blocks(level)))
            assert all(strip.size * grid.block_cells <= most_cells or least(strip) == 1 for strip in strips)


@grids
def test_strips_of_a_region_cover_the_blocks_it_touches_once(grid):
    generator = np.random.default_rng(2)
    for _ in range(5):
        region = random_box(generator, grid.shape)
        numbers = [grid.ids(strip, 0).flatten() for strip in grid.strips(0, 50, region)]
        np.testing.assert_array_equal(np.concatenate(numbers), grid.ids(grid.blocks_touching(region), 0).flatten())


@grids
def test_kinds_and_real_cells_against_brute_force(grid):
    for level in levels(grid):
        real = [set() for _ in range(grid.n_blocks(level))]
        for cell in all_cells(grid.level_box(level).stop):
            block, place = cell_in_block(grid, cell)
            real[np.ravel_multi_index(block, grid.block_counts(level))].add(int(place))
        kinds = grid.kind_of(torch.arange(grid.n_blocks(level)), level)
        assert grid.kinds(level) == set(kinds.tolist())
        assert set(kinds.tolist()) <= set(range(grid.n_kinds))
        for kind, cells in zip(kinds.tolist(), real, strict=True):
            assert grid.real_cells(kind, level).tolist() == sorted(cells)
        assert grid.count_real(kinds, level).tolist() == [len(cells) for cells in real]
        whole = [len(cells) == grid.block_cells for cells in real]
        assert (kinds == 0).tolist() == whole


def test_kinds_of_no_blocks_are_none():
    assert Grid((5, 5), (2, 2), 1).kind_of(torch.zeros(0, dtype=torch.int64), 0).shape == (0,)


@pytest.mark.parametrize("patch", [(1, 1), (1, 4), (3, 2), (2, 1, 3)])
def test_coordinates_run_from_minus_1_to_1_fast_axis_first(patch):
    found = Grid(patch, patch, 1).coordinates()
    for row, cell in enumerate(all_cells(patch)):
        want = [2 * i / (p - 1) - 1 if p > 1 else 0 for i, p in zip(cell, patch, strict=True)]
        assert found[row].tolist() == pytest.approx(want[::-1], abs=1e-6)


@pytest.mark.parametrize("shape", [(2, 2), (4, 6), (16, 8), (2, 4, 6)])
def test_down_keeps_the_mean_of_even_sizes(shape):
    cells = level_cells(shape, 3).double()
    axes = tuple(range(len(shape)))
    torch.testing.assert_close(down(cells).mean(axes), cells.mean(axes))


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (3, 1), (5, 8), (7, 7), (1, 1, 1), (3, 2, 5)])
def test_down_averages_real_cells_only(shape):
    cells = level_cells(shape, 2).double()
    found = down(cells)
    assert found.shape[:-1] == tuple(math.ceil(n / 2) for n in shape)
    for cell in all_cells(found.shape[:-1]):
        window = cells[tuple(slice(2 * i, 2 * i + 2) for i in cell)]
        torch.testing.assert_close(found[cell], window.flatten(0, -2).mean(0))


def test_down_does_not_change_what_it_is_given():
    cells = level_cells((4, 5))
    before = cells.clone()
    down(cells)
    assert torch.equal(cells, before)


@grids
def test_down_of_the_children_of_a_region_is_the_crop_of_down(grid):
    generator = np.random.default_rng(3)
    cells = level_cells(grid.shape, 2)
    for level in range(1, grid.n_levels):
        coarse = down(cells)
        assert coarse.shape[:-1] == grid.level_box(level).stop
        for _ in range(10):
            region = random_box(generator, grid.level_box(level).stop)
            part = grid.level_box(level - 1).crop(cells, child(region, grid, level))
            assert torch.equal(down(part), grid.level_box(level).crop(coarse, region))
        cells = coarse


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (4, 3), (8, 9), (1, 1, 1), (2, 3, 4)])
@pytest.mark.parametrize("odd", [0, 1])
def test_up_is_linear_interpolation_with_align_corners_false(shape, odd):
    """At odd fine sizes the last cell is left out: torch would stretch the grid there."""
    coarse = level_cells(shape, 2)
    edge = Box((0,) * len(shape), shape)
    fine = tuple(2 * n - odd for n in shape)
    found = up(coarse, edge, Box((0,) * len(shape), fine), edge)
    mode = {2: "bilinear", 3: "trilinear"}[len(shape)]
    want = F.interpolate(coarse.movedim(-1, 0)[None], scale_factor=2, mode=mode, align_corners=False)[0].movedim(0, -1)
    torch.testing.assert_close(found, want[tuple(slice(n) for n in fine)], rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (2, 3, 4)])
def test_up_keeps_a_constant_exactly(shape):
    edge = Box((0,) * len(shape), shape)
    fine = Box(edge.start, tuple(2 * n for n in shape))
    assert (up(torch.full((*shape, 1), 0.3), edge, fine, edge) - 0.3).abs().max() < 1e-7


@grids
def test_a_crop_of_the_upsampled_is_the_upsampled_crop_bit_for_bit(grid):
    generator = np.random.default_rng(4)
    for level in range(grid.n_levels - 1):
        coarse_box, fine_box = grid.level_box(level + 1), grid.level_box(level)
        coarse = level_cells(coarse_box.stop, 2)
        whole = up(coarse, coarse_box, fine_box, coarse_box)
        for _ in range(30):
            region = random_box(generator, fine_box.stop)
            box = parent(region, grid, level)
            found = up(coarse_box.crop(coarse, box), box, region, coarse_box)
            assert torch.equal(found, fine_box.crop(whole, region))


def test_up_does_not_change_what_it_is_given():
    coarse = level_cells((3, 3))
    before, edge = coarse.clone(), Box((0, 0), (3, 3))
    up(coarse, edge, Box((0, 0), (6, 6)), edge)
    assert torch.equal(coarse, before)
