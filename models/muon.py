"""Muon (Jordan et al., 2024) for blocks: a hidden matrix steps along its momentum, orthogonalised."""

import torch
from torch import Tensor

from models.network import Network

# Decay of the momentum, and the odd polynomial that five times applied takes singular values near 1.
MOMENTUM, STEPS, POLYNOMIAL = 0.9, 5, (3.4445, -4.7750, 2.0315)


class Muon(torch.optim.RAdam):
    """RAdam over rows [n, row], but for the matrices between hidden layers.

    The step of such a matrix, [in, out], has the size that RAdam's has: root mean square `lr` an element.

    Args:
        params, lr, betas: as torch.optim.RAdam has them.
        network: what the rows are of.
    """

    def __init__(self, params: list[Tensor], lr: float, betas: tuple[float, float], network: Network):
        super().__init__(params, lr, betas)
        self._network = network

    @torch.no_grad()
    def step(self, closure=None) -> None:
        (rows,) = self.param_groups[0]["params"]
        lr, state = self.param_groups[0]["lr"], self.state[rows]
        before, gradient = rows.detach().clone(), rows.grad.clone()
        super().step(closure)
        state["momentum"] = momentum = gradient + MOMENTUM * state["momentum"] if "momentum" in state else gradient
        layers = zip(*(self._network.unpack(x) for x in (rows.data, before, momentum)), strict=True)
        for new, old, moved in list(layers)[1:-1]:
            # min(in, out) singular values near 1 are a root mean square near 1 / sqrt(max(in, out)).
            new.w.copy_(old.w - lr * max(old.w.shape[1:]) ** 0.5 * _orthogonal(moved.w))


def _orthogonal(matrices: Tensor) -> Tensor:
    """Matrices [n, in, out] with all singular values near 1, by Newton's and Schulz's iteration."""
    a, b, c = POLYNOMIAL
    x = matrices / (matrices.flatten(1).norm(dim=1)[:, None, None] + 1e-20)
    for _ in range(STEPS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x
