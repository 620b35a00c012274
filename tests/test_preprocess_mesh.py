"""The command: what it writes, and one line for what the user can mend."""

import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import trimesh

import preprocess_mesh
from datasets.mesh import Voxeliser
from datasets.occupancy import OccupancyGrid
from utils import run_command


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trimesh.creation.icosphere(subdivisions=3).export("sphere.ply")
    return tmp_path


def test_the_file(folder, capsys):
    preprocess_mesh.main(["--N", "33", "--M", "27", "--T", "3", "--path", "sphere.ply"])
    grid = OccupancyGrid("occupancy/sphere_33.npy")
    assert grid.shape == (33, 33, 33) and grid.source == "sphere.ply"
    voxeliser = Voxeliser(trimesh.load_mesh("sphere.ply"), 33, 27, 3)
    np.testing.assert_array_equal(grid.read(), np.concatenate(list(voxeliser.slabs())))
    np.testing.assert_allclose(grid.bounds, voxeliser.bounds)
    assert (folder / "occupancy/sphere_33.npy").stat().st_size < 33 * 33 * 5 + 1000
    out, err = capsys.readouterr()
    assert out.count("\n") == 1 and err == ""


def test_holes_are_mentioned(folder, capsys):
    sphere = trimesh.creation.icosphere(subdivisions=3)
    trimesh.Trimesh(sphere.vertices, sphere.faces[3:], process=False).export("open.ply")
    preprocess_mesh.main(["--N", "32", "--path", "open.ply"])
    assert "--T 3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("--N 0 --path sphere.ply", "--N"),
        ("--N -5 --path sphere.ply", "--N"),
        ("--N 1.5 --path sphere.ply", "--N"),
        ("--N 99999999999 --path sphere.ply", "--N"),
        ("--path sphere.ply", "--N"),
        ("--N 8 --M 2 --path sphere.ply", "--M"),
        ("--N 8 --M 8 --path sphere.ply", "--M"),
        ("--N 8 --M 0 --path sphere.ply", "--M"),
        ("--N 8 --M -27 --path sphere.ply", "--M"),
        ("--N 8 --M 126 --path sphere.ply", "--M"),
        ("--N 8 --T 2 --path sphere.ply", "--T"),
        ("--N 8 --T 0 --path sphere.ply", "--T"),
        ("--N 8 --T -1 --path sphere.ply", "--T"),
        ("--N 8 --T 99 --path sphere.ply", "--T"),
        ("--N 8 --what 1 --path sphere.ply", "--what"),
        ("--N 8 --path missing.obj", "missing.obj"),
        ("--N 8 --path .", "."),
        ("--N 8 --path zero.obj", "zero.obj"),
        ("--N 8 --path points.obj", "points.obj"),
        ("--N 8 --path cut.ply", "cut.ply"),
        ("--N 8 --path sheet.obj", "sheet.obj"),
        ("--N 8 --path two\nlines.obj", "two lines.obj"),
    ],
)
def test_bad_input_is_one_line(folder, capsys, arguments, named):
    Path("zero.obj").touch()
    Path("points.obj").write_text("v 0 0 0\nv 1 1 1\nv 1 0 1\n")
    Path("cut.ply").write_bytes(Path("sphere.ply").read_bytes()[:-100])
    # Two triangles that bend, but enclose nothing.
    Path("sheet.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nv 1 1 1\nf 1 2 3\nf 2 4 3\n")
    with pytest.raises(SystemExit) as caught:
        run_command(lambda: preprocess_mesh.main(arguments.split(" ")))
    out, err = capsys.readouterr()
    assert caught.value.code == 2 and out == ""
    assert err.startswith("error: ") and err.count("\n") == 1 and named in err
    assert not list(folder.glob("occupancy/*")) and not list(folder.glob("occupancy/.*"))


def test_without_a_path_it_is_the_knot(folder):
    preprocess_mesh.main(["--N", "24"])
    grid = OccupancyGrid("occupancy/knot_24.npy")
    assert grid.shape == (24, 24, 24) and grid.source is None and 0.05 < grid.read().mean() < 0.15


def test_a_sample_count_of_125_is_a_cube(folder):
    preprocess_mesh.main(["--N", "8", "--M", "125", "--path", "sphere.ply"])
    assert OccupancyGrid("occupancy/sphere_8.npy").read().any()


def test_as_a_process(folder, monkeypatch, capsys):
    script = Path(preprocess_mesh.__file__)
    command = [sys.executable, script, "--N", "16", "--T", "1", "--path", "sphere.ply"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "") and (folder / "occupancy/sphere_16.npy").exists()
    # A process takes seconds to start.
    monkeypatch.setattr(sys, "argv", [str(script), *command[2:-1], "missing.ply"])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(script), run_name="__main__")
    out, err = capsys.readouterr()
    assert (caught.value.code, out) == (2, "")
    assert err.startswith("error: missing.ply") and err.count("\n") == 1
    assert [file.name for file in (folder / "occupancy").iterdir()] == ["sphere_16.npy"]
