"""Pictures of a level: of bounded size, however thin, and however small or large the signal."""

import numpy as np
import pytest
from conftest import random_pyramid, smooth_source

from datasets.grid import Grid
from pictures.levels import level_colour, level_pictures

SIDE = 64


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [
        ((1, 1), ((64, 130), (64, 64))),
        ((1, 300), ((4, 60), (1, 60))),
        ((300, 1), ((60, 4), (60, 1))),
        ((20, 33), ((42, 33), (20, 33))),
        ((9, 20, 16), ((60, 98), (60, 48))),
    ],
)
def test_two_pictures_lie_so_that_they_are_large_in_a_square(shape, sizes):
    pyramid = random_pyramid(Grid(shape, (4,) * len(shape), 1), channels=1)
    pictures = level_pictures(pyramid, smooth_source(shape), 0, SIDE)
    both, one = sizes
    assert pictures["reconstruction_and_truth"].shape == (*both, 3)
    assert pictures["residual"].shape == pictures["active_blocks"].shape == (*one, 3)
    assert all(picture.dtype == np.uint8 for picture in pictures.values())


def test_active_blocks_are_outlined_in_the_colour_of_their_level():
    pyramid = random_pyramid(Grid((32, 32), (8, 8), 2), channels=1)
    for level in range(2):
        picture = level_pictures(pyramid, smooth_source((32, 32)), level, SIDE)["active_blocks"]
        lines = (picture == level_colour(level)).all(-1)
        active = np.zeros(pyramid.grid.block_counts(level), bool)
        active.flat[pyramid.level(level).blocks.numpy()] = True
        side = len(picture) // len(active)
        assert np.array_equal(lines[::side, ::side], active)
