"""Image files to arrays [height, width, channels], keeping depth, channels and orientation.

Pillow decodes; OpenCV takes what Pillow would reduce to 8 bits or cannot hold (16-bit colour, float and signed TIFF).
"""

import os
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from datasets.grid import Box
from datasets.image_format import COUNT_MODES
from datasets.image_writer import check_cv2_size, lenient, map_rows, row_blocks
from datasets.tiff import TIFF_STARTS, check_planes, tiff_tags
from utils import UserError


def read_image(path: str | os.PathLike) -> tuple[np.ndarray, str]:
    """The picture in `path` as an array [height, width, channels] in native byte order, upright, and its mode.

    The mode is "grey", "grey+alpha", "RGB", "RGBA", "CMYK", or "channels" for any other number of them (.npy only).
    Palettes become RGB or RGBA, 1-bit pictures 8-bit grey, YCbCr RGB; CMYK stays (0 is no ink). Only the first frame
    or page is read. A .npy array is memory-mapped copy-on-write. Raises UserError when the file cannot be read whole
    or holds values that are not finite.
    """
    path = Path(path)
    header = _read_header(path)
    try:
        with lenient():
            if path.suffix.lower() == ".npy":
                array, mode = _read_npy(path)
            elif header[:4] in TIFF_STARTS:
                array, mode = _read_tiff(path, header)
            else:
                array, mode = _read_picture(path)
    except UserError:
        raise
    except MemoryError as error:
        advice = "free some, or save it as an uncompressed .npy"
        raise UserError(f"{path}: not enough memory to read it: {advice}") from error
    except UnidentifiedImageError as error:
        known = "PNG, JPEG, TIFF, WebP, BMP or .npy"
        raise UserError(f"{path}: not a picture, or its header is damaged: use a {known} file") from error
    # Decoders report damage by any kind of exception: OSError, SyntaxError, EOFError, struct.error, ...
    except Exception as error:
        raise UserError(f"{path}: damaged or cut short ({error}): get a complete copy of the file") from error
    _refuse_non_finite(path, array)
    return array, mode


def turned(array: np.ndarray, orientation: int) -> np.ndarray:
    """Upright rows and columns from those stored with an EXIF orientation (1 to 8; anything else is upright)."""
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    return np.ascontiguousarray(array)


def turned_box(box: Box, orientation: int, shape: tuple[int, ...]) -> Box:
    """Where a box of stored rows and columns lies in the upright picture, [*shape]."""
    if orientation in (5, 6, 7, 8):
        box = Box(box.start[::-1], box.stop[::-1])
    flipped = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return box.map(lambda a, b, flip, n: (n - b, n - a) if flip else (a, b), flipped, shape[:2])


def decoded_bytes(path: Path) -> int:
    """About what a picture takes decoded, by its header; 0 where that cannot be read, which `read_image` words."""
    try:
        with lenient():
            header = _read_header(path)
            if header[:4] in TIFF_STARTS:
                tags = tiff_tags(path, header)
                bits = 24 if tags.get(262) == 3 else tags.get(277, 1) * max(8, tags.get(258, (1,))[0])
                return tags[256] * tags[257] * bits // 8
            with Image.open(path) as image:
                wide = 4 if image.mode in ("P", "I", "F") else 2 if ";16" in str(image.tile[:1]) else 1
                return image.width * image.height * len(image.getbands()) * wide
    # Decoders report damage by any kind of exception.
    except Exception:
        return 0


def _read_header(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise UserError(f"{path}: a folder: name an image file in it")
        if path.exists() and not path.is_file():
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
    tags = tiff_tags(path, header)
    check_planes(path, tags)
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
        # A PPM tile has (mode, largest value).
        largest = raw_mode[1] if image.format == "PPM" and isinstance(raw_mode, tuple) else 0
        if largest > 255 and image.mode == "RGB":
            raw_mode = "RGB;16"
        deep = isinstance(raw_mode, str) and ";16" in raw_mode and image.mode in ("LA", "RGB", "RGBA")
        if deep:
            check_cv2_size(path, *image.size)
        image.load()
        # Pillow and OpenCV turn a TIFF themselves; Pillow removes the tag then.
        orientation = _orientation(image)
        if deep:
            # Pillow has reduced it to 8 bits, but has shown that the file is whole, which OpenCV would not.
            size = image.size
            image.close()
            array = _decode_by_cv2(path, *size)
            if raw_mode.startswith("LA"):
                array = array[..., [0, 3]]
            if 255 < largest < 65535:
                array = map_rows(lambda block: np.rint(block * (65535 / largest)), array, np.uint16)
        else:
            array = _from_pillow(path, image)
        mode = "CMYK" if image.mode == "CMYK" else COUNT_MODES[array.shape[2]]
    return turned(array, orientation), mode


def _orientation(image: Image.Image) -> int:
    # EXIF too damaged to parse is no reason to refuse the pixels.
    try:
        return image.getexif().get(0x0112, 1)
    except Exception:
        return 1


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
    for rows in row_blocks(height, width * 4):
        block = image.crop((0, rows.start, width, rows.stop))
        array[rows] = np.asarray(block if block.mode == bands else block.convert(bands)).reshape(array[rows].shape)
    if dtype == np.uint16 and "transparency" in image.info:
        alpha = np.where(array == image.info["transparency"], 0, 65535).astype(dtype)
        array = np.concatenate([array, alpha], axis=2)
    return array


def _decode_by_cv2(path: Path, width: int, height: int) -> np.ndarray:
    check_cv2_size(path, width, height)
    # cv2.imread fails on a TIFF that has to be turned on its side; this reads the first page without that fault.
    _, pages = cv2.imreadmulti(str(path), start=0, count=1, flags=cv2.IMREAD_UNCHANGED)
    if not pages:
        raise ValueError("OpenCV cannot decode it")
    array = pages[0] if pages[0].ndim == 3 else pages[0][..., None]
    if array.shape[2] >= 3:
        array[..., 0], array[..., 2] = array[..., 2], array[..., 0].copy()
    return array


def _refuse_non_finite(path: Path, array: np.ndarray) -> None:
    if array.dtype.kind != "f":
        return
    for rows in row_blocks(array.shape[0], array[0].size):
        finite = np.isfinite(array[rows])
        if not finite.all():
            row, column, channel = np.unravel_index(finite.argmin(), finite.shape)
            value = array[rows][row, column, channel]
            where = f"row {rows.start + row}, column {column}, channel {channel}"
            raise UserError(f"{path}: {value} at {where}: replace the values that are not finite")
