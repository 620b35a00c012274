"""Positional encoding of a block's local coordinates: sin(2^k u.x), cos(2^k u.x) over a set of directions u."""

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Encoding:
    """What a network is shown of a coordinate.

    Args:
        ndim: 2 or 3.
        n_freq: frequencies 2^0 ... 2^(n_freq - 1), without a factor of pi; 0 shows the coordinates themselves.
    """

    ndim: int
    n_freq: int

    def __post_init__(self):
        if self.ndim not in (2, 3) or self.n_freq < 0:
            raise ValueError(f"{self} must have ndim 2 or 3 and n_freq at least 0")

    @property
    def width(self) -> int:
        """Number of features."""
        return self.ndim if not self.n_freq else 2 * self.n_freq * len(directions(self.ndim))

    def __call__(self, coordinates: Tensor) -> Tensor:
        """Encode coordinates [p, d] as features [width, p]."""
        if not self.n_freq:
            return coordinates.T.contiguous()
        # In float64, so that every device starts from the same float32 features.
        along = directions(self.ndim).to(coordinates.device) @ coordinates.double().T
        phase = (
            along * (2.0 ** torch.arange(self.n_freq, device=coordinates.device, dtype=torch.float64))[:, None, None]
        )
        return torch.stack([phase.sin(), phase.cos()]).flatten(0, 2).float()


def directions(ndim: int) -> Tensor:
    """Unit directions to encode along, float64 [m, d]: the 2 axes of the plane, or 21 directions of space.

    The 21 are the axes through the vertices (6) and the edge midpoints (15) of a regular icosahedron, the even
    covering of directions of mip-NeRF 360 (Barron et al., 2022), here without its off-axis tessellation steps.
    """
    if ndim == 2:
        return torch.eye(2, dtype=torch.float64)
    golden = (1 + 5**0.5) / 2
    corners = [
        torch.tensor(axis, dtype=torch.float64).roll(shift)
        for axis in itertools.product((0.0,), (-1.0, 1.0), (-golden, golden))
        for shift in range(3)
    ]
    # Neighbouring vertices of this icosahedron are 2 apart.
    edges = [u + v for u, v in itertools.combinations(corners, 2) if abs((u - v).norm() - 2) < 1e-9]
    found: list[Tensor] = []
    for candidate in corners + edges:
        unit = candidate / candidate.norm()
        if all(abs(unit @ other) < 1 - 1e-9 for other in found):
            found.append(unit)
    return torch.stack(found)
