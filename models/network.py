"""The tiny MLP that every block of a level gets: its layout as one row of numbers, its start, its size.

All blocks of a level live in one tensor of rows [n, row]. A row is the concatenation, layer by layer, of the weights
[in, out], the biases [out] and the activation's trainable a; `unpack` gives them back as [n, in, out], [n, out] and
[n, 1] without a copy. So pruning, syncing, saving and partial reading are an indexing of rows.
"""

import itertools
import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from machine.cores import TILE_VALUES, in_threads
from models.lanes import made_once
from utils import hash_uniform

# What the last layer may end in: a colour, or one of the residuals, which the block's amplitude scales.
COLOUR, RESIDUALS = "sigmoid", ("sin", "tanh", "linear")


class Layer(NamedTuple):
    w: Tensor  # [n, in, out]
    b: Tensor  # [n, out]
    a: Tensor | None  # [n, 1], the activation's width or frequency; None where the activation has none


@dataclass(frozen=True)
class Network:
    """The shape of one block's MLP.

    The hidden layers are h = exp(-x^2 / 2a^2), or sin(omega_0 x); the output is sigmoid(x), a colour, or a residual:
    the block's amplitude times sin(a x), tanh(x) or x.

    Args:
        n_in: inputs, the width of the encoding.
        n_hidden: width of each hidden layer.
        n_layers: number of linear layers, the output layer counted.
        n_out: channels.
        output: "sigmoid", "sin", "tanh" or "linear".
        omega_0: frequency of sinusoidal hidden layers; None of Gaussian ones.
    """

    n_in: int
    n_hidden: int
    n_layers: int
    n_out: int
    output: str
    omega_0: float | None = None

    def __post_init__(self):
        if min(self.n_in, self.n_hidden, self.n_layers, self.n_out) < 1:
            raise ValueError(f"{self} must have positive sizes")
        if self.output not in (COLOUR, *RESIDUALS):
            raise ValueError(f"output must be one of {', '.join((COLOUR, *RESIDUALS))}, not {self.output!r}")
        if self.omega_0 is not None and not (math.isfinite(self.omega_0) and self.omega_0 > 0):
            raise ValueError(f"omega_0 must be a positive number, not {self.omega_0}")

    @cached_property
    def widths(self) -> list[tuple[int, int]]:
        """(in, out) of each layer."""
        sizes = [self.n_in, *[self.n_hidden] * (self.n_layers - 1), self.n_out]
        return list(itertools.pairwise(sizes))

    @cached_property
    def sizes(self) -> list[int]:
        """Lengths of the parts of a row: w, b, a of each layer, where an a of length 0 is absent."""
        has_a = [int(self.omega_0 is None)] * (self.n_layers - 1) + [int(self.output == "sin")]
        return [n for (i, o), a in zip(self.widths, has_a, strict=True) for n in (i * o, o, a)]

    @property
    def row_size(self) -> int:
        """Trainable numbers of one block."""
        return sum(self.sizes)

    def unpack(self, rows: Tensor) -> list[Layer]:
        """Views of rows [n, row] as layers. One split, so that its backward pass is one concatenation."""
        parts = rows.split(self.sizes, dim=1)
        return [
            Layer(
                parts[3 * k].unflatten(1, width), parts[3 * k + 1], parts[3 * k + 2] if self.sizes[3 * k + 2] else None
            )
            for k, width in enumerate(self.widths)
        ]

    def initial_rows(self, seed: int, level: int, blocks: Tensor, a: float, output_start: float = 1.0) -> Tensor:
        """Fresh rows [n, row]: weights and biases uniform in +-1/sqrt(in), every a at `a`.

        The weights of a sinusoidal network are as in SIREN (Sitzmann et al., 2020): +-1/in in the first layer,
        +-sqrt(6/in)/omega_0 in the others. A block's row depends on (seed, level, block) alone, not on which other
        blocks are asked for.

        Args:
            output_start: the size of the output layer's start, as a part of the usual.
        """
        bound = _bounds(self, output_start, blocks.device)
        index = torch.arange(self.row_size, device=blocks.device)

        def start(blocks: Tensor) -> Tensor:
            rows = (hash_uniform(seed, level, blocks[:, None], index) * 2 - 1) * bound
            return torch.where(bound == 0, a, rows)

        if blocks.is_cuda:
            return start(blocks)
        # Part by part, as hashing takes many times the memory of what it gives.
        rows, most = torch.empty(len(blocks), self.row_size), max(1, TILE_VALUES // self.row_size)

        def fill(first: int) -> None:
            rows[first : first + most] = start(blocks[first : first + most])

        in_threads(fill, range(0, len(blocks), most))
        return rows


@made_once(8)
def _bounds(network: Network, output_start: float, device: torch.device) -> Tensor:
    """How far from zero each number of a row may start, [row]; an a starts elsewhere."""
    bounds = []
    for layer, (n_in, _) in enumerate(network.widths):
        usual = 1 / math.sqrt(n_in)
        weights = usual
        if network.omega_0 is not None and network.n_layers > 1:
            weights = math.sqrt(6 / n_in) / network.omega_0 if layer else 1 / n_in
        part = output_start if layer == network.n_layers - 1 else 1.0
        bounds += [part * weights, part * usual, 0.0]
    return torch.tensor(bounds).repeat_interleave(torch.tensor(network.sizes)).to(device, non_blocking=True)
