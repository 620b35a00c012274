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

from utils import UserError, atomic_write

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".tif": "TIFF", ".tiff": "TIFF", ".webp": "WebP"}
FORMATS |= {".bmp": "BMP", ".npy": "NPY"}
COUNT_MODES = {1: "grey", 2: "grey+alpha", 3: "RGB", 4: "RGBA"}
PILLOW_MODES = {"grey": "L", "grey+alpha": "LA", "RGB": "RGB", "RGBA": "RGBA", "CMYK": "CMYK"}
HELD_MODES = {
    "PNG": ("grey", "grey+alpha", "RGB", "RGBA"),
    "JPEG": ("grey", "RGB", "CMYK"),
    "TIFF": ("grey", "grey+alpha", "RGB", "RGBA", "CMYK"),
    "WebP": ("RGB", "RGBA"),
    "BMP": ("grey", "RGB"),
}
HELD_DTYPES = {
    "PNG": ("uint8", "uint16"),
    "TIFF": ("uint8", "uint16", "uint32", "int8", "int16", "int32", "float32", "float64"),
}
LONGEST_SIDE = {"JPEG": 65535, "WebP": 16383}
SAVE_OPTIONS = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "TIFF": {"compression": "tiff_lzw"},
    "WebP": {"lossless": True, "exact": True},
}
# What a TIFF without 64-bit offsets holds, less some room.
TIFF_BYTES = 2**32 - 2**24
CV2_PIXELS, CV2_SIDE = 2**30, 2**20


def write_image(
    path: str | os.PathLike, array: np.ndarray, mode: str, value_range: tuple[float, float] = (0.0, 1.0)
) -> list[str]:
    """Write `array` [height, width, channels] in the format of the ending; return notes on what it could not hold.

    The depth written is that of `array.dtype`; `mode` says what the channels are, in the words of `read_image`.
    `value_range` is what maps to black and white where floats have to become integers. WebP is written lossless, JPEG
    at quality 95, 4:4:4. Raises UserError for an unknown ending or a picture that the format cannot hold at all.
    """
    path = Path(path)
    if array.ndim != 3 or array.size == 0 or (mode in PILLOW_MODES and len(PILLOW_MODES[mode]) != array.shape[2]):
        raise ValueError(f"array of shape {array.shape} for {mode}")
    channels = array.shape[2]
    if path.is_dir():
        raise UserError(f"{path}: a folder: name a file to write")
    file_format = FORMATS.get(path.suffix.lower())
    if file_format is None:
        raise UserError(f"{path}: unknown ending '{path.suffix}': use one of {', '.join(FORMATS)}")
    if file_format == "NPY":
        with atomic_write(path) as temporary, open(temporary, "wb") as file:
            np.save(file, array[..., 0] if channels == 1 else array)
        return []
    if mode not in PILLOW_MODES:
        raise UserError(f"{path}: {file_format} cannot hold {channels} channels: use the ending .npy")
    side = max(array.shape[:2])
    longest = LONGEST_SIDE.get(file_format, side)
    if side > longest:
        raise UserError(f"{path}: {side} pixels on a side; {file_format} holds at most {longest}: use .png or .tif")
    array, mode, notes = _fit_format(array, mode, file_format, value_range)
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
    return [f"{path.name}: {note}" for note in notes]


def _fit_format(
    array: np.ndarray, mode: str, file_format: str, value_range: tuple[float, float]
) -> tuple[np.ndarray, str, list[str]]:
    """`array` and `mode` as `file_format` can hold them, and notes on what changed."""
    notes = []
    held = HELD_MODES[file_format]
    if mode.endswith(("A", "+alpha")) and "RGBA" not in held:
        array, mode = array[..., :-1], "grey" if mode == "grey+alpha" else "RGB"
        notes.append(f"{file_format} holds no transparency: alpha was dropped")
    dtypes = HELD_DTYPES.get(file_format, ("uint8",))
    if mode == "CMYK" and file_format == "TIFF":
        dtypes = ("uint8",)
    if array.dtype.name not in dtypes:
        array, note = _fit_dtype(array, file_format, dtypes, value_range)
        notes.append(note)
    if mode == "CMYK" and mode not in held:
        top = np.iinfo(array.dtype).max

        def to_rgb(block: np.ndarray) -> np.ndarray:
            light = top - block.astype(np.float64)
            return np.rint(light[..., :3] * light[..., 3:] / top)

        array, mode = map_rows(to_rgb, array, array.dtype, 3), "RGB"
        notes.append(f"{file_format} holds no CMYK: it was converted to RGB without a colour profile")
    if mode.startswith("grey") and (
        mode not in held or ((mode, file_format) == ("grey+alpha", "TIFF") and array.dtype != np.uint8)
    ):
        array = array[..., [0, 0, 0, *range(1, array.shape[2])]]
        mode = COUNT_MODES[array.shape[2]]
        notes.append(f"{file_format} holds no such grey: it was written as {mode} with equal colours")
    return array, mode, notes


def _fit_dtype(
    array: np.ndarray, file_format: str, dtypes: tuple[str, ...], value_range: tuple[float, float]
) -> tuple[np.ndarray, str]:
    name = array.dtype.name
    if name == "bool":
        return array.astype(np.uint8) * np.uint8(255), "bool was written as 0 and 255"
    if array.dtype.kind == "f" and "float64" in dtypes:
        dtype = np.float32 if name == "float16" else np.float64
        return array.astype(dtype), f"{file_format} holds no {name}: it was written as {np.dtype(dtype)}"
    dtype = np.uint16 if "uint16" in dtypes else np.uint8
    top = np.iinfo(dtype).max
    if name == "uint16":
        scaled = map_rows(lambda block: (block.astype(np.uint32) + 128) // 257, array, dtype)
        return scaled, f"{file_format} holds 8 bits a channel: the 16-bit values were scaled down"
    # Integers wider than the format have no agreed white, so what is there is stretched.
    low, high = value_range if array.dtype.kind == "f" else (int(array.min()), int(array.max()))
    if array.dtype.kind == "f" and not high > low:
        raise ValueError(f"value_range {value_range} is empty")

    def scale(block: np.ndarray) -> np.ndarray:
        unit = np.nan_to_num((block.astype(np.float64) - low) / max(high - low, 1e-300))
        return np.rint(np.clip(unit, 0, 1) * top)

    note = f"{file_format} holds at most {8 * np.dtype(dtype).itemsize}-bit integers"
    return map_rows(scale, array, dtype), f"{note}: the {name} values {low:g} to {high:g} were scaled to 0 to {top}"


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
    """Raise UserError for a picture larger than OpenCV takes."""
    if width * height > CV2_PIXELS or max(width, height) > CV2_SIDE:
        limit = f"{CV2_PIXELS} pixels and {CV2_SIDE} on a side"
        raise UserError(f"{path}: {width} x {height} at this depth; OpenCV's limit is {limit}: use a .npy file")


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
