"""Which optimizers a run may use, and their state as something that can be cut and joined along the blocks."""

import math
import warnings
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_map

from models.muon import Muon
from utils import UserError

TORCH = {"radam": torch.optim.RAdam, "adam": torch.optim.Adam}
# Decay of the second moment. A block sees hundreds of steps, so it may not remember thousands: relief8k at Pluto
# settings gets 44.65 dB with 0.99, 44.88 with 0.95 and 43.78 with torch's 0.999.
BETA_2 = 0.99

# From torch-optimizer, those whose state is per element: a block trains alone as it does in company.
PER_ELEMENT = (
    "accsgd", "adabelief", "adabound", "adamod", "aggmo", "diffgrad", "madgrad", "pid", "qhadam", "qhm", "ranger",
    "rangerqh", "rangerva", "sgdw", "yogi",
)  # fmt: skip

REFUSED = {
    "a2gradexp": "it scales its step by a norm over all blocks",
    "a2gradinc": "it scales its step by a norm over all blocks",
    "a2graduni": "it scales its step by a norm over all blocks",
    "adafactor": "it factors its moments over rows and columns, which mixes blocks",
    "adahessian": "it needs second derivatives",
    "adamp": "it projects by norms over whole tensors, which mixes blocks",
    "apollo": "it scales its step by a norm over all blocks",
    "lamb": "it scales its step by a norm over all blocks",
    "lars": "it scales its step by a norm over all blocks",
    "lookahead": "it wraps another optimizer; ranger is RAdam with Lookahead",
    "novograd": "it scales its step by a norm over all blocks",
    "sgdp": "it projects by norms over whole tensors, which mixes blocks",
    "shampoo": "it preconditions over whole tensors, which mixes blocks",
    "swats": "it decides when to switch to SGD from all blocks together",
}

NAMES = (*TORCH, "muon", *PER_ELEMENT)


def optimizer_class(name: str, beta2: float = BETA_2) -> Callable[..., Optimizer]:
    """The optimizer called `name`, lower case. Raises UserError with the reason for one that cannot be used.

    Args:
        beta2: decay of the second moment of radam, adam and muon. Muon also wants the network of the rows it trains.
    """
    if name == "muon":
        return partial(Muon, betas=(0.9, beta2))
    if name in TORCH:
        return partial(TORCH[name], betas=(0.9, beta2))
    if name in REFUSED:
        raise UserError(
            f"--optimizer {name} cannot train blocks independently: {REFUSED[name]}; use {', '.join(NAMES)}"
        )
    if name not in PER_ELEMENT:
        raise UserError(f"--optimizer {name} is not known: use one of {', '.join(NAMES)}")
    try:
        import torch_optimizer
    except ImportError:
        raise UserError(f"--optimizer {name} needs the package torch-optimizer: pip install torch-optimizer") from None
    # The package still calls torch's in-place arithmetic in an order of arguments that torch deprecated.
    warnings.filterwarnings("ignore", "This overload of add", UserWarning)
    return torch_optimizer.get(name)


def map_rows(function: Callable[..., Tensor], shape: torch.Size, state: dict, *others: dict) -> dict:
    """Apply `function` to each tensor of an optimizer's state_dict that has one entry per number of rows [n, row].

    With `others`, states of the same structure, it is given the tensors of all. What is not per row, such as the
    step count, is copied from `state`, for optimizers count in place.
    """

    def apply(x, *y):
        if not isinstance(x, Tensor):
            return x
        return function(x, *y) if x.shape == shape else x.clone()

    return tree_map(apply, state, *others)


def step_coefficients(
    optimizer: str, step: int, lr: float, betas: tuple[float, float], eps: float
) -> tuple[float, float, float]:
    """(adaptive, plain, eps') such that step number `step`, from 1, is w -= m (adaptive / (sqrt(v) + eps') + plain).

    As torch.optim has them. RAdam (Liu et al., 2020) is plain momentum until its variance is tractable.
    """
    size, correction = lr / (1 - betas[0] ** step), 1 - betas[1] ** step
    if optimizer == "adam":
        return size * math.sqrt(correction), 0.0, eps * math.sqrt(correction)
    most = 2 / (1 - betas[1]) - 1
    rho = most - 2 * step * betas[1] ** step / correction
    if rho <= 5:
        return 0.0, size, eps
    rectified = math.sqrt((rho - 4) * (rho - 2) * most / ((most - 4) * (most - 2) * rho))
    return size * math.sqrt(correction) * rectified, 0.0, eps
