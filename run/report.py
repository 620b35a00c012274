"""The figures of a finished run, measured on the saved file, strip by strip."""

import functools
import math
import operator
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from datasets.grid import Box, is_zero
from datasets.source import Source
from machine.cores import TILE_VALUES, in_threads
from machine.ranks import Ranks
from metrics import SSIM_WINDOW, Likeness, Mean, Overlap, Seams, psnr, ssim_map
from models.pyramid import Pyramid
from utils import UserError

# Cells of an image measured at once, by the type of device: the windows of SSIM take some fifteen times the memory of a
# strip.
SSIM_STRIP_CELLS = {"cpu": 2**18, "cuda": 2**20}
SSIM_VALUE_BYTES = 60
# A whole surface is held in memory: of 1024^3 averaged cells it adds about 2 GiB.
MOST_SURFACE_CELLS = 1024


@torch.no_grad()
def quality(pyramid: Pyramid, source: Source, ranks: Ranks | None = None, strip_cells: int = 2**22) -> dict[str, float]:
    """PSNR of all cells and of the worst block, the seam measure, and IoU of occupancies or SSIM of images and the
    correlation of their neighbouring cells.

    Of the finest level, with peak 1. What a sum over nothing gives, as the SSIM of an image smaller than its window,
    is not a number. Several processes share the strips, and all of them must call this.

    Args:
        strip_cells: cells that may be measured at once.
    """
    ranks, grid = ranks or Ranks(), pyramid.grid
    # Windows and steps that reach back into the strips before need their last cells.
    reach = SSIM_WINDOW - 1 if grid.ndim == 2 else 1
    most = min(strip_cells, SSIM_STRIP_CELLS[source.device.type]) if grid.ndim == 2 else strip_cells
    regions = ranks.share([grid.clip(grid.cells_of(blocks), 0) for blocks in grid.boxes(0, most)])
    source.expect([_wider(region, reach) for region in regions], 0)
    sums = Sums.of(grid.patch)
    for region in regions:
        wide = _wider(region, reach)
        found, truth = pyramid.decode(wide), source.read(wide, 0)

        def measure(blocks: Box, wide=wide, found=found, truth=truth) -> Sums:
            part = grid.clip(grid.cells_of(blocks), 0)
            around = _wider(part, reach)
            return _measured(pyramid, source.signal.mode, part, around, *(wide.crop(x, around) for x in (found, truth)))

        if found.is_cuda:
            sums += measure(grid.blocks_touching(region))
        else:
            # The windows of SSIM take several times their cells, and a strip of a picture is to give every core some.
            values = TILE_VALUES // 4 if grid.ndim == 2 else TILE_VALUES
            tiles = grid.boxes(0, max(1, values // source.signal.channels), region)
            sums = functools.reduce(operator.add, in_threads(measure, tiles), sums)
    sums = functools.reduce(operator.add, ranks.gather(sums))
    figures = {
        "psnr": psnr(sums.squares.value),
        "mean": sums.mean.value,
        "psnr_worst_block": psnr(sums.worst),
        "seam": sums.seams.value,
    }
    if source.signal.mode == "occupancy":
        return figures | {"iou": sums.overlap.value}
    return figures | {"ssim": sums.similarity.value, "neighbour_correlation": sums.likeness.value}


@dataclass
class Sums:
    """What is summed over regions, and the mean square error of the worst block."""

    squares: Mean
    mean: Mean
    similarity: Mean
    overlap: Overlap
    seams: Seams
    likeness: Likeness
    worst: float = 0.0

    @classmethod
    def of(cls, patch: tuple[int, ...]) -> "Sums":
        """Of nothing yet, with blocks of `patch` cells along each axis."""
        return cls(Mean(), Mean(), Mean(), Overlap(), Seams(patch), Likeness())

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(
            self.squares + other.squares,
            self.mean + other.mean,
            self.similarity + other.similarity,
            self.overlap + other.overlap,
            self.seams + other.seams,
            self.likeness + other.likeness,
            max(self.worst, other.worst),
        )


def _wider(region: Box, reach: int) -> Box:
    """A region with the cells that windows and steps reach back to."""
    return Box(tuple(max(0, a - reach) for a in region.start), region.stop)


@torch.no_grad()
def _measured(pyramid: Pyramid, mode: str, region: Box, wide: Box, found: Tensor, truth: Tensor) -> Sums:
    """The sums of a region that is made of whole blocks, from the cells [*wide, c] around it."""
    sums, error = Sums.of(pyramid.grid.patch), found - truth
    known = tuple(a - b for a, b in zip(region.start, wide.start, strict=True))
    sums.seams.add(error, wide.start, known)
    if pyramid.grid.ndim == 3 and is_zero(found) and is_zero(truth):
        sums.squares.count = sums.mean.count = region.size * truth.shape[-1]
        return sums
    inner = wide.crop(error, region)
    sums.squares.add(inner.square())
    sums.mean.add(wide.crop(truth, region))
    sums.worst = _block_mse(pyramid, inner, region).max().item()
    if pyramid.grid.ndim == 2:
        sums.similarity.add(ssim_map(found, truth))
        sums.likeness.add(truth, known)
    if mode == "occupancy":
        sums.overlap.add(wide.crop(found, region) > 0.5, wide.crop(truth, region) > 0.5)
    return sums


def shape_distance(pyramid: Pyramid, about: dict) -> dict[str, float]:
    """Chamfer distance and normal consistency of a shape's surface against the mesh it came from.

    Of a shape with more than MOST_SURFACE_CELLS along an axis it is that of cells averaged down to so many. Not a
    number where that mesh is not known, not there any more, or where either has no surface.
    """
    unknown = {"chamfer": math.nan, "normal_consistency": math.nan}
    mesh = about.get("mesh")
    if not mesh or not Path(mesh).is_file():
        return unknown
    try:
        from datasets.mesh import read_mesh
        from datasets.surface import surface_distance
        from pictures.surfaces import coarse_surface

        vertices, faces = coarse_surface(pyramid, about["bounds"], 0, MOST_SURFACE_CELLS)
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
