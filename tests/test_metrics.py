"""Figures against brute force, and that they do not depend on how a signal is cut into strips."""

import math

import numpy as np
import pytest
import torch
from conftest import level_cells, make_source, random_pyramid

from datasets.grid import Grid
from datasets.source import ArraySource, Signal
from metrics import Likeness, Mean, Overlap, Seams, psnr, ssim_map
from run import report


@pytest.mark.parametrize(("mse", "db"), [(1, 0), (0.1, 10), (1e-4, 40), (0, math.inf)])
def test_psnr_is_10_log10_of_1_over_mse(mse, db):
    assert psnr(mse) == pytest.approx(db)


def test_the_psnr_of_an_undefined_error_is_undefined():
    assert math.isnan(psnr(math.nan))


def test_a_mean_is_that_of_all_values_however_they_are_added():
    values = torch.rand(1000) + 1000
    mean = Mean()
    assert math.isnan(mean.value)
    for part in values.split([0, 1, 333, 666]):
        mean.add(part)
    assert mean.value == pytest.approx(values.double().mean().item(), rel=1e-12)


def test_overlap_is_intersection_over_union_of_all_regions():
    found, truth = torch.tensor([1, 1, 0, 0]).bool(), torch.tensor([1, 0, 1, 0]).bool()
    overlap = Overlap()
    assert math.isnan(overlap.value)
    overlap.add(found[:2], truth[:2])
    overlap.add(found[2:], truth[2:])
    assert overlap.value == pytest.approx(1 / 3)


def seam_by_brute_force(error, patch):
    border, inside = [], []
    for axis, p in enumerate(patch):
        for i in range(error.shape[axis] - 1):
            step = np.abs(np.take(error, i + 1, axis) - np.take(error, i, axis)).ravel().tolist()
            (border if (i + 1) % p == 0 else inside).extend(step)
    return np.mean(border) / np.mean(inside)


@pytest.mark.parametrize(
    ("shape", "patch"), [((4, 2), (2, 1)), ((9, 13), (4, 5)), ((13, 9), (3, 32)), ((5, 6, 7), (2, 3, 4))]
)
def test_seams_are_steps_across_borders_against_steps_inside(shape, patch):
    error = level_cells(shape, 2).double() - 0.5
    seams = Seams(patch)
    seams.add(error, (0,) * len(shape))
    assert seams.value == pytest.approx(seam_by_brute_force(error.numpy(), patch))


def test_seams_of_a_region_know_where_its_borders_are():
    error = level_cells((9, 9)).double()
    found = Seams((4, 4))
    found.add(error[3:, 2:], (3, 2))
    cut = torch.full((9, 9, 1), torch.nan, dtype=torch.float64)
    cut[3:, 2:] = error[3:, 2:]
    steps = [cut.diff(dim=axis).abs().movedim(axis, 0) for axis in (0, 1)]
    border = sum(step[3::4].nansum().item() for step in steps)
    assert found.border.total == pytest.approx(border)
    assert found.inside.total == pytest.approx(sum(step.nansum().item() for step in steps) - border)


@pytest.mark.parametrize(("shape", "patch"), [((1, 1), (4, 4)), ((3, 4), (8, 8)), ((4, 4), (1, 1))])
def test_seams_without_a_border_or_an_inside_are_undefined(shape, patch):
    seams = Seams(patch)
    seams.add(level_cells(shape), (0, 0))
    assert math.isnan(seams.value)


def correlation_by_brute_force(values):
    steps = [np.diff(values, axis=axis).ravel() ** 2 for axis in range(values.ndim - 1)]
    return 1 - np.concatenate(steps).mean() / (2 * values.var(tuple(range(values.ndim - 1))).mean())


@pytest.mark.parametrize("shape", [(1, 2), (9, 1), (7, 5), (3, 4, 5)])
@pytest.mark.parametrize("channels", [1, 3])
def test_likeness_is_the_correlation_of_neighbours(shape, channels):
    values = level_cells(shape, channels).double() + torch.arange(channels)
    found = Likeness()
    found.add(values)
    assert found.value == pytest.approx(correlation_by_brute_force(values.numpy()))


def test_likeness_tells_noise_from_what_is_smooth_whatever_the_distribution_and_the_channels():
    rng = np.random.default_rng(0)
    noises = [rng.random((64, 64, 3)), rng.normal(5, 1e-2, (64, 64, 1)), rng.random((64, 64, 1)) < 0.05,
              np.concatenate([rng.random((64, 64, 3)), np.ones((64, 64, 1))], 2)]  # fmt: skip
    ramp = np.linspace(0, 1, 64)[:, None, None] * np.ones((64, 64, 1))
    for cells in noises:
        likeness = Likeness()
        likeness.add(torch.from_numpy(cells.astype(np.float32)))
        assert abs(likeness.value) < 0.06
    likeness = Likeness()
    likeness.add(torch.from_numpy(ramp))
    assert likeness.value > 0.99
    for flat in (torch.full((8, 8, 2), 0.3), torch.ones(1, 1, 1)):
        likeness = Likeness()
        likeness.add(flat)
        assert math.isnan(likeness.value)
    assert math.isnan(Likeness().value)


def ssim_by_brute_force(x, y):
    offsets = np.arange(11) - 5
    window = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
    window /= window.sum()
    values = []
    for top in range(x.shape[0] - 10):
        for left in range(x.shape[1] - 10):
            for c in range(x.shape[2]):
                a, b = (image[top : top + 11, left : left + 11, c] for image in (x, y))
                ma, mb = (window * a).sum(), (window * b).sum()
                va, vb, cov = (
                    (window * (a - ma) ** 2).sum(),
                    (window * (b - mb) ** 2).sum(),
                    (window * (a - ma) * (b - mb)).sum(),
                )
                values.append((2 * ma * mb + 1e-4) * (2 * cov + 9e-4) / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4)))
    return np.array(values)


@pytest.mark.parametrize("shape", [(11, 11), (11, 14), (15, 12)])
def test_ssim_is_that_of_every_window(shape):
    x, y = level_cells(shape, 2, 0).double(), level_cells(shape, 2, 1).double()
    found = ssim_map(x, 0.7 * x + 0.3 * y)
    assert found.shape == (2, shape[0] - 10, shape[1] - 10)
    want = ssim_by_brute_force(x.numpy(), (0.7 * x + 0.3 * y).numpy())
    np.testing.assert_allclose(np.sort(found.flatten()), np.sort(want), rtol=1e-9)
    assert found.mean().item() == pytest.approx(want.mean())


def test_ssim_of_equal_images_is_1():
    x = level_cells((12, 13), 3)
    assert (ssim_map(x, x.clone()) == 1).all()


@pytest.mark.parametrize("shape", [(1, 1), (10, 50), (50, 10)])
def test_ssim_of_an_image_smaller_than_its_window_is_empty(shape):
    assert ssim_map(level_cells(shape), level_cells(shape)).numel() == 0


QUALITY = [
    Grid((1, 1), (4, 4), 1),
    Grid((30, 17), (5, 6), 1),
    Grid((67, 23), (4, 32), 3),
    Grid((64, 64), (16, 16), 2),
    Grid((9, 7, 6), (2, 4, 3), 2),
]


@pytest.mark.parametrize("grid", QUALITY, ids=str)
def test_the_figures_of_a_run_do_not_depend_on_the_strips(grid, monkeypatch):
    pyramid, source = random_pyramid(grid, channels=2), make_source(grid.shape, 2)
    whole = report.quality(pyramid, source)
    assert len(list(grid.boxes(0, 1))) == grid.n_blocks(0)
    for cells, tile in ((1, 1), (60, 1), (60, 2**18), (2**22, 40)):
        monkeypatch.setattr(report, "TILE_VALUES", tile)
        assert report.quality(pyramid, source, strip_cells=cells) == pytest.approx(whole, rel=1e-6, nan_ok=True)


@pytest.mark.parametrize("grid", QUALITY[3:], ids=str)
def test_each_core_measures_a_tile_on_its_own(grid, monkeypatch):
    """Of steps that the cores share each waits for the slowest."""
    threads, measured = [], report._measured
    monkeypatch.setattr(report, "TILE_VALUES", 60)
    monkeypatch.setattr(report, "_measured", lambda *a: threads.append(torch.get_num_threads()) or measured(*a))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        report.quality(random_pyramid(grid, channels=2), make_source(grid.shape, 2))
    finally:
        torch.set_num_threads(before)
    assert len(threads) > 1 and set(threads) == {1}


@pytest.mark.parametrize("grid", QUALITY, ids=str)
def test_the_figures_of_a_run_against_brute_force(grid, monkeypatch):
    pyramid, source = random_pyramid(grid, channels=2), make_source(grid.shape, 2)
    found = report.quality(pyramid, source)
    error = (pyramid.decode() - source.read(grid.level_box(0), 0)).double().numpy()
    assert found["psnr"] == pytest.approx(-10 * np.log10((error**2).mean()))
    blocks = {}
    for cell in np.ndindex(grid.shape):
        blocks.setdefault(tuple(np.array(cell) // grid.patch), []).append((error[cell] ** 2).mean())
    assert found["psnr_worst_block"] == pytest.approx(-10 * np.log10(max(map(np.mean, blocks.values()))))
    if min(grid.block_counts(0)) > 1:
        assert found["seam"] == pytest.approx(seam_by_brute_force(error, grid.patch), rel=1e-5)
    if grid.ndim == 2 and grid.shape != (1, 1):
        truth = source.read(grid.level_box(0), 0).double().numpy()
        assert found["neighbour_correlation"] == pytest.approx(correlation_by_brute_force(truth), abs=1e-6)


def test_the_figures_of_a_volume_that_is_empty_but_for_a_block_against_brute_force(monkeypatch):
    monkeypatch.setattr(report, "TILE_VALUES", 8)
    grid = Grid((9, 7, 6), (2, 2, 3), 1)
    pyramid, cells = random_pyramid(grid, channels=1, keep=0.05, seed=3), np.zeros((9, 7, 6, 1), bool)
    cells[8:, 4:6, 3:] = True
    error = pyramid.decode().numpy() - cells
    assert 0 < (error != 0).mean() < 0.5
    found = report.quality(pyramid, ArraySource(cells, Signal.of(cells, "occupancy")))
    assert found["psnr"] == pytest.approx(-10 * np.log10((error**2).mean()))
    assert found["mean"] == pytest.approx(cells.mean())
    assert found["seam"] == pytest.approx(seam_by_brute_force(error, grid.patch), rel=1e-5)


def test_a_perfect_reconstruction_has_infinite_psnr_and_no_seams():
    grid = Grid((12, 12), (4, 4), 1)
    pyramid, source = random_pyramid(grid, channels=1, keep=0), make_source(grid.shape)
    source.cells.zero_()
    found = report.quality(pyramid, source)
    assert (found["psnr"], found["psnr_worst_block"], found["ssim"]) == (math.inf, math.inf, 1)
    assert math.isnan(found["seam"])
