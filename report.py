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

# Cells measured at once: the windows of SSIM take some fifteen times the memory of a strip.
STRIP_CELLS = 2**20


@torch.no_grad()
def quality(pyramid: Pyramid, source: Source, ranks: Ranks | None = None) -> dict[str, float]:
    """PSNR of all cells and of the worst block, SSIM of images, IoU of occupancies, and the seam measure.

    Of the finest level, with peak 1. What a sum over nothing gives, as the SSIM of an image smaller than its window,
    is not a number. Several processes share the strips, and all of them must call this.
    """
    ranks = ranks or Ranks()
    squares, mean, similarity, overlap = Mean(), Mean(), Mean(), Overlap()
    seams, worst = Seams(pyramid.grid.patch), 0.0
    occupancy = source.signal.mode == "occupancy"
    for region in ranks.share(list(pyramid.strips(most_cells=STRIP_CELLS))):
        # Windows and steps that reach back into the strip before need its last cells.
        halo = min(region.start[0], SSIM_WINDOW - 1)
        wide = Box((region.start[0] - halo, *region.start[1:]), region.stop)
        found, truth = pyramid.decode(wide), source.read(wide, 0)
        error = found - truth
        squares.add(error[halo:].square())
        mean.add(truth[halo:])
        worst = max(worst, _block_mse(pyramid, error[halo:], region).max().item())
        seams.add(error, wide.start, halo)
        if pyramid.grid.ndim == 2:
            similarity.add(ssim_map(found, truth))
        if occupancy:
            overlap.add(found[halo:] > 0.5, truth[halo:] > 0.5)
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
    real = torch.tensor([len(grid.real_cells(kind, 0)) for kind in range(grid.n_kinds)])[kind].to(error.device)
    return grid.split(error, blocks).square().sum((1, 2)) / (real * error.shape[-1])
