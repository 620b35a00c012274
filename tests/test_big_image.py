"""Pictures written strip by strip: the same as from memory, in bounded memory, whole or not at all."""

import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_image_writer import MODES, exact_cases, picture

from datasets import big_image
from datasets.big_image import write_strips
from datasets.image import read_image
from datasets.image_writer import write_image
from utils import UserError

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def all_large(monkeypatch):
    """Every picture is large."""
    monkeypatch.setattr(big_image, "LARGE", 0)


@pytest.fixture
def no_vips(monkeypatch):
    """pyvips is not installed."""
    monkeypatch.setitem(sys.modules, "pyvips", None)


def cut(array, rows=5):
    return (array[top : top + rows] for top in range(0, len(array), rows))


def write(path, array, mode, value_range=(0.0, 1.0)):
    return write_strips(path, cut(array), array.shape, array.dtype, mode, value_range)


def names(folder):
    return sorted(item.name for item in folder.iterdir())


streamed_cases = [case for case in exact_cases() if case[0].lower() in (".png", ".tif", ".tiff")]


@pytest.mark.parametrize("shape", [(1, 1), (7, 13)])
@pytest.mark.parametrize(("ending", "mode", "dtype"), streamed_cases)
def test_lossless_round_trip(tmp_path, all_large, ending, mode, dtype, shape):
    array = picture((*shape, MODES[mode]), dtype)
    path = tmp_path / f"x{ending}"
    assert write(path, array, mode) == []
    back, back_mode = read_image(path)
    np.testing.assert_array_equal(back, array)
    assert (back.dtype, back_mode) == (dtype, mode)
    assert names(tmp_path) == [path.name]


@pytest.mark.parametrize("mode", ["grey", "RGB", "CMYK"])
def test_jpeg_is_what_the_other_writer_makes(tmp_path, all_large, mode):
    rows, columns = np.mgrid[0:64, 0:48]
    array = np.stack([rows * 2 + 20 * k + columns for k in range(MODES[mode])], axis=2).astype(np.uint8)
    assert write(tmp_path / "x.jpg", array, mode) == []
    write_image(tmp_path / "y.jpg", array, mode)
    (one, one_mode), (other, other_mode) = read_image(tmp_path / "x.jpg"), read_image(tmp_path / "y.jpg")
    assert one_mode == other_mode == mode and np.abs(one.astype(int) - other).max() <= 2


@pytest.mark.parametrize(
    ("name", "mode", "dtype"),
    [
        ("x.jpg", "RGBA", "uint16"),
        ("x.png", "CMYK", "uint8"),
        ("x.png", "RGB", "float32"),
        ("x.tif", "grey+alpha", "uint16"),
        ("x.tif", "RGB", "float16"),
        ("x.png", "grey", "bool"),
    ],
)
def test_what_a_format_cannot_hold_is_noted_and_written_as_in_memory(tmp_path, all_large, name, mode, dtype):
    array = picture((17, 6, MODES[mode]), dtype)
    (tmp_path / "small").mkdir()
    assert write(tmp_path / name, array, mode) == write_image(tmp_path / "small" / name, array, mode) != []
    (large, large_mode), (small, small_mode) = read_image(tmp_path / name), read_image(tmp_path / "small" / name)
    assert (large.dtype, large_mode) == (small.dtype, small_mode)
    assert np.abs(large.astype(float) - small).max() <= (2 if name == "x.jpg" else 0)


@pytest.mark.parametrize("shape", [(1, 1, 1), (23, 5, 3), (4, 3, 7)])
def test_npy(tmp_path, shape):
    array = picture(shape, "float32")
    assert write(tmp_path / "x.npy", array, {1: "grey", 3: "RGB", 7: "channels"}[shape[2]]) == []
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), array[..., 0] if shape[2] == 1 else array)


def test_a_large_tiff_is_tiled_and_a_pyramid(tmp_path, all_large):
    array = picture((700, 1100, 3))
    write(tmp_path / "x.tif", array, "RGB")
    with Image.open(tmp_path / "x.tif") as image:
        assert image.n_frames == 4 and image.size == (1100, 700)
        assert image.tag_v2[322] == image.tag_v2[323] == big_image.TILE
        image.seek(1)
        assert image.size == (550, 350)


@pytest.mark.parametrize(("mode", "ending"), [("grey", "jpg"), ("RGB", "jpg"), ("RGBA", "png"), ("CMYK", "jpg")])
def test_deep_zoom(tmp_path, mode, ending):
    array = np.full((300, 523, MODES[mode]), 90, np.uint8)
    write(tmp_path / "a b.c%.dzi", array, mode)
    assert names(tmp_path) == ["a b.c%.dzi", "a b.c%_files"]
    root = ET.parse(tmp_path / "a b.c%.dzi").getroot()
    size = root.find("{*}Size").attrib
    assert (size["Width"], size["Height"], root.get("Format")) == ("523", "300", ending)
    tiles = tmp_path / "a b.c%_files"
    # The finest of ceil(log2(523)) + 1 levels; its tiles have 254 pixels and an overlap of 1.
    assert {item.name for item in (tiles / "10").iterdir()} == {f"{x}_{y}.{ending}" for x in range(3) for y in range(2)}
    with Image.open(tiles / "10" / f"2_1.{ending}") as tile:
        assert tile.size == (523 - 2 * 254 + 1, 300 - 254 + 1)
    assert (tiles / "0" / f"0_0.{ending}").is_file()


def test_deep_zoom_replaces_its_own_tiles_and_nobody_elses(tmp_path):
    path = tmp_path / "x.dzi"
    write(path, picture((600, 600, 3)), "RGB")
    write(path, picture((9, 9, 3)), "RGB")
    assert names(tmp_path) == ["x.dzi", "x_files"] and len(list((tmp_path / "x_files").iterdir())) == 6
    path.unlink()
    (tmp_path / "x_files" / "mine.txt").write_text("kept")
    with pytest.raises(UserError, match="x_files"):
        write(path, picture((9, 9, 3)), "RGB")
    assert names(tmp_path) == ["x_files"] and (tmp_path / "x_files" / "mine.txt").is_file()


def test_without_pyvips_files_are_written_and_deep_zoom_is_refused(tmp_path, all_large, no_vips):
    array = picture((11, 7, 3))
    (note,) = write(tmp_path / "x.png", array, "RGB")
    assert "pyvips" in note
    np.testing.assert_array_equal(read_image(tmp_path / "x.png")[0], array)
    with pytest.raises(UserError, match="pip install"):
        write(tmp_path / "x.dzi", array, "RGB")
    assert names(tmp_path) == ["x.png"]


@pytest.mark.parametrize("name", ["x.png", "x.tif", "x.jpg", "x.npy", "x.dzi", "x.webp"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_nothing_is_left_of_a_picture_that_breaks_off(tmp_path, all_large, name, error):
    def strips():
        yield np.zeros((5, 9, 3), np.uint8)
        if error is KeyboardInterrupt:
            raise error

    with pytest.raises(error):
        write_strips(tmp_path / name, strips(), (10, 9, 3), "uint8", "RGB")
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["x.png", "x.tif", "x.jpg", "x.dzi"])
def test_what_vips_cannot_write_is_one_line_and_the_old_file_stays(tmp_path, all_large, monkeypatch, name):
    array = picture((20, 9, 3))
    write(tmp_path / name, array, "RGB")
    before = names(tmp_path)
    monkeypatch.setattr(big_image, "_open_scratch", lambda scratch, fit: _truncated(scratch))
    with pytest.raises(UserError, match=f"{name}: libvips could not write it") as caught:
        write(tmp_path / name, array, "RGB")
    assert "\n" not in str(caught.value) and names(tmp_path) == before


def _truncated(scratch):
    """An image that fails when it is read."""
    import pyvips

    folder = scratch.parent / ".broken"
    folder.mkdir()
    pyvips.Image.black(64, 64).pngsave(str(folder / "x.png"))
    data = (folder / "x.png").read_bytes()[:-40]
    (folder / "x.png").unlink()
    folder.rmdir()
    return pyvips.Image.new_from_buffer(data, "", fail_on="truncated", access="sequential")


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("x.gif", (2, 2, 3), r"\.png, \.jpg.*\.dzi"),
        ("x", (2, 2, 3), "unknown ending"),
        ("x.png", (2, 2, 7), r"use the ending \.npy"),
        ("x.dzi", (2, 2, 7), r"use the ending \.npy"),
        ("x.jpg", (1, 65536, 1), "65535"),
        ("x.webp", (16384, 1, 3), "16383"),
    ],
)
def test_what_cannot_be_written_is_said_before_anything_is_decoded(tmp_path, name, shape, expected):
    def strips():
        pytest.fail("decoded for nothing")
        yield

    with pytest.raises(UserError, match=expected):
        write_strips(tmp_path / name, strips(), shape, "uint8", {1: "grey", 3: "RGB", 7: "channels"}[shape[2]])
    assert names(tmp_path) == []


def test_memory_is_bounded(tmp_path):
    """A process that writes a picture of 96 MiB holds half of it at most."""
    code = """
import numpy as np, pyvips, utils
from datasets.big_image import write_strips
before = utils.peak_host_bytes()
for ending in ("npy", "jpg", "tif"):
    strips = (np.zeros((64, 8192, 3), np.uint8) for _ in range(64))
    write_strips(f"x.{ending}", strips, (4096, 8192, 3), "uint8", "RGB")
print((utils.peak_host_bytes() - before) // 2**20)
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, check=True)
    assert int(done.stdout) < 48
