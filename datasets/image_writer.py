"""Arrays [height, width, channels] to image files, fitted to what their formats can hold.

Pillow encodes 8 bits a channel; OpenCV the rest, but for 16-bit grey with alpha, which is written here. What reading
needs as well (`datasets.image`) is at the end.
"""

import contextlib
import os
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from datasets.image_format import FORMATS, check_picture, fit_format
from datasets.npy import write_npy
from utils import UserError, atomic_write

PILLOW_MODES = {"grey": "L", "grey+alpha": "LA", "RGB": "RGB", "RGBA": "RGBA", "CMYK": "CMYK"}
SAVE_OPTIONS = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "TIFF": {"compression": "tiff_lzw"},
    "WebP": {"lossless": True, "exact": True},
}
# What a TIFF without 64-bit offsets holds, less some room.
TIFF_BYTES = 2**32 - 2**24
CV2_PIXELS, CV2_SIDE = 2**30, 2**20


class TooLarge(UserError):
    """A picture is larger than OpenCV takes."""


def write_image(
    path: str | os.PathLike, array: np.ndarray, mode: str, value_range: tuple[float, float] = (0.0, 1.0)
) -> list[str]:
    """Write `array` [height, width, channels] in the format of the ending; return notes on what it could not hold.

    The depth written is that of `array.dtype`; `mode` says what the channels are, in the words of `read_image`.
    `value_range` is what maps to black and white where floats have to become integers. WebP is written lossless, JPEG
    at quality 95, 4:4:4. Raises UserError for an unknown ending or a picture that the format cannot hold at all.
    """
    path = Path(path)
    if array.ndim != 3 or array.size == 0:
        raise ValueError(f"array of shape {array.shape}")
    file_format = FORMATS.get(path.suffix.lower())
    if file_format is None:
        raise UserError(f"{path}: unknown ending '{path.suffix}': use one of {', '.join(FORMATS)}")
    check_picture(path, file_format, array.shape, mode)
    if file_format == "NPY":
        write_npy(path, [array], array.shape[:2] if array.shape[2] == 1 else array.shape, array.dtype)
        return []
    # Integers wider than the formats have no agreed white, so what is there is stretched.
    if array.dtype.kind in "iu" and array.dtype.name not in ("uint8", "uint16"):
        value_range = (int(array.min()), int(array.max()))
    fit = fit_format(mode, array.dtype, file_format, value_range)
    if fit.steps:
        array, mode = map_rows(fit, array, fit.dtype, fit.channels), fit.mode
    array = np.ascontiguousarray(array)
    by_cv2 = array.dtype != np.uint8 and mode != "grey+alpha"
    large_tiff = file_format == "TIFF" and array.nbytes > TIFF_BYTES
    height, width = array.shape[:2]
    if by_cv2:
        check_cv2_size(path, width, height)
        if large_tiff:
            raise UserError(f"{path}: over 4 GiB, too large for TIFF at this depth: use the ending .npy")
    with atomic_write(path) as temporary:
        if by_cv2:
            _write_by_cv2(path, temporary, array)
        elif array.dtype == np.uint16:
            _write_deep_grey_alpha_png(temporary, array)
        else:
            name = PILLOW_MODES[mode]
            options = SAVE_OPTIONS.get(file_format, {}) | ({"big_tiff": True} if large_tiff else {})
            image = Image.frombuffer(name, (width, height), array, "raw", name, 0, 1)
            image.save(temporary, format=file_format, **options)
    return [f"{path.name}: {note}" for note in fit.notes]


def _write_by_cv2(path: Path, temporary: Path, array: np.ndarray) -> None:
    if array.shape[2] >= 3:
        array = np.ascontiguousarray(array[..., [2, 1, 0, 3][: array.shape[2]]])
    try:
        with lenient():
            written = cv2.imwrite(str(temporary), array)
    except cv2.error:
        written = False
    if not written:
        raise UserError(f"{path}: OpenCV could not write it: check the free space, or use the ending .npy")


def _write_deep_grey_alpha_png(temporary: Path, array: np.ndarray) -> None:
    """PNG of 16-bit grey with alpha, which neither Pillow nor OpenCV can write."""
    height, width = array.shape[:2]
    compressor = zlib.compressobj()
    with open(temporary, "wb") as file:

        def chunk(kind: bytes, data: bytes) -> None:
            file.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)))

        file.write(b"\x89PNG\r\n\x1a\n")
        # Depth 16, colour type 4 (grey and alpha), no interlacing.
        chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 4, 0, 0, 0))
        for rows in row_blocks(height, width * 2):
            values = array[rows].astype(">u2").reshape(-1, width * 2).view(np.uint8)
            # Every row begins with its filter: 0, none.
            chunk(b"IDAT", compressor.compress(np.pad(values, ((0, 0), (1, 0))).tobytes()))
        chunk(b"IDAT", compressor.flush())
        chunk(b"IEND", b"")


@contextlib.contextmanager
def lenient() -> Iterator[None]:
    """No size limit in Pillow and no warnings of either decoder, while it lasts: errors are ours to word."""
    limit, level = Image.MAX_IMAGE_PIXELS, cv2.utils.logging.getLogLevel()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Image.MAX_IMAGE_PIXELS = None
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit
            cv2.utils.logging.setLogLevel(level)


def check_cv2_size(path: Path, width: int, height: int) -> None:
    """Raise TooLarge for a picture larger than OpenCV takes."""
    if width * height > CV2_PIXELS or max(width, height) > CV2_SIDE:
        limit = f"{CV2_PIXELS} pixels and {CV2_SIDE} on a side"
        raise TooLarge(f"{path}: {width} x {height} at this depth; OpenCV's limit is {limit}: use a .npy file")


def row_blocks(height: int, row_values: int) -> Iterator[slice]:
    """Slices of `height` rows of `row_values` values each, about 16 million values a slice."""
    rows = max(1, 2**24 // row_values)
    for start in range(0, height, rows):
        yield slice(start, min(start + rows, height))


def map_rows(function: Callable, array: np.ndarray, dtype: type, channels: int | None = None) -> np.ndarray:
    """`function` of blocks of rows, so that its intermediate floats stay small."""
    result = np.empty((*array.shape[:2], channels or array.shape[2]), dtype)
    for rows in row_blocks(array.shape[0], array[0].size):
        result[rows] = function(array[rows])
    return result
