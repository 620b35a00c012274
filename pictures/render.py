"""Surfaces and lines in space as a still picture: everything becomes points, and the nearest one of a pixel is seen."""

import numpy as np

# Pixels of the finished picture are means of this many squared.
OVERSAMPLING = 2
BACKGROUND = 255
# From the right, above and in front, with y upwards, as meshes mostly are.
EYE = (0.55, 0.4, 1.0)
LIGHT = (0.35, 0.8, 0.6)

Surface = tuple[np.ndarray, np.ndarray, tuple[int, int, int]]
Lines = tuple[np.ndarray, tuple[int, int, int]]


def render(
    surfaces: list[Surface], lines: list[Lines] = (), side: int = 640, room: np.ndarray | None = None
) -> np.ndarray:
    """Draw surfaces and lines as seen from far away, uint8 RGB [side, side, 3]; everything fits the picture.

    Args:
        surfaces: (vertices [v, 3] xyz, faces [f, 3], colour), lit softly.
        lines: (segments [n, 2, 3] xyz, colour), a pixel wide and unlit; a segment is hidden by what is before it.
        room: points [n, 3] xyz that the picture has to take in as well; the same room gives the same view.
    """
    camera = _camera()
    seen = [(vertices @ camera.T, faces, colour) for vertices, faces, colour in surfaces]
    drawn = [(segments @ camera.T, colour) for segments, colour in lines]
    corners = [places.reshape(-1, 3) for places, *_ in (*seen, *drawn)] + ([] if room is None else [room @ camera.T])
    corners = np.concatenate([corner for corner in corners if len(corner)] or [np.zeros((1, 3))])
    low, high = corners.min(0), corners.max(0)
    size = side * OVERSAMPLING
    scale = 0.94 * size / max(*(high - low)[:2], 1e-30)
    middle = (low + high) / 2
    canvas = np.full((size * size, 3), BACKGROUND, np.uint8)
    points = []
    for vertices, faces, colour in seen:
        points.append(_surface_points((vertices - middle) * scale, faces, np.array(colour), camera @ np.array(LIGHT)))
    for segments, colour in drawn:
        points.append(_line_points((segments - middle) * scale, np.array(colour)))
    if points:
        place, shade = (np.concatenate(parts) for parts in zip(*points, strict=True))
        order = np.argsort(place[:, 2], kind="stable")
        column = (place[order, 0] + size / 2).astype(np.int64).clip(0, size - 1)
        row = (size / 2 - place[order, 1]).astype(np.int64).clip(0, size - 1)
        # Of equal places the last one stays, and that is the nearest.
        canvas[row * size + column] = shade[order]
    fine = canvas.reshape(side, OVERSAMPLING, side, OVERSAMPLING, 3).astype(np.float32)
    return fine.mean((1, 3)).round().astype(np.uint8)


def _camera() -> np.ndarray:
    """Rows: right, up, and towards the viewer."""
    towards = np.array(EYE) / np.linalg.norm(EYE)
    right = np.cross((0, 1, 0), towards)
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(towards, right), towards])


def _surface_points(vertices: np.ndarray, faces: np.ndarray, colour: np.ndarray, light: np.ndarray):
    """Points no further apart than a fine pixel, [n, 3] right, up, near, and their colours uint8 [n, 3]."""
    if not len(faces):
        return np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint8)
    corners = vertices[faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    smooth = np.stack([_summed(faces, normals[:, axis], len(vertices)) for axis in range(3)], 1)
    smooth /= np.maximum(np.linalg.norm(smooth, axis=1, keepdims=True), 1e-30)
    light = light / np.linalg.norm(light)
    # A light from the side, and some from the viewer, so that nothing is black.
    bright = (0.2 + 0.6 * np.clip(smooth @ light, 0, 1) + 0.25 * np.clip(smooth[:, 2], 0, 1))[faces]
    facing = normals[:, 2] > 0
    corners, bright = corners[facing].astype(np.float32), bright[facing].astype(np.float32)
    longest = np.sqrt(((corners - np.roll(corners, 1, axis=1))[..., :2] ** 2).sum(2).max(1)) if len(corners) else []
    cuts = np.ceil(np.maximum(longest, 1)).astype(int) + 1
    places, shades = [], []
    for n in np.unique(cuts):
        # Barycentric coordinates of a triangle cut n times along each side.
        i, j = (index.ravel() for index in np.meshgrid(np.arange(n + 1), np.arange(n + 1)))
        weights = np.stack([i, j, n - i - j], 1)[i + j <= n].astype(np.float32) / n
        places.append(np.einsum("wk,fkx->fwx", weights, corners[cuts == n]).reshape(-1, 3))
        shades.append((bright[cuts == n] @ weights.T).ravel())
    place = np.concatenate(places) if places else np.zeros((0, 3), np.float32)
    shade = np.concatenate(shades) if shades else np.zeros(0, np.float32)
    return place, np.clip(shade[:, None] * colour, 0, 255).astype(np.uint8)


def _summed(faces: np.ndarray, values: np.ndarray, n_vertices: int) -> np.ndarray:
    """The sum, at each vertex, of a value of its faces."""
    return np.bincount(faces.ravel(), np.repeat(values, 3), n_vertices)


def _line_points(segments: np.ndarray, colour: np.ndarray):
    """Points no further apart than a fine pixel, as wide as a pixel, a little nearer than they are."""
    length = np.linalg.norm((segments[:, 1] - segments[:, 0])[:, :2], axis=1)
    steps = np.ceil(np.maximum(length, 1)).astype(int) + 1
    which = np.repeat(np.arange(len(segments)), steps)
    along = (np.arange(len(which)) - np.repeat(np.cumsum(steps) - steps, steps)) / (np.maximum(steps - 1, 1))[which]
    start, stop = segments[which, 0], segments[which, 1]
    points = start + (stop - start) * along[:, None] + (0, 0, 1)
    shifts = [np.array((x, y, 0)) for x in range(OVERSAMPLING) for y in range(OVERSAMPLING)]
    wide = np.concatenate([points + shift for shift in shifts])
    return wide.astype(np.float32), np.broadcast_to(colour.astype(np.uint8), wide.shape)
