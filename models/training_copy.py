"""The pruned twin of a chunk's target network: it holds only the blocks that still train."""

from dataclasses import dataclass, replace

from torch import Tensor

from models.block_mlp import BlockMLP
from models.engine import Blocks


@dataclass(frozen=True)
class TrainingCopy:
    """Parameters, moments and targets of the blocks that still train; they shrink together.

    As a target network in reinforcement learning: the copy is trained, and what it learns is synced into the target.
    Zeroed gradients do not do: the moments go on moving the blocks, and `zeroed` is there to show it.

    Args:
        blocks: the blocks in training.
        index: int64 [n], their positions in the target.
        target: the chunk's target network.
    """

    blocks: Blocks
    index: Tensor
    target: BlockMLP

    def __len__(self) -> int:
        return len(self.index)

    def trained(self, blocks: Blocks) -> "TrainingCopy":
        """This copy after a round."""
        return replace(self, blocks=blocks)

    def sync(self) -> None:
        """Write the rows of the training blocks into the target."""
        self.target.sync(self.index, self.blocks.rows)

    def pruned(self, done: Tensor) -> "TrainingCopy":
        """This copy without the blocks where `done`, bool [n], is true. They never move again."""
        keep = (~done).nonzero()[:, 0]
        if len(keep) == len(self):
            return self
        return replace(self, blocks=self.blocks.select(keep), index=self.index[keep])

    def zeroed(self, done: Tensor) -> "TrainingCopy":
        """This copy with the gradients of the blocks where `done`, bool [n], is true set to zero from now on."""
        before = self.blocks.zeroed
        return self.trained(replace(self.blocks, zeroed=done if before is None else before | done))
