"""Pictures that are too large to be decoded whole, read by region through libvips.

Tiled TIFF, and so BigTIFF, OME-TIFF and most whole-slide images, is read where it lies. Other formats can only be
decoded from top to bottom, so they are decoded once into a scratch file of raw numbers, as is what lies turned.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from datasets.file_array import FileArray, handed
from datasets.grid import Box
from datasets.image import turned, turned_box
from datasets.image_format import COUNT_MODES
from datasets.image_writer import lenient
from datasets.source import points
from datasets.tiff import TIFF_STARTS, check_planes, tiff_tags
from utils import UserError

# Bytes of a strip that is decoded at once.
STRIP_BYTES = 2**25
DTYPES = {
    "uchar": "uint8", "char": "int8", "ushort": "uint16", "short": "int16", "uint": "uint32", "int": "int32",
    "float": "float32", "double": "float64",
}  # fmt: skip
TILE_WIDTH, EXTRA_SAMPLES = 322, 338
ASSOCIATED = 1


class BigPicture:
    """A picture on disk, [height, width, channels], with the values that `read_image` would give.

    Args:
        folder: where a scratch file may be put.

    Raises:
        UserError: pyvips is missing, or the file cannot be read, in part or at all.
    """

    def __init__(self, path: Path, folder: Path):
        try:
            import pyvips
        except (ImportError, OSError):
            advice = "install it (pip install 'pyvips[binary]'), raise --memory, or save the picture as .npy"
            raise UserError(f"{path}: larger than --memory has room for, and to read it by region takes pyvips: "
                            f"{advice}") from None  # fmt: skip
        self.path, self._vips = path, pyvips
        # Its cache of finished operations would hold on to what was read.
        pyvips.cache_set_max(0)
        tags = _tags(path)
        check_planes(path, tags)
        tiled = TILE_WIDTH in tags
        image = self._try(lambda: pyvips.Image.new_from_file(str(path), access="random" if tiled else "sequential",
                                                             fail_on="error"))  # fmt: skip
        self.mode = "CMYK" if image.interpretation == "cmyk" else COUNT_MODES.get(image.bands)
        if self.mode is None or image.format not in DTYPES:
            raise UserError(f"{path}: {image.bands} channels of {image.format} cannot be read by region: save it as "
                            ".npy, or raise --memory")  # fmt: skip
        # Colours of 8 bits are divided by it where they are decoded whole.
        if image.format == "uchar" and ASSOCIATED in np.atleast_1d(tags.get(EXTRA_SAMPLES, 0)):
            raise UserError(f"{path}: colours multiplied by their alpha cannot be read by region: save it with plain "
                            "(unassociated) alpha, or raise --memory")  # fmt: skip
        orientation = image.get("orientation") if image.get_typeof("orientation") else 1
        height, width = (image.width, image.height) if orientation in (5, 6, 7, 8) else (image.height, image.width)
        self.shape, self.dtype = (height, width, image.bands), np.dtype(DTYPES[image.format])
        self._region = pyvips.Region.new(image)
        self._stored: FileArray | None = None
        if not tiled or orientation > 1:
            self._stored = FileArray.scratch(folder, self.shape, self.dtype)
            cell = image.bands * self.dtype.itemsize
            for strip in points((image.height, image.width), 0).strips(0, STRIP_BYTES // cell):
                self._stored.write(turned_box(strip, orientation, self.shape), turned(self._fetch(strip), orientation))

    def read(self, region: Box, out: np.ndarray | None = None) -> np.ndarray:
        """The cells of a region, [*region, c], put into `out` if it is given."""
        if self._stored:
            return self._stored.read(region, out)
        return handed(self._fetch(region), out)

    def _fetch(self, region: Box) -> np.ndarray:
        """The cells of a region as they are stored."""
        (top, left), (height, width) = region.start, region.shape
        found = self._try(lambda: self._fetched(left, top, width, height))
        return np.frombuffer(found, self.dtype).reshape(height, width, -1)

    def _fetched(self, *place: int) -> bytes:
        library = self._vips.vips_lib
        library.vips_error_clear()
        found = self._region.fetch(*place)
        # Of a tile that it cannot read libvips makes a black one, and only takes note of it.
        if said := self._vips.ffi.string(library.vips_error_buffer()).decode(errors="replace").strip():
            raise self._vips.Error("damaged", said)
        return found

    def _try(self, function):
        try:
            return function()
        except self._vips.Error as error:
            what = " ".join((error.detail or str(error)).split())[:150]
            raise UserError(f"{self.path}: damaged, cut short, or of a kind that cannot be read by region ({what}): "
                            "get a complete copy, or save it as a tiled TIFF or as .npy") from None  # fmt: skip


def _tags(path: Path) -> Mapping[int, Any]:
    """The tags of a TIFF's first page; none of another file."""
    with open(path, "rb") as file:
        header = file.read(16)
    try:
        with lenient():
            return tiff_tags(path, header) if header[:4] in TIFF_STARTS else {}
    # Whatever is wrong with the file, its decoder says it.
    except Exception:
        return {}
