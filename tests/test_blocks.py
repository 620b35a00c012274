"""Blocks in space, and the pictures of the block decomposition."""

import numpy as np
import pytest
from conftest import GRIDS, grid_id, random_pyramid, smooth_source

from datasets.grid import Grid
from pictures.blocks import block_boxes, block_edges, shape_picture
from pictures.figures import blocks_figure, surfaces_figure
from pictures.levels import LEVEL_COLOURS, compare, legend, level_colour, scales_picture

VOLUMES = [grid for grid in GRIDS if grid.ndim == 3]
UNIT = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@pytest.mark.parametrize("grid", GRIDS, ids=grid_id)
def test_boxes_are_the_active_blocks_and_stay_inside(grid):
    pyramid = random_pyramid(grid, channels=1)
    for level in range(grid.n_levels):
        boxes = block_boxes(pyramid, level)
        assert len(boxes) == len(pyramid.level(level))
        assert (boxes >= 0).all() and (boxes <= grid.shape).all() and (boxes[:, 0] < boxes[:, 1]).all()
        first = boxes[:, 0] >> level
        index = np.ravel_multi_index(tuple((first // grid.patch).T), grid.block_counts(level))
        np.testing.assert_array_equal(index, pyramid.level(level).blocks)


def test_edges_of_neighbours_are_there_once():
    grid = Grid((4, 4, 8), (4, 4, 4), 1)
    edges = block_edges(random_pyramid(grid, channels=1, keep=1), ((0, 0, 0), (16, 8, 8)), 0)
    # Two cubes have 24 edges, and share 4; x is twice as long as y and z.
    assert len(edges) == 20
    np.testing.assert_array_equal(edges.max((0, 1)), (16, 8, 8))
    assert (np.count_nonzero(edges[:, 0] - edges[:, 1], axis=1) == 1).all()


@pytest.mark.parametrize("keep", [0, 0.6])
@pytest.mark.parametrize("grid", VOLUMES, ids=grid_id)
def test_pictures_of_any_shape(grid, keep):
    pyramid = random_pyramid(grid, channels=1, keep=keep)
    picture = shape_picture(pyramid, UNIT, side=40, columns=2)
    assert picture.dtype == np.uint8 and picture.shape[1] == 80 and picture.shape[0] > 40 * -(-grid.n_levels // 2)
    figure = blocks_figure(pyramid, UNIT, most=8)
    assert len(figure.data) == 1 + grid.n_levels and "level 0 (finest)" in figure.to_json()
    empty = (np.zeros((0, 3)), np.zeros((0, 3), int))
    assert len(surfaces_figure({"one": empty, "other": empty}).data) == 2


@pytest.mark.parametrize("grid", GRIDS, ids=grid_id)
def test_all_scales_of_any_size(grid):
    picture = scales_picture(random_pyramid(grid, channels=1), "grey", side=96)
    assert picture.dtype == np.uint8 and picture.shape[2] == 3 and max(picture.shape[1], 1) <= 96


def test_a_place_has_the_colour_of_the_finest_level_that_has_a_network_there():
    pyramid = random_pyramid(Grid((32, 32), (16, 16), 2), channels=1, keep=1)
    finest = pyramid.level(0)
    finest.blocks, finest.amplitude = finest.blocks[:1], finest.amplitude[:1]
    finest.rows.data = finest.rows.data[:1]
    picture = scales_picture(pyramid, "grey", side=64)[:64].astype(int)

    def nearest(y, x):
        grey = picture[y, x] - picture[y, x].mean()
        tints = np.array(LEVEL_COLOURS[:2]) - np.mean(LEVEL_COLOURS[:2], axis=1, keepdims=True)
        return int(np.argmin(np.linalg.norm(tints * 0.3 - grey, axis=1)))

    assert [nearest(10, 10), nearest(10, 50), nearest(50, 10), nearest(50, 50)] == [0, 1, 1, 1]
    assert tuple(picture[0, 10]) == level_colour(0)


def test_the_legend_wraps_where_it_is_narrow():
    pyramid = random_pyramid(Grid((64, 64), (8, 8), 4), channels=1)
    wide, narrow = legend(pyramid, range(4), 2000), legend(pyramid, range(4), 200)
    assert wide.shape == (40, 2000, 3) and narrow.shape == (14 * 4, 200, 3)


def test_the_error_is_that_of_the_cells_and_not_of_their_means():
    pyramid = random_pyramid(Grid((24, 40), (8, 8), 2), channels=3)
    source = smooth_source((24, 40), 3)
    found = compare(pyramid, source, side=20)
    assert [found[name].shape for name in found] == [(12, 20, 3), (12, 20, 3), (12, 20)]
    box = pyramid.grid.level_box(0)
    mean = (source.read(box, 0) - pyramid.decode()).abs().mean().item()
    np.testing.assert_allclose(found["error"].mean(), mean, rtol=1e-4)
