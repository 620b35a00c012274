"""The output layer in closed form: it is the least-squares one, of real cells only, and each block's own."""

import pytest
import torch
from conftest import random_blocks

from datasets.grid import Grid
from models.encoding import Encoding
from models.engine import ReferenceEngine, closed_form
from models.engine.closed_form import solve_output
from models.network import COLOUR, RESIDUALS, Network

GRID = Grid((8, 8), (8, 8), 1)
INPUTS = Encoding(2, 2)(GRID.coordinates())
REAL = [torch.arange(64)]
outputs = pytest.mark.parametrize("output", [COLOUR, *RESIDUALS])


def solved(network, blocks, real=None, inputs=INPUTS):
    blocks.rows = solve_output(network, inputs, blocks, real or REAL)
    return blocks


def errors(network, blocks):
    return ReferenceEngine().errors(network, INPUTS, blocks, REAL)


@outputs
@pytest.mark.parametrize("omega_0", [None, 5.0])
def test_targets_that_the_output_layer_can_give_are_given(output, omega_0, monkeypatch):
    monkeypatch.setattr(closed_form, "RIDGE", 1e-6)
    network = Network(8, 6, 2, 2, output, omega_0)
    blocks = random_blocks(network, 5, 64)
    blocks.amplitude = blocks.amplitude * 0 + (4.0 if output == "linear" else 1.0)
    truth = ReferenceEngine().predict(network, INPUTS, blocks.rows, blocks.amplitude)
    blocks.targets = truth
    layer = network.unpack(blocks.rows)[-1]
    layer.w.zero_(), layer.b.zero_()
    before = errors(network, blocks)
    after = errors(network, solved(network, blocks))
    # The ridge, and the nine tenths that a sin and a tanh are asked for, leave a little.
    assert (after < 0.02 * before).all()


@outputs
def test_random_targets_are_missed_by_less_than_before_and_hidden_layers_stay(output):
    network = Network(8, 6, 3, 2, output)
    blocks = random_blocks(network, 5, 64)
    if output != COLOUR:
        blocks.targets = (blocks.targets - 0.5) * blocks.amplitude[:, None, None]
    start = blocks.rows.clone()
    before = errors(network, blocks)
    after = errors(network, solved(network, blocks))
    assert (after < before).all()
    hidden = sum(network.sizes[:-3])
    assert torch.equal(blocks.rows[:, :hidden], start[:, :hidden])
    if output == "sin":
        assert torch.equal(blocks.rows[:, -1], start[:, -1])


def test_a_linear_output_is_what_least_squares_give():
    network = Network(8, 6, 2, 2, "linear")
    blocks = solved(network, random_blocks(network, 3, 64))
    layers = network.unpack(blocks.rows)
    for n in range(3):
        u = layers[0].w[n].T @ INPUTS + layers[0].b[n][:, None]
        h = torch.cat([torch.exp(-(u**2) / (2 * 0.1**2)), torch.ones(1, 64)]).double()
        ridge = closed_form.RIDGE * 64 * torch.eye(7, dtype=torch.float64)
        expected = torch.linalg.solve(h @ h.T + ridge, h @ (blocks.targets[n] / blocks.amplitude[n]).double().T)
        torch.testing.assert_close(torch.cat([layers[1].w[n], layers[1].b[n][None]]), expected.float())


@outputs
@pytest.mark.parametrize("n_layers", [1, 2])
def test_a_block_alone_is_solved_as_in_company_bit_for_bit(output, n_layers):
    network = Network(8, 6, n_layers, 2, output)
    together = solved(network, random_blocks(network, 40, 64)).rows
    for n in (0, 39):
        alone = random_blocks(network, 40, 64).select(torch.tensor([n]))
        assert torch.equal(solved(network, alone).rows[0], together[n])


def test_the_targets_of_padding_have_no_influence():
    network, real = Network(8, 6, 2, 2, "sin"), [torch.arange(64), torch.arange(13)]
    kind = torch.tensor([0, 1, 1, 0])
    found = []
    for filler in (0.0, 1e6):
        blocks = random_blocks(network, 4, 64, kind=kind)
        blocks.targets[kind == 1, :, 13:] = filler
        found.append(solved(network, blocks, real).rows)
    assert torch.equal(*found)
    assert found[0].isfinite().all()


def test_one_cell_and_no_blocks_are_solved():
    network = Network(8, 6, 2, 2, "sin")
    blocks = solved(network, random_blocks(network, 3, 1), [torch.arange(1)], INPUTS[:, :1])
    assert blocks.rows.isfinite().all()
    assert solved(network, random_blocks(network, 0, 64)).rows.shape == (0, network.row_size)
