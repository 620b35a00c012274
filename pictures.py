"""Pictures of a pyramid, of bounded size however large the signal: what TensorBoard shows."""

from collections.abc import Callable

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from datasets.grid import Box
from datasets.source import Source
from models.pyramid import Pyramid

# Longer side of a picture in pixels at most, and at least where cells have to be enlarged; cells decoded at once.
SIDE = 1024
SMALL_SIDE = 512
STRIP_CELLS = 2**23
# Of blocks, by level from the finest, RGB; they begin anew where a pyramid has more.
LEVEL_COLOURS = ((255, 183, 77), (240, 98, 146), (149, 117, 255), (79, 195, 247), (77, 208, 160), (220, 231, 117))


def level_pictures(pyramid: Pyramid, source: Source, level: int, side: int = SIDE) -> dict[str, np.ndarray]:
    """Pictures of a level, uint8 RGB [h, w, 3]: reconstruction beside or above truth, residual, active blocks.

    Of a volume it is the middle slice. The residual is truth minus reconstruction, grey where it is zero and scaled so
    that 0.05 saturates.
    """
    slice_ = _middle(pyramid, level)
    mode = source.signal.mode
    found = _shrink(lambda box: pyramid.decode(box, level), slice_, side)
    truth = _shrink(lambda box: source.read(box, level), slice_, side)
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


def outline_blocks(picture: np.ndarray, pyramid: Pyramid, level: int) -> np.ndarray:
    """Outline the active blocks of a level on a picture of its middle slice, uint8 [h, w, 3]; small ones are tinted."""
    picture, outline = picture.copy(), level_colour(level)
    slice_, networks = _middle(pyramid, level), pyramid.level(level)
    counts, patch, extent = (
        pyramid.grid.block_counts(level),
        np.array(pyramid.grid.patch[-2:]),
        np.array(slice_.shape[-2:]),
    )
    active = np.zeros(counts, dtype=np.uint8)
    if networks is not None:
        active.flat[networks.blocks.cpu().numpy()] = 1
    if pyramid.grid.ndim == 3:
        active = active[slice_.start[0] // pyramid.grid.patch[0]]
    scale = np.array(picture.shape[:2]) / extent
    if min(patch * scale) < 6:
        mask = cv2.resize(active * 255, picture.shape[1::-1], interpolation=cv2.INTER_AREA)[..., None] > 0
        return np.where(mask, (picture * 0.6 + np.array(outline) * 0.4).astype(np.uint8), picture)
    # TensorBoard shrinks pictures to about 300 pixels by leaving out rows and columns: lines must outlast it.
    width = max(1, min(-(-max(picture.shape[:2]) // 300), int(min(patch * scale)) // 5))
    for index in np.argwhere(active):
        top, left = (index * patch * scale).astype(int).tolist()
        bottom, right = (np.minimum((index + 1) * patch, extent) * scale - 1).astype(int).tolist()
        cv2.rectangle(picture, (left, top), (right, bottom), outline, width)
    return picture


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


def _shrink(read: Callable[[Box], Tensor], slice_: Box, side: int) -> Tensor:
    """A slice, [h, w, c], averaged down by a whole factor until no side is longer than `side`.

    Args:
        read: gives a box of the level, [*box, c].
    """
    height, width = slice_.shape[-2:]
    factor = -(-max(height, width) // side)
    rows = max(1, STRIP_CELLS // (width * factor)) * factor
    strips = []
    for top in range(0, height, rows):
        box = Box((*slice_.start[:-2], top, 0), (*slice_.stop[:-2], min(top + rows, height), width))
        cells = read(box).reshape(*box.shape[-2:], -1).movedim(-1, 0)
        strips.append(F.avg_pool2d(cells, factor, ceil_mode=True) if factor > 1 else cells)
    return torch.cat(strips, 1).movedim(0, -1)


def to_uint8(picture: Tensor) -> np.ndarray:
    """Values in [0, 1] as uint8 of the same shape."""
    return (picture * 255).round().to(torch.uint8).cpu().numpy()
