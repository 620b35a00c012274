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

# Longer side of a picture in pixels, and cells decoded at once while it is made.
SIDE = 1024
STRIP_CELLS = 2**23
OUTLINE = (230, 60, 40)


def level_pictures(pyramid: Pyramid, source: Source, level: int, side: int = SIDE) -> dict[str, np.ndarray]:
    """Pictures of a level, uint8 RGB [h, w, 3]: reconstruction beside truth, residual, active blocks.

    Of a volume it is the middle slice. The residual is truth minus reconstruction, grey where it is zero and scaled so
    that 0.1 saturates.
    """
    slice_ = _middle(pyramid, level)
    mode = source.signal.mode
    found = _shrink(lambda box: pyramid.decode(box, level), slice_, side)
    truth = _shrink(lambda box: source.read(box, level), slice_, side)
    gap = found.new_ones(len(found), max(2, found.shape[1] // 128), 3)
    return {
        "reconstruction_and_truth": _to_uint8(torch.cat([colour(found, mode), gap, colour(truth, mode)], 1)),
        "residual": _to_uint8(colour((truth - found) * 5 + 0.5, "grey" if mode == "CMYK" else mode)),
        "active_blocks": outline_blocks(_to_uint8(colour(found, mode)), pyramid, level),
    }


def outline_blocks(picture: np.ndarray, pyramid: Pyramid, level: int) -> np.ndarray:
    """Outline the active blocks of a level on a picture of its middle slice, uint8 [h, w, 3]; small ones are tinted."""
    picture = picture.copy()
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
        return np.where(mask, (picture * 0.6 + np.array(OUTLINE) * 0.4).astype(np.uint8), picture)
    for index in np.argwhere(active):
        top, left = (index * patch * scale).astype(int).tolist()
        bottom, right = (np.minimum((index + 1) * patch, extent) * scale - 1).astype(int).tolist()
        cv2.rectangle(picture, (left, top), (right, bottom), OUTLINE, 1)
    return picture


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


def _to_uint8(picture: Tensor) -> np.ndarray:
    return (picture * 255).round().to(torch.uint8).cpu().numpy()
