"""What a GPU does before a fit: a little of everything that the fit does."""

import math
import threading
from concurrent.futures import Future

import pytest
import torch

from models import warm_up
from models.encoding import Encoding
from models.engine import ReferenceEngine
from models.recipe import Recipe

RECIPE = Recipe(
    epochs=(9, 9, 9, 9), val_freq=3, batch_size=16, lr=0.03, loss_thr=2e-3, prune_thr=1e-3, n_layers=2, n_hidden=8,
    a=0.1, residual=True, b_chunks=1000, seed=0,
)  # fmt: skip


class Watched(ReferenceEngine):
    """The reference engine, which tells what it was asked for."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def train(self, network, inputs, blocks, round_):
        self.seen.add(("train", network, blocks.targets.shape[1:]))
        return super().train(network, inputs, blocks, round_)

    def errors(self, network, *rest):
        self.seen.add(("errors", network))
        return super().errors(network, *rest)

    def predict(self, network, *rest):
        self.seen.add(("predict", network))
        return super().predict(network, *rest)

    def compose(self, window, coarse, *rest):
        self.seen.add(("compose", coarse is None))
        return super().compose(window, coarse, *rest)


@pytest.mark.parametrize(("patch", "channels"), [((4, 8), 3), ((4, 4, 4), 1)])
def test_both_kinds_of_networks_are_trained_measured_evaluated_and_put_together(patch, channels):
    engine, encoding = Watched(), Encoding(len(patch), 1)
    warm_up._fit(patch, channels, encoding, RECIPE, engine, torch.device("cpu"))
    cells = channels, math.prod(patch)
    trained = [(network.output, tuple(shape)) for _, network, shape in (x for x in engine.seen if len(x) == 3)]
    assert sorted(trained) == [("sigmoid", cells), ("sin", cells)]
    for verb in ("errors", "predict"):
        assert {network.output for _, network in (x for x in engine.seen if x[0] == verb)} == {"sin", "sigmoid"}
    assert ("compose", True) in engine.seen and ("compose", False) in engine.seen


def test_plain_torch_needs_none():
    assert warm_up.begin((4, 4), 1, Encoding(2, 1), RECIPE, ReferenceEngine(), torch.device("cpu")) is None
    warm_up.wait(None)


def test_what_takes_long_is_said_and_what_fails_fails_here(monkeypatch, capsys):
    monkeypatch.setattr(warm_up, "PATIENCE", 0.01)
    for quiet in (False, True):
        slow = Future()
        threading.Timer(0.05, slow.set_result, [None]).start()
        warm_up.wait(slow, quiet)
        assert capsys.readouterr().err.startswith("compiling the GPU kernels") != quiet
    broken = Future()
    broken.set_exception(MemoryError())
    with pytest.raises(MemoryError):
        warm_up.wait(broken)
