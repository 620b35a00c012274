"""Meshes in, occupancy grids out: reading with checks, and voxelisation by lines through the cell centres.

Voxelisation rasterises the triangles, seen along a direction, onto the lattice of lines through the centres of the
cells. Each triangle that covers a line crosses it once, at a depth, entering or leaving by the side it shows. A
running sum of the entries along the line is the winding number of every cell on it.

The fill rule is watertight by construction: where an edge meets a row of lines is computed from the two end points in
a fixed order, so the two triangles at an edge agree to the last bit, and rows and lines are half-open intervals. No
line is hit twice or missed at an edge or a vertex, and no ray has to be restarted, so float64 is enough and nothing
has to be perturbed.

A line through a hole, or through a flipped face, betrays itself: its entries and exits do not sum to zero. What such
a line says is settled in `_votes`. Directions are whole-number steps of the lattice, so that every line goes through
cell centres exactly: x, y, z, then the diagonals (1, 1, 0), (1, -1, 0), (2, 1, 0) and so on, which stay in one layer.
"""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import trimesh

from utils import UserError

LARGEST_N = 8192
LARGEST_T = 13

# Cells of one slab, which bounds the memory whatever the size of the grid.
_SLAB_CELLS = 1 << 23

# Directions asked at most where votes balance; each costs about as much as a vote.
_FURTHER = 4


def read_mesh(path: str | os.PathLike) -> trimesh.Trimesh:
    """Read a triangle mesh from any format that trimesh reads; the parts of a scene become one mesh.

    Equal vertices are merged, and repeated or degenerate faces dropped. Vertices [v, 3] are xyz in the file's units.
    Raises UserError that names the file when it is missing, unreadable, cut, without faces or extent, or not finite.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such file: mend the path of the mesh")
    if not path.is_file():
        raise UserError(f"{path}: not a file: name a mesh file (OBJ, PLY, STL, OFF, GLB)")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: the file is empty: fetch the mesh again")
    if path.suffix[1:].lower() not in trimesh.available_formats():
        raise UserError(f"{path}: unknown ending {path.suffix!r}: convert the mesh to OBJ, PLY, STL, OFF or GLB")
    vertices, faces = _load_faces(path)

    if len(faces) == 0:
        raise UserError(f"{path}: has no faces (a point cloud, or a cut file): give a triangle mesh")
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise UserError(f"{path}: faces name vertices that are not there: the file is cut or broken")
    corners = np.asarray(vertices, np.float64)[faces]
    if not (np.abs(corners) < 1e100).all():
        raise UserError(f"{path}: has vertices that are NaN, infinite or beyond 1e100: repair the mesh")
    extent, size = np.ptp(corners, axis=(0, 1)), np.abs(corners).max()
    if not (extent > 1e-12 * size).all():
        raise UserError(f"{path}: has no extent along x, y or z: it is flat and encloses nothing")
    mesh = trimesh.Trimesh(*_weld(corners), process=False)
    if len(mesh.faces) == 0:
        raise UserError(f"{path}: every face is degenerate: give a triangle mesh")
    return mesh


def _weld(corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and faces from the corners [f, 3, 3] of triangles: equal vertices are one, no face is there twice.

    Slivers stay, because without them their neighbours would not meet. Of faces that lie back to back one is dropped
    only when most of the mesh is so, drawn from both sides: otherwise they are a fin, closed as it is.
    """
    # Adding zero turns -0.0, which compares equal but sorts apart as bytes, into 0.0.
    vertices, faces = np.unique(corners.reshape(-1, 3) + 0.0, axis=0, return_inverse=True)
    faces = faces.reshape(-1, 3)
    a, b, c = faces.T
    faces = faces[(a != b) & (b != c) & (c != a)]
    turn = (np.argmin(faces, axis=1, keepdims=True) + np.arange(3)) % 3 if len(faces) else faces
    faces = faces[_first_of_each(np.take_along_axis(faces, turn, axis=1))]
    one_sided = _first_of_each(np.sort(faces, axis=1))
    return vertices, faces[one_sided] if len(one_sided) < 0.75 * len(faces) else faces


def _first_of_each(rows: np.ndarray) -> np.ndarray:
    """Indices, in order, of the rows that no earlier row equals."""
    return np.sort(np.unique(rows, axis=0, return_index=True)[1])


def _load_faces(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and faces of every triangle mesh of the file, untouched, in the frame of its scene."""
    log = logging.getLogger("trimesh")
    was_disabled, log.disabled = log.disabled, True
    try:
        scene = trimesh.load_scene(path, process=False, skip_materials=True)
        parts = [part for part in scene.dump() if isinstance(part, trimesh.Trimesh)]
        whole = path.suffix.lower() != ".off" or _is_whole_off(path)
    except (MemoryError, PermissionError):
        raise
    except ImportError:
        # trimesh tries its readers of text on a binary file that is cut, and wants a package for that.
        raise UserError(f"{path}: broken, cut, or not a {path.suffix} mesh: fetch it again") from None
    except Exception as error:
        # Each of trimesh's readers fails in its own way on a broken file.
        raise UserError(
            f"{path}: broken, cut, or not a {path.suffix} mesh ({type(error).__name__}): fetch it again"
        ) from None
    finally:
        log.disabled = was_disabled
    if not whole:
        raise UserError(f"{path}: has fewer lines than its header says: the file is cut, fetch it again")
    if not parts:
        return np.zeros((0, 3)), np.zeros((0, 3), np.int64)
    first = np.cumsum([0] + [len(part.vertices) for part in parts])
    faces = [np.asarray(part.faces, np.int64) + n for part, n in zip(parts, first, strict=False)]
    return np.concatenate([part.vertices for part in parts]), np.concatenate(faces)


def _is_whole_off(path: Path) -> bool:
    """Whether an OFF file has a line for each vertex and face of its header, which trimesh does not ask."""
    lines = [words for line in path.read_text(errors="replace").splitlines() if (words := line.split("#")[0].split())]
    # The counts of vertices, faces and edges stand behind the word OFF or on the line after it.
    first = 1 if len(lines[0]) >= 3 else 2
    vertices, faces = (int(word) for word in lines[first - 1][-3:-1])
    return len(lines) - first >= vertices + faces


class Voxeliser:
    """Turns a mesh into an n x n x n occupancy grid, slab by slab.

    The grid is a cube of isotropic cells with the mesh's bounding box in its middle, one cell of margin on both sides
    of the longest axis. `samples` (the cube of an odd number m) sample points lie on a regular m x m x m lattice in
    each cell; `votes` is the odd number of directions. A cell is occupied when more than half of its samples * votes
    votes say inside; where lines abstain and leave a balance, up to 4 further directions are
    asked one by one.

    Inside is where the winding number is not zero: overlapping parts are united, a shell within a shell is a cavity
    when its faces look the other way, and solid when they look the same way.

    `bounds` is (lo, hi) as xyz, `shape` is (n, n, n). After `slabs` has run, `open_lines` of `lines` are known to
    have met a hole or a flipped face.
    """

    def __init__(self, mesh: trimesh.Trimesh, n: int, samples: int = 1, votes: int = 1):
        self.side = _odd_cube_root(samples)
        if not 1 <= n <= LARGEST_N or votes % 2 == 0 or not 1 <= votes <= LARGEST_T:
            raise ValueError(f"n {n}, samples {samples}, votes {votes}")
        self.n, self.samples, self.votes = n, samples, votes
        self.shape = (n, n, n)
        lo, hi = mesh.bounds
        cell = (hi - lo).max() / max(n - 2, 1)
        corner = (lo + hi) / 2 - cell * n / 2
        self.bounds = (tuple(corner.tolist()), tuple((corner + cell * n).tolist()))
        # In units of the fine lattice of samples, with sample i at coordinate i.
        self._vertices = (np.asarray(mesh.vertices) - corner) * (self.side / cell) - 0.5
        self._faces = np.asarray(mesh.faces)
        if _signed_volume(self._vertices, self._faces) < 0:
            self._faces = self._faces[:, ::-1]
        self.lines = self.open_lines = 0

    def slabs(self) -> Iterator[np.ndarray]:
        """Bool slabs [some z, n, n] in order of z."""
        n, side = self.n, self.side
        # The sum over samples and votes, each 0, 1 (cannot say) or 2, fits; the running sum may wrap on its way.
        dtype = np.min_scalar_type(-2 * self.samples * self.votes)
        thickness = max(1, _SLAB_CELLS // (n * n))
        shears, asked = _shears(), max(self.votes - 1, 1)
        index, change = self._vertical() if self.votes > 1 else (np.zeros(0, np.int64), np.zeros(0, np.int8))
        below = np.zeros((n, n), dtype)

        for z0 in range(0, n, thickness):
            z1 = min(z0 + thickness, n)
            total = np.zeros((z1 - z0, n, n), dtype)
            if self.votes > 1:
                part = slice(*np.searchsorted(index, (z0 * n * n, z1 * n * n)))
                np.add.at(total.reshape(-1), index[part] - z0 * n * n, change[part].astype(dtype))
                total[0] += below
                np.add.accumulate(total, axis=0, out=total)
                below = total[-1].copy()
            faces = _FaceRows(self._vertices, self._faces, 2, z0 * side, z1 * side)
            for axis, slope in shears[:asked]:
                self._add_layer_lines(total, faces, axis, slope)
            # Only abstentions can balance an odd number of votes; then further directions decide, one at a time.
            total -= self.samples * self.votes
            for axis, slope in shears[asked : asked + _FURTHER]:
                if (total != 0).all():
                    break
                further = np.zeros_like(total)
                self._add_layer_lines(further, faces, axis, slope)
                total += np.where(total == 0, further - self.samples, 0).astype(dtype)
            yield total > 0

    def _add_layer_lines(self, total: np.ndarray, faces: "_FaceRows", axis: int, slope: int) -> None:
        """Add the votes of the lines that step by 1 along `axis` (0 x, 1 y) and by `slope` along the other."""
        n, side = self.n, self.side
        # Line c holds the cells whose other coordinate is c + slope * step; the mirrored frame of y flips the signs.
        first = -slope * (n - 1) if slope > 0 else 0
        count = n + abs(slope) * (n - 1)
        sheared = np.zeros((len(total), count, n), total.dtype)
        flat = sheared.reshape(-1)
        for rows, columns, steps, change in self._changes(faces, axis, 1 - axis, slope, (1, -1)[axis]):
            for r in range(side):
                line = (columns + slope * r) // side - first
                step = (steps - r + side - 1) // side
                keep = (step < n) & (line >= 0) & (line < count)
                where = (((rows - faces.start) // side) * count + line) * n + step
                np.add.at(flat, where[keep], change[keep].astype(flat.dtype))
        np.add.accumulate(sheared, axis=2, out=sheared)
        # Cell (step, other) lies on line other - slope * step, so a strided view undoes the shear.
        by_z, by_line, by_step = sheared.strides
        lines = np.lib.stride_tricks.as_strided(
            sheared[:, -first:],
            (len(total), n, n),
            (by_z, by_line, by_step - slope * by_line),
            writeable=False,
        )
        total += lines if axis == 0 else lines.transpose(0, 2, 1)

    def _vertical(self) -> tuple[np.ndarray, np.ndarray]:
        """Where the votes of the lines along z change, as flat (z, y, x) indices in order, and by how much."""
        n, side = self.n, self.side
        found = [(np.zeros(0, np.int64), np.zeros(0, np.int8))]
        thickness = max(1, _SLAB_CELLS // (n * n)) * side
        for y0 in range(0, n * side, thickness):
            faces = _FaceRows(self._vertices, self._faces, 1, y0, min(y0 + thickness, n * side))
            for rows, columns, steps, change in self._changes(faces, 2, 0, 0, 1):
                for r in range(side):
                    step = (steps - r + side - 1) // side
                    index = (step * n + rows // side) * n + columns // side
                    keep = step < n
                    found.append((index[keep], change[keep]))
        index, change = (np.concatenate(part) for part in zip(*found, strict=True))
        order = np.argsort(index)
        return index[order], change[order]

    def _changes(self, faces: "_FaceRows", axis: int, other: int, slope: int, handedness: int):
        """Yield (row, line, step, change of vote) of the samples on the lines of one direction."""
        crossings = faces.crossings(axis, other, slope)
        if not len(crossings[0]):
            return
        rows, lines, steps, sign, count, bad = _votes(*crossings, handedness, self.n * self.side)
        self.lines += count
        self.open_lines += bad
        yield rows, lines, steps, sign


class _FaceRows:
    """The triangles that meet the rows start <= row < stop of `axis`, cut into (triangle, row) pairs.

    On each row a triangle has two edges: the long one, from its lowest to its highest vertex, and one of the others.
    """

    def __init__(self, vertices: np.ndarray, faces: np.ndarray, axis: int, start: int, stop: int):
        self.start = start
        height = vertices[:, axis][faces]
        chosen = np.flatnonzero((height.max(axis=1) > start - 1) & (height.min(axis=1) < stop))
        corners, height = vertices[faces[chosen]], height[chosen]
        # The order of height alone fixes the order of an edge's ends: level edges meet no row.
        order = np.argsort(height, axis=1, kind="stable")
        self._even = np.where((order[:, 1] - order[:, 0]) % 3 == 1, 1, -1).astype(np.int8)
        self._corners = np.take_along_axis(corners, order[:, :, None], axis=1)
        low, middle, high = np.take_along_axis(height, order, axis=1).T
        first = np.clip(np.ceil(low), start, stop).astype(np.int64)
        count = np.clip(np.ceil(high), start, stop).astype(np.int64) - first
        self._triangle = np.repeat(np.arange(len(chosen)), count)
        self._rows = first[self._triangle] + _ranges(count)
        # A row at the middle vertex belongs to the upper edge.
        upper = self._rows >= middle[self._triangle]
        self._short = np.where(upper, 1, 0), np.where(upper, 2, 1)
        self._height = np.stack([low, middle, high], axis=1)

    def crossings(self, axis: int, other: int, slope: int) -> tuple[np.ndarray, ...]:
        """Rows, lines, depths along `axis` and signs of all crossings with the lines other - slope * axis = line."""
        across = self._corners[:, :, other] - slope * self._corners[:, :, axis]
        along = self._corners[:, :, axis]
        triangle = self._triangle
        u0, w0 = self._at_row(across, along, 0, 2)
        u1, w1 = self._at_row(across, along, *self._short)
        first = np.ceil(np.minimum(u0, u1)).astype(np.int64)
        count = np.ceil(np.maximum(u0, u1)).astype(np.int64) - first
        pair = np.repeat(np.arange(len(triangle)), count)
        lines = first[pair] + _ranges(count)
        width = np.where(u1 == u0, 1.0, u1 - u0)
        depths = w0[pair] + (lines - u0[pair]) * ((w1 - w0) / width)[pair]
        signs = np.where(u1 > u0, -1, 1).astype(np.int8) * self._even[triangle]
        return self._rows[pair], lines, depths, signs[pair]

    def _at_row(self, across: np.ndarray, along: np.ndarray, a, b) -> tuple[np.ndarray, np.ndarray]:
        """Where the edges from corner a to corner b of each pair's triangle meet its row."""
        t = self._triangle
        run = (self._rows - self._height[t, a]) / (self._height[t, b] - self._height[t, a])
        return tuple(v[t, a] + run * (v[t, b] - v[t, a]) for v in (across, along))


def _votes(rows, lines, depths, signs, handedness: int, n: int) -> tuple:
    """From crossings to the places where the votes along each line change.

    `signs` is +1 where a line enters and -1 where it leaves. A sample's vote is 2 inside, 0 outside, 1 undecided. On
    a line whose crossings sum to zero, inside is where the winding number is not zero. Else, when their number is
    even, faces are flipped and the parity decides. When it is odd, a face is missing: the winding numbers counted
    from the two ends differ, and their mean, kept between 0 and 1, is the vote. It says inside or outside where only
    one of the two ends can be right, and abstains where either can.

    Returns rows, lines, the first sample of each change, the change, the number of lines and of those not closed.
    """
    # One sort of packed integers orders the crossings by row, line and first sample behind the surface.
    line0, width = lines.min(), lines.max() - lines.min() + 1
    steps = np.clip(np.ceil(depths), 0, n).astype(np.int64)
    key = (((rows * width + (lines - line0)) * (n + 1) + steps) << 1) | (signs * handedness > 0)
    key.sort()
    sign = (key & 1) * 2 - 1
    line, steps = np.divmod(key >> 1, n + 1)
    head = np.flatnonzero(np.r_[True, line[1:] != line[:-1]])
    length = np.diff(np.r_[head, len(line)])
    running = np.cumsum(sign)
    winding = running - np.repeat(running[head] - sign[head], length)
    total = np.repeat(np.add.reduceat(sign, head), length)
    parity = (_ranges(length) + 1) & 1

    def vote(winding, parity, total):
        missing = np.clip(2 * winding - total, 0, 2)
        return np.where(total == 0, 2 * (winding != 0), np.where(total & 1, missing, 2 * parity))

    after = vote(winding, parity, total)
    before = vote(winding - sign, 1 - parity, total)
    # A line that is undecided from its first sample on starts with a change of its own.
    line = np.r_[line[head], line]
    steps = np.r_[np.zeros_like(head), steps]
    change = np.r_[before[head], after - before].astype(np.int8)
    keep = (change != 0) & (steps < n)
    rows, lines = np.divmod(line[keep], width)
    return rows, lines + line0, steps[keep], change[keep], len(head), np.count_nonzero(total[head])


def _ranges(count: np.ndarray) -> np.ndarray:
    """0, 1, ..., count[0] - 1, 0, 1, ..., count[1] - 1, and so on."""
    ends = np.cumsum(count)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - count, count)


def _shears() -> list[tuple[int, int]]:
    """The directions but z, as (axis, slope): lines step by 1 along axis 0 x or 1 y and by slope along the other."""
    shears = [(0, 0), (1, 0), (0, 1), (0, -1)]
    for slope in range(2, LARGEST_T):
        shears += [(axis, sign * slope) for sign in (1, -1) for axis in (1, 0)]
    return shears[: LARGEST_T - 1]


def _odd_cube_root(samples: int) -> int:
    """The odd m with m ** 3 == samples; ValueError when there is none."""
    root = next((m for m in range(1, samples + 2, 2) if m**3 >= samples), 1)
    if root**3 != samples:
        raise ValueError(f"{samples} is not the cube of an odd number")
    return root


def _signed_volume(vertices: np.ndarray, faces: np.ndarray) -> float:
    a, b, c = ((vertices - vertices.mean(axis=0))[faces[:, i]] for i in range(3))
    return float(np.einsum("ij,ij->", a, np.cross(b, c)))
