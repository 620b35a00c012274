"""The built-in sample shape: a trefoil knot."""

import numpy as np

THICKNESS = 0.55


def knot(along: int = 600, around: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """A closed tube around the trefoil curve, with y upwards: vertices float64 [v, 3] xyz, faces int64 [f, 3].

    Args:
        along, around: vertices along the curve and around the tube, 3 each or more.
    """
    t = 2 * np.pi * np.arange(along) / along
    curve = np.stack([np.sin(t) + 2 * np.sin(2 * t), np.cos(t) - 2 * np.cos(2 * t), -np.sin(3 * t)], 1)
    first = np.stack([np.cos(t) + 4 * np.cos(2 * t), -np.sin(t) + 4 * np.sin(2 * t), -3 * np.cos(3 * t)], 1)
    second = np.stack([-np.sin(t) - 8 * np.sin(2 * t), -np.cos(t) + 8 * np.cos(2 * t), 9 * np.sin(3 * t)], 1)
    # The Frenet frame closes with the curve, whose curvature is nowhere zero.
    tangent = first / np.linalg.norm(first, axis=1, keepdims=True)
    normal = second - (second * tangent).sum(1, keepdims=True) * tangent
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    binormal = np.cross(tangent, normal)
    angle = 2 * np.pi * np.arange(around) / around
    ring = np.cos(angle)[None, :, None] * normal[:, None] + np.sin(angle)[None, :, None] * binormal[:, None]
    vertices = (curve[:, None] + THICKNESS * ring).reshape(-1, 3)
    i, j = (index.ravel() for index in np.meshgrid(np.arange(along), np.arange(around), indexing="ij"))
    a, b = i * around + j, i * around + (j + 1) % around
    c, d = ((i + 1) % along * around + index for index in (j, (j + 1) % around))
    return vertices, np.concatenate([np.stack([a, d, c], 1), np.stack([a, b, d], 1)])
