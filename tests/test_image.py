"""Reading image files: orientation, depth, damaged files; resizing."""

import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_image_writer import picture

from datasets.image import read_image
from datasets.image_writer import write_image
from utils import UserError


def write_tiff(path, array, photometric, orientation=1, sample_format=1, order="<", extra=None, planar=1):
    """An uncompressed TIFF of one strip whose directory comes before the pixels."""
    height, width, channels = array.shape
    data = array.astype(array.dtype.newbyteorder(order)).tobytes()
    fields = {256: [width], 257: [height], 258: [array.dtype.itemsize * 8] * channels, 259: [1], 262: [photometric]}
    fields |= {273: [0], 274: [orientation], 277: [channels], 278: [height], 279: [len(data)]}
    fields |= {284: [planar]} | ({338: extra} if extra else {})
    fields |= {339: [sample_format] * channels}
    base = 8 + 2 + 12 * len(fields) + 4
    fields[273] = [base + sum(2 * len(values) for values in fields.values() if len(values) > 2)]
    entries, outside = b"", b""
    for tag, values in fields.items():
        packed = struct.pack(f"{order}{len(values)}H", *values)
        if len(values) > 2:
            packed, outside = struct.pack(f"{order}I", base + len(outside)), outside + packed
        entries += struct.pack(f"{order}HHI", tag, 3, len(values)) + packed.ljust(4, b"\0")
    magic = b"II*\0" if order == "<" else b"MM\0*"
    directory = struct.pack(f"{order}IH", 8, len(fields)) + entries + bytes(4)
    path.write_bytes(magic + directory + outside + data)


def write_png16(path, array, colour, *extra):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = array.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    body = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0))
    body += b"".join(chunk(*item) for item in extra) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def test_npy_in_fortran_order(tmp_path):
    array = np.asfortranarray(picture((4, 5, 3)))
    np.save(tmp_path / "x.npy", array)
    np.testing.assert_array_equal(read_image(tmp_path / "x.npy")[0], array)


def upright(stored, orientation):
    """EXIF: where the 0th row and the 0th column of what is stored belong in the upright picture."""
    moves = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: np.rot90(a.swapaxes(0, 1), 2),
        8: lambda a: np.rot90(a, 1),
    }
    return moves[orientation](stored)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = picture((5, 7, 3))
    for ending, options in ((".png", {}), (".tif", {}), (".webp", {"lossless": True})):
        Image.fromarray(stored).save(tmp_path / f"x{ending}", exif=exif, **options)
        np.testing.assert_array_equal(read_image(tmp_path / f"x{ending}")[0], upright(stored, orientation))
    blocks = np.kron(picture((2, 3, 3)), np.ones((8, 8, 1), np.uint8))
    Image.fromarray(blocks).save(tmp_path / "x.jpg", exif=exif, quality=95, subsampling=0)
    difference = read_image(tmp_path / "x.jpg")[0].astype(int) - upright(blocks, orientation)
    assert np.abs(difference).max() < 12
    deep = picture((5, 7, 3), "uint16")
    write_png16(tmp_path / "deep.png", deep, 2, (b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")))
    np.testing.assert_array_equal(read_image(tmp_path / "deep.png")[0], upright(deep, orientation))
    for order in "<>":
        for array, sample_format in ((deep, 1), (picture((5, 7, 3), "float32"), 3), (deep[..., :1], 1)):
            write_tiff(tmp_path / "deep.tif", array, 1 + (array.shape[2] == 3), orientation, sample_format, order)
            np.testing.assert_array_equal(read_image(tmp_path / "deep.tif")[0], upright(array, orientation))


@pytest.mark.parametrize("transparency", [None, 3, bytes(range(0, 160, 10))])
def test_palette(tmp_path, transparency):
    colours = picture((16, 3))
    index = picture((6, 5)) % 16
    image = Image.frombytes("P", (5, 6), index.tobytes())
    image.putpalette(colours.tobytes())
    image.save(tmp_path / "x.png", **({} if transparency is None else {"transparency": transparency}))
    array, mode = read_image(tmp_path / "x.png")
    np.testing.assert_array_equal(array[..., :3], colours[index])
    assert mode == ("RGB" if transparency is None else "RGBA")
    if transparency == 3:
        np.testing.assert_array_equal(array[..., 3], np.where(index == 3, 0, 255))
    elif transparency is not None:
        np.testing.assert_array_equal(array[..., 3], index * 10)


def test_modes_that_pillow_converts(tmp_path):
    bits = picture((6, 5), "bool")
    Image.fromarray(bits).save(tmp_path / "bits.png")
    array, mode = read_image(tmp_path / "bits.png")
    assert (array.dtype, array.shape, mode) == (np.uint8, (6, 5, 1), "grey")
    np.testing.assert_array_equal(array[..., 0], bits * 255)
    grey = picture((6, 5))
    Image.fromarray(grey).save(tmp_path / "key.png", transparency=int(grey[0, 0]))
    array, mode = read_image(tmp_path / "key.png")
    assert mode == "grey+alpha"
    np.testing.assert_array_equal(array[..., 1], np.where(grey == grey[0, 0], 0, 255))
    frames = [Image.fromarray(picture((6, 5, 3), seed=seed)) for seed in (1, 2)]
    for name in ("pages.tif", "film.png", "film.webp"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], lossless=True)
        np.testing.assert_array_equal(read_image(tmp_path / name)[0], np.asarray(frames[0]))
    frames[0].quantize(16).save(tmp_path / "film.gif", save_all=True, append_images=frames[1:])
    assert read_image(tmp_path / "film.gif")[1] == "RGB"
    frames[0].convert("YCbCr").save(tmp_path / "ycc.tif")
    assert read_image(tmp_path / "ycc.tif")[1] == "RGB"


def test_deep_colour_is_not_reduced(tmp_path):
    grey_alpha, colour = picture((6, 5, 2), "uint16"), picture((6, 5, 3), "uint16")
    write_png16(tmp_path / "la.png", grey_alpha, 4)
    array, mode = read_image(tmp_path / "la.png")
    assert (array.dtype, array.shape, mode) == (np.uint16, (6, 5, 2), "grey+alpha")
    np.testing.assert_array_equal(array, grey_alpha)
    write_png16(tmp_path / "key.png", colour, 2, (b"tRNS", colour[0, 0].astype(">u2").tobytes()))
    array, mode = read_image(tmp_path / "key.png")
    assert mode == "RGBA" and array[0, 0, 3] == 0 and array[1, 1, 3] == 65535
    np.testing.assert_array_equal(array[..., :3], colour)
    grey = grey_alpha[..., :1]
    write_png16(tmp_path / "greykey.png", grey, 0, (b"tRNS", grey[0, 0].astype(">u2").tobytes()))
    array, mode = read_image(tmp_path / "greykey.png")
    assert (array.dtype, array.shape, mode) == (np.uint16, (6, 5, 2), "grey+alpha")
    assert array[0, 0, 1] == 0
    for name, value in (("x.ppm", colour), ("x.pgm", grey)):
        kind = b"P6" if name == "x.ppm" else b"P5"
        (tmp_path / name).write_bytes(kind + b"\n5 6\n65535\n" + value.astype(">u2").tobytes())
        np.testing.assert_array_equal(read_image(tmp_path / name)[0], value)
    ten_bits = np.minimum(colour, 1023)
    (tmp_path / "x.ppm").write_bytes(b"P6\n5 6\n1023\n" + ten_bits.astype(">u2").tobytes())
    np.testing.assert_array_equal(read_image(tmp_path / "x.ppm")[0], np.rint(ten_bits * (65535 / 1023)))
    write_tiff(tmp_path / "white.tif", grey, 0)
    np.testing.assert_array_equal(read_image(tmp_path / "white.tif")[0], 65535 - grey)


@pytest.mark.parametrize(
    "name", ["x.png", "deep.png", "x.jpg", "x.tif", "deep.tif", "float.tif", "first.tif", "x.webp", "x.bmp", "x.npy"]
)
@pytest.mark.parametrize("part", [0.02, 0.3, 0.7, 0.95])
def test_truncated(tmp_path, capfd, name, part):
    path = tmp_path / name
    dtype = {"deep": "uint16", "float": "float32", "first": "float32"}.get(path.stem, "uint8")
    array = picture((40, 30, 3), dtype)
    if path.stem == "first":
        write_tiff(path, array, 2, sample_format=3)
    else:
        write_image(path, array, "RGB")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(UserError) as error:
        read_image(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")


def bad_array(value):
    array = np.zeros((4, 5, 3), np.float32)
    array[2, 3, 1] = value
    return array


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("none.png", None, "no such file"),
        ("empty.png", b"", "empty"),
        ("text.png", b"this is not a picture at all", "not a picture"),
        ("text.npy", b"this is not an array, not at all", ".npy"),
        ("complex.npy", np.zeros((3, 3), complex), "complex128"),
        ("object.npy", np.array([[{}, 1], [2, 3]]), "object"),
        ("one.npy", np.zeros(5), r"\[5\]"),
        ("four.npy", np.zeros((2, 2, 2, 2)), r"\[2, 2, 2, 2\]"),
        ("none.npy", np.zeros((0, 5)), r"\[0, 5\]"),
        ("nochannels.npy", np.zeros((2, 5, 0)), r"\[2, 5, 0\]"),
        ("nan.npy", bad_array(np.nan), "nan at row 2, column 3, channel 1"),
        ("inf.npy", bad_array(-np.inf), "-inf at row 2, column 3, channel 1"),
    ],
)
def test_bad_input(tmp_path, name, content, expected):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.save(path, content, allow_pickle=True)
    with pytest.raises(UserError, match=expected) as error:
        read_image(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_bad_paths_and_permissions(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="folder"):
        read_image(tmp_path)
    (tmp_path / "x.png").write_bytes(b"x")
    with pytest.raises(UserError, match="check the path"):
        read_image(tmp_path / "x.png" / "y.png")
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(UserError, match="regular"):
        read_image(tmp_path / "pipe.png")

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    # The tests may run as root, whom no permission stops.
    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(UserError, match="permission"):
        read_image(tmp_path / "x.png")


def test_tiff_that_cannot_be_read_right_is_refused(tmp_path, capfd):
    nan = bad_array(np.nan)
    write_tiff(tmp_path / "nan.tif", nan, 2, sample_format=3)
    with pytest.raises(UserError, match="nan at row 2"):
        read_image(tmp_path / "nan.tif")
    for shape, dtype, options in (
        ((5, 4, 2), "uint16", {"photometric": 1, "extra": [2]}),
        ((5, 4, 4), "uint16", {"photometric": 5}),
        ((5, 4, 7), "uint8", {"photometric": 1, "extra": [0] * 6}),
        ((5, 4, 5), "uint16", {"photometric": 2, "extra": [0] * 2}),
        ((5, 4, 3), "uint16", {"photometric": 2, "planar": 2}),
        ((5, 4, 1), "uint64", {"photometric": 1}),
    ):
        write_tiff(tmp_path / "x.tif", picture(shape, dtype), **options)
        with pytest.raises(UserError, match=r"cannot be read: convert it to \.npy"):
            read_image(tmp_path / "x.tif")
    smooth = np.cumsum(np.ones((300, 200, 3), np.uint16), axis=0, dtype=np.uint16)
    write_image(tmp_path / "lzw.tif", smooth, "RGB")
    data = bytearray((tmp_path / "lzw.tif").read_bytes())
    data[len(data) // 2 : len(data) // 2 + 50] = bytes(50)
    (tmp_path / "lzw.tif").write_bytes(data)
    with pytest.raises(UserError, match="damaged"):
        read_image(tmp_path / "lzw.tif")
    assert capfd.readouterr().err == ""


def test_nothing_is_printed_by_the_decoders(tmp_path):
    code = "import sys; from datasets.image import read_image; from datasets.image_writer import write_image; "
    code += "write_image(sys.argv[2], *read_image(sys.argv[1]))"
    write_tiff(tmp_path / "x.tif", picture((5, 4, 4), "uint16"), 2)
    command = [sys.executable, "-c", code, str(tmp_path / "x.tif"), str(tmp_path / "y.tif")]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""
