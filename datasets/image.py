"""Image files to arrays [height, width, channels] and back, keeping depth, channels and orientation.

Pillow decodes; OpenCV takes what Pillow would reduce to 8 bits or cannot hold (16-bit colour, float and signed TIFF).
"""

import contextlib
import os
import stat
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

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
HELD_DTYPES = {"PNG": ("uint8", "uint16")}
HELD_DTYPES["TIFF"] = ("uint8", "uint16", "uint32", "int8", "int16", "int32", "float32", "float64")
LONGEST_SIDE = {"JPEG": 65535, "WebP": 16383}
SAVE_OPTIONS = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "TIFF": {"compression": "tiff_lzw"},
    "WebP": {"lossless": True, "exact": True},
}
CV2_PIXELS, CV2_SIDE = 2**30, 2**20


@dataclass(frozen=True)
class ImageInfo:
    """How an array's numbers are meant."""

    dtype: str  # numpy's name, such as "uint16"
    channels: int
    mode: str  # "grey", "grey+alpha", "RGB", "RGBA", "CMYK", or "channels" for any other number (.npy only)


def read_image(path: str | os.PathLike) -> tuple[np.ndarray, ImageInfo]:
    """The picture in `path` as an array [height, width, channels] in native byte order, upright, and its `ImageInfo`.

    Palettes become RGB or RGBA, 1-bit pictures 8-bit grey, YCbCr RGB; CMYK stays (0 is no ink). Only the first frame
    or page is read. A .npy array is memory-mapped copy-on-write. Raises UserError when the file cannot be read whole
    or holds values that are not finite.
    """
    path = Path(path)
    header = _read_header(path)
    try:
        with _lenient():
            if path.suffix.lower() == ".npy":
                array, mode = _read_npy(path)
            elif header[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
                array, mode = _read_tiff(path, header)
            else:
                array, mode = _read_picture(path)
    except UserError:
        raise
    except MemoryError as error:
        raise UserError(
            f"{path}: not enough memory to read it: free some, or save it as an uncompressed .npy"
        ) from error
    except UnidentifiedImageError as error:
        known = "PNG, JPEG, TIFF, WebP, BMP or .npy"
        raise UserError(f"{path}: not a picture, or its header is damaged: use a {known} file") from error
    # Decoders report damage by any kind of exception: OSError, SyntaxError, EOFError, struct.error, ...
    except Exception as error:
        raise UserError(f"{path}: damaged or cut short ({error}): get a complete copy of the file") from error
    _refuse_non_finite(path, array)
    return array, ImageInfo(str(array.dtype), array.shape[2], mode)


def write_image(
    path: str | os.PathLike, array: np.ndarray, info: ImageInfo, value_range: tuple[float, float] = (0.0, 1.0)
) -> list[str]:
    """Write `array` [height, width, channels] in the format of the ending; return notes on what it could not hold.

    The depth written is that of `array.dtype`; `info.mode` says what the channels are. `value_range` is what maps to
    black and white where floats have to become integers. WebP is written lossless, JPEG at quality 95, 4:4:4. Raises
    UserError for an unknown ending or a picture that the format cannot hold at all.
    """
    path = Path(path)
    if array.ndim != 3 or array.size == 0 or array.shape[2] != info.channels:
        raise ValueError(f"array of shape {array.shape} for {info.channels} channels")
    if path.is_dir():
        raise UserError(f"{path}: a folder: name a file to write")
    file_format = FORMATS.get(path.suffix.lower())
    if file_format is None:
        raise UserError(f"{path}: unknown ending '{path.suffix}': use one of {', '.join(FORMATS)}")
    if file_format == "NPY":
        with atomic_write(path) as temporary, open(temporary, "wb") as file:
            np.save(file, array[..., 0] if info.channels == 1 else array)
        return []
    if info.mode not in PILLOW_MODES:
        raise UserError(f"{path}: {file_format} cannot hold {info.channels} channels: use the ending .npy")
    side = max(array.shape[:2])
    if side > LONGEST_SIDE.get(file_format, side):
        longest = LONGEST_SIDE[file_format]
        raise UserError(f"{path}: {side} pixels on a side; {file_format} holds at most {longest}: use .png or .tif")
    array, mode, notes = _fit_format(array, info.mode, file_format, value_range)
    array = np.ascontiguousarray(array)
    by_cv2 = array.dtype != np.uint8 and mode != "grey+alpha"
    if by_cv2:
        _check_cv2_size(path, array.shape[1], array.shape[0])
        if file_format == "TIFF" and array.nbytes > 2**32 - 2**24:
            raise UserError(f"{path}: over 4 GiB, too large for TIFF at this depth: use the ending .npy")
    with atomic_write(path) as temporary:
        if by_cv2:
            _write_by_cv2(path, temporary, array)
        elif array.dtype == np.uint16:
            _write_deep_grey_alpha_png(temporary, array)
        else:
            height, width = array.shape[:2]
            name = PILLOW_MODES[mode]
            options = dict(SAVE_OPTIONS.get(file_format, {}))
            if file_format == "TIFF" and array.nbytes > 2**32 - 2**24:
                options["big_tiff"] = True
            image = Image.frombuffer(name, (width, height), array, "raw", name, 0, 1)
            image.save(temporary, format=file_format, **options)
    return [f"{path.name}: {note}" for note in notes]


def resize_image(array: np.ndarray, width: int, height: int) -> np.ndarray:
    """`array` [H, W, channels] as [height, width, channels] of the same dtype; the array itself when sizes are equal.

    An axis that shrinks is averaged over pixel areas, one that grows is interpolated by cubics; integers are rounded
    and clipped to their dtype's range.
    """
    old_height, old_width, channels = array.shape
    if (old_width, old_height) == (width, height):
        return array
    if width < 1 or height < 1:
        raise ValueError(f"cannot resize to {width} x {height}")
    name = array.dtype.name
    if name in ("uint8", "uint16", "int16", "float32", "float64"):
        work_dtype = name
    else:
        work_dtype = "float32" if name in ("bool", "int8", "float16") else "float64"
    result = np.empty((height, width, channels), array.dtype.newbyteorder("="))
    # OpenCV averages areas only when no axis grows, so shrinking is a step of its own.
    small = (min(width, old_width), min(height, old_height))
    # OpenCV's area averaging takes at most 4 channels at a time.
    for first in range(0, channels, 4):
        part = np.ascontiguousarray(array[..., first : first + 4], dtype=work_dtype)
        if small != (old_width, old_height):
            part = cv2.resize(part, small, interpolation=cv2.INTER_AREA)
        if small != (width, height):
            part = cv2.resize(part, (width, height), interpolation=cv2.INTER_CUBIC)
        result[..., first : first + 4] = _cast(part.reshape(height, width, -1), result.dtype)
    return result


def _cast(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if array.dtype == dtype or dtype.kind == "f":
        return array.astype(dtype, copy=False)
    if dtype.kind == "b":
        return array >= 0.5
    limits = np.iinfo(dtype)
    high = float(limits.max)
    # float64 rounds the largest 64-bit integer up, out of the range.
    high = np.nextafter(high, 0) if int(high) > limits.max else high
    return np.clip(np.rint(array), limits.min, high).astype(dtype)


@contextlib.contextmanager
def _lenient() -> Iterator[None]:
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


def _read_header(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise UserError(f"{path}: a folder: name an image file in it")
        if not stat.S_ISREG(path.stat().st_mode):
            raise UserError(f"{path}: not a regular file: save the picture to disk first")
        with open(path, "rb") as file:
            header = file.read(16)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file: check the path") from error
    except PermissionError as error:
        raise UserError(f"{path}: no permission to read it: change its permissions (chmod +r)") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}): check the path") from error
    if not header:
        raise UserError(f"{path}: the file is empty: get a complete copy")
    return header


def _read_npy(path: Path) -> tuple[np.ndarray, str]:
    advice = "save one picture as [height, width] or [height, width, channels] of bool, integers or floats by numpy"
    try:
        array = np.lib.format.open_memmap(path, mode="c")
    except ValueError as error:
        raise UserError(f"{path}: not a whole .npy array ({error}): {advice}") from error
    if array.dtype.kind not in "biuf":
        raise UserError(f"{path}: an array of {array.dtype}: {advice}")
    if array.ndim not in (2, 3) or array.size == 0:
        raise UserError(f"{path}: an array of shape {list(array.shape)}: {advice}")
    array = array if array.ndim == 3 else array[..., None]
    native = np.asarray(array).astype(array.dtype.newbyteorder("="), copy=False)
    return np.ascontiguousarray(native), COUNT_MODES.get(array.shape[2], "channels")


def _read_tiff(path: Path, header: bytes) -> tuple[np.ndarray, str]:
    # Version 43 is BigTIFF, whose header is 16 bytes long.
    tags = TiffImagePlugin.ImageFileDirectory_v2(header if 43 in header[2:4] else header[:8])
    with open(path, "rb") as file:
        file.seek(tags.next)
        tags.load(file)
    ends = np.add(tags.get(273, tags.get(324)), tags.get(279, tags.get(325, 0)))
    # OpenCV fills what is missing of a truncated file with zeros and says nothing.
    if np.max(ends) > path.stat().st_size:
        raise ValueError("pixels beyond the end of the file")
    bits, photometric, samples = tags.get(258, (1,)), tags.get(262, 1), tags.get(277, 1)
    signs = tags.get(339, (1,))
    deep = bits[0] in (16, 32, 64) or set(signs) != {1}
    # What OpenCV does not know it reads wrong or not at all: planes apart (tag 284), 64-bit integers, other channels.
    known = (photometric, samples) in ((0, 1), (1, 1), (2, 3), (2, 4)) and len(set(bits)) == len(set(signs)) == 1
    known &= signs[0] in (1, 2, 3) and (bits[0] != 64 or signs[0] == 3) and (samples == 1 or tags.get(284, 1) == 1)
    if samples > 4 or (deep and not known):
        layout = f"{samples} channels of {bits[0]} bits, photometric {photometric}"
        raise UserError(f"{path}: TIFF with {layout} cannot be read: convert it to .npy, or to 8 bits a channel")
    if not deep:
        return _read_picture(path)
    array = _decode_by_cv2(path, tags[256], tags[257])
    # Photometric 0: white is zero; OpenCV hands the numbers over as they are.
    if photometric == 0 and array.dtype.kind == "u":
        array = np.invert(array)
    return array, COUNT_MODES[array.shape[2]]


def _read_picture(path: Path) -> tuple[np.ndarray, str]:
    with Image.open(path) as image:
        # JPEG 2000 and others have tiles without a raw mode; they are at most as deep as Pillow's modes.
        raw_mode = image.tile[0].args if image.tile else ""
        image.load()
        # Pillow and OpenCV turn a TIFF themselves; Pillow removes the tag then.
        orientation = _orientation(image)
        # A PPM tile has (mode, largest value).
        largest = raw_mode[1] if image.format == "PPM" and isinstance(raw_mode, tuple) else 0
        if largest > 255 and image.mode == "RGB":
            raw_mode = "RGB;16"
        if isinstance(raw_mode, str) and ";16" in raw_mode and image.mode in ("LA", "RGB", "RGBA"):
            # Pillow has reduced it to 8 bits, but has shown that the file is whole, which OpenCV would not.
            size = image.size
            image.close()
            array = _decode_by_cv2(path, *size)
            if raw_mode.startswith("LA"):
                array = array[..., [0, 3]]
            if 255 < largest < 65535:
                array = _map_rows(lambda block: np.rint(block * (65535 / largest)), array, np.uint16)
        else:
            array = _from_pillow(path, image)
        mode = "CMYK" if image.mode == "CMYK" else COUNT_MODES[array.shape[2]]
    return _turned(array, orientation), mode


def _orientation(image: Image.Image) -> int:
    # EXIF too damaged to parse is no reason to refuse the pixels.
    try:
        return image.getexif().get(0x0112, 1)
    except Exception:
        return 1


def _turned(array: np.ndarray, orientation: int) -> np.ndarray:
    """Upright rows and columns from those stored with an EXIF orientation (1 to 8; anything else is upright)."""
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    return np.ascontiguousarray(array)


def _from_pillow(path: Path, image: Image.Image) -> np.ndarray:
    mode = image.mode
    if mode.startswith("I;16") or (mode == "I" and image.format == "PPM"):
        dtype, bands = np.uint16, mode
    elif mode in ("I", "F"):
        dtype, bands = (np.int32 if mode == "I" else np.float32), mode
    elif mode == "LAB":
        raise UserError(f"{path}: Lab colour cannot be read: convert the picture to RGB")
    else:
        dtype, grey = np.uint8, mode in ("1", "L", "LA", "La")
        if image.has_transparency_data:
            bands = "LA" if grey else "RGBA"
        else:
            bands = "CMYK" if mode == "CMYK" else "L" if grey else "RGB"
    width, height = image.size
    array = np.empty((height, width, len(bands) if dtype == np.uint8 else 1), dtype)
    # By blocks of rows, so that the whole picture is never held in three forms.
    for rows in _row_blocks(height, width * 4):
        block = image.crop((0, rows.start, width, rows.stop))
        array[rows] = np.asarray(block if block.mode == bands else block.convert(bands)).reshape(array[rows].shape)
    if dtype == np.uint16 and "transparency" in image.info:
        alpha = np.where(array == image.info["transparency"], 0, 65535).astype(dtype)
        array = np.concatenate([array, alpha], axis=2)
    return array


def _check_cv2_size(path: Path, width: int, height: int) -> None:
    if width * height > CV2_PIXELS or max(width, height) > CV2_SIDE:
        limit = f"{CV2_PIXELS} pixels and {CV2_SIDE} on a side"
        raise UserError(f"{path}: {width} x {height} at this depth; OpenCV's limit is {limit}: use a .npy file")


def _decode_by_cv2(path: Path, width: int, height: int) -> np.ndarray:
    _check_cv2_size(path, width, height)
    # cv2.imread fails on a TIFF that has to be turned on its side; this reads the first page without that fault.
    _, pages = cv2.imreadmulti(str(path), start=0, count=1, flags=cv2.IMREAD_UNCHANGED)
    if not pages:
        raise ValueError("OpenCV cannot decode it")
    array = pages[0] if pages[0].ndim == 3 else pages[0][..., None]
    if array.shape[2] >= 3:
        blue = array[..., 0].copy()
        array[..., 0] = array[..., 2]
        array[..., 2] = blue
    return array


def _refuse_non_finite(path: Path, array: np.ndarray) -> None:
    if array.dtype.kind != "f":
        return
    for rows in _row_blocks(array.shape[0], array[0].size):
        finite = np.isfinite(array[rows])
        if not finite.all():
            row, column, channel = np.unravel_index(finite.argmin(), finite.shape)
            value = array[rows][row, column, channel]
            where = f"row {rows.start + row}, column {column}, channel {channel}"
            raise UserError(f"{path}: {value} at {where}: replace the values that are not finite")


def _row_blocks(height: int, row_values: int) -> Iterator[slice]:
    rows = max(1, 2**24 // row_values)
    for start in range(0, height, rows):
        yield slice(start, min(start + rows, height))


def _map_rows(function: Callable, array: np.ndarray, dtype: type, channels: int | None = None) -> np.ndarray:
    """`function` of blocks of rows, so that its intermediate floats stay small."""
    result = np.empty((*array.shape[:2], channels or array.shape[2]), dtype)
    for rows in _row_blocks(array.shape[0], array[0].size):
        result[rows] = function(array[rows])
    return result


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

        array, mode = _map_rows(to_rgb, array, array.dtype, 3), "RGB"
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
        scaled = _map_rows(lambda block: (block.astype(np.uint32) + 128) // 257, array, dtype)
        return scaled, f"{file_format} holds 8 bits a channel: the 16-bit values were scaled down"
    # Integers wider than the format have no agreed white, so what is there is stretched.
    low, high = value_range if array.dtype.kind == "f" else (int(array.min()), int(array.max()))
    if array.dtype.kind == "f" and not high > low:
        raise ValueError(f"value_range {value_range} is empty")

    def scale(block: np.ndarray) -> np.ndarray:
        unit = np.nan_to_num((block.astype(np.float64) - low) / max(high - low, 1e-300))
        return np.rint(np.clip(unit, 0, 1) * top)

    note = f"{file_format} holds at most {8 * np.dtype(dtype).itemsize}-bit integers"
    return _map_rows(scale, array, dtype), f"{note}: the {name} values {low:g} to {high:g} were scaled to 0 to {top}"


def _write_by_cv2(path: Path, temporary: Path, array: np.ndarray) -> None:
    if array.shape[2] >= 3:
        array = np.ascontiguousarray(array[..., [2, 1, 0, 3][: array.shape[2]]])
    try:
        with _lenient():
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
        for rows in _row_blocks(height, width * 2):
            values = array[rows].astype(">u2").reshape(-1, width * 2).view(np.uint8)
            # Every row begins with its filter: 0, none.
            chunk(b"IDAT", compressor.compress(np.pad(values, ((0, 0), (1, 0))).tobytes()))
        chunk(b"IDAT", compressor.flush())
        chunk(b"IEND", b"")
