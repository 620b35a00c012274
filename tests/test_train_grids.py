"""train.py on occupancy grids and volumes: the same path as images, with IoU and a surface."""

import errno
import gc
import json
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import trimesh

import opt
from datasets.occupancy import write_occupancy
from datasets.volume import read_volume
from preprocess_mesh import preprocess_mesh
from train import main, train
from utils import run_command

pytestmark = pytest.mark.usefixtures("in_folder")

QUICK = ["--patch_size", "8", "--num_epochs", "30", "40", "--batch_size", "64", "--quiet", "--exp_name", "x"]


def run(*argv: str) -> dict:
    return train(*opt.parse([*QUICK, *argv]))


def test_a_ball_is_fitted_and_measured_against_its_mesh(capsys):
    trimesh.creation.icosphere(4).export("ball.ply")
    preprocess_mesh("ball.ply", 32)
    capsys.readouterr()
    result = run("--task", "mesh", "--path", "occupancy/ball_32.npy", "--log_image")
    assert capsys.readouterr().out.splitlines()[-1] == f"IoU : {result['iou']:.6f}"
    assert result["iou"] > 0.99 and result["chamfer"] < 0.01 and result["normal_consistency"] > 0.8
    assert result["options"]["loss_thr"] == 5e-3 and "bits_per_voxel" in result


def test_the_input_size_must_match_the_grid(capsys):
    np.save("grid.npy", np.ones((4, 5, 6), bool))
    run("--task", "mesh", "--path", "grid.npy", "--input_size", "6", "5", "4", "--num_epochs", "1")
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_:
        run_command(lambda: main([*QUICK, "--task", "mesh", "--path", "grid.npy", "--input_size", "4"]))
    err = capsys.readouterr().err
    assert exit_.value.code == 2 and "--input_size" in err and err.count("\n") == 1


@pytest.mark.parametrize("dtype", [bool, np.uint8])
def test_plain_grids_of_any_shape_work(dtype):
    z, y, x = np.ogrid[:13, :9, :19]
    grid = (z - 6) ** 2 / 25 + (y - 4) ** 2 / 10 + (x - 9) ** 2 / 49 < 1
    np.save("grid.npy", grid.astype(dtype))
    assert run("--task", "mesh", "--path", "grid.npy")["iou"] > 0.94


def test_an_empty_grid_says_so_and_is_json(capsys):
    np.save("grid.npy", np.zeros((9, 9, 9), bool))
    run("--task", "mesh", "--path", "grid.npy")
    out = capsys.readouterr().out.splitlines()
    assert "empty" in out[-1] and "no block needed a network" in out[-2]
    assert json.loads(Path("logs/x/result.json").read_text())["iou"] is None


def test_a_full_grid_says_so(capsys):
    np.save("grid.npy", np.ones((9, 9, 9), bool))
    assert run("--task", "mesh", "--path", "grid.npy")["iou"] == 1
    assert "full" in capsys.readouterr().out.splitlines()[-2]


@pytest.mark.parametrize("ending", ["npy", "npz"])
@pytest.mark.parametrize(("dtype", "channels"), [(np.uint8, ()), (np.int16, ()), (np.float64, (2,))])
def test_volumes_of_any_dtype_are_fitted(ending, dtype, channels, capsys):
    z, y, x = np.ogrid[:12, :10, :17]
    values = (np.sin(z / 5) + np.cos(y / 4) + x / 9) * 40 + 100
    values = np.broadcast_to(values[(..., *[None] * len(channels))], (12, 10, 17, *channels)).astype(dtype)
    np.save("v.npy", values) if ending == "npy" else np.savez("v.npz", values)
    result = run("--task", "volume", "--path", f"v.{ending}", "--num_epochs", "5", "8")
    assert capsys.readouterr().out.splitlines()[-1].startswith("PSNR : ")
    assert result["psnr"] > 25


def _npz_that_ends_early(path):
    """Both its directory and the array announce more than there is: of that Python says nothing but its kind."""
    with zipfile.ZipFile(path, "w") as archive, archive.open("a.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": (90, 90, 90)})
    whole = bytearray(Path(path).read_bytes())
    place = whole.rfind(b"PK\x01\x02") + 20
    whole[place : place + 8] = struct.pack("<2I", 10**7, 10**7)
    Path(path).write_bytes(whole)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("missing.npy", lambda: None),
        ("flat.npy", lambda: np.save("flat.npy", np.ones((3, 3)))),
        ("two.npz", lambda: np.savez("two.npz", a=np.ones((2, 2, 2)), b=np.ones((2, 2, 2)))),
        ("cut.npz", lambda: _npz_that_ends_early("cut.npz")),
        ("nan.npy", lambda: np.save("nan.npy", np.full((2, 2, 2), np.nan))),
        ("text.npy", lambda: Path("text.npy").write_text("no numbers")),
        ("empty.npy", lambda: Path("empty.npy").touch()),
    ],
)
@pytest.mark.parametrize("task", ["mesh", "volume"])
def test_bad_grids_are_one_line(name, make, task, capsys):
    make()
    with pytest.raises(SystemExit) as exit_:
        run_command(lambda: main([*QUICK, "--task", task, "--path", name]))
    err = capsys.readouterr().err
    assert exit_.value.code == 2 and name in err and err.count("\n") == 1
    # numpy takes what is no array for a pickle, and says how to load that all the same.
    assert "pickle" not in err
    assert not Path("ckpts").exists()
    # A file left open would be warned of here.
    gc.collect()


def test_a_volume_that_may_not_be_read_is_not_called_broken(monkeypatch):
    def forbidden(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", "v.npy")

    np.save("v.npy", np.ones((2, 2, 2)))
    monkeypatch.setattr(np.lib.format, "open_memmap", forbidden)
    with pytest.raises(PermissionError):
        read_volume("v.npy")


@pytest.mark.parametrize(
    ("task", "name", "told"),
    [
        ("mesh", "a.obj", "preprocess_mesh.py --path a.obj"),
        ("image", "a.STL", "preprocess_mesh.py --path a.STL"),
        ("image", "grid.npy", "--task mesh"),
        ("volume", "grid.npy", "--task mesh"),
    ],
)
def test_a_file_of_another_task_is_told_what_it_is_for(task, name, told, capsys):
    Path(name).write_text("v 0 0 0\n")
    if name == "grid.npy":
        with write_occupancy(Path(name), (4, 4, 4), ((0, 0, 0), (1, 1, 1)), None) as write:
            write(np.ones((4, 4, 4), bool))
    with pytest.raises(SystemExit) as exit_:
        run_command(lambda: main([*QUICK, "--task", task, "--path", name]))
    err = capsys.readouterr().err
    assert exit_.value.code == 2 and err.startswith(f"error: {name}: ") and told in err and err.count("\n") == 1


def test_a_task_without_a_file_is_refused(capsys):
    with pytest.raises(SystemExit):
        run_command(lambda: main(["--task", "mesh"]))
    assert "--path" in capsys.readouterr().err
