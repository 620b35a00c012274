"""Ideas tried on top of the method, each as a context that changes one thing of a run.

What they replace is named here and nowhere else, so that the method itself stays free of what did not win. Those that
change a network or its training need `--engine reference`.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from datasets.residual import LevelTargets
from experiments.watched import watched
from models import checkpoints, inheritance, level_fit, miner
from models.engine import Blocks, ReferenceEngine
from models.engine import reference as reference_module
from models.engine.closed_form import solve_output
from models.engine.reference import forward, whole_vectors
from models.inheritance import Inheritance, scaled_towards
from models.level_fit import LevelFit
from models.network import COLOUR, Layer, Network
from utils import hash_uniform

# As it is before a variant replaces it.
_features = reference_module.features


@contextlib.contextmanager
def applied(variant: str) -> Iterator[dict[str, Any]]:
    """The variant of this name in place of what it changes; what it has noted of the run is there when it is over."""
    noted: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        for change in VARIANTS[variant](noted):
            stack.enter_context(change)
        yield noted


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


def split_layer(_: dict) -> list:
    from models import model_file
    from models.engine import closed_form

    return [
        *(patch.object(module, "Network", SplitNetwork) for module in (level_fit, model_file, checkpoints)),
        *(patch.object(module, "features", _split_features) for module in (reference_module, closed_form)),
    ]


def normalised_residual(_: dict) -> list:
    """Scale each block's output by the root mean square of its residual; its mean is what the output's bias learns."""
    survey = LevelTargets.survey

    def by_energy(self: LevelTargets, *rest) -> tuple[Tensor, Tensor]:
        energy, _ = survey(self, *rest)
        return energy, energy.sqrt()

    return [patch.object(LevelTargets, "survey", by_energy)]


def output_after_round(_: dict) -> list:
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


def hard_cells(_: dict) -> list:
    """Half of a step's cells are drawn for each block by its square errors at the beginning of the round.

    The draws are a hash of the step and of its other cells, whose order has the seed in it.
    """

    def train_tile(self: ReferenceEngine, network, inputs, tile: Blocks, round_, kind: int) -> tuple[Tensor, dict]:
        cells, real = round_.cells[kind], round_.cells[kind].unique()
        with torch.no_grad():
            found = forward(network, tile.rows, tile.amplitude, inputs[:, whole_vectors(real)])[:, :, : len(real)]
            below = ((found - tile.targets[:, :, real]).square().mean(1).double() + 1e-12).cumsum(1)
        half = cells.shape[1] // 2

        def steps() -> Iterator[tuple[Tensor, Tensor]]:
            for step, these in enumerate(cells):
                drawn = hash_uniform(step, these[: max(1, half)]) * below[:, -1:]
                hard = real[torch.searchsorted(below, drawn, right=True).clamp(max=len(real) - 1)]
                seen = torch.cat([these[half:].expand(len(tile), -1), hard], 1)
                wanted = tile.targets.gather(2, seen[:, None].expand(-1, network.n_out, -1))
                yield inputs[:, whole_vectors(seen)].transpose(0, 1), wanted

        return self._take_steps(network, tile, steps(), round_)

    return [patch.object(ReferenceEngine, "_train_tile", train_tile)]


def by_level(**changes: Callable[[Any, int], Any]) -> Callable[[dict], list]:
    """A variant whose recipe differs from level to level: each function is given the usual value and the level."""

    def fit(targets: LevelTargets, recipe, *rest) -> LevelFit:
        new = {name: change(getattr(recipe, name), targets.level) for name, change in changes.items()}
        return LevelFit(targets, dataclasses.replace(recipe, **new), *rest)

    return lambda _: [patch.object(miner, "LevelFit", fit)]


def plain_loss(_: dict) -> list:
    """The sum of the blocks' errors instead of that of their logarithms."""
    return [patch.object(reference_module, "balanced_loss", torch.sum)]


def linear_colours(_: dict) -> list:
    """Colours end as a linear output does, and not in a sigmoid."""
    network = level_fit.level_network

    def without_sigmoid(*rest) -> Network:
        found = network(*rest)
        return dataclasses.replace(found, output="linear") if found.output == COLOUR else found

    return [patch.object(level_fit, "level_network", without_sigmoid)]


def exact_heirs_halfway(_: dict) -> list:
    """Scale the heirs of "exact" as those of "inherit" are."""
    inherited = Inheritance.rows

    def rows(self: Inheritance, network, blocks, fresh: Tensor) -> Tensor:
        found = inherited(self, network, blocks, fresh)
        return scaled_towards(network, found, fresh) if self.way == "exact" else found

    return [patch.object(Inheritance, "rows", rows)]


# Each makes the changes of a run, given where to note what it sees of it.
VARIANTS: dict[str, Callable[[dict], list]] = {
    "none": lambda _: [],
    "split layer": split_layer,
    "normalised residual": normalised_residual,
    "output solved after every round": output_after_round,
    "hard cells": hard_cells,
    "wider coarser levels": by_level(n_hidden=lambda n, level: round(1.4 * n) if level else n),
    "narrower coarser levels": by_level(n_hidden=lambda n, level: round(0.6 * n) if level else n),
    "plain loss": plain_loss,
    "linear colours": linear_colours,
    "heirs keep their a": lambda _: [patch.object(inheritance, "HALFWAY", 0.0)],
    "heirs begin with the usual a": lambda _: [patch.object(inheritance, "HALFWAY", 1.0)],
    "exact heirs halfway": exact_heirs_halfway,
    "watched": lambda noted: [watched(noted)],
}
