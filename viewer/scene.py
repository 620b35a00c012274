"""What the viewer draws of a shape: the surface of a level and the boxes of its blocks, as bytes for a GPU."""

import struct

import numpy as np

from models.pyramid import Pyramid
from pictures.surfaces import Bounds, coarse_surface

# Cells along an axis of a surface that is shown: about 400,000 triangles of a bunny, which any GPU turns with ease.
SURFACE_CELLS = 256


def surface_bytes(pyramid: Pyramid, bounds: Bounds, level: int) -> bytes:
    """A level's surface, averaged down to at most SURFACE_CELLS along an axis.

    Little-endian: uint32 numbers of vertices v and faces f, float32 [v, 3] xyz, uint32 [f, 3].
    """
    vertices, faces = coarse_surface(pyramid, bounds, level, SURFACE_CELLS)
    head = struct.pack("<II", len(vertices), len(faces))
    return head + vertices.astype("<f4").tobytes() + faces.astype("<u4").tobytes()


def boxes_bytes(pyramid: Pyramid, bounds: Bounds, level: int) -> bytes:
    """The blocks of a level that have a network, cut at the grid's faces.

    Little-endian float32 [n, 2, 3]: lo and hi, xyz.
    """
    networks = pyramid.level(level)
    ids = np.zeros(0, np.int64) if networks is None else networks.blocks.cpu().numpy()
    grid = pyramid.grid
    index = np.stack(np.unravel_index(ids, grid.block_counts(level)), -1)
    corners = np.stack([index, index + 1], 1) * (np.array(grid.patch) * 2**level)
    lo, hi = (np.array(corner) for corner in bounds)
    xyz = lo + (np.minimum(corners, grid.shape) / grid.shape)[..., ::-1] * (hi - lo)
    return xyz.astype("<f4").tobytes()
