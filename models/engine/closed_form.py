"""The output layer in closed form: least squares of a block's targets over what its hidden layers give.

With --solve_start training begins there, for random hidden layers say much already, and the output layer need not learn
to. It is the default of a mesh, where it wins at every budget, and not of pictures, where it wins only at small ones
(docs/experiments.md, Weight sharing). A block of the coarsest level that --max_time leaves no time to train ends there.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from models.engine.contract import Blocks
from models.engine.reference import cut_tiles, features, map_tiles, whole_vectors
from models.network import COLOUR, Network

# Added to the features' mean squares, which are 1 at most. With 1e-4 weights begin so large that all the epochs end
# 0.14 dB lower.
RIDGE = 1e-2
# Targets are taken this much smaller, as the ends of a sin and a tanh are reached at infinite cost or not at all.
REACH = 0.9
# Colours are kept this far from 0 and 1, which a sigmoid reaches at infinity.
MARGIN = 0.02


def solve_output(network: Network, inputs: Tensor, blocks: Blocks, real: list[Tensor]) -> Tensor:
    """The rows [n, row] of blocks with the output layer's weights and biases solved for their targets.

    The output's activation is inverted on the targets, and the least squares are of what it is given.

    Args:
        inputs: [in, p], the encoded cells of a block.
        real: for each kind of block, int64 [n_real], its real cells.
    """
    (n_in, n_out), rows = network.widths[-1], blocks.rows.clone()
    first = network.row_size - sum(network.sizes[-3:])

    @torch.no_grad()
    def solve(tile) -> None:
        shown = whole_vectors(real[tile.kind])
        count = len(real[tile.kind])
        part = blocks.select(tile.index)
        if len(part) == 1:
            # A product of one matrix is rounded otherwise than one of many.
            part = part.select(torch.zeros(2, dtype=torch.int64, device=part.rows.device))
        hidden = network.unpack(part.rows)[:-1]
        h = features(network, hidden, inputs[:, shown]).expand(len(part), -1, -1)
        h = torch.cat([h, torch.ones_like(h[:, :1])], 1)
        # What fills the last vector counts for nothing.
        h[:, :, count:] = 0
        wanted = _inverse(network, part)(part.targets[:, :, shown])
        gram = (h @ h.mT).double()
        gram.diagonal(dim1=1, dim2=2).add_(RIDGE * count)
        solution = torch.linalg.solve(gram, (h @ wanted.mT).double())
        rows[tile.index, first : first + (n_in + 1) * n_out] = solution[: len(tile.index)].flatten(1).float()

    map_tiles(solve, cut_tiles(network, blocks.kind, [max(len(cells), n_in) for cells in real]))
    return rows


def _inverse(network: Network, blocks: Blocks) -> Callable[[Tensor], Tensor]:
    """From targets [n, c, p] to what the output's activation must be given for them."""
    scale = blocks.amplitude[:, None, None]
    if network.output == COLOUR:
        return lambda y: y.clamp(MARGIN, 1 - MARGIN).logit()
    if network.output == "linear":
        return lambda y: y / scale
    if network.output == "tanh":
        return lambda y: (y / scale).clamp(-1, 1).mul(REACH).atanh()
    a = network.unpack(blocks.rows)[-1].a
    return lambda y: (y / scale).clamp(-1, 1).mul(REACH).asin() / a[:, :, None]
