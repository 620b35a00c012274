"""The targets of a level against brute force, whatever the strips."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from conftest import GRIDS, all_cells, grid_id, make_source, random_pyramid

import datasets.residual
from datasets.grid import Box, Grid
from datasets.residual import LevelTargets
from datasets.source import ArraySource, Signal

grids = pytest.mark.parametrize("grid", GRIDS, ids=grid_id)


def coarse_of(grid, level, channels=2):
    """A prediction of a level that any box can be asked of; None at the coarsest level."""
    if level == grid.n_levels - 1:
        return None
    box = grid.level_box(level)
    cells = torch.rand(*box.stop, channels, generator=torch.Generator().manual_seed(level))
    return lambda region: box.crop(cells, region).clone()


def difference(source, coarse, grid, level):
    """Source minus prediction of a whole level."""
    whole = grid.level_box(level)
    cells = source.read(whole, level)
    if coarse is None:
        return cells
    return cells - coarse(whole)


def blocks_of(grid, level, cells):
    """Values [c, cells] of every block's real cells, by a loop over cells, and their places in the block."""
    found = [([], []) for _ in range(grid.n_blocks(level))]
    for cell in all_cells(grid.level_box(level).stop):
        block = np.ravel_multi_index([i // p for i, p in zip(cell, grid.patch, strict=True)], grid.block_counts(level))
        place = np.ravel_multi_index([i % p for i, p in zip(cell, grid.patch, strict=True)], grid.patch)
        found[block][0].append(cells[cell])
        found[block][1].append(int(place))
    return [(torch.stack(values, 1), places) for values, places in found]


@grids
@pytest.mark.parametrize("residual", [True, False], ids=["laplacian", "gaussian"])
def test_survey_is_mean_square_and_largest_residual_of_the_real_cells(grid, residual):
    source = make_source(grid.shape, 2)
    for level in range(grid.n_levels):
        coarse = coarse_of(grid, level)
        energy, amplitude = LevelTargets(source, coarse, grid, level, residual).survey()
        for n, (values, _) in enumerate(blocks_of(grid, level, difference(source, coarse, grid, level))):
            assert energy[n].item() == pytest.approx(values.double().square().mean().item(), rel=1e-5)
            assert amplitude[n] == values.abs().max()


@grids
@pytest.mark.parametrize("residual", [True, False], ids=["laplacian", "gaussian"])
def test_gather_gives_residuals_or_in_a_gaussian_pyramid_the_source(grid, residual):
    source = make_source(grid.shape, 2)
    for level in range(grid.n_levels):
        coarse = coarse_of(grid, level)
        targets = LevelTargets(source, coarse, grid, level, residual)
        cells = difference(source, coarse, grid, level) if residual else source.read(grid.level_box(level), level)
        ids = torch.arange(0, grid.n_blocks(level), 2)
        found = targets.gather(ids)
        assert found.shape == (len(ids), 2, grid.block_cells)
        blocks = blocks_of(grid, level, cells)
        for target, n in zip(found, ids.tolist(), strict=True):
            values, places = blocks[n]
            assert torch.equal(target[:, places], values)


@grids
def test_no_blocks_are_gathered(grid):
    targets = LevelTargets(make_source(grid.shape, 2), coarse_of(grid, 0), grid, 0)
    assert targets.gather(torch.zeros(0, dtype=torch.int64)).shape == (0, 2, grid.block_cells)


@grids
@pytest.mark.parametrize("strip", [1, 100])
@pytest.mark.parametrize("residual", [True, False], ids=["laplacian", "gaussian"])
@pytest.mark.parametrize("kept", [0, 2**27])
def test_strips_do_not_change_a_bit(grid, strip, residual, kept):
    source = make_source(grid.shape, 2)
    pyramid = random_pyramid(grid, 2)
    coarse = lambda box: pyramid.decode(box, 0)  # noqa: E731
    ids = torch.arange(0, grid.n_blocks(0), 3)
    whole = LevelTargets(source, coarse, grid, 0, residual)
    energy, amplitude, found = *whole.survey(), whole.gather(ids)
    cut = LevelTargets(source, coarse, grid, 0, residual, strip_cells=strip, kept_values=kept)
    for want, have in zip((energy, amplitude, found), (*cut.survey(), cut.gather(ids)), strict=True):
        assert torch.equal(want, have)


@grids
@pytest.mark.parametrize("residual", [True, False], ids=["laplacian", "gaussian"])
def test_tiles_do_not_change_a_bit(grid, residual, monkeypatch):
    source, pyramid = make_source(grid.shape, 2), random_pyramid(grid, 2)
    ids = torch.arange(0, grid.n_blocks(0), 3)

    def found():
        targets = LevelTargets(source, lambda box: pyramid.decode(box, 0), grid, 0, residual, kept_values=0)
        return *targets.survey(), targets.gather(ids)

    whole = found()
    monkeypatch.setattr(datasets.residual, "TILE_VALUES", 2)
    assert all(torch.equal(want, have) for want, have in zip(whole, found(), strict=True))


def test_where_source_and_prediction_are_zero_nothing_is_left_to_learn(monkeypatch):
    """A volume with one solid block, at its edge, and a prediction of another one: only these two are looked at."""
    monkeypatch.setattr(datasets.residual, "TILE_VALUES", 1)
    grid = Grid((9, 8, 7), (4, 4, 4), 1)
    solid, told = np.zeros((9, 8, 7, 1), bool), torch.zeros(9, 8, 7, 1)
    solid[8:, 4:, 4:] = True
    told[:4, :4, :4] = 0.5
    split, looked = Grid.split, []
    monkeypatch.setattr(Grid, "split", lambda self, cells, blocks: looked.append(blocks) or split(self, cells, blocks))
    source = ArraySource(solid, Signal.of(solid, "occupancy"))
    targets = LevelTargets(source, lambda box: grid.level_box(0).crop(told, box), grid, 0, kept_values=0)
    energy, amplitude = targets.survey()
    want = torch.zeros(12)
    want[0], want[11] = 0.25, 1
    assert torch.equal(energy, want) and torch.equal(amplitude, want.sqrt())
    assert set(looked) == {Box((0, 0, 0), (1, 1, 1)), Box((2, 1, 1), (3, 2, 2))}
    found = targets.gather(torch.tensor([0, 5, 11]))
    assert (found[0] == -0.5).all() and not found[1].any() and found[2].sum() == 4 * 3


def test_nothing_is_left_to_learn_of_an_empty_volume():
    empty = np.zeros((5, 4, 3, 1), bool)
    targets = LevelTargets(ArraySource(empty, Signal.of(empty, "occupancy")), None, Grid((5, 4, 3), (2, 2, 2), 2), 0)
    assert not any(values.any() for values in (*targets.survey(), targets.gather(torch.arange(3))))


class Threads:
    """What Beside is on a GPU, without one."""

    def __init__(self):
        self.begun, self._thread = [], ThreadPoolExecutor(1)

    def begin(self, work):
        self.begun.append(self._thread.submit(work))
        return self.begun[-1]

    def take(self, begun):
        return begun.result()


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_targets_made_beside_other_work_are_those_asked_for(device):
    grid = GRIDS[4]
    signal = make_source(grid.shape, 2)
    source = ArraySource(signal.cells.numpy(), signal.signal, device)
    coarse = coarse_of(grid, 0)
    targets = LevelTargets(source, lambda box: coarse(box).to(device), grid, 0, strip_cells=40, kept_values=0)
    if device == "cpu":
        targets._beside = Threads()
    first, second = (torch.arange(a, grid.n_blocks(0), 2, device=device) for a in (0, 1))
    wanted = [targets.gather(ids) for ids in (first, second)]
    targets.expect(first)
    assert targets._expected and torch.equal(targets.gather(first), wanted[0]) and not targets._expected
    targets.expect(first)
    assert torch.equal(targets.gather(second), wanted[1]) and not targets._expected
    targets.expect(second)
    targets.forget()
    assert not targets._expected and torch.equal(targets.gather(second), wanted[1])
    if device == "cpu":
        assert len(targets._beside.begun) == 3 and all(work.done() for work in targets._beside.begun)


def test_what_goes_wrong_beside_other_work_comes_out_where_the_targets_are_gathered():
    grid = GRIDS[4]

    def fails(region):
        raise OSError("the disk is gone")

    targets = LevelTargets(make_source(grid.shape, 2), fails, grid, 0, kept_values=0)
    targets._beside = Threads()
    targets.expect(torch.arange(2))
    with pytest.raises(OSError, match="the disk is gone"):
        targets.gather(torch.arange(2))
    targets.expect(torch.arange(2))
    targets.forget()


def test_a_prediction_is_asked_only_for_cells_of_its_level():
    grid = GRIDS[4]
    asked = []

    def coarse(box):
        asked.append(box)
        return torch.zeros(*box.shape, 1)

    LevelTargets(make_source(grid.shape), coarse, grid, 1).survey()
    assert asked and all(grid.clip(box, 1) == box and box.size for box in asked)
    assert isinstance(asked[0], Box)


def test_targets_given_out_are_not_changed_by_who_takes_them():
    grid = GRIDS[3]
    targets = LevelTargets(make_source(grid.shape), None, grid, 1)
    first = targets.gather(torch.arange(2))
    before = first.clone()
    first.zero_()
    assert torch.equal(targets.gather(torch.arange(2)), before)
