"""Engines: train these blocks for one round, measure their errors, evaluate them. Two ways, one specification."""

import torch

from models.engine.contract import Blocks, Round
from models.engine.reference import ReferenceEngine
from models.network import Network
from models.optimizers import BETA_2
from utils import UserError

__all__ = ["Blocks", "ReferenceEngine", "Round", "choose_engine"]


def choose_engine(
    name: str,
    network: Network,
    device: torch.device,
    optimizer: str = "radam",
    beta2: float = BETA_2,
    precision: str = "bfloat16",
    zero_grad: bool = False,
):
    """The engine called `name` for networks of this shape, and why "auto" did not take the fused one on a GPU, or None.

    Args:
        name: "reference", "fused", or "auto": fused where it can run, else reference.
        precision: of the products of the fused one; the reference has float32.
        zero_grad: whether it is to train blocks whose gradients are set to zero.

    Raises:
        UserError: "fused" cannot run this.
    """
    reason = None if name == "reference" else _refusal(network, optimizer, device, zero_grad)
    if name == "fused" and reason:
        raise UserError(f"--engine fused cannot run this: {reason}: use --engine auto or reference")
    if name == "reference" or reason:
        return ReferenceEngine(optimizer, beta2), reason if device.type == "cuda" else None
    from models.engine.fused import FusedEngine

    return FusedEngine(optimizer, precision, beta2), None


def _refusal(network: Network, optimizer: str, device: torch.device, zero_grad: bool) -> str | None:
    # Nothing that only a GPU needs is imported without one.
    if device.type != "cuda":
        return f"it needs a GPU, and this is a {device.type}"
    try:
        from models.engine.fused import refusal
    except ImportError as error:
        return f"Triton is not installed ({error})"
    return refusal(network, optimizer, device, zero_grad)
