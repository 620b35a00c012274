"""Pictures read by region: the numbers are those of the whole decode, whatever the format."""

import struct
import sys

import numpy as np
import pytest
from conftest import random_box
from PIL import Image

from datasets.big_picture import BigPicture
from datasets.grid import Box
from datasets.image import decoded_bytes, read_image
from datasets.image_writer import write_image
from datasets.samples import planet
from utils import UserError

pyvips = pytest.importorskip("pyvips")

PLANET = planet(70, 90)
DEEP = np.random.default_rng(0).integers(0, 65536, (70, 90, 4)).astype(np.uint16)
# What Pillow writes: a mode, and how.
PILLOW = {
    "rgb.jpg": ("RGB", {}), "grey.jpg": ("L", {}), "cmyk.jpg": ("CMYK", {}),
    "progressive.jpg": ("RGB", {"progressive": True}),
    "rgb.png": ("RGB", {}), "rgba.png": ("RGBA", {}), "la.png": ("LA", {}), "one.png": ("1", {}),
    "palette.png": ("P", {}),
    "strips.tif": ("RGB", {}), "lzw.tif": ("RGB", {"compression": "tiff_lzw"}), "cmyk.tif": ("CMYK", {}),
    "rgb.webp": ("RGB", {"lossless": True}),
}  # fmt: skip
DEPTHS = {"grey16.png": 1, "la16.png": 2, "rgb16.png": 3, "rgba16.tif": 4, "float.tif": 3, "signed.tif": 1}
TILED = {
    "plain.tif": {}, "big.tif": {"bigtiff": True, "compression": "deflate"}, "jpeg.tif": {"compression": "jpeg"},
    "pyramid.tif": {"pyramid": True, "compression": "lzw", "predictor": "horizontal"},
}  # fmt: skip


def write(name, folder):
    path = folder / name
    if name in PILLOW:
        mode, options = PILLOW[name]
        Image.fromarray(PLANET).convert(mode).save(path, **options)
    elif name in DEPTHS:
        array = DEEP[..., : DEPTHS[name]]
        array = {"float.tif": np.float32, "signed.tif": np.int16}.get(name, np.uint16)(array)
        write_image(path, array, {1: "grey", 2: "grey+alpha", 3: "RGB", 4: "RGBA"}[DEPTHS[name]])
    else:
        tiles = {"tile": True, "tile_width": 16, "tile_height": 32}
        pyvips.Image.new_from_array(PLANET).copy(interpretation="srgb").tiffsave(str(path), **tiles, **TILED[name])
    return path


@pytest.mark.parametrize("name", [*PILLOW, *DEPTHS, *TILED])
def test_any_region_is_that_of_the_whole_decode(tmp_path, name):
    path = write(name, tmp_path)
    whole, mode = read_image(path)
    picture, generator = BigPicture(path, tmp_path), np.random.default_rng(0)
    assert (picture.shape, picture.dtype, picture.mode) == (whole.shape, whole.dtype, mode)
    for box in [Box((0, 0), (70, 90)), *(random_box(generator, (70, 90)) for _ in range(4))]:
        np.testing.assert_array_equal(picture.read(box), Box((0, 0), (70, 90)).crop(whole, box))
        np.testing.assert_array_equal(picture.read(box, np.zeros_like(picture.read(box))), picture.read(box))
    assert whole.nbytes <= decoded_bytes(path) <= 4 * whole.nbytes
    assert [file.name for file in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["rgb.jpg", "rgb.png", "strips.tif", "plain.tif", "jpeg.tif"])
def test_a_cut_file_is_one_line(tmp_path, name):
    path = write(name, tmp_path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(UserError, match=name) as error:
        BigPicture(path, tmp_path).read(Box((0, 0), (70, 90)))
    assert "\n" not in str(error.value)


def directory_first(path):
    """A tiled TIFF, 48 x 32 of grey bytes, whose directory comes before its data, as some programs write it."""
    tiles, first = 6, 8 + 2 + 10 * 12 + 4
    data = first + 8 * tiles
    numbers = [(256, 4, 1, 48), (257, 4, 1, 32), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (277, 3, 1, 1),
               (322, 4, 1, 16), (323, 4, 1, 16), (324, 4, tiles, first),
               (325, 4, tiles, first + 4 * tiles)]  # fmt: skip
    head = struct.pack("<2sHIH", b"II", 42, 8, len(numbers)) + b"".join(struct.pack("<HHII", *tag) for tag in numbers)
    places = struct.pack(f"<I{tiles}I{tiles}I", 0, *(data + 256 * n for n in range(tiles)), *[256] * tiles)
    path.write_bytes(head + places + bytes(range(1, 255)) * 6 + bytes(12))


def test_a_tiled_picture_that_is_cut_behind_its_directory_is_one_line_and_not_black(tmp_path):
    directory_first(tmp_path / "a.tif")
    whole = BigPicture(tmp_path / "a.tif", tmp_path).read(Box((0, 0), (32, 48)))
    np.testing.assert_array_equal(whole, read_image(tmp_path / "a.tif")[0])
    (tmp_path / "a.tif").write_bytes((tmp_path / "a.tif").read_bytes()[:1000])
    picture = BigPicture(tmp_path / "a.tif", tmp_path)
    with pytest.raises(UserError, match=r"a\.tif: damaged"):
        picture.read(Box((0, 0), (32, 48)))
    np.testing.assert_array_equal(picture.read(Box((0, 0), (16, 32))), whole[:16, :32])


def test_a_tiled_picture_that_is_damaged_in_the_middle_is_one_line_and_not_black(tmp_path):
    path = write("big.tif", tmp_path)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 300] = b"\xff" * 300
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"big\.tif: damaged"):
        BigPicture(path, tmp_path).read(Box((0, 0), (70, 90)))


def test_what_cannot_be_read_by_region_is_one_line(tmp_path):
    Image.fromarray(PLANET).save(tmp_path / "a.bmp")
    with pytest.raises(UserError, match=r"a\.bmp.*\.npy"):
        BigPicture(tmp_path / "a.bmp", tmp_path)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.png", "a.tif", "tiled.tif"])
def test_what_is_stored_turned_comes_upright(tmp_path, name, orientation, monkeypatch):
    monkeypatch.setattr("datasets.big_picture.STRIP_BYTES", 3 * 90 * 16)
    if name == "tiled.tif":
        image = pyvips.Image.new_from_array(PLANET).copy(interpretation="srgb")
        image.set_type(pyvips.GValue.gint_type, "orientation", orientation)
        image.tiffsave(str(tmp_path / name), tile=True, tile_width=16, tile_height=32)
    else:
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(PLANET).save(tmp_path / name, exif=exif)
    whole, _ = read_image(tmp_path / name)
    picture, generator = BigPicture(tmp_path / name, tmp_path), np.random.default_rng(0)
    assert picture.shape == whole.shape == ((90, 70, 3) if orientation > 4 else (70, 90, 3))
    for box in [Box((0, 0), whole.shape[:2]), *(random_box(generator, whole.shape[:2]) for _ in range(3))]:
        np.testing.assert_array_equal(picture.read(box), Box((0, 0), whole.shape[:2]).crop(whole, box))


def test_without_pyvips_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyvips", None)
    with pytest.raises(UserError, match="pip install"):
        BigPicture(write("rgb.jpg", tmp_path), tmp_path)


def test_what_would_come_otherwise_than_from_memory_is_refused(tmp_path):
    image = pyvips.Image.new_from_array(DEEP.astype(np.uint8)).copy(interpretation="srgb").premultiply().cast("uchar")
    image.tiffsave(str(tmp_path / "a.tif"), tile=True, premultiply=True)
    with pytest.raises(UserError, match=r"a\.tif.*alpha"):
        BigPicture(tmp_path / "a.tif", tmp_path)


@pytest.mark.parametrize(("sizes", "pages"), [((1, 1, 1), 1), ((3, 1, 1), 3), ((2, 5, 4), 40)])
def test_pages_that_are_channels_or_slices_are_not_left_out_in_silence(tmp_path, sizes, pages):
    text = 'xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image><Pixels SizeC="{}" SizeZ="{}" SizeT="{}"/>'
    Image.fromarray(PLANET[..., 0]).save(tmp_path / "a.tif", tiffinfo={270: "<OME " + text.format(*sizes)})
    for read in (read_image, lambda path: BigPicture(path, tmp_path)):
        if pages == 1:
            read(tmp_path / "a.tif")
            continue
        with pytest.raises(UserError, match=rf"OME-TIFF of {pages} pages"):
            read(tmp_path / "a.tif")
