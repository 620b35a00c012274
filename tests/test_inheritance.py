"""Where networks begin with the coarser level's weights: whose child a block is, and what each way hands down."""

import math

import pytest
import torch
from conftest import GRIDS, all_cells, grid_id

from datasets.grid import Grid
from models.block_mlp import BlockMLP
from models.encoding import Encoding
from models.engine.reference import features, forward
from models.inheritance import Inheritance, parent_coordinates, parents_of
from models.network import Network

grids = pytest.mark.parametrize("grid", [grid for grid in GRIDS if grid.n_levels > 1], ids=grid_id)
SMALL = Grid((12, 20), (4, 4), 3)


def cells_of(grid, level, block):
    """The cells of a block, padding included, as corner and end per axis in units of level 0."""
    place = list(all_cells(grid.block_counts(level)))[block]
    return [(k * p << level, (k + 1) * p << level) for k, p in zip(place, grid.patch, strict=True)]


@grids
def test_a_parent_contains_its_children_each_in_its_own_half(grid):
    for level in range(grid.n_levels - 1):
        blocks = torch.arange(grid.n_blocks(level))
        parents, parts = parents_of(grid, level, blocks)
        for block, parent, part in zip(blocks.tolist(), parents.tolist(), parts.tolist(), strict=True):
            pairs = zip(cells_of(grid, level, block), cells_of(grid, level + 1, parent), strict=True)
            for axis, ((a, b), (first, last)) in enumerate(pairs):
                half = (last - first) // 2
                later = part >> axis & 1
                assert (a, b) == (first + later * half, first + later * half + half)


@pytest.mark.parametrize("grid", [Grid((8, 8), (4, 5), 2), Grid((1, 1), (1, 1), 2), Grid((4, 4, 4), (2, 3, 1), 2)])
def test_a_cell_has_the_same_place_for_child_and_parent(grid):
    here, sizes = grid.coordinates().double(), torch.tensor(grid.patch[::-1])
    for part in range(2**grid.ndim):
        later = torch.tensor([part >> axis & 1 for axis in reversed(range(grid.ndim))])
        there = parent_coordinates(grid, part)
        # Centres in units of the child's cells, from the child's corner; and of the parent's, from its own.
        centre = (here + 1) * (sizes - 1) / 2 + 0.5
        expected = (centre + later * sizes) / 2
        found = (there + 1) * (sizes - 1) / 2 + 0.5
        torch.testing.assert_close(found[:, sizes > 1], expected[:, sizes > 1], atol=1e-6, rtol=0)
        assert (there[:, sizes == 1] == 0).all()


def inheritance(way, network, grid=SMALL, level=0, n_freq=0, keep=slice(None)):
    blocks = torch.arange(grid.n_blocks(level + 1))[keep].contiguous()
    rows = network.initial_rows(1, level + 1, blocks, 0.5)
    parents = BlockMLP(network, blocks, torch.ones(len(blocks)), rows)
    return Inheritance(way, parents, grid, level, Encoding(grid.ndim, n_freq))


def parts_of(network, rows):
    hidden = sum(network.sizes[:-3])
    return rows[:, :hidden], rows[:, hidden:]


@pytest.mark.parametrize(
    ("grid", "divisor"), [(SMALL, 2), (Grid((6, 6, 6), (2, 2, 2), 3), math.sqrt(8))], ids=["2d", "3d"]
)
def test_paper_divides_everything_from_the_third_level_on(grid, divisor):
    network = Network(grid.ndim, 5, 3, 2, "sin")
    blocks = torch.arange(grid.n_blocks(0))
    way = inheritance("paper", network, grid)
    parents, _ = parents_of(grid, 0, blocks)
    fresh = torch.zeros(len(blocks), network.row_size)
    assert torch.equal(way.rows(network, blocks, fresh), way.parents.rows[parents] / divisor)
    second = torch.arange(grid.n_blocks(1))
    fresh = torch.rand(len(second), network.row_size)
    assert torch.equal(inheritance("paper", network, grid, 1).rows(network, second, fresh), fresh)


def test_inherit_keeps_the_hidden_layers_and_begins_the_output_afresh():
    network, blocks = Network(2, 5, 3, 2, "sin"), torch.arange(SMALL.n_blocks(0))
    way = inheritance("inherit", network)
    fresh = torch.rand(len(blocks), network.row_size)
    rows = way.rows(network, blocks, fresh)
    old = way.parents.rows[parents_of(SMALL, 0, blocks)[0]]
    x = SMALL.coordinates().T
    found, expected = (features(network, network.unpack(r)[:-1], x) for r in (rows, old))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert torch.equal(parts_of(network, rows)[1], parts_of(network, fresh)[1])


def test_inherit_begins_halfway_between_the_a_of_parents_and_that_of_fresh_networks():
    network, blocks = Network(2, 5, 3, 2, "sin"), torch.arange(SMALL.n_blocks(0))
    way, fresh = inheritance("inherit", network), network.initial_rows(0, 0, blocks, 0.1)
    # Parents begin with 0.5; one has learnt an a below zero.
    network.unpack(way.parents.rows.data)[0].a[0] = -0.9
    rows = way.rows(network, blocks, fresh)
    first, second, _ = network.unpack(rows)
    heir = parents_of(SMALL, 0, blocks)[0] == 0
    torch.testing.assert_close(first.a[~heir], torch.full_like(first.a[~heir], math.sqrt(0.5 * 0.1)))
    torch.testing.assert_close(first.a[heir], torch.full_like(first.a[heir], -math.sqrt(0.9 * 0.1)))
    torch.testing.assert_close(second.a, torch.full_like(second.a, math.sqrt(0.5 * 0.1)))


@pytest.mark.parametrize("grid", [SMALL, Grid((10, 15), (5, 5), 2), Grid((4, 6, 4), (2, 2, 2), 2)], ids=grid_id)
def test_exact_without_encoding_is_the_parents_function_seen_from_the_child(grid):
    network = Network(grid.ndim, 5, 3, 2, "sigmoid")
    blocks = torch.arange(grid.n_blocks(0))
    way = inheritance("exact", network, grid)
    rows = way.rows(network, blocks, torch.zeros(len(blocks), network.row_size))
    parents, parts = parents_of(grid, 0, blocks)
    found = forward(network, rows, torch.ones(len(rows)), grid.coordinates().T)
    for block in range(len(blocks)):
        there = parent_coordinates(grid, int(parts[block])).float().T
        expected = forward(network, way.parents.rows[parents[block]][None], torch.ones(1), there)
        torch.testing.assert_close(found[block], expected[0], atol=1e-5, rtol=1e-4)


def test_exact_with_encoding_moves_every_frequency_but_the_lowest_exactly():
    encoding, network, grid = Encoding(2, 3), Network(12, 4, 2, 1, "sigmoid"), Grid((16, 16), (8, 8), 2)
    blocks = torch.arange(grid.n_blocks(0))
    way = inheritance("exact", network, grid, n_freq=3)
    lowest = torch.tensor([0, 1, 6, 7])  # sin and cos of 2^0 x and 2^0 y
    for zeroed, tolerance in ((lowest, 1e-5), (torch.tensor([], dtype=torch.int64), 0.05)):
        network.unpack(way.parents.rows)[0].w[:, zeroed] = 0
        rows = way.rows(network, blocks, torch.zeros(len(blocks), network.row_size))
        layer = network.unpack(rows)[0]
        parents, parts = parents_of(grid, 0, blocks)
        parent = network.unpack(way.parents.rows[parents])[0]
        for block in range(len(blocks)):
            here = layer.w[block].T @ encoding(grid.coordinates()) + layer.b[block][:, None]
            there = encoding(parent_coordinates(grid, int(parts[block])))
            expected = parent.w[block].T @ there + parent.b[block][:, None]
            torch.testing.assert_close(here, expected, atol=tolerance, rtol=0)
        way = inheritance("exact", network, grid, n_freq=3)


@pytest.mark.parametrize("way", ["paper", "inherit", "exact"])
def test_what_a_block_inherits_does_not_depend_on_company_and_orphans_begin_afresh(way):
    network = Network(8, 5, 3, 2, "sin")
    heirs = inheritance(way, network, n_freq=2, keep=slice(0, None, 2))
    blocks = torch.arange(SMALL.n_blocks(0))
    fresh = torch.rand(len(blocks), network.row_size)
    rows = heirs.rows(network, blocks, fresh)
    orphans = ~torch.isin(parents_of(SMALL, 0, blocks)[0], heirs.parents.blocks)
    assert 0 < orphans.sum() < len(blocks)
    assert torch.equal(rows[orphans], fresh[orphans])
    assert not (rows[~orphans] == fresh[~orphans]).all(1).any()
    for some in (slice(3, 4), slice(2, 9), slice(0, 0)):
        assert torch.equal(heirs.rows(network, blocks[some], fresh[some]), rows[some])


@pytest.mark.parametrize("way", ["inherit", "exact"])
def test_a_single_layer_has_nothing_to_hand_down_but_a_colour(way):
    network, blocks = Network(2, 1, 1, 2, "sin"), torch.arange(SMALL.n_blocks(0))
    fresh = torch.rand(len(blocks), network.row_size)
    assert torch.equal(inheritance(way, network).rows(network, blocks, fresh), fresh)
