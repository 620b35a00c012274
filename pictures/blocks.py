"""The block decomposition of a shape: where the active blocks of each scale lie in space, and how that looks."""

from collections.abc import Iterable

import numpy as np

from models.pyramid import Pyramid
from pictures.levels import legend, level_colour
from pictures.render import render
from pictures.surfaces import Bounds, coarse_surface

CLAY = (214, 206, 196)
# Cells along an axis of the surface in a picture.
SURFACE_CELLS = 256
# Pairs of corners of a box, numbered by their bits zyx, that have an edge between them.
_EDGES = [(a, a | bit) for a in range(8) for bit in (1, 2, 4) if not a & bit]


def block_boxes(pyramid: Pyramid, level: int) -> np.ndarray:
    """The active blocks of a level as boxes of finest cells, cut at the grid's edge: int64 [n, 2, d]."""
    networks, grid = pyramid.level(level), pyramid.grid
    blocks = np.zeros(0, np.int64) if networks is None else networks.blocks.cpu().numpy()
    index = np.stack(np.unravel_index(blocks, grid.block_counts(level)), 1)
    size = np.array(grid.patch) << level
    return np.stack([index * size, np.minimum((index + 1) * size, grid.shape)], 1)


def block_edges(pyramid: Pyramid, bounds: Bounds, level: int) -> np.ndarray:
    """The edges of a level's active blocks in the coordinates of the mesh, each once: float64 [n, 2, 3] xyz."""
    boxes = block_boxes(pyramid, level)
    corners = np.stack([boxes[:, [c >> 2 & 1, c >> 1 & 1, c & 1], [0, 1, 2]] for c in range(8)], 1)
    edges = np.unique(np.concatenate([corners[:, pair] for pair in _EDGES]), axis=0)
    lo, hi = (np.array(corner) for corner in bounds)
    return lo + edges[..., ::-1] * (hi - lo) / np.array(pyramid.grid.shape[::-1])


def shape_picture(
    pyramid: Pyramid, bounds: Bounds, levels: Iterable[int] | None = None, side: int = 384, columns: int = 4
) -> np.ndarray:
    """The surface with the active blocks of each scale around it, coarse to fine, a panel and a colour each.

    Args:
        bounds: (lo, hi) xyz of the outer faces of the grid.
        levels: those to show; all of them if None.
        side: of a panel, in pixels.

    Returns:
        uint8 RGB [h, w, 3], with a legend below.
    """
    levels = sorted(range(pyramid.grid.n_levels) if levels is None else levels, reverse=True)
    surface = (*coarse_surface(pyramid, bounds, 0, SURFACE_CELLS), CLAY)
    # The coarsest blocks say how much room all panels need.
    room = np.concatenate([block_edges(pyramid, bounds, level) for level in levels])
    panels = []
    for level in levels:
        lines = (block_edges(pyramid, bounds, level), level_colour(level))
        panels.append(render([surface], [lines], side, room=room.reshape(-1, 3)))
    columns = min(columns, len(panels))
    panels += [np.full_like(panels[0], 255)] * (-len(panels) % columns)
    rows = [np.concatenate(panels[first : first + columns], 1) for first in range(0, len(panels), columns)]
    return np.concatenate([*rows, legend(pyramid, levels, rows[0].shape[1])])
