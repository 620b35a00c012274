"""What becomes of blocks that are good enough: in the pruned copy, and with their gradients set to zero instead."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.optim import Optimizer

from models.engine import Blocks
from models.level_fit import LevelFit
from models.optimizers import map_rows
from models.training_copy import TrainingCopy


@contextlib.contextmanager
def watched(noted: dict[str, Any], zero: bool) -> Iterator[None]:
    """Note how far the blocks move after they are good enough to stop, and what becomes of their errors.

    Args:
        noted: receives the changes of their rows, relative to the rows' sizes, and of their errors.
        zero: they stay in training with their gradients set to zero; else they leave the copy, as the method has it.
    """
    sync, train, finish = LevelFit.sync, LevelFit.train, LevelFit.finish
    kept: dict[LevelFit, dict[int, tuple[Tensor, float]]] = {}
    ended: dict[LevelFit, bool] = {}
    moved, grown = [], []

    def and_keep(self: LevelFit, copy: TrainingCopy, mse: Tensor, prune: bool = True) -> TrainingCopy:
        after = sync(self, copy, mse, prune=prune and not zero)
        if prune and not ended[self]:
            known, blocks = kept.setdefault(self, {}), _blocks(copy)
            for place in (mse < self.recipe.prune_thr).nonzero()[:, 0].tolist():
                row = copy.target.rows[copy.index[place]]
                known.setdefault(blocks[place], (row.clone(), mse[place].item()))
        return after

    def of_both(self: LevelFit, copy: TrainingCopy, window: range) -> tuple[TrainingCopy, Tensor]:
        ended[self] = window.stop == self.epochs
        if not zero:
            return train(self, copy, window)
        done = torch.tensor([block in kept.get(self, ()) for block in _blocks(copy)], device=copy.index.device)
        if not done.any():
            return train(self, copy, window)
        parts = [train(self, copy.pruned(done), window)] if not done.all() else []
        with patch.object(self.engine, "_optimizer", _without_gradients(self.engine._optimizer)):
            parts.append(train(self, copy.pruned(~done), window))
        return _joined(*parts)

    def compare(self: LevelFit, *rest):
        rows = dict(zip(self.target.blocks.tolist(), self.target.rows, strict=True))
        for block, (row, error) in kept.pop(self, {}).items():
            moved.append(((rows[block] - row).norm() / row.norm()).item())
            grown.append(self.errors[block].item() / max(error, 1e-12))
        return finish(self, *rest)

    with contextlib.ExitStack() as stack:
        for name, change in {"sync": and_keep, "finish": compare, "train": of_both}.items():
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


def _blocks(copy: TrainingCopy) -> list[int]:
    return copy.target.blocks[copy.index].tolist()


def _without_gradients(make: Callable[..., Optimizer]) -> Callable[..., Optimizer]:
    def zero(optimizer: Optimizer, *_) -> None:
        for group in optimizer.param_groups:
            for rows in group["params"]:
                rows.grad.zero_()

    def made(*settings) -> Optimizer:
        optimizer = make(*settings)
        optimizer.register_step_pre_hook(zero)
        return optimizer

    return made


def _joined(*parts: tuple[TrainingCopy, Tensor]) -> tuple[TrainingCopy, Tensor]:
    """Copies with their errors, of blocks of one target, as one copy in the order of the target."""
    index = torch.cat([copy.index for copy, _ in parts])
    home = index.argsort()

    def cat(*tensors: Tensor) -> Tensor:
        return torch.cat(tensors)[home]

    all_blocks = [copy.blocks for copy, _ in parts]
    states = [blocks.moments for blocks in all_blocks]
    per_block = (cat(*(getattr(b, name) for b in all_blocks)) for name in ("rows", "targets", "amplitude", "kind"))
    blocks = Blocks(*per_block, map_rows(cat, all_blocks[0].rows.shape, *states))
    return TrainingCopy(blocks, index[home], parts[0][0].target), cat(*(mse for _, mse in parts))
