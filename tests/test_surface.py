"""Surfaces: closed, in the source's coordinates, independent of the slabs; mesh files and distances."""

import importlib
import sys

import numpy as np
import pytest
import trimesh
from scipy.spatial import cKDTree

from datasets.mesh import Voxeliser, read_mesh
from datasets.surface import ENDINGS, surface, surface_distance, write_mesh
from utils import UserError


def reader(field):
    return lambda start, stop: field[tuple(map(slice, start, stop))]


def sphere_field(n=40):
    """A smooth field, 0.5 on the sphere of radius 0.8 about (0.05, 0, -0.1) in bounds -1..1."""
    z, y, x = np.meshgrid(*[(np.arange(n) + 0.5) * 2 / n - 1] * 3, indexing="ij")
    return np.clip(0.5 + 4 * (0.8 - np.sqrt((x - 0.05) ** 2 + y**2 + (z + 0.1) ** 2)), 0, 1)


CUBE = ((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0))


def closed(vertices, faces):
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    assert vertices.dtype == np.float64 and faces.dtype == np.int64
    assert mesh.is_watertight and mesh.is_winding_consistent and mesh.volume > 0
    assert len(np.unique(vertices, axis=0)) == len(vertices) == len(np.unique(faces))
    return mesh


def turned(faces):
    """The set of the faces, each with its smallest vertex first."""
    turn = (np.argmin(faces, axis=1, keepdims=True) + np.arange(3)) % 3
    return set(map(tuple, np.take_along_axis(faces, turn, axis=1).tolist()))


@pytest.mark.parametrize(("binary", "tolerance"), [(False, 0.02), (True, 0.5)])
def test_a_sphere_keeps_its_radius(binary, tolerance):
    field = sphere_field()
    mesh = closed(*surface(reader(field > 0.5 if binary else field), field.shape, CUBE))
    radius = np.linalg.norm(mesh.vertices - (0.05, 0, -0.1), axis=1)
    assert abs(radius - 0.8).max() < tolerance * 2 / 40
    outward = np.einsum("ij,ij->i", mesh.face_normals, mesh.triangles_center - (0.05, 0, -0.1))
    assert (outward > 0).mean() > 0.99


@pytest.mark.parametrize("kind", ["smooth", "binary", "noise", "quantised"])
def test_slabs_do_not_change_the_surface(kind):
    field = {
        "smooth": sphere_field(24)[:, 2:, 3:],
        "binary": sphere_field(24)[:, 2:, 3:] > 0.5,
        "noise": np.random.default_rng(0).random((13, 9, 11)).astype(np.float32),
        # Many values on the threshold, where vertices would coincide.
        "quantised": np.random.default_rng(0).integers(0, 3, (13, 9, 11)) / 2,
    }[kind]
    done = []
    expected = closed(*surface(reader(field), field.shape, CUBE, slab=100, progress=done.append))
    assert done == [len(field)]
    tree = cKDTree(expected.vertices)
    for slab in (1, 2, 5, len(field) - 1):
        mesh = closed(*surface(reader(field), field.shape, CUBE, slab=slab))
        assert len(mesh.faces) == len(expected.faces) and len(mesh.vertices) == len(expected.vertices)
        # The same vertices, and the same faces turned the same way.
        distance, same = tree.query(mesh.vertices)
        assert distance.max() < 1e-12 and len(np.unique(same)) == len(same)
        assert turned(same[mesh.faces]) == turned(expected.faces)
        assert mesh.area == pytest.approx(expected.area) and mesh.volume == pytest.approx(expected.volume)


@pytest.mark.parametrize("slab", [1, 3, None])
def test_what_touches_the_border_is_closed(slab):
    field = np.ones((4, 5, 6))
    mesh = closed(*surface(reader(field), field.shape, ((0, 0, 0), (6.0, 5.0, 4.0)), slab=slab))
    # Half of the way from a centre of 1 to a centre of 0 is the border of the grid.
    np.testing.assert_allclose(mesh.bounds, [[0, 0, 0], [6, 5, 4]])


@pytest.mark.parametrize("slab", [1, None])
def test_an_empty_field_gives_an_empty_surface(slab):
    vertices, faces = surface(reader(np.zeros((3, 4, 5))), (3, 4, 5), CUBE, slab=slab)
    assert vertices.shape == (0, 3) and faces.shape == (0, 3)
    assert vertices.dtype == np.float64 and faces.dtype == np.int64


def test_values_that_are_not_finite_or_large():
    field = sphere_field(12)
    closed(*surface(reader((field - 0.5) * 1e30), field.shape, CUBE))
    field[3, 3, 3] = np.nan
    with pytest.raises(UserError, match="not finite"):
        surface(reader(field), field.shape, CUBE)
    with pytest.raises(ValueError):
        surface(reader(field), field.shape, CUBE, threshold=0)


def test_mesh_to_grid_to_surface():
    mesh = trimesh.creation.torus(1, 0.4)
    mesh.apply_translation((5, -3, 2))
    voxeliser = Voxeliser(mesh, 64)
    grid = np.concatenate(list(voxeliser.slabs()))
    back = surface(reader(grid), grid.shape, voxeliser.bounds, slab=10)
    assert closed(*back).volume == pytest.approx(mesh.volume, rel=0.01)
    chamfer, normals = surface_distance(back, mesh, samples=20_000)
    assert chamfer < 0.005 and normals > 0.85


@pytest.mark.parametrize("ending", ENDINGS)
def test_files_come_back(tmp_path, ending):
    vertices, faces = surface(reader(sphere_field(16)), (16,) * 3, CUBE)
    path = tmp_path / "deep" / f"mesh{ending}"
    write_mesh(path, vertices, faces)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    mesh = read_mesh(path)
    assert mesh.is_watertight and len(mesh.faces) == len(faces)
    np.testing.assert_allclose(mesh.bounds, [vertices.min(0), vertices.max(0)], atol=1e-6)


def test_a_ply_is_binary_and_other_endings_are_refused(tmp_path):
    vertices, faces = surface(reader(sphere_field(8)), (8,) * 3, CUBE)
    write_mesh(tmp_path / "a.PLY", vertices, faces)
    assert b"format binary_little_endian" in (tmp_path / "a.PLY").read_bytes()[:60]
    for name in ("mesh.txt", "mesh", "mesh.off"):
        with pytest.raises(UserError, match="cannot write"):
            write_mesh(tmp_path / name, vertices, faces)
    assert len(list(tmp_path.iterdir())) == 1


def test_distance():
    sphere, larger = (trimesh.creation.icosphere(subdivisions=4, radius=r) for r in (1, 1.1))
    chamfer, normals = surface_distance(sphere, (larger.vertices, larger.faces))
    assert chamfer == pytest.approx(0.1 / (2.2 * np.sqrt(3)), rel=0.01)
    assert normals > 0.99
    assert surface_distance(sphere, larger) == (chamfer, normals)
    assert surface_distance(sphere, larger, seed=1) != (chamfer, normals)
    same, normals = surface_distance(sphere, sphere)
    assert same < 0.002 and normals > 0.999
    with pytest.raises(UserError):
        surface_distance((np.zeros((0, 3)), np.zeros((0, 3), np.int64)), sphere)


def test_only_making_a_surface_needs_marching_cubes(monkeypatch):
    for name in ("mcubes", "trimesh", "datasets.surface"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "datasets.surface")
    assert ".ply" in importlib.import_module("datasets.surface").ENDINGS
