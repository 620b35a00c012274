"""Surfaces of scalar fields: marching cubes slab by slab, mesh files, and the distance between two surfaces."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from utils import UserError, atomic_write

ENDINGS = (".ply", ".obj", ".stl", ".glb")

# The least distance of a value from the threshold, so that no vertex of the
# surface falls on a sample of the grid; and the most, so that none is rounded onto one.
_NUDGE = 1e-4
_CLIP = 1e3
# Faces of a mesh that are measured at once.
_FACES = 2**18

Read = Callable[[tuple[int, int, int], tuple[int, int, int]], np.ndarray]


def surface(
    read: Read,
    shape: tuple[int, int, int],
    bounds: tuple[tuple[float, float, float], tuple[float, float, float]],
    threshold: float = 0.5,
    slab: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The closed surface around where a scalar field lies above `threshold`, by marching cubes.

    `read(start, stop)` gives the field of the cells start <= (z, y, x) < stop, about 0 outside and 1 inside; each
    layer of z is read once, `slab` layers at a time (by default about 2^23 cells). `shape` is (z, y, x), `bounds`
    (lo, hi) as xyz; values belong to the centres of the cells. One layer of zeros around the grid closes what
    touches its border. `progress` is called with the number of layers done. Values closer than 1e-4 to the threshold
    are moved that far away, and values further than 1000 are cut.

    Returns vertices float64 [v, 3] as xyz and faces int64 [f, 3] with outward normals; both empty when nothing lies
    above the threshold. Raises UserError when the field is not finite, ValueError when the threshold is not positive.
    """
    if threshold <= 0:
        raise ValueError(f"threshold {threshold} is not above 0, the value outside of the grid")
    slab = max(1, slab or (1 << 23) // (shape[1] * shape[2]))
    all_vertices, all_faces, count = [], [], 0
    seam_keys, seam_ids = np.zeros(0, np.int64), np.zeros(0, np.int64)
    row = shape[2] + 2
    lo, hi = np.asarray(bounds, np.float64)

    for first, layers in _padded_slabs(read, shape, threshold, slab, progress):
        vertices, faces = _march(layers, threshold)
        # A vertex on the seam lies within an edge of its layer: the edge's lower end and axis name it.
        low = np.floor(vertices).astype(np.int64)
        along_x = vertices[:, 2] > low[:, 2]
        key = 2 * (low[:, 1] * row + low[:, 2]) + along_x
        bottom = np.flatnonzero(vertices[:, 0] == 0)
        # Vertices of the layer shared with the slab before are already there.
        found = np.searchsorted(seam_keys, key[bottom])
        known = np.zeros(len(vertices), bool)
        known[bottom] = True
        new_ids = count + np.cumsum(~known) - 1
        new_ids[bottom] = seam_ids[found]
        count += len(vertices) - len(bottom)
        top = np.flatnonzero(vertices[:, 0] == len(layers) - 1)
        top = top[np.argsort(key[top])]
        seam_keys, seam_ids = key[top], new_ids[top]
        # Sample i of the padded grid is the centre of cell i - 1.
        places = vertices[~known][:, ::-1] + np.array([0, 0, first]) - 0.5
        all_vertices.append(lo + places * ((hi - lo) / np.array(shape[::-1])))
        # Turning (z, y, x) into (x, y, z) mirrors the surface; the order of the corners makes up for it.
        all_faces.append(new_ids[faces[:, ::-1]])

    return np.concatenate(all_vertices), np.concatenate(all_faces)


def _padded_slabs(read: Read, shape, threshold, slab, progress) -> Iterator[tuple[int, np.ndarray]]:
    """(first layer, layers [z, y, x]) of the padded grid; each slab starts with the last layer of the one before."""
    nz, ny, nx = shape
    last = np.zeros((1, ny + 2, nx + 2), np.float64)
    for z in range(0, nz, slab):
        stop = min(z + slab, nz)
        # The closing layer of zeros goes with the last slab.
        layers = np.zeros((1 + stop - z + (stop == nz), ny + 2, nx + 2), np.float64)
        layers[0] = last[0]
        values = np.asarray(read((z, 0, 0), (stop, ny, nx)))
        if not np.isfinite(values).all():
            raise UserError("the field has values that are not finite: the model did not train, train it again")
        inner = layers[1 : 1 + stop - z, 1:-1, 1:-1]
        np.clip(values, threshold - _CLIP, threshold + _CLIP, out=inner, casting="unsafe")
        near = np.abs(inner - threshold) < _NUDGE
        inner[near] = threshold + np.where(inner[near] > threshold, _NUDGE, -_NUDGE)
        last = layers[stop - z : 1 + stop - z].copy()
        yield z, layers
        if progress:
            progress(stop - z)


def _march(layers: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Marching cubes on the part of the slab that the surface runs through: vertices zyx in samples, faces int64."""
    inside = layers > threshold
    box = []
    for axis in (1, 2):
        used = np.flatnonzero(inside.any(axis=(0, 3 - axis)))
        if not len(used):
            return np.zeros((0, 3)), np.zeros((0, 3), np.int64)
        box.append(slice(used[0] - 1, used[-1] + 2))
    import mcubes

    vertices, faces = mcubes.marching_cubes(np.ascontiguousarray(layers[:, box[0], box[1]]), threshold)
    return vertices + np.array([0, box[0].start, box[1].start]), faces.astype(np.int64)


def write_mesh(path: str | os.PathLike, vertices: np.ndarray, faces: np.ndarray) -> None:
    """Write vertices [v, 3] and faces [f, 3] as binary PLY, OBJ, binary STL or GLB, by the ending of `path`.

    The file appears whole or not at all. Raises UserError for another ending.
    """
    path = Path(path)
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise UserError(f"{path}: cannot write {path.suffix or 'a name without ending'}: use {', '.join(ENDINGS)}")
    import trimesh

    mesh = trimesh.Trimesh(vertices, faces, process=False)
    options = {".obj": {"digits": 9}, ".ply": {"vertex_normal": False}}.get(ending, {})
    data = mesh.export(file_type=ending[1:], **options)
    with atomic_write(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


def surface_distance(a, b, samples: int = 100_000, seed: int = 0) -> tuple[float, float]:
    """(chamfer, normal consistency) of two surfaces, each a pair (vertices, faces) or a trimesh.Trimesh.

    Chamfer is the mean of both directions' mean distance from a sample to the nearest sample of the other surface,
    divided by the diagonal of the bounding box of `b`. Normal consistency is the mean absolute dot product of the
    face normals of such pairs, over both directions. `samples` points are spread over each surface evenly by area;
    equal seeds give equal results. Two samplings of one and the same surface are not at distance 0: about half the
    spacing of the samples remains. Raises UserError for a surface without area.
    """
    generator = np.random.default_rng(seed)
    (points_a, normals_a), (points_b, normals_b) = (_sample(mesh, samples, generator) for mesh in (a, b))
    vertices, faces = _arrays(b)
    used = np.zeros(len(vertices), bool)
    used[faces] = True
    diagonal = np.linalg.norm(np.ptp(vertices[used], axis=0))
    distances, cosines = [], []
    for points, normals, others, other_normals in (
        (points_a, normals_a, points_b, normals_b),
        (points_b, normals_b, points_a, normals_a),
    ):
        distance, nearest = cKDTree(others).query(points)
        distances.append(distance.mean())
        cosines.append(np.abs(np.einsum("ij,ij->i", normals, other_normals[nearest])).mean())
    return float(np.mean(distances) / diagonal), float(np.mean(cosines))


def _arrays(mesh) -> tuple[np.ndarray, np.ndarray]:
    vertices, faces = mesh if isinstance(mesh, tuple) else (mesh.vertices, mesh.faces)
    return np.asarray(vertices, np.float64), np.asarray(faces)


def _sample(mesh, samples: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Points [samples, 3] spread evenly by area and the unit normals [samples, 3] of their faces."""
    vertices, faces = _arrays(mesh)
    parts = np.split(faces, range(_FACES, len(faces), _FACES))
    area = np.concatenate([np.linalg.norm(np.cross(*_edges(vertices, part)), axis=1) for part in parts])
    if not area.sum() > 0:
        raise UserError("a surface without area has no distance: the shape is empty")
    # Evenly spaced draws with one random offset each visit every part of the surface in proportion.
    draw = (np.arange(samples) + generator.random(samples)) / samples
    sums = np.cumsum(area)
    face = np.minimum(np.searchsorted(sums, draw * sums[-1], side="right"), np.flatnonzero(area)[-1])
    # A fold of the unit square onto the triangle keeps the density even.
    s, t = generator.random((2, samples, 1))
    s, t = np.where(s + t > 1, 1 - s, s), np.where(s + t > 1, 1 - t, t)
    along, across = _edges(vertices, faces[face])
    points = vertices[faces[face, 0]] + s * along + t * across
    return points, np.cross(along, across) / area[face, None]


def _edges(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """From the first corner of each face to the others, [f, 3] each."""
    first, *others = (vertices[faces[:, i]] for i in range(3))
    return tuple(other - first for other in others)
