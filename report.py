"""The figures of a finished run, measured on the saved file, strip by strip."""

import functools
import math
import operator
import sys
from pathlib import Path

import torch
from torch import Tensor

from datasets.grid import Box
from datasets.source import Source
from metrics import SSIM_WINDOW, Mean, Overlap, Seams, psnr, ssim_map
from models.pyramid import Pyramid
from ranks import Ranks
from utils import UserError

# Cells of an image measured at once, by the type of device: the windows of SSIM take some fifteen times the memory of a
# strip.
SSIM_STRIP_CELLS = {"cpu": 2**18, "cuda": 2**20}
SSIM_VALUE_BYTES = 60


@torch.no_grad()
def quality(pyramid: Pyramid, source: Source, ranks: Ranks | None = None, strip_cells: int = 2**22) -> dict[str, float]:
    """PSNR of all cells and of the worst block, SSIM of images, IoU of occupancies, and the seam measure.

    Of the finest level, with peak 1. What a sum over nothing gives, as the SSIM of an image smaller than its window,
    is not a number. Several processes share the strips, and all of them must call this.

    Args:
        strip_cells: cells that may be measured at once.
    """
    ranks = ranks or Ranks()
    squares, mean, similarity, overlap = Mean(), Mean(), Mean(), Overlap()
    seams, worst = Seams(pyramid.grid.patch), 0.0
    occupancy = source.signal.mode == "occupancy"
    # Windows and steps that reach back into the strips before need their last cells.
    reach = SSIM_WINDOW - 1 if pyramid.grid.ndim == 2 else 1
    most = min(strip_cells, SSIM_STRIP_CELLS[source.device.type]) if pyramid.grid.ndim == 2 else strip_cells
    grid = pyramid.grid
    regions = ranks.share([grid.clip(grid.cells_of(blocks), 0) for blocks in grid.boxes(0, most)])
    wider = [Box(tuple(max(0, a - reach) for a in region.start), region.stop) for region in regions]
    source.expect(wider, 0)
    for region, wide in zip(regions, wider, strict=True):
        found, truth = pyramid.decode(wide), source.read(wide, 0)
        error = found - truth
        inner = wide.crop(error, region)
        squares.add(inner.square())
        mean.add(wide.crop(truth, region))
        worst = max(worst, _block_mse(pyramid, inner, region).max().item())
        seams.add(error, wide.start, tuple(a - b for a, b in zip(region.start, wide.start, strict=True)))
        if pyramid.grid.ndim == 2:
            similarity.add(ssim_map(found, truth))
        if occupancy:
            overlap.add(wide.crop(found, region) > 0.5, wide.crop(truth, region) > 0.5)
    met = ranks.gather((squares, mean, similarity, overlap, seams, worst))
    *sums, worsts = zip(*met, strict=True)
    squares, mean, similarity, overlap, seams = (functools.reduce(operator.add, parts) for parts in sums)
    worst = max(worsts)
    figures = {"psnr": psnr(squares.value), "mean": mean.value, "psnr_worst_block": psnr(worst), "seam": seams.value}
    return figures | ({"iou": overlap.value} if occupancy else {"ssim": similarity.value})


def shape_distance(pyramid: Pyramid, about: dict) -> dict[str, float]:
    """Chamfer distance and normal consistency of a shape's surface against the mesh it came from.

    Not a number where that mesh is not known, not there any more, or where either has no surface.
    """
    unknown = {"chamfer": math.nan, "normal_consistency": math.nan}
    mesh = about.get("mesh")
    if not mesh or not Path(mesh).is_file():
        return unknown
    try:
        from datasets.mesh import read_mesh
        from datasets.surface import surface_distance
        from surfaces import level_surface

        vertices, faces = level_surface(pyramid, about["bounds"])
        if not len(faces):
            return unknown
        chamfer, consistency = surface_distance((vertices, faces), read_mesh(mesh))
        return {"chamfer": chamfer, "normal_consistency": consistency}
    except (ImportError, UserError) as error:
        print(f"no distance to {mesh}: {error}", file=sys.stderr)
        return unknown


def _block_mse(pyramid: Pyramid, error: Tensor, region: Box) -> Tensor:
    """Mean square error of each block of a region of the finest level that is made of whole blocks, [n]."""
    grid = pyramid.grid
    blocks = grid.blocks_touching(region)
    kind = grid.kind_of(grid.ids(blocks, 0).flatten(), 0)
    real = grid.count_real(kind, 0).to(error.device)
    return grid.split(error, blocks).square().sum((1, 2)) / (real * error.shape[-1])
