"""Pictures of a pyramid, of bounded size however large the signal: for TensorBoard, the notebooks and --blocks."""

from collections.abc import Callable, Iterable

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from datasets.grid import Box
from datasets.source import Source
from models.pyramid import Pyramid

# Longer side of a picture in pixels at most, and at least where cells have to be enlarged.
SIDE = 1024
SMALL_SIDE = 512
# Of blocks, by level from the finest, RGB; they begin anew where a pyramid has more.
LEVEL_COLOURS = ((255, 183, 77), (240, 98, 146), (149, 117, 255), (79, 195, 247), (77, 208, 160), (220, 231, 117))
# Longer side of the picture of all scales: blocks of 32 in an image of 8192 have 8 pixels there.
SCALES_SIDE = 2048
TINT = 0.3


def level_pictures(
    pyramid: Pyramid, source: Source, level: int, side: int = SIDE, strip_cells: int = 2**22
) -> dict[str, np.ndarray]:
    """Pictures of a level, uint8 RGB [h, w, 3]: reconstruction beside or above truth, residual, active blocks.

    Of a volume it is the middle slice. The residual is truth minus reconstruction, grey where it is zero and scaled so
    that 0.05 saturates.
    """
    slice_ = _middle(pyramid, level)
    mode = source.signal.mode
    found = _shrink(lambda box: pyramid.decode(box, level), slice_, side, strip_cells)
    truth = _shrink(lambda box: source.read(box, level), slice_, side, strip_cells)
    enlarge = max(1, min(side, SMALL_SIDE) // max(found.shape[:2]))
    found, truth = (cells.repeat_interleave(enlarge, 0).repeat_interleave(enlarge, 1) for cells in (found, truth))
    # Wide ones above each other, so that they are large in the square cards of TensorBoard.
    along = int(found.shape[1] <= found.shape[0])
    picture, width = colour(found, mode), max(2, found.shape[along] // 128)
    gap = picture.new_ones(width if along == 0 else len(picture), width if along == 1 else picture.shape[1], 3)
    dim = picture.mean(-1, keepdim=True).expand(-1, -1, 3) * 0.6
    return {
        "reconstruction_and_truth": to_uint8(torch.cat([picture, gap, colour(truth, mode)], along)),
        "residual": to_uint8(colour((truth - found) * 10 + 0.5, "grey" if mode == "CMYK" else mode)),
        "active_blocks": outline_blocks(to_uint8(dim), pyramid, level),
    }


def compare(pyramid: Pyramid, source: Source, level: int = 0, side: int = SIDE) -> dict[str, np.ndarray]:
    """What a level should be, what it is, and how far off: "truth" and "reconstruction", uint8 RGB [h, w, 3], and
    "error", the mean absolute difference over channels and the cells of a pixel, float32 [h, w] with values in [0, 1].

    Of a volume it is the middle slice.
    """
    slice_, mode = _middle(pyramid, level), source.signal.mode
    off = _shrink(lambda box: (source.read(box, level) - pyramid.decode(box, level)).abs(), slice_, side)
    return {
        "truth": to_uint8(colour(_shrink(lambda box: source.read(box, level), slice_, side), mode)),
        "reconstruction": to_uint8(colour(_shrink(lambda box: pyramid.decode(box, level), slice_, side), mode)),
        "error": off.mean(-1).cpu().numpy(),
    }


def scales_picture(
    pyramid: Pyramid, mode: str, levels: Iterable[int] | None = None, side: int = SCALES_SIDE
) -> np.ndarray:
    """The block decomposition: the active blocks of each level outlined in the level's colour, with a legend below.

    A place is tinted by the finest level that has a network there. (Saragadam et al., 2022, figure 4.)

    Args:
        mode: how the channels are to be read, as in Signal.
        levels: those to outline; all of them if None. What is behind them is the reconstruction of the finest level.
        side: the longer side in pixels at most; a small image is enlarged by a whole factor.

    Returns:
        uint8 RGB [h, w, 3]. Of a volume it is the middle slice.
    """
    found = colour(_shrink(lambda box: pyramid.decode(box, 0), _middle(pyramid, 0), side), mode)
    enlarge = max(1, min(side, SIDE) // max(found.shape[:2]))
    found = found.repeat_interleave(enlarge, 0).repeat_interleave(enlarge, 1)
    grey = to_uint8(0.75 * found.mean(-1, keepdim=True).expand(-1, -1, 3) + 0.05)
    picture, levels = grey.copy(), sorted(range(pyramid.grid.n_levels) if levels is None else levels)
    for level in reversed(levels):
        rows, columns = (
            np.arange(n) * cells // (n * patch)
            for n, cells, patch in zip(
                grey.shape, _middle(pyramid, level).shape[-2:], pyramid.grid.patch[-2:], strict=False
            )
        )
        active = _active_blocks(pyramid, level)[np.ix_(rows, columns)] > 0
        picture[active] = grey[active] * (1 - TINT) + np.array(level_colour(level)) * TINT
        picture = outline_blocks(picture, pyramid, level, max(1, max(picture.shape[:2]) // 1024))
    return np.concatenate([picture, legend(pyramid, levels, picture.shape[1])])


def legend(
    pyramid: Pyramid, levels: Iterable[int], width: int, text: tuple[int, int, int] = (40, 40, 40)
) -> np.ndarray:
    """A white strip that names the colour of each level and counts its blocks, uint8 RGB [h, width, 3]."""
    height = min(40, max(14, width // 48))
    font = ImageFont.load_default(height * 0.6)
    entries = []
    for level in levels:
        active = 0 if pyramid.level(level) is None else len(pyramid.level(level))
        name = f"level {level}" + (" (finest)" if level == 0 else "")
        entries.append((level_colour(level), f"{name}: {active} of {pyramid.grid.n_blocks(level)} blocks"))
    # As few rows as the longest entry allows, filled evenly.
    cell = int(max(font.getlength(entry) for _, entry in entries) + 2 * height)
    rows = -(-len(entries) // max(1, width // cell))
    columns = -(-len(entries) // rows)
    strip = Image.new("RGB", (width, height * rows), "white")
    draw = ImageDraw.Draw(strip)
    for place, (outline, entry) in enumerate(entries):
        left, top = place % columns * (width // columns), place // columns * height
        draw.rectangle((left + height // 4, top + height // 4, left + height * 3 // 4, top + height * 3 // 4), outline)
        draw.text((left + height, top + height / 2), entry, text, font, anchor="lm")
    return np.asarray(strip)


def outline_blocks(picture: np.ndarray, pyramid: Pyramid, level: int, width: int | None = None) -> np.ndarray:
    """Outline the active blocks of a level on a picture of its middle slice, uint8 [h, w, 3]; small ones are tinted.

    Each block has lines of its own, as wide as the picture asks for; with a `width` neighbours share one.
    """
    picture, outline = picture.copy(), level_colour(level)
    active, patch = _active_blocks(pyramid, level), np.array(pyramid.grid.patch[-2:])
    extent = np.array(_middle(pyramid, level).shape[-2:])
    scale = np.array(picture.shape[:2]) / extent
    if min(patch * scale) < 6:
        mask = cv2.resize(active * 255, picture.shape[1::-1], interpolation=cv2.INTER_AREA)[..., None] > 0
        return np.where(mask, (picture * 0.6 + np.array(outline) * 0.4).astype(np.uint8), picture)
    inset = width is None
    if width is None:
        # TensorBoard shrinks pictures to about 300 pixels by leaving out rows and columns: lines must outlast it.
        width = max(1, min(-(-max(picture.shape[:2]) // 300), int(min(patch * scale)) // 5))
    for index in np.argwhere(active):
        top, left = (index * patch * scale).astype(int).tolist()
        ends = np.minimum((index + 1) * patch, extent) * scale - inset
        bottom, right = np.minimum(ends, np.array(picture.shape[:2]) - 1).astype(int).tolist()
        cv2.rectangle(picture, (left, top), (right, bottom), outline, width)
    return picture


def _active_blocks(pyramid: Pyramid, level: int) -> np.ndarray:
    """1 where a block of a level's middle slice has a network, else 0: uint8 [blocks along y, along x]."""
    grid, networks = pyramid.grid, pyramid.level(level)
    active = np.zeros(grid.block_counts(level), dtype=np.uint8)
    if networks is not None:
        active.flat[networks.blocks.cpu().numpy()] = 1
    return active[_middle(pyramid, level).start[0] // grid.patch[0]] if grid.ndim == 3 else active


def level_colour(level: int) -> tuple[int, int, int]:
    """The colour, RGB, that stands for the blocks of a level."""
    return LEVEL_COLOURS[level % len(LEVEL_COLOURS)]


def colour(cells: Tensor, mode: str) -> Tensor:
    """Cells [h, w, c] of a signal's mode as RGB [h, w, 3] in [0, 1], for looking at."""
    cells = cells.clamp(0, 1)
    if mode == "CMYK":
        return (1 - cells[..., :3]) * (1 - cells[..., 3:])
    return cells[..., :3] if cells.shape[-1] >= 3 else cells[..., :1].expand(*cells.shape[:2], 3)


def _middle(pyramid: Pyramid, level: int) -> Box:
    """The cells of an image's level, or of the middle slice of a volume's."""
    box = pyramid.grid.level_box(level)
    if pyramid.grid.ndim == 2:
        return box
    z = box.stop[0] // 2
    return Box((z, *box.start[1:]), (z + 1, *box.stop[1:]))


def _shrink(read: Callable[[Box], Tensor], slice_: Box, side: int, strip_cells: int = 2**22) -> Tensor:
    """A slice, [h, w, c], averaged down by a whole factor until no side is longer than `side`.

    Args:
        read: gives a box of the level, [*box, c].
        strip_cells: cells read at once.
    """
    height, width = slice_.shape[-2:]
    factor = -(-max(height, width) // side)
    rows = max(1, strip_cells // (width * factor)) * factor
    strips = []
    for top in range(0, height, rows):
        box = Box((*slice_.start[:-2], top, 0), (*slice_.stop[:-2], min(top + rows, height), width))
        cells = read(box).reshape(*box.shape[-2:], -1).movedim(-1, 0)
        strips.append(F.avg_pool2d(cells, factor, ceil_mode=True) if factor > 1 else cells)
    return torch.cat(strips, 1).movedim(0, -1)


def to_uint8(picture: Tensor) -> np.ndarray:
    """Values in [0, 1] as uint8 of the same shape."""
    return (picture * 255).round().to(torch.uint8).cpu().numpy()
