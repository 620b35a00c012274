"""The sample shape is a closed tube of one piece that does not cut itself."""

import numpy as np
import trimesh

from datasets.knot import THICKNESS, knot


def test_it_is_closed_with_outward_normals_and_one_piece():
    mesh = trimesh.Trimesh(*knot(120, 16), process=False)
    assert mesh.is_watertight and mesh.is_winding_consistent and mesh.volume > 0 and mesh.body_count == 1
    assert mesh.euler_number == 0


def test_its_volume_is_that_of_a_tube():
    """Pappus: the area of the disc times the length of the curve, so that nothing overlaps."""
    vertices, faces = knot()
    curve = vertices.reshape(600, 64, 3).mean(1)
    length = np.linalg.norm(curve - np.roll(curve, 1, 0), axis=1).sum()
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    np.testing.assert_allclose(mesh.volume, np.pi * THICKNESS**2 * length, rtol=0.005)
    apart = np.linalg.norm(curve[:, None] - curve[None], axis=2)
    steps = np.abs(np.arange(600)[:, None] - np.arange(600))
    assert apart[np.minimum(steps, 600 - steps) > 60].min() > 2 * THICKNESS
