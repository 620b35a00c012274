"""Pictures of a pyramid, of bounded size however large the image: what TensorBoard shows."""

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


def level_pictures(pyramid: Pyramid, source: Source, level: int, side: int = SIDE) -> dict[str, np.ndarray]:
    """Pictures of a level of an image, uint8 RGB [h, w, 3]: reconstruction beside truth, residual, active blocks.

    The residual is truth minus reconstruction, grey where it is zero and scaled so that 0.1 saturates.
    """
    found = shrink(lambda box: pyramid.decode(box, level), pyramid, level, side)
    truth = shrink(lambda box: source.read(box, level), pyramid, level, side)
    gap = found.new_ones(len(found), max(2, found.shape[1] // 128), 3)
    beside = torch.cat([_colour(found, source), gap, _colour(truth, source)], 1)
    residual = _colour((truth - found) * 5 + 0.5, source)
    return {
        "reconstruction_and_truth": _to_uint8(beside),
        "residual": _to_uint8(residual),
        "active_blocks": blocks_over(_to_uint8(_colour(found, source)), pyramid, level),
    }


def shrink(read, pyramid: Pyramid, level: int, side: int) -> Tensor:
    """The whole of a level, averaged down by a whole factor until no side is longer than `side`: [h, w, c].

    Args:
        read: gives any box of the level, [*box, c].
    """
    height, width = pyramid.grid.level_box(level).stop
    factor = -(-max(height, width) // side)
    rows = max(1, STRIP_CELLS // (width * factor)) * factor
    strips = []
    for top in range(0, height, rows):
        cells = read(Box((top, 0), (min(top + rows, height), width))).movedim(-1, 0)
        strips.append(F.avg_pool2d(cells, factor, ceil_mode=True).movedim(0, -1) if factor > 1 else cells.movedim(0, -1))
    return torch.cat(strips)


def blocks_over(picture: np.ndarray, pyramid: Pyramid, level: int) -> np.ndarray:
    """Outline the active blocks of a level on a picture of that level, uint8 [h, w, 3]; small ones are tinted."""
    picture = picture.copy()
    counts, patch = pyramid.grid.block_counts(level), pyramid.grid.patch
    networks = pyramid.level(level)
    active = np.zeros(counts, dtype=np.uint8)
    if networks is not None:
        active.flat[networks.blocks.cpu().numpy()] = 1
    extent = pyramid.grid.level_box(level).stop
    scale = np.array(picture.shape[:2]) / np.array(extent)
    if min(np.array(patch) * scale) < 6:
        mask = cv2.resize(active, picture.shape[1::-1], interpolation=cv2.INTER_AREA)[..., None] > 0
        return np.where(mask, (picture * 0.6 + np.array([230, 60, 40]) * 0.4).astype(np.uint8), picture)
    for index in np.argwhere(active):
        top, left = (index * patch * scale).astype(int)
        bottom, right = (np.minimum((index + 1) * patch, extent) * scale).astype(int) - 1
        cv2.rectangle(picture, (int(left), int(top)), (int(right), int(bottom)), (230, 60, 40), 1)
    return picture


def _colour(cells: Tensor, source: Source) -> Tensor:
    """Cells [h, w, c] of any mode as RGB [h, w, 3] in [0, 1], for looking at."""
    cells, mode = cells.clamp(0, 1), source.signal.mode
    if mode == "CMYK":
        return (1 - cells[..., :3]) * (1 - cells[..., 3:])
    return cells[..., :3] if cells.shape[-1] >= 3 else cells[..., :1].expand(*cells.shape[:2], 3)


def _to_uint8(picture: Tensor) -> np.ndarray:
    return (picture * 255).round().to(torch.uint8).cpu().numpy()
