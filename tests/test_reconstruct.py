"""reconstruct.py: pictures, surfaces and arrays come back from a model, whole or by region, at any level."""

import re
from pathlib import Path

import numpy as np
import pytest
import trimesh

import opt
from datasets.image import read_image
from datasets.image_writer import write_image
from datasets.occupancy import write_occupancy
from models import model_file
from preprocess_mesh import preprocess_mesh
from reconstruct import main
from train import train
from utils import UserError, run_command


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Models of an image, a sphere, a volume and an empty grid."""
    folder = tmp_path_factory.mktemp("models")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        rng = np.random.default_rng(0)
        write_image("deep.png", rng.integers(0, 65536, (37, 53, 3)).astype(np.uint16), "RGB")
        np.save("volume.npy", rng.normal(3, 2, (9, 21, 14, 2)).astype(np.float32))
        trimesh.creation.icosphere(4, 3.0).apply_translation((5, -2, 1)).export("ball.stl")
        preprocess_mesh("ball.stl", 32)
        with write_occupancy("empty.npy", (9, 8, 7), ((0, 0, 0), (7, 8, 9))) as write:
            write(np.zeros((9, 8, 7), bool))
        common = ["--patch_size", "8", "--batch_size", "64", "--quiet"]
        runs = {
            "image": ["--path", "deep.png", "--num_epochs", "2", "2"],
            "ball": ["--task", "mesh", "--path", "occupancy/ball_32.npy", "--num_epochs", "20", "40"],
            "volume": ["--task", "volume", "--path", "volume.npy", "--num_epochs", "2", "2"],
            "empty": ["--task", "mesh", "--path", "empty.npy", "--num_epochs", "2"],
        }
        for name, argv in runs.items():
            train(*opt.parse([*common, *argv, "--exp_name", name]))
    return folder


@pytest.fixture(autouse=True)
def in_folder(folder, monkeypatch):
    monkeypatch.chdir(folder)


def model(name: str) -> str:
    return f"ckpts/{name}/model.safetensors"


def test_the_page_of_blocks_is_utf_8_whatever_the_locale(monkeypatch):
    write = Path.write_text
    # As in a locale of ASCII.
    monkeypatch.setattr(Path, "write_text", lambda path, text, encoding="ascii": write(path, text, encoding))
    main([model("empty"), "--blocks", "page.html"])
    assert '<meta charset="utf-8"' in Path("page.html").read_text(encoding="utf-8")


def test_a_large_constant_comes_back_as_a_picture_too():
    np.save("constant.npy", np.full((3, 2), 1e17))
    train(*opt.parse(["--path", "constant.npy", "--num_epochs", "1", "--n_scales", "1", "--quiet"]))
    main([model("constant"), "--out", "constant.png"])
    array, mode = read_image("constant.png")
    assert array.shape == (3, 2, 1) and mode == "grey" and not array.any()


@pytest.mark.parametrize("ending", ["png", "tif", "npy"])
def test_an_image_comes_back_with_its_size_channels_and_depth(ending):
    main([model("image"), "--out", f"back.{ending}"])
    array, mode = read_image(f"back.{ending}")
    assert array.shape == (37, 53, 3) and array.dtype == np.uint16 and mode == "RGB"
    pyramid, _ = model_file.load(model("image"))
    assert np.array_equal(array, np.rint(pyramid.decode().double().numpy() * 65535))


@pytest.mark.parametrize("region", [(0, 0, 53, 37), (5, 3, 1, 1), (40, 30, 13, 7), (7, 8, 20, 11)])
def test_a_region_is_the_crop_of_the_whole(region):
    main([model("image"), "--out", "whole.png"])
    main([model("image"), "--out", "part.png", "--region", *map(str, region)])
    x, y, w, h = region
    assert np.array_equal(read_image("part.png")[0], read_image("whole.png")[0][y : y + h, x : x + w])


def test_an_image_comes_back_as_deep_zoom():
    main([model("image"), "--out", "zoom.dzi", "--region", "1", "2", "30", "20"])
    assert 'Width="30"' in Path("zoom.dzi").read_text() and Path("zoom_files/5/0_0.jpg").is_file()


def test_a_coarser_level_has_half_the_size():
    main([model("image"), "--out", "half.png", "--level", "1"])
    assert read_image("half.png")[0].shape == (19, 27, 3)


@pytest.mark.parametrize("ending", ["ply", "obj", "stl", "glb"])
def test_a_sphere_comes_back_closed_outward_and_in_place(ending):
    main([model("ball"), "--out", f"ball_back.{ending}"])
    mesh = trimesh.load(f"ball_back.{ending}", force="mesh")
    cell = 6 / 30
    radius = np.linalg.norm(mesh.vertices - (5, -2, 1), axis=1)
    assert mesh.is_watertight and mesh.is_winding_consistent and mesh.volume > 0
    assert abs(radius.mean() - 3) < cell / 2 and np.abs(radius - 3).max() < cell


def test_a_coarser_level_of_a_shape_stays_in_place():
    main([model("ball"), "--out", "coarse.ply", "--level", "1"])
    mesh = trimesh.load("coarse.ply")
    assert np.allclose(mesh.bounds.mean(0), (5, -2, 1), atol=0.2)
    assert np.allclose(np.ptp(mesh.bounds, axis=0), 6, atol=0.4)


def test_a_region_of_a_shape_is_closed_and_lies_in_it():
    main([model("ball"), "--out", "part.ply", "--region", "0", "0", "0", "16", "32", "32"])
    mesh = trimesh.load("part.ply")
    assert mesh.is_watertight and mesh.bounds[1][0] < 5.15
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * 27 / 2, rel=0.05)


def test_a_size_between_two_levels_is_the_finer_one_averaged_down(capsys):
    main([model("image"), "--out", "size.npy", "--size", "40", "30"])
    pyramid, _ = model_file.load(model("image"))
    values = pyramid.decode(size=(30, 40)).double().numpy()
    assert np.array_equal(np.load("size.npy"), np.rint(values * 65535))
    assert abs(values.mean() - pyramid.decode().mean().item()) < 1e-3
    main([model("image"), "--out", "level.npy", "--level", "1"])
    main([model("image"), "--out", "same.npy", "--size", "27", "19"])
    assert np.array_equal(np.load("same.npy"), np.load("level.npy"))
    assert capsys.readouterr().err == ""


def test_a_size_above_the_finest_level_is_interpolated_and_says_so(capsys):
    main([model("image"), "--out", "large.png", "--region", "3", "4", "20", "10", "--size", "60", "30"])
    assert read_image("large.png")[0].shape == (30, 60, 3)
    assert "note: --size 60 30 is more than the finest level has there" in capsys.readouterr().err


def test_a_region_says_how_little_of_the_model_it_read(capsys):
    main([model("volume"), "--out", "part.npy", "--region", "0", "0", "0", "2", "2", "2"])
    read, size = re.search(r"read (\S+) MB of rows from a file of (\S+) MB", capsys.readouterr().err).groups()
    assert 0 < float(read) < float(size) / 2


def test_shapes_and_volumes_come_in_any_size():
    main([model("volume"), "--out", "v.npy", "--size", "5", "30", "4"])
    assert np.load("v.npy").shape == (4, 30, 5, 2)
    main([model("ball"), "--out", "small.npy", "--size", "20", "20", "20"])
    main([model("ball"), "--out", "whole.npy"])
    assert np.load("small.npy").shape == (20, 20, 20)
    assert np.load("small.npy").mean() == pytest.approx(np.load("whole.npy").mean(), rel=0.1)
    for size in ("24", "40"):
        main([model("ball"), "--out", "ball.ply", "--size", size, size, size])
        mesh = trimesh.load("ball.ply")
        assert mesh.is_watertight and mesh.volume == pytest.approx(4 / 3 * np.pi * 27, rel=0.05)
        assert np.abs(mesh.bounds.mean(0) - (5, -2, 1)).max() < 0.1


def test_the_grid_of_a_shape_comes_back_as_bool():
    main([model("ball"), "--out", "grid.npy"])
    grid = np.load("grid.npy")
    assert grid.dtype == bool and grid.shape == (32, 32, 32)
    main([model("ball"), "--out", "part.npy", "--region", "3", "4", "5", "6", "7", "8"])
    assert np.array_equal(np.load("part.npy"), grid[5:13, 4:11, 3:9])


def test_a_volume_comes_back_with_its_shape_and_dtype():
    main([model("volume"), "--out", "v.npy"])
    back = np.load("v.npy")
    assert back.shape == (9, 21, 14, 2) and back.dtype == np.float32


@pytest.mark.parametrize(
    ("name", "out"),
    [("image", "b.png"), ("image", "b.jpg"), ("ball", "b.png"), ("volume", "b.png"), ("empty", "b.png")],
)
def test_the_blocks_are_a_picture(name, out, capsys):
    main([model(name), "--blocks", out])
    array, mode = read_image(out)
    assert mode == "RGB" and array.dtype == np.uint8 and min(array.shape[:2]) > 300
    assert capsys.readouterr().out == f"{out}\n"


@pytest.mark.parametrize("name", ["ball", "empty"])
def test_the_blocks_of_a_shape_are_a_page_that_needs_no_network(name):
    main([model(name), "--blocks", "b.html", "--out", "b.npy"])
    page = Path("b.html").read_text()
    assert "level 0 (finest)" in page and "mesh3d" in page
    assert "<script src=" not in page and Path("b.npy").is_file()


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        ([model("image"), "--out", "x.png", "--size", "5"], "--size"),
        ([model("image"), "--out", "x.png", "--size", "5", "0"], "--size"),
        ([model("image"), "--out", "x.png", "--size", "5", str(2**40)], "--size"),
        ([model("ball"), "--out", "x.ply", "--size", "5", "5"], "--size"),
        (["missing.safetensors", "--out", "x.png"], "missing.safetensors"),
        ([model("image"), "--out", "x.ply"], "--out"),
        ([model("image"), "--out", "x"], "--out"),
        ([model("ball"), "--out", "x.png"], "--out"),
        ([model("volume"), "--out", "x.dzi"], "--out"),
        ([model("image"), "--out", "x.png", "--level", "2"], "--level"),
        ([model("image"), "--out", "x.png", "--region", "0", "0", "54", "1"], "--region"),
        ([model("image"), "--out", "x.png", "--region", "0", "0", "1"], "--region"),
        ([model("image"), "--out", "x.png", "--region", "0", "-1", "1", "1"], "--region"),
        ([model("ball"), "--out", "x.ply", "--threshold", "1.5"], "--threshold"),
        ([model("empty"), "--out", "x.ply"], "empty"),
        ([model("image")], "--out"),
        ([model("image"), "--blocks", "x.html"], "--blocks"),
        ([model("ball"), "--blocks", "x.npy"], "--blocks"),
        ([model("image"), "--blocks", "x.png", "--level", "1"], "--level"),
        ([model("image"), "--blocks", "x.png", "--region", "0", "0", "1", "1"], "--region"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(argv, named, capsys):
    with pytest.raises(SystemExit) as exit_:
        run_command(lambda: main(argv))
    err = capsys.readouterr().err
    assert exit_.value.code == 2 and named in err and err.count("\n") == 1
    assert not list(Path().glob("x.*")) and not Path("x").exists()


def test_an_empty_grid_gives_a_model_without_networks():
    pyramid, _ = model_file.load(model("empty"))
    assert pyramid.n_params == 0 and pyramid.decode().sum() == 0


def test_one_file_cannot_be_both_picture_and_blocks(tmp_path):
    with pytest.raises(UserError, match="is also --out"):
        main([str(tmp_path / "m"), "--out", str(tmp_path / "a.png"), "--blocks", str(tmp_path / "b" / ".." / "a.png")])
