"""Pictures that come strip by strip, of any size: files, and Deep Zoom tiles, in bounded memory.

A small picture is put together and written by `datasets.image_writer`. A large one goes to a scratch file beside the
result, from which libvips (the package pyvips) writes it without ever holding it.
"""

import contextlib
import math
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from datasets.image_format import FORMATS, Fit, check_picture, fit_format
from datasets.image_writer import TIFF_BYTES, write_image
from datasets.npy import write_cells, write_npy
from datasets.raw_tiff import write_raw_header
from utils import UserError, atomic_write

ENDINGS = (*FORMATS, ".dzi")
# Bytes of cells from which a picture is large: 8192 x 4096 RGB has 96 MiB.
LARGE = 2**26
# What libvips writes from a strip at a time; WebP and BMP are held in memory, and WebP is never very large.
STREAMED = ("PNG", "JPEG", "TIFF", "Deep Zoom")
TILE = 256
# Not int8: as libvips marks its alpha, OpenCV multiplies the colours by it.
VIPS_DTYPES = {
    "uint8": "uchar", "uint16": "ushort", "int16": "short", "uint32": "uint", "int32": "int",
    "float32": "float", "float64": "double",
}  # fmt: skip
COLOURS = {1: "b-w", 2: "b-w", 3: "srgb", 4: "srgb"}
DEEP_COLOURS = {1: "grey16", 2: "grey16", 3: "rgb16", 4: "rgb16"}
JPEG_TILE = ".jpg[Q=95,subsample_mode=off]"


def write_strips(
    path: str | os.PathLike,
    strips: Iterable[np.ndarray],
    shape: tuple[int, int, int],
    dtype: np.dtype | str,
    mode: str,
    value_range: tuple[float, float] = (0.0, 1.0),
) -> list[str]:
    """Write a picture in the format of the ending, whole or not at all; return notes on what it could not hold.

    What `write_image` promises holds here too. From `LARGE` bytes on a TIFF is tiled and a pyramid. `name.dzi` is Deep
    Zoom: the tiles lie in the folder `name_files` beside it, as JPEG, or as PNG where there is alpha. Integers wider
    than a format are scaled by `value_range` where a picture is large.

    Args:
        strips: arrays [rows, width, channels] of `dtype`, from the top down; drawn one at a time.
        shape: height, width and channels of the picture.

    Raises:
        UserError: an unknown ending, a picture that the format cannot hold, or Deep Zoom without pyvips.
        ValueError: the strips do not add up to the shape.
    """
    path, dtype = Path(path), np.dtype(dtype)
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise UserError(f"{path}: unknown ending '{path.suffix}': use one of {', '.join(ENDINGS)}")
    file_format = FORMATS.get(ending, "Deep Zoom")
    check_picture(path, file_format, shape, mode)
    if file_format == "NPY":
        write_npy(path, strips, shape[:2] if shape[2] == 1 else shape, dtype)
        return []
    if file_format == "Deep Zoom":
        _check_tiles(path)
    tiles = file_format == "Deep Zoom"
    large = tiles or (math.prod(shape) * dtype.itemsize >= LARGE and file_format in STREAMED and dtype != np.int8)
    by_vips = large and _has_vips()
    if tiles and not by_vips:
        raise UserError(f'{path}: Deep Zoom needs libvips: pip install "pyvips[binary]", or use another ending')
    if not by_vips:
        notes = write_image(path, _gather(strips, shape, dtype), mode, value_range)
        plain = f"{path.name}: put together in memory; with pyvips installed it is written strip by strip"
        return [*notes, plain] if large else notes
    fit = fit_format(mode, dtype, file_format, value_range)
    with _scratch(path, map(fit, strips), (*shape[:2], fit.channels), fit.dtype) as scratch:
        image = _open_scratch(scratch, fit)
        if tiles:
            _write_tiles(path, image, fit)
        else:
            with atomic_write(path) as temporary, _worded(path):
                _save(image, temporary, file_format, fit)
    return [f"{path.name}: {note}" for note in fit.notes]


def _has_vips() -> bool:
    try:
        import pyvips  # noqa: F401
    # Without a library of the system to go with it, the package raises OSError.
    except (ImportError, OSError):
        return False
    return True


def _gather(strips: Iterable[np.ndarray], shape: tuple[int, int, int], dtype: np.dtype) -> np.ndarray:
    array, top = np.empty(shape, dtype), 0
    for strip in strips:
        array[top : top + len(strip)] = strip
        top += len(strip)
    if top != shape[0]:
        raise ValueError(f"{top} rows in the strips of a picture of {shape[0]}")
    return array


@contextlib.contextmanager
def _scratch(path: Path, strips: Iterable[np.ndarray], shape: tuple[int, ...], dtype: np.dtype) -> Iterator[Path]:
    """A file of the cells' bytes, row by row, beside `path`, while it lasts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.stem}.{os.getpid()}.part.raw.tif")
    try:
        try:
            with open(scratch, "wb") as file:
                write_raw_header(file, shape[0], math.prod(shape[1:]) * dtype.itemsize)
                write_cells(file, strips, math.prod(shape), dtype)
        except OSError as error:
            raise OSError(error.errno, error.strerror or str(error), str(path)) from error
        yield scratch
    finally:
        scratch.unlink(missing_ok=True)


def _open_scratch(scratch: Path, fit: Fit):
    """The picture of a scratch file, as libvips streams it."""
    import pyvips

    colours = "cmyk" if fit.mode == "CMYK" else (DEEP_COLOURS if fit.dtype == np.uint16 else COLOURS)[fit.channels]
    rows = pyvips.Image.tiffload(str(scratch), access="sequential")
    pixels = rows.bandfold(factor=fit.channels * fit.dtype.itemsize)
    return pixels.copy(bands=fit.channels, format=VIPS_DTYPES[fit.dtype.name], interpretation=colours)


def _save(image, path: Path, file_format: str, fit: Fit) -> None:
    if file_format == "PNG":
        image.pngsave(str(path), compression=6, filter="sub")
    elif file_format == "JPEG":
        image.jpegsave(str(path), Q=95, subsample_mode="off")
    else:
        # The pyramid adds a third.
        over_4_gib = image.width * image.height * fit.channels * fit.dtype.itemsize * 4 / 3 > TIFF_BYTES
        predictor = "float" if fit.dtype.kind == "f" else "horizontal"
        image.tiffsave(
            str(path), compression="lzw", predictor=predictor, bigtiff=over_4_gib,
            tile=True, tile_width=TILE, tile_height=TILE, pyramid=True,
        )  # fmt: skip


def _tiles_of(path: Path) -> Path:
    return path.with_name(f"{path.stem}_files")


def _check_tiles(path: Path) -> None:
    """Refuse to replace a folder that is not of a Deep Zoom picture of this name."""
    tiles = _tiles_of(path)
    if tiles.exists() and not path.is_file():
        raise UserError(f"{tiles}: is there already, and no tiles of {path}: move it away, or choose another name")


def _write_tiles(path: Path, image, fit: Fit) -> None:
    """Tiles and the .dzi that names them: made aside, then the tiles are renamed into place, and the .dzi last."""
    aside = path.with_name(f".{path.stem}.{os.getpid()}.part")
    try:
        aside.mkdir()
        with _worded(path):
            image.dzsave(str(aside / "new"), suffix=".png" if fit.mode == "RGBA" else JPEG_TILE)
        if (tiles := _tiles_of(path)).exists():
            path.unlink()
            tiles.rename(aside / "old")
        (aside / "new_files").rename(tiles)
        (aside / "new.dzi").rename(path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@contextlib.contextmanager
def _worded(path: Path) -> Iterator[None]:
    """Turn what libvips says of a failed write into one line."""
    import pyvips

    try:
        yield
    except pyvips.Error as error:
        reason = " ".join(error.detail.split())[:120] if isinstance(error.detail, str) else error.message
        raise UserError(f"{path}: libvips could not write it ({reason}): check the free space") from None
