"""What samples in a cell and votes do for an occupancy grid: how far it agrees with a better one of the same mesh."""

import time

import numpy as np

from datasets.mesh import Voxeliser, read_mesh

# Cells along an axis; samples in a cell of the grid that M is held against; of the faces that are taken out.
N, MOST, SEED = 128, 729, 0


def agreement(path: str, samples: int, votes: int, removed: float, n: int = N) -> dict[str, str]:
    """IoU of a grid with one of MOST samples, or of a broken mesh with that of the intact one, and the seconds it took.

    Args:
        removed: the part of the faces that is taken out at random before, by SEED.
    """
    intact = read_mesh(path)
    wanted = _grid(intact, n, samples if removed else MOST, 1)
    if removed:
        intact.update_faces(np.random.default_rng(SEED).random(len(intact.faces)) >= removed)
    started = time.perf_counter()
    found = _grid(intact, n, samples, votes)
    seconds = time.perf_counter() - started
    iou = (found & wanted).sum() / (found | wanted).sum()
    of = "the intact mesh" if removed else f"M {MOST}"
    return {
        f"IoU with {of}": f"{iou:.5f}",
        "cells that differ": str((found ^ wanted).sum()),
        "s": f"{seconds:.2f}",
    }


def _grid(mesh, n: int, samples: int, votes: int) -> np.ndarray:
    return np.concatenate(list(Voxeliser(mesh, n, samples, votes).slabs()))
