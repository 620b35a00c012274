"""Reading meshes and voxelisation: analytic shapes, holes, flipped faces, shells, broken files."""

import errno

import numpy as np
import pytest
import trimesh

from datasets.mesh import LARGEST_T, Voxeliser, read_mesh
from utils import UserError


def voxelise(mesh, n, samples=1, votes=1):
    return np.concatenate(list(Voxeliser(mesh, n, samples, votes).slabs()))


def centres(voxeliser):
    """Coordinates x, y, z of the centres of the cells, each of shape [z, y, x]."""
    lo, hi = np.array(voxeliser.bounds)
    cell = (hi - lo) / voxeliser.n
    z, y, x = (lo[axis] + (np.arange(voxeliser.n) + 0.5) * cell[axis] for axis in (2, 1, 0))
    return np.meshgrid(z, y, x, indexing="ij")[::-1]


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


def sphere_distance(x, y, z):
    return np.sqrt(x**2 + y**2 + z**2) - 1


def torus_distance(x, y, z):
    return np.hypot(np.hypot(x, y) - 1, z) - 0.4


def cube_distance(x, y, z):
    return np.maximum(np.maximum(abs(x), abs(y)), abs(z)) - 0.5


SHAPES = {
    "sphere": (lambda: trimesh.creation.icosphere(subdivisions=7), sphere_distance),
    "torus": (lambda: trimesh.creation.torus(1, 0.4, major_sections=400, minor_sections=200), torus_distance),
    "cube": (lambda: trimesh.creation.box((1, 1, 1)), cube_distance),
}


@pytest.mark.parametrize("votes", [1, 5])
@pytest.mark.parametrize("name", SHAPES)
def test_shapes_equal_their_formula(name, votes):
    make, distance = SHAPES[name]
    voxeliser = Voxeliser(make(), 128, votes=votes)
    grid = np.concatenate(list(voxeliser.slabs()))
    d = distance(*centres(voxeliser))
    assert iou(grid, d < 0) >= 0.999
    cell = (voxeliser.bounds[1][0] - voxeliser.bounds[0][0]) / 128
    assert not ((grid != (d < 0)) & (abs(d) > cell)).any()
    assert voxeliser.open_lines == 0


@pytest.mark.parametrize("samples", [27, 125])
def test_samples_take_the_majority_of_a_finer_grid(samples):
    mesh = trimesh.creation.icosphere(subdivisions=2)
    n, m = 12, round(samples ** (1 / 3))
    voxeliser = Voxeliser(mesh, n, samples, votes=5)
    fine = Voxeliser(mesh, n * m)
    # The frame with a margin of a coarse cell, in which a fine cell is a sample.
    fine._vertices = voxeliser._vertices
    fine = np.concatenate(list(fine.slabs()))
    share = fine.reshape(n, m, n, m, n, m).mean(axis=(1, 3, 5))
    np.testing.assert_array_equal(np.concatenate(list(voxeliser.slabs())), share > 0.5)


def test_every_direction_agrees_on_a_closed_mesh(monkeypatch):
    mesh = trimesh.creation.icosphere(subdivisions=3)
    mesh.apply_transform(trimesh.transformations.random_rotation_matrix(np.array([0.3, 0.6, 0.2])))
    expected = voxelise(mesh, 40)
    for votes in range(3, LARGEST_T + 1, 2):
        np.testing.assert_array_equal(voxelise(mesh, 40, votes=votes), expected)
    # Slabs of one layer give what one slab gives.
    monkeypatch.setattr("datasets.mesh._SLAB_CELLS", 1)
    np.testing.assert_array_equal(voxelise(mesh, 40, votes=LARGEST_T), expected)


def test_lines_through_edges_and_vertices():
    # An octahedron with every vertex and edge exactly on centres of cells, or on lines through them.
    n = 17
    mesh = trimesh.Trimesh(
        [[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]],
        [[0, 2, 4], [2, 1, 4], [1, 3, 4], [3, 0, 4], [2, 0, 5], [1, 2, 5], [3, 1, 5], [0, 3, 5]],
        process=False,
    )
    voxeliser = Voxeliser(mesh, n, votes=9)
    lattice = np.round(voxeliser._vertices * 2) / 2
    voxeliser._vertices = (lattice - 8) * (8 / 7.5) + 8
    x, y, z = np.meshgrid(*[np.arange(n) - 8] * 3, indexing="ij")
    distance = abs(x) + abs(y) + abs(z)
    grid = np.concatenate(list(voxeliser.slabs()))
    assert voxeliser.open_lines == 0
    assert grid[distance < 8].all() and not grid[distance > 8].any()


def test_margin_and_bounds():
    mesh = trimesh.creation.box((4, 2, 1))
    mesh.apply_translation((10, 20, 30))
    voxeliser = Voxeliser(mesh, 10)
    np.testing.assert_allclose(voxeliser.bounds, [[7.5, 17.5, 27.5], [12.5, 22.5, 32.5]])
    grid = np.concatenate(list(voxeliser.slabs()))
    assert grid.sum() == 8 * 4 * 2
    assert grid[4:6, 3:7, 1:9].all()


@pytest.mark.parametrize("n", [1, 2, 3])
def test_smallest_grids(n):
    assert voxelise(trimesh.creation.box((1, 1, 1)), n, votes=3).any()


def damaged(mesh, share):
    return np.random.default_rng(0).random(len(mesh.faces)) < share


@pytest.mark.parametrize(("votes", "least"), [(1, 0.97), (3, 0.995), (5, 0.998)])
def test_votes_heal_holes(votes, least):
    mesh = trimesh.creation.icosphere(subdivisions=4)
    hole = trimesh.Trimesh(mesh.vertices, mesh.faces[~damaged(mesh, 0.05)], process=False)
    voxeliser = Voxeliser(hole, 48, votes=votes)
    assert iou(np.concatenate(list(voxeliser.slabs())), voxelise(mesh, 48)) >= least
    assert voxeliser.open_lines > 0


def test_a_cube_without_two_sides():
    mesh = trimesh.creation.box((1, 1, 1))
    keep = ~((mesh.face_normals[:, 0] > 0.5) | (mesh.face_normals[:, 1] > 0.5))
    opened = trimesh.Trimesh(mesh.vertices, mesh.faces[keep], process=False)
    np.testing.assert_array_equal(voxelise(opened, 24, votes=3), voxelise(mesh, 24))


@pytest.mark.parametrize("votes", [1, 3])
def test_flipped_faces(votes):
    mesh = trimesh.creation.icosphere(subdivisions=4)
    expected = voxelise(mesh, 48)
    np.testing.assert_array_equal(voxelise(trimesh.Trimesh(mesh.vertices, mesh.faces[:, ::-1]), 48, 1, votes), expected)
    faces = mesh.faces.copy()
    flip = damaged(mesh, 0.05)
    faces[flip] = faces[flip][:, ::-1]
    flipped = trimesh.Trimesh(mesh.vertices, faces, process=False)
    assert iou(voxelise(flipped, 48, votes=votes), expected) > 0.999


def test_a_shell_that_looks_inwards_is_a_cavity_and_one_that_looks_outwards_is_solid():
    outer, inner = trimesh.creation.icosphere(subdivisions=3), trimesh.creation.icosphere(subdivisions=3, radius=0.5)
    solid, core = voxelise(outer, 40, votes=3), voxelise(trimesh.util.concatenate([outer, inner]), 40, votes=3)
    np.testing.assert_array_equal(core, solid)
    inner.invert()
    hollow = voxelise(trimesh.util.concatenate([outer, inner]), 40, votes=3)
    assert not hollow[18:22, 18:22, 18:22].any()
    assert hollow.sum() / solid.sum() == pytest.approx(7 / 8, abs=0.01)


def test_overlapping_parts_are_united():
    a, b = trimesh.creation.box((1, 1, 1)), trimesh.creation.box((1, 1, 1))
    b.apply_translation((0.5, 0, 0))
    both = trimesh.util.concatenate([a, b])
    np.testing.assert_array_equal(voxelise(both, 32), voxelise(trimesh.creation.box((1.5, 1, 1)), 32))


def test_a_voxeliser_checks_its_numbers():
    mesh = trimesh.creation.box((1, 1, 1))
    for n, samples, votes in ((0, 1, 1), (8, 8, 1), (8, 0, 1), (8, -1, 1), (8, 1, 2), (8, 1, 0), (8, 1, LARGEST_T + 2)):
        with pytest.raises(ValueError):
            Voxeliser(mesh, n, samples, votes)


@pytest.mark.parametrize("ending", ["obj", "ply", "stl", "off", "glb"])
def test_formats(tmp_path, ending):
    mesh = trimesh.creation.icosphere(subdivisions=2)
    path = tmp_path / f"sphere.{ending}"
    mesh.export(path)
    back = read_mesh(path)
    assert back.is_watertight and len(back.faces) == len(mesh.faces) and len(back.vertices) == len(mesh.vertices)
    assert back.volume == pytest.approx(mesh.volume, rel=1e-5)


def test_a_scene_becomes_one_mesh(tmp_path):
    sphere = trimesh.creation.icosphere(subdivisions=2)
    scene = trimesh.Scene([sphere])
    mirror = np.diag([-1.0, 1, 1, 1])
    mirror[0, 3] = 3
    scene.add_geometry(sphere, transform=mirror)
    scene.export(tmp_path / "scene.glb")
    mesh = read_mesh(tmp_path / "scene.glb")
    assert mesh.body_count == 2
    assert mesh.volume == pytest.approx(2 * sphere.volume, rel=1e-5)


def test_tiny_meshes_and_faces_drawn_twice(tmp_path):
    sphere = trimesh.creation.icosphere(subdivisions=2)
    sphere.apply_scale(1e-9)
    twice = np.concatenate([sphere.faces, sphere.faces[:, ::-1], sphere.faces])
    trimesh.Trimesh(sphere.vertices, twice, process=False).export(tmp_path / "twice.ply")
    mesh = read_mesh(tmp_path / "twice.ply")
    assert mesh.is_watertight and len(mesh.faces) == len(sphere.faces)
    np.testing.assert_array_equal(voxelise(mesh, 16), voxelise(sphere, 16))


def write_bad_meshes(folder):
    sphere = trimesh.creation.icosphere(subdivisions=2)
    for ending in ("ply", "stl", "off", "glb"):
        data = sphere.export(file_type=ending)
        data = data.encode() if isinstance(data, str) else data
        (folder / f"cut.{ending}").write_bytes(data[: len(data) * 7 // 10])
        (folder / f"junk.{ending}").write_bytes(np.random.default_rng(0).bytes(3000))
        (folder / f"zero.{ending}").write_bytes(b"")
    tetrahedron = "v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf 1 3 2\nf 1 2 4\nf 2 3 4\nf 3 1 4\n"
    (folder / "nan.obj").write_text(tetrahedron.replace("v 1", "v nan"))
    (folder / "infinite.obj").write_text(tetrahedron.replace("v 1", "v inf"))
    (folder / "huge.obj").write_text(tetrahedron.replace("v 1", "v 1e200"))
    (folder / "index.obj").write_text(tetrahedron.replace("f 3 1 4", "f 3 1 9"))
    (folder / "points.obj").write_text(tetrahedron[:32])
    (folder / "points.ply").write_bytes(trimesh.PointCloud(sphere.vertices).export(file_type="ply"))
    (folder / "flat.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    (folder / "point.obj").write_text("v 1 2 3\nv 1 2 3\nv 1 2 3\nf 1 2 3\n")
    (folder / "degenerate.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 1\nf 1 1 2\nf 3 3 2\n")
    (folder / "mesh.docx").write_text(tetrahedron)
    (folder / "mesh").write_text(tetrahedron)
    (folder / "folder.obj").mkdir()
    return [*sorted(folder.iterdir()), folder / "missing.obj"]


def test_a_mesh_that_may_not_be_read_is_not_called_broken(tmp_path, monkeypatch):
    path = tmp_path / "ball.stl"
    trimesh.creation.icosphere(1).export(path)

    def forbidden(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(trimesh, "load_scene", forbidden)
    with pytest.raises(PermissionError):
        read_mesh(path)


def test_bad_meshes_are_named(tmp_path, capfd):
    for path in write_bad_meshes(tmp_path):
        with pytest.raises(UserError) as caught:
            read_mesh(path)
        assert str(caught.value).startswith(f"{path}: "), path
    assert capfd.readouterr() == ("", "")
