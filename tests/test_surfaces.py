"""The surface of a level on averaged cells: the same whatever the slabs, and never much decoded at once."""

import math

import numpy as np
import pytest
import torch
from conftest import random_pyramid

from datasets.grid import Grid
from pictures import surfaces

BOUNDS = ((0.0, 0.0, 0.0), (1.0, 2.0, 3.0))


def ball(grid):
    """A ball's occupancy, for any box of the finest level."""
    axes = [torch.arange(n) - (n - 1) / 2 for n in grid.shape]
    z, y, x = torch.meshgrid(*axes, indexing="ij")
    cells = ((z**2 + y**2 + x**2) < (min(grid.shape) / 2 - 1) ** 2).float()[..., None]
    return lambda box, level: grid.level_box(level).crop(cells, box)


@pytest.mark.parametrize("most", [100, 8, 5])
def test_no_more_than_a_row_of_blocks_is_decoded_where_that_is_all_there_is_room_for(monkeypatch, most):
    grid = Grid((17, 16, 15), (4, 4, 4), 1)
    pyramid, cells, asked = random_pyramid(grid, 1, keep=0), ball(grid), []

    def read(box, level):
        asked.append(box)
        return cells(box, level)

    def found():
        vertices, faces = surfaces.coarse_surface(pyramid, BOUNDS, 0, most, read)
        return vertices[np.lexsort(vertices.T)], len(faces)

    vertices, n_faces = found()
    assert len(asked) == 1
    asked.clear()
    monkeypatch.setattr(surfaces, "SLAB_CELLS", 1)
    again, as_many = found()
    np.testing.assert_allclose(again, vertices)
    assert as_many == n_faces > 0
    factor = -(-17 // most)
    layers, rows = range(0, 17, -(-4 // factor) * factor), range(0, 16, math.lcm(4, factor))
    assert [box.start for box in asked] == [(z, y, 0) for z in layers for y in rows]
    assert asked[-1].stop == grid.shape
