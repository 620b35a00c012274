"""Every optimizer that is offered keeps blocks apart; every other one is refused with its reason."""

import io

import pytest
import torch
import torch_optimizer
from conftest import random_blocks, same

from datasets.grid import Grid
from models.encoding import Encoding
from models.engine import ReferenceEngine, Round
from models.engine.contract import cell_order
from models.network import Network
from models.optimizers import NAMES, PER_ELEMENT, REFUSED, TORCH, map_rows, optimizer_class, step_coefficients
from utils import UserError

INPUTS = Encoding(2, 1)(Grid((8, 4), (8, 4), 1).coordinates())
NETWORK = Network(len(INPUTS), 8, 3, 2, "sin")
REGISTRY = sorted(name.lower() for name in torch_optimizer.__all__ if name != "get")


def make_round(epochs):
    return Round([cell_order(0, 0, epochs, torch.arange(32), 1)], [0.01] * len(epochs), 0.03)


def stored(moments):
    """Moments as a resume finds them."""
    file = io.BytesIO()
    torch.save(moments, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


# Their updates take powers, which torch rounds otherwise at the end of an array than within it.
WITH_POWERS = ("madgrad", "rangerva")


@pytest.mark.parametrize("name", NAMES)
def test_a_block_trains_alone_as_in_company_also_after_a_pruning_and_a_reload(name):
    engine, blocks = ReferenceEngine(name), random_blocks(NETWORK, 9, 32)
    company = engine.train(NETWORK, INPUTS, blocks, make_round(range(8)))
    assert (company.rows != blocks.rows).any(1).all() and company.rows.isfinite().all()
    company = company.select(torch.tensor([1, 4, 5, 8]))
    company.moments = stored(company.moments)
    company = engine.train(NETWORK, INPUTS, company, make_round(range(8, 14)))
    for place, number in enumerate((1, 4, 5, 8)):
        alone = engine.train(NETWORK, INPUTS, blocks.select(torch.tensor([number])), make_round(range(14)))
        mine = company.select(torch.tensor([place]))
        if name in WITH_POWERS:
            torch.testing.assert_close(alone.rows, mine.rows, rtol=1e-6, atol=1e-7)
            continue
        assert torch.equal(alone.rows, mine.rows)
        assert same(alone.moments["state"], mine.moments["state"])


@pytest.mark.parametrize("name", NAMES)
def test_an_optimizer_follows_the_learning_rate_of_the_step(name):
    engine, blocks = ReferenceEngine(name), random_blocks(NETWORK, 2, 32)
    round_ = make_round(range(2))
    still = engine.train(NETWORK, INPUTS, blocks, Round(round_.cells, [0.0, 0.0], round_.start_lr))
    moved = engine.train(NETWORK, INPUTS, blocks, round_)
    assert (still.rows - blocks.rows).abs().max() < (moved.rows - blocks.rows).abs().max()


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_refused_optimizer_is_named_with_the_reason(name):
    with pytest.raises(UserError) as error:
        optimizer_class(name)
    message = str(error.value)
    assert f"--optimizer {name}" in message and REFUSED[name] in message and "radam" in message
    assert "\n" not in message


@pytest.mark.parametrize("name", ["", "sgdd", "Adam", "get", "__doc__"])
def test_an_unknown_optimizer_is_refused_with_those_there_are(name):
    with pytest.raises(UserError, match="radam"):
        optimizer_class(name)


@pytest.mark.parametrize("name", REGISTRY)
def test_every_optimizer_of_torch_optimizer_is_either_offered_or_refused(name):
    assert (name in NAMES) + (name in REFUSED) == 1


def test_nothing_is_offered_or_refused_that_does_not_exist():
    assert set(PER_ELEMENT) | set(REFUSED) <= set(REGISTRY)
    assert not set(TORCH) & set(PER_ELEMENT)


@pytest.mark.parametrize("name", PER_ELEMENT)
def test_a_missing_package_is_said(name, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch_optimizer", None)
    with pytest.raises(UserError, match="pip install torch-optimizer"):
        optimizer_class(name)


def test_map_rows_touches_what_is_shaped_as_the_rows_only():
    rows = torch.Size([3, 2])
    state = {
        "state": {0: {"m": torch.ones(3, 2), "list": [torch.ones(3, 2), 4], "step": torch.tensor(7.0)}},
        "group": [{"lr": 0.1}],
    }
    found = map_rows(lambda x: x[:1] * 2, rows, state)
    want = {"m": torch.full((1, 2), 2.0), "list": [torch.full((1, 2), 2.0), 4], "step": torch.tensor(7.0)}
    assert same(found, {"state": {0: want}, "group": [{"lr": 0.1}]})
    joined = map_rows(lambda *x: torch.cat(x), rows, state, state)
    assert joined["state"][0]["m"].shape == (6, 2)
    assert map_rows(lambda x: x[:1], rows, {}) == {}


@pytest.mark.parametrize("optimizer", ["radam", "adam"])
def test_step_coefficients_are_those_of_torch(optimizer):
    w = torch.tensor([0.3], dtype=torch.float64, requires_grad=True)
    theirs, m, v, mine = TORCH[optimizer]([w], lr=0.1), 0.0, 0.0, 0.3
    for step in range(1, 30):
        lr = 0.1 / step
        g = 0.01 * (step % 7 - 3)
        w.grad = torch.tensor([g], dtype=torch.float64)
        theirs.param_groups[0]["lr"] = lr
        theirs.step()
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        adaptive, plain, eps = step_coefficients(optimizer, step, lr, (0.9, 0.999), 1e-8)
        mine -= m * (adaptive / (v**0.5 + eps) + plain)
        assert mine == pytest.approx(w.item(), rel=1e-9)


@pytest.mark.parametrize("shape", [(4, 64), (64, 4), (1, 9), (9, 1), (7, 7), (20, 20)])
def test_the_step_of_a_hidden_matrix_is_an_orthogonal_one_of_size_lr_whatever_its_shape(shape):
    network = Network(2, 8, 3, 3, "sin")
    # A network's hidden matrices are square; the step holds for any.
    network.__dict__["widths"] = [(2, shape[0]), shape, (shape[1], 3)]
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(5, network.row_size, generator=generator)
    before = network.unpack(rows.clone())[1].w
    rows.grad = torch.randn(rows.shape, generator=generator)
    optimizer_class("muon")([rows], lr=0.01, network=network).step()
    step = (before - network.unpack(rows)[1].w).double()
    size = step.square().mean((1, 2)).sqrt() / 0.01
    assert size.min() > 0.65 and size.max() < 1.25
    values = torch.linalg.svdvals(step)
    assert (values.amax(1) < 0.0125 * max(shape) ** 0.5).all()
    assert (values.median(1).values > 0.006 * max(shape) ** 0.5).all()
