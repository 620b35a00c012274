"""The network of a level: the rows of its active blocks, the target that the training copy is synced into."""

import torch
from torch import Tensor, nn

from models.network import Network


class BlockMLP(nn.Module):
    """One tiny MLP for each active block of a level.

    Args:
        network: the shape of each.
        blocks: int64 [n], the numbers of the active blocks in rising order.
        amplitude: [n], the scale of a sin output.
        rows: [n, row], the parameters.
    """

    def __init__(self, network: Network, blocks: Tensor, amplitude: Tensor, rows: Tensor):
        super().__init__()
        self.network = network
        self.register_buffer("blocks", blocks)
        self.register_buffer("amplitude", amplitude)
        # Trained through the training copy and written by sync, never by an optimizer of its own.
        self.rows = nn.Parameter(rows, requires_grad=False)

    def __len__(self) -> int:
        return len(self.blocks)

    @property
    def n_params(self) -> int:
        return self.rows.numel()

    def sync(self, index: Tensor, rows: Tensor) -> None:
        """Write trained rows [m, row] at positions `index`, int64 [m]."""
        self.rows[index] = rows

    def find(self, blocks: Tensor) -> tuple[Tensor, Tensor]:
        """Which of some blocks, int64 [m] in rising order, are active, and where.

        Returns:
            positions in `blocks` and positions in the rows, int64 of equal length.
        """
        if not len(self):
            return blocks[:0], blocks[:0]
        place = torch.searchsorted(self.blocks, blocks).clamp_(max=len(self) - 1)
        hit = (self.blocks[place] == blocks).nonzero()[:, 0]
        return hit, place[hit]
