"""What becomes of blocks that are good enough: how far they move from there, and how their errors grow."""

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from models.block_mlp import BlockMLP
from models.level_fit import LevelFit
from models.training_copy import TrainingCopy


@contextlib.contextmanager
def watched(noted: dict[str, Any]) -> Iterator[None]:
    """Note of all blocks that were done before their last round what they were then and what they are in the end.

    Args:
        noted: receives the changes of their rows, relative to the rows' sizes, and of their errors.
    """
    sync, train, finish = LevelFit.sync, LevelFit.train, LevelFit.finish
    done: dict[LevelFit, dict[int, tuple[Tensor, float]]] = {}
    ended: dict[BlockMLP, bool] = {}
    moved, grown = [], []

    def and_hear(self: LevelFit, copy: TrainingCopy, window: range) -> tuple[TrainingCopy, Tensor]:
        ended[copy.target] = window.stop == self.epochs
        return train(self, copy, window)

    def and_keep(self: LevelFit, copy: TrainingCopy, mse: Tensor, prune: bool = True) -> TrainingCopy:
        after = sync(self, copy, mse, prune)
        if prune and not ended[copy.target]:
            known = done.setdefault(self, {})
            for place in (mse < self.recipe.prune_thr).nonzero()[:, 0].tolist():
                at = copy.index[place]
                known.setdefault(copy.target.blocks[at].item(), (copy.target.rows[at].clone(), mse[place].item()))
        return after

    def compare(self: LevelFit, *rest):
        rows = dict(zip(self.target.blocks.tolist(), self.target.rows, strict=True))
        for block, (row, error) in done.pop(self, {}).items():
            moved.append(((rows[block] - row).norm() / row.norm()).item())
            grown.append(self.errors[block].item() / max(error, 1e-12))
        return finish(self, *rest)

    with contextlib.ExitStack() as stack:
        for name, change in {"train": and_hear, "sync": and_keep, "finish": compare}.items():
            stack.enter_context(patch.object(LevelFit, name, change))
        yield
    if moved:
        changes, errors = torch.tensor(moved), torch.tensor(grown)
        noted |= {
            "done before the end": str(len(moved)),
            "moved since, of their size: median": f"{changes.median():.3g}",
            "moved since, of their size: most": f"{changes.max():.3g}",
            "error since: median": f"times {errors.median():.3g}",
            "error since: most": f"times {errors.max():.3g}",
        }
