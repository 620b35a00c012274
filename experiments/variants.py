"""Ideas tried on top of the method, each as a context that changes one thing of a run; and demonstrations.

What they replace is named here and nowhere else, so that the method itself stays free of what did not win. Those that
change a network or its training need `--engine reference`.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from datasets.residual import LevelTargets
from losses import balanced_loss, block_mse
from models import level_fit, miner
from models.engine import Blocks, ReferenceEngine
from models.engine import reference as reference_module
from models.engine.closed_form import solve_output
from models.engine.reference import forward
from models.level_fit import LevelFit
from models.network import COLOUR, Layer, Network
from models.optimizers import BETA_2


@contextlib.contextmanager
def applied(variant: str) -> Iterator[None]:
    """The variant of this name in place of what it changes."""
    with contextlib.ExitStack() as stack:
        for change in VARIANTS[variant]():
            stack.enter_context(change)
        yield


class SplitNetwork(Network):
    """Hidden layers that are the product of two branches: the output of half a layer times that of the other half."""

    @cached_property
    def widths(self) -> list[tuple[int, int]]:
        """(in, out) of each layer: what one takes in is half of what the one before gives out."""
        half = self.n_hidden // 2
        widths = [(self.n_in if k == 0 else half, 2 * half) for k in range(self.n_layers - 1)]
        return [*widths, (half if widths else self.n_in, self.n_out)]


def _split_features(network: Network, hidden: list[Layer], x: Tensor) -> Tensor:
    for layer in hidden:
        first, second = _features(network, [layer], x).chunk(2, 1)
        x = first * second
    return x


_features = reference_module.features


def split_layer() -> list:
    from models import model_file
    from models.engine import closed_form

    return [
        *(patch.object(module, "Network", SplitNetwork) for module in (level_fit, model_file, miner)),
        *(patch.object(module, "features", _split_features) for module in (reference_module, closed_form)),
    ]


def normalised_residual() -> list:
    """Scale each block's output by the root mean square of its residual; its mean is what the output's bias learns."""
    survey = LevelTargets.survey

    def by_energy(self: LevelTargets, *rest) -> tuple[Tensor, Tensor]:
        energy, _ = survey(self, *rest)
        return energy, energy.sqrt()

    return [patch.object(LevelTargets, "survey", by_energy)]


def output_after_round() -> list:
    """After every round, solve the output layer again where that is better."""
    train = LevelFit.train

    def then_solve(self: LevelFit, copy, window):
        copy, errors = train(self, copy, window)
        if not len(copy):
            return copy, errors
        blocks = copy.blocks
        rows = solve_output(self.network, self.inputs, blocks, self._real)
        solved = self.engine.errors(self.network, self.inputs, dataclasses.replace(blocks, rows=rows), self._real)
        rows = torch.where((solved < errors)[:, None], rows, blocks.rows)
        return copy.trained(dataclasses.replace(blocks, rows=rows)), torch.minimum(solved, errors)

    return [patch.object(LevelFit, "train", then_solve)]


class Muon(torch.optim.RAdam):
    """RAdam, but for the matrices between hidden layers, whose momentum is orthogonalised (Jordan et al., 2024).

    The step of a matrix [in, out] has the size that RAdam's has: root mean square `lr` an element.
    """

    network: Network

    @torch.no_grad()
    def step(self, closure=None) -> None:
        (rows,) = self.param_groups[0]["params"]
        lr, state = self.param_groups[0]["lr"], self.state[rows]
        before, gradient = rows.detach().clone(), rows.grad.clone()
        momentum = state.get("momentum")
        super().step()
        state["momentum"] = momentum = gradient if momentum is None else 0.9 * momentum + gradient
        pieces = zip(*(self.network.unpack(x) for x in (rows.data, before, momentum)), strict=True)
        for new, old, moved in list(pieces)[1:-1]:
            new.w.copy_(old.w - lr * orthogonal(moved.w) * min(old.w.shape[1:]) ** 0.5)


def orthogonal(matrices: Tensor) -> Tensor:
    """Matrices [n, in, out] with all singular values near 1, by five steps of Newton and Schulz."""
    x = matrices / (matrices.flatten(1).norm(dim=1)[:, None, None] + 1e-20)
    for _ in range(5):
        square = x @ x.mT
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x


def muon() -> list:
    train = ReferenceEngine.train

    def with_network(self: ReferenceEngine, network: Network, *rest) -> Blocks:
        self._optimizer = partial(type("Muon", (Muon,), {"network": network}), betas=(0.9, BETA_2))
        return train(self, network, *rest)

    return [patch.object(ReferenceEngine, "train", with_network)]


def hard_cells() -> list:
    """Half of a step's cells are drawn for each block by its square errors at the beginning of the round."""

    def train_tile(self: ReferenceEngine, network, inputs, tile: Blocks, round_, kind: int) -> Blocks:
        rows = tile.rows.requires_grad_()
        optimizer = self._optimizer([rows], lr=round_.start_lr)
        if tile.moments:
            optimizer.load_state_dict(tile.moments)
        real = round_.cells[kind].unique()
        x = inputs[:, real].expand(len(rows), -1, -1)
        targets = tile.targets[:, :, real]
        with torch.no_grad():
            wrong = (forward(network, rows, tile.amplitude, x) - targets).square().mean(1)
        place = torch.searchsorted(real, round_.cells[kind])
        for cells, lr in zip(place, round_.lr, strict=True):
            optimizer.param_groups[0]["lr"] = lr
            rows.grad = None
            half = len(cells) // 2
            hard = torch.multinomial(wrong + 1e-12, max(1, half), replacement=True)
            shown = torch.cat([cells[half:].expand(len(rows), -1), hard], 1)[:, None]
            prediction = forward(network, rows, tile.amplitude, x.gather(2, shown.expand(-1, len(inputs), -1)))
            loss = block_mse(prediction, targets.gather(2, shown.expand(-1, network.n_out, -1)))
            balanced_loss(loss).backward()
            optimizer.step()
        tile.rows, tile.moments = rows.detach(), optimizer.state_dict()
        return tile

    return [patch.object(ReferenceEngine, "_train_tile", train_tile)]


def by_level(**changes: Callable[[Any, int], Any]) -> Callable[[], list]:
    """A variant whose recipe differs from level to level: each function is given the usual value and the level."""

    def fit(targets: LevelTargets, recipe, *rest) -> LevelFit:
        new = {name: change(getattr(recipe, name), targets.level) for name, change in changes.items()}
        return LevelFit(targets, dataclasses.replace(recipe, **new), *rest)

    return lambda: [patch.object(miner, "LevelFit", fit)]


def no_pruning() -> list:
    """Train every block through all epochs, as good as it may be."""
    sync = LevelFit.sync

    def keep(self: LevelFit, copy, mse, prune: bool = True):
        return sync(self, copy, mse, prune=False)

    return [patch.object(LevelFit, "sync", keep)]


VARIANTS: dict[str, Callable[[], list]] = {
    "none": list,
    "split layer": split_layer,
    "normalised residual": normalised_residual,
    "output solved after every round": output_after_round,
    "Muon": muon,
    "hard cells": hard_cells,
    "half the rate at the finest level": by_level(lr=lambda lr, level: lr if level else lr / 2),
    "twice the rate at coarser levels": by_level(lr=lambda lr, level: 2 * lr if level else lr),
    "wider coarser levels": by_level(n_hidden=lambda n, level: n + 8 if level else n),
    "narrower coarser levels": by_level(n_hidden=lambda n, level: n - 8 if level else n),
    "no pruning": no_pruning,
}


def zeroed_gradients() -> dict[str, str]:
    """How far blocks move in 50 steps after their gradients are set to zero, and after they are pruned."""
    network, moved = Network(2, 8, 2, 1, COLOUR), {}
    x = torch.linspace(-1, 1, 64).reshape(2, 32)
    targets = torch.rand(4, 1, 32, generator=torch.Generator().manual_seed(0))
    for name in ("adam", "radam"):
        rows = network.initial_rows(0, 0, torch.arange(4), 0.1).requires_grad_()
        optimizer = {"adam": torch.optim.Adam, "radam": torch.optim.RAdam}[name]([rows], lr=3e-2)
        for step in range(100):
            if step == 50:
                frozen = rows.detach()[:2].clone()
            rows.grad = None
            balanced_loss(block_mse(forward(network, rows, torch.ones(4), x), targets)).backward()
            if step >= 50:
                rows.grad[:2] = 0
            optimizer.step()
        moved[f"moved by, gradients zeroed ({name})"] = f"{(rows.detach()[:2] - frozen).abs().max():.3f}"
    return moved | {"moved by, pruned": "0, by construction: they are not in the copy"}


DEMONSTRATIONS: dict[str, Callable[[], dict[str, str]]] = {"zeroed gradients": zeroed_gradients}
