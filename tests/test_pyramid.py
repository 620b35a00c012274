"""The decoder: any region of any level is the crop of the whole, and levels mean what they say."""

import numpy as np
import pytest
import torch
from conftest import GRIDS, grid_id, random_box, random_pyramid

import models.engine.reference
import models.pyramid
from datasets.grid import Box, Grid, up
from models.block_mlp import BlockMLP
from models.engine.reference import ReferenceEngine, forward
from models.network import Network

grids = pytest.mark.parametrize("grid", GRIDS, ids=grid_id)
kinds = pytest.mark.parametrize("gaussian", [False, True], ids=["laplacian", "gaussian"])


def brute_force(pyramid):
    """Every level, decoded block by block in float64: {level: [*space, c]}."""
    grid, decoded, values = pyramid.grid, {}, None
    for level in reversed(range(grid.n_levels)):
        whole = grid.level_box(level)
        if values is None:
            values = torch.zeros(*whole.stop, pyramid.channels, dtype=torch.float64)
        else:
            values = up(values, grid.level_box(level + 1), whole, grid.level_box(level + 1))
        networks = pyramid.level(level)
        for n, block in enumerate(networks.blocks.tolist() if networks else []):
            row, amplitude = networks.rows[n : n + 1].double(), networks.amplitude[n : n + 1].double()
            found = forward(networks.network, row, amplitude, pyramid.inputs.double())[0].T
            found = found.reshape(*grid.patch, pyramid.channels)
            first = [i * p for i, p in zip(np.unravel_index(block, grid.block_counts(level)), grid.patch, strict=True)]
            at = tuple(slice(a, min(a + p, n)) for a, p, n in zip(first, grid.patch, whole.stop, strict=True))
            real = tuple(slice(s.stop - s.start) for s in at)
            values[at] = found[real] if networks.network.output == "sigmoid" else values[at] + found[real]
        values = values.clamp(0, 1)
        decoded[level] = values.detach().clone()
    return decoded


@grids
@kinds
def test_the_decode_of_every_level_equals_brute_force(grid, gaussian):
    pyramid = random_pyramid(grid, gaussian=gaussian)
    for level, want in brute_force(pyramid).items():
        found = pyramid.decode(level=level)
        assert found.dtype == torch.float32 and not found.requires_grad
        assert found.min() >= 0 and found.max() <= 1
        torch.testing.assert_close(found.double(), want, rtol=0, atol=1e-4)


@grids
@kinds
def test_tiles_do_not_change_a_bit(grid, gaussian, monkeypatch):
    """The blocks of the finest level that have a network are few, so that some tiles have none."""
    pyramid = random_pyramid(grid, gaussian=gaussian, keep=0.2)
    whole = [pyramid.decode(level=level) for level in range(grid.n_levels)]
    monkeypatch.setattr(models.engine.reference, "TILE_VALUES", 1)
    assert all(torch.equal(pyramid.decode(level=level), want) for level, want in enumerate(whole))


@pytest.mark.parametrize("made_within", [False, True])
def test_it_decodes_in_inference_mode_as_out_of_it(made_within, monkeypatch):
    monkeypatch.setattr(models.engine.reference, "TILE_VALUES", 50)
    pyramid = random_pyramid(GRIDS[4])
    want = pyramid.decode()
    with torch.inference_mode(made_within):
        for level, of in list(pyramid.levels.items()):
            rows = of.rows.detach().clone()
            pyramid.add(int(level), BlockMLP(of.network, of.blocks.clone(), of.amplitude.clone(), rows))
    assert pyramid.level(0).rows.is_inference() == made_within
    for _ in range(2):
        with torch.inference_mode():
            assert torch.equal(pyramid.decode(), want)
            pyramid.hold(1)
        assert torch.equal(pyramid.decode(), want)
        pyramid.decode().zero_()


def test_a_level_that_is_put_in_the_place_of_another_is_the_one_that_is_decoded():
    grid = GRIDS[4]
    pyramid, other = random_pyramid(grid), random_pyramid(grid, seed=1)
    pyramid.decode()
    for level in range(grid.n_levels):
        pyramid.add(level, other.level(level))
    assert torch.equal(pyramid.decode(), other.decode())


@grids
def test_how_much_is_kept_of_what_blocks_gave_does_not_change_a_bit(grid, monkeypatch):
    want = random_pyramid(grid).decode()
    monkeypatch.setattr(models.pyramid, "RECENT_VALUES", 3 * grid.block_cells)
    pyramid = random_pyramid(grid)
    for box in grid.boxes(0, 1):
        region = grid.clip(grid.cells_of(box), 0)
        assert torch.equal(pyramid.decode(region), grid.level_box(0).crop(want, region))


@grids
@kinds
def test_a_level_that_is_held_decoded_does_not_change_a_bit(grid, gaussian):
    pyramid, boxes = random_pyramid(grid, gaussian=gaussian), list(grid.boxes(0, 1))
    want = [pyramid.decode(level=level) for level in range(grid.n_levels)]
    for held in reversed(range(grid.n_levels)):
        pyramid.hold(held, most_cells=7)
        assert all(torch.equal(pyramid.decode(level=level), whole) for level, whole in enumerate(want))
        region = grid.clip(grid.cells_of(boxes[len(boxes) // 2]), 0)
        found = pyramid.decode(region)
        assert torch.equal(found, grid.level_box(0).crop(want[0], region))
        # It is the caller's.
        found.zero_()
        assert torch.equal(pyramid.decode(), want[0])


def test_what_is_held_is_let_go_of_when_it_may_be_another():
    grid = GRIDS[4]
    pyramid, other = random_pyramid(grid), random_pyramid(grid, seed=1)
    for level in reversed(range(grid.n_levels)):
        pyramid.hold(min(level + 1, grid.n_levels - 1))
        pyramid.add(level, other.level(level))
        assert torch.equal(pyramid.decode(level=level), other.decode(level=level))


def test_what_no_network_reaches_is_zero():
    """One network at the coarser level reaches one cell further than its block when it is upsampled."""
    grid = Grid((16, 16, 16), (4, 4, 4), 2)
    pyramid = random_pyramid(grid, 1, keep=0)
    network = Network(pyramid.inputs.shape[0], 4, 2, 1, "sigmoid")
    rows = network.initial_rows(0, 1, torch.tensor([7]), 0.1)
    pyramid.add(1, BlockMLP(network, torch.tensor([7]), torch.ones(1), rows))
    decoded = pyramid.decode()[..., 0]
    assert (decoded[7:, 7:, 7:] > 0).all()
    decoded[7:, 7:, 7:] = 0
    assert not decoded.any()


@grids
@kinds
def test_the_decode_of_a_region_is_the_crop_of_the_decode_bit_for_bit(grid, gaussian):
    pyramid, generator = random_pyramid(grid, gaussian=gaussian), np.random.default_rng(0)
    for level in range(grid.n_levels):
        whole = grid.level_box(level)
        decoded = pyramid.decode(level=level)
        for _ in range(15):
            region = random_box(generator, whole.stop)
            assert torch.equal(pyramid.decode(region, level), whole.crop(decoded, region)), f"{region} of level {level}"


@grids
@pytest.mark.parametrize("cells", [1, 200, 10**9])
def test_strips_cut_a_region_without_a_gap_or_an_overlap(grid, cells, monkeypatch):
    monkeypatch.setattr(models.pyramid, "STRIP_CELLS", cells)
    pyramid, generator = random_pyramid(grid), np.random.default_rng(1)
    for level in range(grid.n_levels):
        whole = grid.level_box(level)
        for region in (whole, random_box(generator, whole.stop)):
            seen = torch.zeros(region.shape, dtype=torch.int64)
            decoded = torch.zeros(*region.shape, pyramid.channels)
            for strip in pyramid.strips(level, region):
                assert strip.size
                region.crop(seen, strip).add_(1)
                region.crop(decoded, strip)[:] = pyramid.decode(strip, level)
            assert (seen == 1).all()
            assert torch.equal(decoded, pyramid.decode(region, level))


@grids
@pytest.mark.parametrize("absent", ["untrained", "without networks"])
def test_a_level_that_has_no_networks_is_the_upsampled_coarser_one(grid, absent):
    pyramid = random_pyramid(grid)
    for level in range(grid.n_levels):
        networks = pyramid.level(level)
        if absent == "untrained":
            del pyramid.levels[str(level)]
        else:
            none = torch.zeros(0, dtype=torch.int64)
            empty = BlockMLP(networks.network, none, torch.zeros(0), torch.zeros(0, networks.network.row_size))
            pyramid.add(level, empty)
        whole, found = grid.level_box(level), pyramid.decode(level=level)
        if level == grid.n_levels - 1:
            assert not found.any()
        else:
            edge = grid.level_box(level + 1)
            assert torch.equal(found, up(pyramid.decode(level=level + 1), edge, whole, edge))
        pyramid.add(level, networks)


def test_in_a_gaussian_pyramid_a_block_with_a_network_forgets_the_coarser_level():
    grid = Grid((16, 16), (8, 4), 2)
    pyramid = random_pyramid(grid, gaussian=True, keep=2)
    before = pyramid.decode()
    with torch.no_grad():
        pyramid.level(1).rows.mul_(-2)
    assert not torch.equal(pyramid.decode(level=1), random_pyramid(grid, gaussian=True, keep=2).decode(level=1))
    assert torch.equal(pyramid.decode(), before)


def test_a_region_costs_the_networks_it_touches():
    grid = Grid((256, 256), (8, 8), 3)
    pyramid = random_pyramid(grid, keep=2)
    evaluated = []

    class Counting(ReferenceEngine):
        def predict(self, network, inputs, rows, amplitude):
            evaluated.append(len(rows))
            return rows.new_zeros(len(rows), network.n_out, inputs.shape[1])

    pyramid.engine = Counting()
    pyramid.decode(Box((100, 100), (101, 101)))
    assert len(evaluated) == 3 and max(evaluated) <= 4


@pytest.mark.parametrize("level", [-1, 3, 100])
def test_a_level_that_is_not_there_is_refused(level):
    with pytest.raises(ValueError, match=f"level {level} is not between 0 and 2"):
        random_pyramid(GRIDS[1]).decode(level=level)


@pytest.mark.parametrize(
    "region",
    [
        Box((0, 0), (0, 0)), Box((3, 3), (3, 5)), Box((5, 0), (3, 4)), Box((-1, 0), (4, 4)), Box((0, 0), (14, 37)),
        Box((13, 37), (14, 38)), Box((0,), (4,)), Box((0, 0, 0), (4, 4, 4)),
    ],
    ids=str,
)  # fmt: skip
def test_a_region_that_is_empty_or_outside_is_refused(region):
    with pytest.raises(ValueError):
        random_pyramid(GRIDS[4]).decode(region)


def test_a_region_of_a_finer_level_does_not_pass_for_one_of_a_coarser():
    grid = GRIDS[4]
    with pytest.raises(ValueError, match="not inside level 1"):
        random_pyramid(grid).decode(grid.level_box(0), 1)


def test_parameters_are_counted_over_all_levels():
    pyramid = random_pyramid(GRIDS[4])
    assert pyramid.n_params == sum(level.rows.numel() for level in pyramid.levels.values()) > 0
