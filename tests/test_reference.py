"""The reference engine against one plain torch network a block, and blocks alone against blocks in company."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from conftest import random_blocks, same

from datasets.grid import Grid
from losses import EPSILON
from models.encoding import Encoding
from models.engine import Blocks, ReferenceEngine, Round
from models.engine import reference as module
from models.engine.contract import cell_order, cosine_lr, steps_per_epoch
from models.engine.reference import forward
from models.network import Network

# Patch, frequencies, hidden, layers, channels. In the even ones a block's cells fill whole vectors of the CPU.
EVEN = [((8, 4), 1, 20, 3, 3), ((16, 16), 0, 8, 2, 1), ((4, 4, 4), 1, 8, 2, 1)]
RAGGED = [
    ((1, 1), 0, 1, 1, 1),
    ((1, 5), 1, 3, 2, 2),
    ((5, 7), 2, 7, 3, 3),
    ((3, 3), 1, 4, 5, 1),
    ((2, 3, 2), 1, 5, 4, 2),
]
cases = pytest.mark.parametrize(
    "case", EVEN + RAGGED, ids=lambda case: f"{'x'.join(map(str, case[0]))}_layers{case[3]}"
)
outputs = pytest.mark.parametrize("output", ["sin", "sigmoid"])
# Also what only this engine has; "sine" stands for sinusoidal hidden layers before a linear output.
all_outputs = pytest.mark.parametrize("output", ["sin", "sigmoid", "tanh", "linear", "sine"])


def set_up(case, output):
    patch, n_freq, n_hidden, n_layers, channels = case
    encoding = Encoding(len(patch), n_freq)
    inputs = encoding(Grid(patch, patch, 1).coordinates())
    output, omega_0 = ("linear", 3.0) if output == "sine" else (output, None)
    return Network(encoding.width, n_hidden, n_layers, channels, output, omega_0), inputs


def make_round(cells, epochs, batch=None, lr=0.03, real=None):
    """A round whose blocks are of one kind, or of the kinds that have the cells `real`; at most four steps an epoch
    unless a batch is given."""
    steps = steps_per_epoch(cells, batch or max(16, cells // 4))
    order = [cell_order(0, 0, epochs, kind, steps) for kind in real or [torch.arange(cells)]]
    return Round(order, [cosine_lr(lr, epoch, 50) for epoch in epochs for _ in range(steps)], lr)


def naive(network, row, amplitude, x):
    """One block: row [row], amplitude scalar, x [in, b] -> [c, b]."""
    place = 0

    def take(*shape):
        nonlocal place
        part = row[place : place + torch.Size(shape).numel()].reshape(shape)
        place += part.numel()
        return part

    x = x.T
    for k, (n_in, n_out) in enumerate(network.widths):
        w, b = take(n_in, n_out), take(n_out)
        x = F.linear(x, w.T, b)
        if k < network.n_layers - 1:
            x = torch.sin(network.omega_0 * x) if network.omega_0 else torch.exp(-(x**2) / (2 * take(1) ** 2))
    if network.output == "sigmoid":
        x = x.sigmoid()
    elif network.output == "sin":
        x = torch.sin(take(1) * x) * amplitude
    else:
        x = (x.tanh() if network.output == "tanh" else x) * amplitude
    assert place == len(row)
    return x.T


def naive_train(network, inputs, blocks, round_):
    """Each block by itself in float64 with RAdam."""
    rows, inputs = [], inputs.double()
    for n in range(len(blocks)):
        row = blocks.rows[n].double().clone().requires_grad_()
        optimizer = torch.optim.RAdam([row], lr=round_.start_lr)
        kind = int(blocks.kind[n])
        for cells, lr in zip(round_.cells[kind], round_.lr, strict=True):
            optimizer.param_groups[0]["lr"] = lr
            optimizer.zero_grad()
            error = naive(network, row, blocks.amplitude[n].double(), inputs[:, cells]) - blocks.targets[n][:, cells]
            mse = error.square().mean()
            (mse / (mse.detach() + EPSILON)).backward()
            optimizer.step()
        rows.append(row.detach())
    return torch.stack(rows)


# The first steps of RAdam are plain momentum: as large as the gradient says, so that its size is compared too.
RATE = 3e-3


def assert_trained_alike(network, inputs, blocks, round_):
    found = ReferenceEngine().train(network, inputs, blocks, round_).rows.double() - blocks.rows
    want = naive_train(network, inputs, blocks, round_) - blocks.rows
    assert want.abs().amax(1).min() > 1e-4
    torch.testing.assert_close(found, want, rtol=0, atol=5e-3 * want.abs().max().item())


@cases
@all_outputs
def test_forward_equals_a_loop_over_blocks(case, output):
    network, inputs = set_up(case, output)
    blocks = random_blocks(network, 4, inputs.shape[1])
    rows, amplitude = blocks.rows.double(), blocks.amplitude.double()
    found = forward(network, rows, amplitude, inputs.double())
    want = torch.stack([naive(network, rows[n], amplitude[n], inputs.double()) for n in range(4)])
    torch.testing.assert_close(found, want, rtol=1e-9, atol=1e-12)
    single = forward(network, blocks.rows, blocks.amplitude, inputs)
    torch.testing.assert_close(single.double(), want, rtol=0, atol=2e-5)


@pytest.mark.parametrize("n_layers", [1, 2, 3])
@all_outputs
def test_gradients_are_those_of_finite_differences(n_layers, output):
    network, inputs = set_up(((2, 3), 1, 3, n_layers, 2), output)
    blocks = random_blocks(network, 2, 6)
    rows = network.initial_rows(0, 0, torch.arange(2), 0.5).double().requires_grad_()
    amplitude = blocks.amplitude.double()
    assert torch.autograd.gradcheck(lambda rows: forward(network, rows, amplitude, inputs.double()), rows)


@cases
@outputs
def test_gradients_equal_those_of_a_loop_over_blocks(case, output):
    network, inputs = set_up(case, output)
    blocks = random_blocks(network, 3, inputs.shape[1])
    rows, amplitude, x = blocks.rows.double().requires_grad_(), blocks.amplitude.double(), inputs.double()
    seed = torch.rand(3, network.n_out, inputs.shape[1], dtype=torch.float64)
    found = torch.autograd.grad(forward(network, rows, amplitude, x), rows, seed)[0]
    want = torch.autograd.grad(torch.stack([naive(network, rows[n], amplitude[n], x) for n in range(3)]), rows, seed)[0]
    torch.testing.assert_close(found, want, rtol=1e-8, atol=1e-10)


@cases
@all_outputs
def test_three_steps_equal_the_recipe_block_by_block_in_float64(case, output):
    network, inputs = set_up(case, output)
    blocks = random_blocks(network, 3, inputs.shape[1])
    round_ = make_round(inputs.shape[1], range(1), -(-inputs.shape[1] // 3), lr=RATE)
    assert_trained_alike(network, inputs, blocks, round_)


def test_training_lowers_the_error():
    network, inputs = set_up(((8, 8), 2, 12, 3, 1), "sin")
    blocks = random_blocks(network, 5, 64)
    # Something smooth, of the size of the amplitude.
    blocks.targets = blocks.amplitude[:, None, None] * inputs[None, :1] * 0.5
    engine, real = ReferenceEngine(), [torch.arange(64)]
    before = engine.errors(network, inputs, blocks, real)
    after = engine.errors(network, inputs, engine.train(network, inputs, blocks, make_round(64, range(50), 32)), real)
    assert (after < before / 2).all() and after.median() < before.median() / 20


def company(case, output, n=70):
    network, inputs = set_up(case, output)
    blocks = random_blocks(network, n, inputs.shape[1])
    round_ = make_round(inputs.shape[1], range(3))
    return network, inputs, blocks, round_


PARTS = [[0], [69], [0, 1], [3, 4, 5], list(range(0, 70, 2)), list(range(40))]


@cases
@outputs
def test_a_block_alone_trains_as_in_company_bit_for_bit(case, output):
    network, inputs, blocks, round_ = company(case, output)
    engine = ReferenceEngine()
    whole = engine.train(network, inputs, blocks, round_)
    for index in map(torch.tensor, PARTS):
        part = engine.train(network, inputs, blocks.select(index), round_)
        want = whole.select(index)
        assert torch.equal(part.rows, want.rows), f"blocks {index.tolist()}"
        assert same(part.moments, want.moments), f"moments of blocks {index.tolist()}"


@cases
@outputs
def test_a_block_alone_is_measured_and_predicted_as_in_company_bit_for_bit(case, output):
    network, inputs, blocks, _ = company(case, output)
    engine, real = ReferenceEngine(), [torch.arange(inputs.shape[1])]
    errors = engine.errors(network, inputs, blocks, real)
    found = engine.predict(network, inputs, blocks.rows, blocks.amplitude)
    for index in map(torch.tensor, PARTS):
        part = blocks.select(index)
        assert torch.equal(engine.errors(network, inputs, part, real), errors[index]), f"errors of {index.tolist()}"
        prediction = engine.predict(network, inputs, part.rows, part.amplitude)
        assert torch.equal(prediction, found[index]), f"prediction of {index.tolist()}"


@pytest.mark.parametrize("case", [EVEN[0], RAGGED[2]], ids=["even", "ragged"])
@pytest.mark.parametrize("tile", [1, 2000, 10**9])
def test_a_blocks_result_does_not_depend_on_its_tile(case, tile, monkeypatch):
    network, inputs, blocks, round_ = company(case, "sigmoid", 20)
    want = ReferenceEngine().train(network, inputs, blocks, round_)
    monkeypatch.setattr(module, "CPU_TILE", tile)
    assert torch.equal(ReferenceEngine().train(network, inputs, blocks, round_).rows, want.rows)


@pytest.mark.parametrize("optimizer", ["radam", "adam", "muon"])
@pytest.mark.parametrize("tile", [1, 10**9])
def test_a_block_with_zeroed_gradients_moves_as_its_optimizer_has_it_without_any(optimizer, tile, monkeypatch):
    monkeypatch.setattr(module, "CPU_TILE", tile)
    network, inputs, blocks, round_ = company(EVEN[0], "sin", 6)
    engine = ReferenceEngine(optimizer)
    trained = engine.train(network, inputs, blocks, round_)
    zeroed = torch.tensor([True, False, True, True, False, False])
    found = engine.train(network, inputs, dataclasses.replace(trained, zeroed=zeroed), round_)
    assert torch.equal(found.zeroed, zeroed)
    usual = engine.train(network, inputs, trained, round_)
    assert torch.equal(found.rows[~zeroed], usual.rows[~zeroed])
    part = trained.select(zeroed.nonzero()[:, 0])
    by_hand = engine._optimizer(network, part.rows.requires_grad_(), 0.03)
    by_hand.load_state_dict(part.moments)
    for lr in round_.lr:
        by_hand.param_groups[0]["lr"] = lr
        part.rows.grad = torch.zeros_like(part.rows)
        by_hand.step()
    assert torch.equal(found.rows[zeroed], part.rows) and (part.rows != trained.rows[zeroed]).any(1).all()


@cases
@outputs
def test_two_rounds_equal_one_of_the_same_steps_bit_for_bit(case, output):
    network, inputs, blocks, _ = company(case, output, 5)
    engine, cells = ReferenceEngine(), inputs.shape[1]
    whole = engine.train(network, inputs, blocks, make_round(cells, range(6)))
    halves = engine.train(network, inputs, blocks, make_round(cells, range(3)))
    halves = engine.train(network, inputs, halves, make_round(cells, range(3, 6)))
    assert torch.equal(halves.rows, whole.rows)
    assert same(halves.moments["state"], whole.moments["state"])


def test_training_leaves_what_it_is_given_as_it_was():
    network, inputs, blocks, round_ = company(EVEN[0], "sin", 3)
    engine = ReferenceEngine()
    first = engine.train(network, inputs, blocks, round_)
    before = blocks.select(torch.arange(3)), first.select(torch.arange(3))
    engine.train(network, inputs, blocks, round_)
    engine.train(network, inputs, first, round_)
    for was, given in zip(before, (blocks, first), strict=True):
        assert torch.equal(was.rows, given.rows) and same(was.moments, given.moments)
        assert not given.rows.requires_grad


EDGES = [Grid((7, 9), (4, 4), 1), Grid((5, 5), (4, 4), 1), Grid((3, 2), (4, 8), 1), Grid((3, 5, 7), (2, 4, 4), 1)]
edges = pytest.mark.parametrize("grid", EDGES, ids=str)


def at_the_edge(grid, output="sin"):
    """All blocks of a level, of every kind there is, and a round of them."""
    encoding = Encoding(grid.ndim, 1)
    inputs = encoding(grid.coordinates())
    kind = grid.kind_of(torch.arange(grid.n_blocks(0)), 0)
    network = Network(encoding.width, 6, 3, 2, output)
    blocks = random_blocks(network, len(kind), grid.block_cells, kind=kind)
    real = [grid.real_cells(k, 0) for k in range(grid.n_kinds)]
    return network, inputs, blocks, real, make_round(grid.block_cells, range(2), 7, RATE, real)


@edges
@outputs
def test_blocks_over_the_edge_train_on_their_real_cells(grid, output):
    network, inputs, blocks, _real, round_ = at_the_edge(grid, output)
    assert len(set(blocks.kind.tolist())) > 1 or grid.n_blocks(0) == 1
    short = Round([cells[:3] for cells in round_.cells], round_.lr[:3], round_.start_lr)
    assert_trained_alike(network, inputs, blocks, short)


@edges
@pytest.mark.parametrize("filler", [torch.nan, 1e30])
def test_the_targets_of_padding_cells_have_no_influence(grid, filler):
    network, inputs, blocks, real, round_ = at_the_edge(grid)
    spoilt = blocks.select(torch.arange(len(blocks)))
    for n, kind in enumerate(blocks.kind.tolist()):
        padding = torch.ones(grid.block_cells, dtype=torch.bool)
        padding[real[kind]] = False
        spoilt.targets[n][:, padding] = filler
    assert not torch.equal(spoilt.targets, blocks.targets)
    engine = ReferenceEngine()
    found, want = (engine.train(network, inputs, each, round_) for each in (spoilt, blocks))
    assert torch.equal(found.rows, want.rows) and same(found.moments, want.moments)
    assert torch.equal(engine.errors(network, inputs, found, real), engine.errors(network, inputs, want, real))


@edges
@outputs
def test_errors_are_mean_squares_over_real_cells(grid, output):
    network, inputs, blocks, real, _ = at_the_edge(grid, output)
    found = ReferenceEngine().errors(network, inputs, blocks, real)
    for n, kind in enumerate(blocks.kind.tolist()):
        cells = real[kind]
        value = naive(network, blocks.rows[n].double(), blocks.amplitude[n].double(), inputs[:, cells].double())
        assert found[n].item() == pytest.approx((value - blocks.targets[n][:, cells]).square().mean().item(), rel=1e-4)


@edges
def test_blocks_of_mixed_kinds_keep_their_order(grid):
    network, inputs, blocks, _real, round_ = at_the_edge(grid)
    engine = ReferenceEngine()
    whole = engine.train(network, inputs, blocks, round_)
    mixed = torch.randperm(len(blocks), generator=torch.Generator().manual_seed(0))
    found = engine.train(network, inputs, blocks.select(mixed), round_)
    torch.testing.assert_close(found.rows, whole.rows[mixed], rtol=0, atol=1e-3)


def test_no_blocks_are_trained_measured_and_predicted():
    network, inputs = set_up(((4, 4), 1, 5, 2, 3), "sin")
    none = Blocks(
        torch.zeros(0, network.row_size), torch.zeros(0, 3, 16), torch.zeros(0), torch.zeros(0, dtype=torch.int64), {}
    )
    engine = ReferenceEngine()
    assert len(engine.train(network, inputs, none, make_round(16, range(1)))) == 0
    assert engine.errors(network, inputs, none, [torch.arange(16)]).shape == (0,)
    assert engine.predict(network, inputs, none.rows, none.amplitude).shape == (0, 3, 16)


@outputs
def test_a_round_of_no_steps_changes_nothing(output):
    network, inputs, blocks, _ = company(EVEN[0], output, 2)
    empty = Round([torch.zeros(0, 4, dtype=torch.int64)], [], 0.03)
    assert torch.equal(ReferenceEngine().train(network, inputs, blocks, empty).rows, blocks.rows)


def test_predict_is_forward_without_gradients():
    network, inputs, blocks, _ = company(EVEN[0], "sin", 5)
    blocks.rows.requires_grad_()
    found = ReferenceEngine().predict(network, inputs, blocks.rows, blocks.amplitude)
    assert not found.requires_grad
    torch.testing.assert_close(
        found, forward(network, blocks.rows, blocks.amplitude, inputs).detach(), rtol=0, atol=1e-5
    )


def test_an_error_in_a_tile_is_raised():
    network, inputs, blocks, _ = company(EVEN[0], "sin", 3)
    outside = Round([torch.full((1, 4), 10**6)], [0.1], 0.1)
    with pytest.raises((IndexError, RuntimeError)):
        ReferenceEngine().train(network, inputs, blocks, outside)
