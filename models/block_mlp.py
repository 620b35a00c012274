"""The network of a level: the rows of its active blocks, the target that the training copy is synced into."""

import functools

import numpy as np
import torch
from torch import Tensor, nn

from models.network import Network
from models.precision import PackedRows, rounded


class BlockMLP(nn.Module):
    """One tiny MLP for each active block of a level.

    Args:
        network: the shape of each.
        blocks: int64 [n], the numbers of the active blocks in rising order.
        amplitude: [n], the scale of a sin output.
        rows: [n, row], the parameters: a tensor, which can be trained, or rows that stay in a file.
        dtype: how a file will hold the rows (models.precision). A tensor of them is rounded to that already.
    """

    def __init__(
        self,
        network: Network,
        blocks: Tensor,
        amplitude: Tensor,
        rows: Tensor | PackedRows,
        dtype: str = "float32",
    ):
        super().__init__()
        self.network, self.dtype = network, dtype
        self.register_buffer("blocks", blocks)
        self.register_buffer("amplitude", amplitude)
        # Trained through the training copy and written by sync, never by an optimizer of its own.
        self.rows = nn.Parameter(rows, requires_grad=False) if isinstance(rows, Tensor) else rows

    def __len__(self) -> int:
        return len(self.blocks)

    @property
    def n_params(self) -> int:
        return len(self) * self.network.row_size

    @property
    def bytes_read(self) -> int:
        """What was read so far of rows that stay in a file."""
        return 0 if isinstance(self.rows, Tensor) else self.rows.bytes_read

    def take(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """The rows [m, row] and amplitudes [m] at positions `index`, int64 [m], wherever they live."""
        rows = self.rows[index] if isinstance(self.rows, Tensor) else self.rows.take(index)
        return rows, self.amplitude[index]

    def sync(self, index: Tensor, rows: Tensor) -> None:
        """Write trained rows [m, row] at positions `index`, int64 [m], rounded to what a file will hold."""
        self.rows[index] = rounded(self.network, self.dtype, rows)

    def run(self, numbers: range) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """What `find` and `take` give of the blocks with consecutive numbers: their positions in the run, int64 [m],
        and their rows [m, row] and amplitudes [m]. Nothing waits for a GPU.
        """
        a, b = np.searchsorted(self._numbers, [numbers.start, numbers.stop]).tolist()
        if isinstance(self.rows, Tensor):
            rows = self.rows[a:b]
        else:
            rows = self.rows.take(torch.arange(a, b, device=self.blocks.device))
        return self.blocks[a:b] - numbers.start, (rows, self.amplitude[a:b])

    @functools.cached_property
    def _numbers(self) -> np.ndarray:
        """The numbers of the active blocks, on the host."""
        return self.blocks.cpu().numpy()

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
