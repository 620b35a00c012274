"""The figures of a finished run, measured on the saved file, strip by strip."""

import torch
from torch import Tensor

from datasets.grid import Box
from datasets.source import Source
from metrics import SSIM_WINDOW, Mean, Seams, psnr, ssim_map
from models.pyramid import Pyramid


@torch.no_grad()
def quality(pyramid: Pyramid, source: Source) -> dict[str, float]:
    """PSNR of all cells and of the worst block, SSIM, and the seam measure, of the finest level with peak 1.

    What a sum over nothing gives, as the SSIM of an image smaller than its window, is not a number.
    """
    squares, similarity, seams, worst = Mean(), Mean(), Seams(pyramid.grid.patch), 0.0
    for region in pyramid.strips():
        # Windows and steps that reach back into the strip before need its last cells.
        halo = min(region.start[0], SSIM_WINDOW - 1)
        wide = Box((region.start[0] - halo, *region.start[1:]), region.stop)
        found, truth = pyramid.decode(wide), source.read(wide, 0)
        error = found - truth
        squares.add(error[halo:].square())
        worst = max(worst, _block_mse(pyramid, error[halo:], region).max().item())
        step = max(halo - 1, 0)
        seams.add(error[step:], (wide.start[0] + step, *wide.start[1:]))
        if pyramid.grid.ndim == 2:
            similarity.add(ssim_map(found, truth))
    return {
        "psnr": psnr(squares.value),
        "psnr_worst_block": psnr(worst),
        "ssim": similarity.value,
        "seam": seams.value,
    }


def _block_mse(pyramid: Pyramid, error: Tensor, region: Box) -> Tensor:
    """Mean square error of each block of a region of the finest level that is made of whole blocks, [n]."""
    grid = pyramid.grid
    blocks = grid.blocks_touching(region)
    kind = grid.kind_of(torch.from_numpy(grid.ids(blocks, 0)).flatten(), 0)
    real = torch.tensor([len(grid.real_cells(kind, 0)) for kind in range(grid.n_kinds)])[kind].to(error.device)
    return grid.split(error, blocks).square().sum((1, 2)) / (real * error.shape[-1])
