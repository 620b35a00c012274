"""Putting regions together on the GPU against the specification, to the bit; elsewhere under Triton's interpreter."""

import numpy as np
import pytest
import torch
from conftest import GRIDS, grid_id, level_cells, random_box
from test_fused import DEVICE, GPU, INTERPRETED, here

from models.engine.contract import Window
from models.engine.reference import ReferenceEngine

if GPU or INTERPRETED:
    pytest.importorskip("triton")
    from models.engine.compose import compose


@here
@pytest.mark.parametrize("grid", GRIDS, ids=grid_id)
@pytest.mark.parametrize("replace", [False, True], ids=["adds", "replaces"])
def test_a_composed_region_is_that_of_the_specification(grid, replace):
    generator = np.random.default_rng(0)
    for level in range(grid.n_levels):
        region = random_box(generator, grid.level_box(level).stop)
        window = Window(grid, level, region)
        hit = torch.from_numpy(generator.permutation(window.blocks.size)[: window.blocks.size // 2 + level % 2]).sort()[
            0
        ]
        pieces = torch.randn(len(hit), 2, grid.block_cells, generator=torch.Generator().manual_seed(level))
        coarse = level_cells(window.parent.shape, 2) if level < grid.n_levels - 1 else None
        want = ReferenceEngine().compose(window, coarse, pieces, hit, replace)
        moved = coarse if coarse is None else coarse.to(DEVICE)
        found = compose(window, moved, pieces.to(DEVICE), hit.to(DEVICE), replace)
        assert torch.equal(found.cpu(), want)
