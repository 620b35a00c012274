"""The loss of a level: a sum over blocks of a per-block term, so that no block feels its neighbours."""

import torch
from torch import Tensor

EPSILON = 1e-8


def block_mse(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean square error of each block over channels and cells: [n, c, p], [n, c, p] -> [n]."""
    return (prediction - target).square().mean((1, 2))


def balanced_loss(mse: Tensor) -> Tensor:
    """Sum over blocks of log(mse + 1e-8): [n] -> scalar.

    Its gradient is that of each block's mse weighted by 1 / (mse + 1e-8) with the weight held constant, MINER_pl's
    weighting, so blocks that are nearly good learn as fast as those that are far off.
    """
    return torch.log(mse + EPSILON).sum()
