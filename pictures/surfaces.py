"""The surface of a fitted shape: marching cubes over what its pyramid decodes, in the coordinates of the mesh."""

import math
from collections.abc import Callable

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from datasets.grid import Box
from datasets.surface import surface
from models.frame import Frame
from models.pyramid import Pyramid

Bounds = tuple[tuple[float, float, float], tuple[float, float, float]]
# Cells decoded at once for a coarse surface, where a row of blocks has no more.
SLAB_CELLS = 2**23


def level_surface(
    pyramid: Pyramid,
    bounds: Bounds,
    level: int = 0,
    region: Box | None = None,
    threshold: float = 0.5,
    progress: Callable[[int], object] | None = None,
    size: tuple[int, ...] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The closed surface of a region of a level, decoded slab by slab.

    Args:
        bounds: (lo, hi) xyz of the outer faces of the finest level's grid.
        region: cells of the level, (z, y, x); all of them if None.
        threshold: occupancy at the surface, in (0, 1).
        progress: called with the number of layers done.
        size: (z, y, x), as so many cells; as many as the region has if None.

    Returns:
        vertices float64 [v, 3] xyz and faces int64 [f, 3] with outward normals; both empty for an empty shape.
    """
    region = region or pyramid.grid.level_box(level)
    frame = Frame(pyramid.grid, region, level, size or region.shape)

    def read(start: tuple[int, ...], stop: tuple[int, ...]) -> np.ndarray:
        return pyramid.decode(region, level, frame.size, Box(start, stop))[..., 0].cpu().numpy()

    faces = region_bounds(pyramid, bounds, *frame.extent)
    return surface(read, frame.size, faces, threshold, progress=progress)


def coarse_surface(
    pyramid: Pyramid, bounds: Bounds, level: int, most: int, read_cells: Callable[[Box, int], Tensor] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The surface of a level averaged down to at most `most` cells along an axis, for a quick look.

    The cells are what the pyramid decodes, or what `read_cells` gives for a box of a level, as a source's `read` does.
    """
    whole = pyramid.grid.level_box(level)
    factor = -(-max(whole.stop) // most)
    shape = tuple(-(-n // factor) for n in whole.stop)

    def read(start: tuple[int, ...], stop: tuple[int, ...]) -> np.ndarray:
        box = pyramid.grid.clip(Box(start, stop).map(lambda a, b: (a * factor, b * factor)), level)
        # Whole rows of blocks and of averages.
        (low, first, left), (high, end, right), unit = box.start, box.stop, math.lcm(pyramid.grid.patch[1], factor)
        rows = unit * max(1, SLAB_CELLS // (box.shape[0] * box.shape[2] * unit))
        parts = (Box((low, y, left), (high, min(y + rows, end), right)) for y in range(first, end, rows))
        return np.concatenate([averages(part) for part in parts], 1)

    def averages(box: Box) -> np.ndarray:
        values = (read_cells or pyramid.decode)(box, level).movedim(-1, 0)
        window = [min(factor, n) for n in box.shape]
        return F.avg_pool3d(values, window, factor, ceil_mode=True)[0].cpu().numpy()

    # The last averages may reach over the edge, as the cells of a coarser level do.
    padded = Box((0, 0, 0), tuple(n * factor for n in shape))
    # Of thinner slabs than blocks are, every network would be evaluated several times.
    layers = max(pyramid.grid.patch[0], SLAB_CELLS // (whole.stop[1] * whole.stop[2]))
    return surface(read, shape, region_bounds(pyramid, bounds, level, padded), slab=-(-layers // factor))


def region_bounds(pyramid: Pyramid, bounds: Bounds, level: int, region: Box) -> Bounds:
    """(lo, hi) xyz of a region of a level. A cell of level j is 2^j finest cells wide, also where it hangs over."""
    lo, hi = (np.array(corner) for corner in bounds)
    cell = (hi - lo) / np.array(pyramid.grid.shape[::-1]) * 2**level
    return tuple(tuple((lo + cell * np.array(corner[::-1])).tolist()) for corner in (region.start, region.stop))
