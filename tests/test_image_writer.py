"""Writing image files: round trips, notes on what a format cannot hold, failed writes."""

import cv2
import numpy as np
import pytest
from PIL import Image

from datasets.image import read_image
from datasets.image_writer import write_image
from utils import UserError

MODES = {"grey": 1, "grey+alpha": 2, "RGB": 3, "RGBA": 4, "CMYK": 4}
INTEGERS = ("uint8", "uint16", "uint32", "int8", "int16", "int32")


def picture(shape, dtype="uint8", seed=0):
    order, dtype = np.dtype(dtype), np.dtype(dtype).newbyteorder("=")
    random = np.random.default_rng(seed)
    if dtype.kind == "b":
        return random.random(shape) < 0.5
    if dtype.kind == "f":
        return random.random(shape).astype(order)
    limits = np.iinfo(dtype)
    return random.integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True).astype(order)


def exact_cases():
    for dtype in ("uint8", "uint16"):
        for mode in ("grey", "grey+alpha", "RGB", "RGBA"):
            yield ".png", mode, dtype
    for dtype in (*INTEGERS, "float32", "float64"):
        for mode in ("grey", "RGB", "RGBA"):
            yield ".tif", mode, dtype
    yield from ((".tiff", "grey+alpha", "uint8"), (".tiff", "CMYK", "uint8"), (".PNG", "RGB", "uint16"))
    yield from (
        (".webp", "RGB", "uint8"),
        (".webp", "RGBA", "uint8"),
        (".bmp", "RGB", "uint8"),
        (".bmp", "grey", "uint8"),
    )


@pytest.mark.parametrize("shape", [(1, 1), (7, 13)])
@pytest.mark.parametrize(("ending", "mode", "dtype"), list(exact_cases()))
def test_lossless_round_trip(tmp_path, ending, mode, dtype, shape):
    array = picture((*shape, MODES[mode]), dtype)
    path = tmp_path / f"x{ending}"
    assert write_image(path, array, mode) == []
    back, back_mode = read_image(path)
    np.testing.assert_array_equal(back, array)
    assert (back.dtype, back.shape, back_mode) == (dtype, array.shape, mode)
    assert back.dtype.isnative and back.flags.c_contiguous and back.flags.writeable
    assert [item.name for item in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("dtype", ["bool", *INTEGERS, "int64", "uint64", "float16", "float32", "float64", ">u2", ">f4"])
@pytest.mark.parametrize("channels", [0, 1, 2, 3, 4, 7])
def test_npy_round_trip(tmp_path, dtype, channels):
    array = picture((5, 3, channels) if channels else (5, 3), dtype)
    np.save(tmp_path / "x.npy", array)
    first, mode = read_image(tmp_path / "x.npy")
    np.testing.assert_array_equal(first, array.reshape(5, 3, -1))
    assert first.dtype.isnative and first.flags.writeable
    modes = {1: "grey", 2: "grey+alpha", 3: "RGB", 4: "RGBA", 7: "channels"}
    assert first.dtype == np.dtype(dtype).newbyteorder("=")
    assert (first.shape, mode) == ((5, 3, channels or 1), modes[channels or 1])
    assert write_image(tmp_path / "y.NPY", first, mode) == []
    again, mode_again = read_image(tmp_path / "y.NPY")
    np.testing.assert_array_equal(again, first)
    assert (again.dtype, again.shape, mode_again) == (first.dtype, first.shape, mode)


@pytest.mark.parametrize("mode", ["grey", "RGB", "CMYK"])
def test_jpeg_is_close(tmp_path, mode):
    rows, columns = np.mgrid[0:64, 0:48]
    array = np.stack([rows * 2 + 20 * k + columns for k in range(MODES[mode])], axis=2).astype(np.uint8)
    assert write_image(tmp_path / "x.jpg", array, mode) == []
    back, back_mode = read_image(tmp_path / "x.jpg")
    assert back_mode == mode and np.abs(back.astype(int) - array).max() < 12


def test_cmyk_jpeg_of_adobe_is_inverted_in_the_file(tmp_path):
    array = np.full((8, 8, 4), (10, 60, 120, 200), np.uint8)
    write_image(tmp_path / "x.jpg", array, "CMYK")
    data = (tmp_path / "x.jpg").read_bytes()
    assert b"Adobe" in data
    # OpenCV's own reading, white less ink, stands for other programs.
    seen = cv2.imread(str(tmp_path / "x.jpg"))[0, 0, ::-1].astype(int)
    assert np.abs(seen - (255 - array[0, 0, :3].astype(int)) * 55 / 255).max() < 6


@pytest.mark.parametrize("size", [(20000, 1), (1, 20000), (101, 53)])
@pytest.mark.parametrize("ending", [".png", ".jpg", ".tif"])
def test_any_size(tmp_path, size, ending):
    array = picture((size[1], size[0], 3))
    write_image(tmp_path / f"x{ending}", array, "RGB")
    back, _ = read_image(tmp_path / f"x{ending}")
    assert back.shape == array.shape


def test_pillow_size_limit_neither_stops_nor_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    array = picture((9, 9, 3))
    write_image(tmp_path / "x.png", array, "RGB")
    np.testing.assert_array_equal(read_image(tmp_path / "x.png")[0], array)
    assert Image.MAX_IMAGE_PIXELS == 10


@pytest.mark.parametrize(
    ("name", "mode", "dtype", "note", "back_as"),
    [
        ("r.jpg", "RGB", "uint16", "16-bit values were scaled down", ("uint8", "RGB")),
        ("r.jpg", "RGBA", "uint8", "alpha was dropped", ("uint8", "RGB")),
        ("r.bmp", "grey+alpha", "uint8", "alpha was dropped", ("uint8", "grey")),
        ("r.png", "CMYK", "uint8", "converted to RGB", ("uint8", "RGB")),
        ("r.webp", "grey", "uint8", "written as RGB", ("uint8", "RGB")),
        ("r.webp", "grey+alpha", "uint8", "written as RGBA", ("uint8", "RGBA")),
        ("r.tif", "grey+alpha", "uint16", "written as RGBA", ("uint16", "RGBA")),
        ("r.tif", "CMYK", "uint16", "16-bit values were scaled down", ("uint8", "CMYK")),
        ("r.tif", "RGB", "float16", "written as float32", ("float32", "RGB")),
        ("r.png", "RGB", "float32", "0 to 1 were scaled to 0 to 65535", ("uint16", "RGB")),
        ("r.jpg", "grey", "float64", "0 to 1 were scaled to 0 to 255", ("uint8", "grey")),
        ("r.png", "RGB", "int32", "were scaled to 0 to 65535", ("uint16", "RGB")),
        ("r.tif", "RGB", "int64", "were scaled to 0 to 65535", ("uint16", "RGB")),
        ("r.png", "grey", "bool", "0 and 255", ("uint8", "grey")),
    ],
)
def test_notes(tmp_path, name, mode, dtype, note, back_as):
    array = picture((6, 5, MODES[mode]), dtype)
    (line,) = write_image(tmp_path / name, array, mode)
    assert line.startswith(f"{name}: ") and note in line and "\n" not in line
    back, back_mode = read_image(tmp_path / name)
    assert (back.dtype, back_mode) == back_as


@pytest.mark.parametrize(("shape", "mode"), [((2**15, 2**17, 1), "grey"), ((40000, 36000, 3), "RGB")])
def test_a_bmp_of_more_than_4_gib_is_refused(tmp_path, shape, mode):
    # Of a view the size is what counts: nothing so large is held.
    array = np.broadcast_to(np.zeros((1, 1, shape[2]), np.uint8), shape)
    with pytest.raises(UserError, match="BMP holds at most 4 GiB"):
        write_image(tmp_path / "x.bmp", array, mode)
    assert not list(tmp_path.iterdir())


def test_converted_values(tmp_path):
    array = np.array([[[-1.0], [0.0], [1.0], [2.0], [3.0]]], np.float32)
    write_image(tmp_path / "x.png", array, "grey", value_range=(0, 2))
    np.testing.assert_array_equal(read_image(tmp_path / "x.png")[0].ravel(), [0, 0, 32768, 65535, 65535])
    array = np.array([[[-1.7e308], [0.0], [1.7e308]]])
    write_image(tmp_path / "x.png", array, "grey", value_range=(-1.7e308, 1.7e308))
    np.testing.assert_array_equal(read_image(tmp_path / "x.png")[0].ravel(), [0, 32768, 65535])
    # The range of a constant ends where it begins.
    write_image(tmp_path / "x.png", np.full((1, 3, 1), 1e17), "grey", value_range=(1e17, 1e17))
    np.testing.assert_array_equal(read_image(tmp_path / "x.png")[0].ravel(), 0)
    array = np.array([[[0, 128, 255, 51]]], np.uint8)
    write_image(tmp_path / "x.png", array, "CMYK")
    expected = np.asarray(Image.frombytes("CMYK", (1, 1), array.tobytes()).convert("RGB"))
    assert np.abs(read_image(tmp_path / "x.png")[0].astype(int) - expected).max() <= 1
    array = np.array([[[0], [128], [129], [65535]]], np.uint16)
    write_image(tmp_path / "x.bmp", array, "grey")
    np.testing.assert_array_equal(read_image(tmp_path / "x.bmp")[0].ravel(), [0, 0, 1, 255])


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("x.gif", (2, 2, 3), r"\.png, \.jpg"),
        ("x", (2, 2, 3), "unknown ending"),
        ("x.png", (2, 2, 7), r"use the ending \.npy"),
        ("x.jpg", (1, 65536, 1), "65535"),
        ("x.webp", (16384, 1, 3), "16383"),
    ],
)
def test_what_cannot_be_written(tmp_path, name, shape, expected):
    array = np.zeros(shape, np.uint8)
    mode = {1: "grey", 3: "RGB", 7: "channels"}[shape[2]]
    with pytest.raises(UserError, match=expected):
        write_image(tmp_path / name, array, mode)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "dtype"), [("x.png", "uint8"), ("x.png", "uint16"), ("x.npy", "uint8")])
def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch, name, dtype):
    (tmp_path / name).write_bytes(b"old")

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    monkeypatch.setattr(np.lib.format, "write_array_header_1_0", fail)
    monkeypatch.setattr("cv2.imwrite", lambda *_: False)
    array = picture((4, 4, 3), dtype)
    with pytest.raises((OSError, UserError)):
        write_image(tmp_path / name, array, "RGB")
    assert [(item.name, item.read_bytes()) for item in tmp_path.iterdir()] == [(name, b"old")]
