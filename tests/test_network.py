"""The layout and the start of a block's row."""

import math

import pytest
import torch

import models.network
from models.encoding import Encoding
from models.network import Network

NETWORKS = [
    Network(1, 1, 1, 1, "sin"),
    Network(5, 7, 1, 2, "sigmoid"),
    Network(2, 3, 2, 1, "sigmoid"),
    Network(6, 5, 4, 3, "sin"),
    Network(4, 9, 4, 3, "linear", 30.0),
    Network(4, 9, 2, 3, "tanh", 2.5),
]
networks = pytest.mark.parametrize("network", NETWORKS, ids=str)


@pytest.mark.parametrize(("output", "n_params"), [("sin", 826), ("sigmoid", 825)])
def test_the_pluto_settings_give_this_many_parameters(output, n_params):
    assert Network(Encoding(2, 4).width, 20, 3, 3, output).row_size == n_params


@networks
@pytest.mark.parametrize("n", [0, 1, 4])
def test_unpack_gives_the_parts_of_a_row_in_order_without_a_copy(network, n):
    rows = torch.arange(n * network.row_size, dtype=torch.float32).reshape(n, network.row_size)
    layers = network.unpack(rows)
    assert [(layer.w.shape, layer.b.shape) for layer in layers] == [((n, i, o), (n, o)) for i, o in network.widths]
    assert all(layer.a is None if network.omega_0 else layer.a.shape == (n, 1) for layer in layers[:-1])
    assert (layers[-1].a is None) == (network.output != "sin")
    parts = [part.reshape(n, -1 if n else 0) for layer in layers for part in layer if part is not None]
    assert torch.equal(torch.cat(parts, 1) if n else rows, rows)
    storage = rows.untyped_storage().data_ptr()
    assert all(part.untyped_storage().data_ptr() == storage for layer in layers for part in layer if part is not None)


@networks
def test_row_size_counts_weights_biases_and_activations(network):
    n_a = (network.n_layers - 1) * (network.omega_0 is None) + (network.output == "sin")
    assert network.row_size == sum(i * o + o for i, o in network.widths) + n_a


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_in": 0},
        {"n_hidden": 0},
        {"n_layers": 0},
        {"n_out": -1},
        {"output": "relu"},
        {"omega_0": 0},
        {"omega_0": math.inf},
    ],
)
def test_a_network_of_no_size_or_of_another_output_is_refused(wrong):
    with pytest.raises(ValueError):
        Network(**{"n_in": 2, "n_hidden": 3, "n_layers": 2, "n_out": 1, "output": "sin"} | wrong)


@networks
def test_a_start_depends_on_the_block_alone_not_on_company_or_order(network, monkeypatch):
    everything = network.initial_rows(3, 1, torch.arange(50), 0.1)
    monkeypatch.setattr(models.network, "TILE_VALUES", 3 * network.row_size)
    assert torch.equal(network.initial_rows(3, 1, torch.arange(50), 0.1), everything)
    some = torch.tensor([49, 7, 7, 0])
    assert torch.equal(network.initial_rows(3, 1, some, 0.1), everything[some])
    assert network.initial_rows(3, 1, some[:0], 0.1).shape == (0, network.row_size)


@networks
def test_a_start_differs_between_blocks_levels_and_seeds(network):
    start = [network.initial_rows(seed, level, torch.arange(2), 0.1) for seed, level in ((0, 0), (0, 1), (1, 0))]
    rows = torch.cat(start)[:, : network.sizes[0]]
    assert len({tuple(row.tolist()) for row in rows}) == 6


@networks
@pytest.mark.parametrize("output_start", [1.0, 0.3])
def test_weights_and_biases_start_uniform_within_their_bounds_and_every_a_as_asked(network, output_start):
    layers = network.unpack(network.initial_rows(0, 0, torch.arange(2000), 0.37, output_start))
    for k, ((fan_in, _), layer) in enumerate(zip(network.widths, layers, strict=True)):
        part_of_usual = output_start if k == network.n_layers - 1 else 1
        usual = 1 / math.sqrt(fan_in)
        weights = usual
        if network.omega_0:
            weights = math.sqrt(6 / fan_in) / network.omega_0 if k else 1 / fan_in
        for part, bound in ((layer.w, part_of_usual * weights), (layer.b, part_of_usual * usual)):
            assert part.abs().max() <= bound
            assert part.abs().max() > 0.99 * bound
            assert part.mean().abs() < 0.06 * bound
            assert part.std() == pytest.approx(bound / math.sqrt(3), rel=0.05)
        if layer.a is not None:
            assert (layer.a == 0.37).all()
