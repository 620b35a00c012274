"""Values between cells: those of the decode at centres, continuous inside blocks, with the derivative they have."""

import itertools
import math

import pytest
import torch
from conftest import GRIDS, grid_id, random_pyramid

import models.points
from datasets.grid import Grid
from models import model_file
from models.block_mlp import BlockMLP

grids = pytest.mark.parametrize("grid", GRIDS, ids=grid_id)


def centres(shape):
    """The centres of all cells in raster order, [m, d] with columns x, y[, z]."""
    return torch.tensor(list(itertools.product(*map(range, shape))), dtype=torch.float64).flip(1) + 0.5


def random_points(shape, count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    size = torch.tensor(shape[::-1], dtype=torch.float64)
    return torch.rand(count, len(shape), generator=generator, dtype=torch.float64) * size


@grids
@pytest.mark.parametrize("gaussian", [False, True], ids=["laplacian", "gaussian"])
@pytest.mark.parametrize("n_freq", [0, 2])
def test_at_the_centres_of_cells_it_is_the_decode(grid, gaussian, n_freq):
    pyramid = random_pyramid(grid, gaussian=gaussian, n_freq=n_freq)
    points = centres(grid.shape)
    order = torch.randperm(len(points), generator=torch.Generator().manual_seed(0))
    found = pyramid.sample(points[order])
    want = pyramid.decode().flatten(0, -2)[order]
    assert found.dtype == torch.float32 and not found.requires_grad
    torch.testing.assert_close(found, want, rtol=0, atol=2e-6)
    torch.testing.assert_close(pyramid.sample(points.float()), pyramid.sample(points), rtol=0, atol=1e-5)


@pytest.mark.parametrize("grid", [GRIDS[4], GRIDS[7]], ids=grid_id)
def test_a_point_does_not_depend_on_the_others(grid, monkeypatch):
    pyramid, points = random_pyramid(grid), random_points(grid.shape, 60)
    together = pyramid.sample(points)
    monkeypatch.setattr(models.points, "MOST_POINTS", 7)
    torch.testing.assert_close(pyramid.sample(points), together, rtol=0, atol=1e-6)
    assert pyramid.sample(points[:0]).shape == (0, pyramid.channels)


def test_no_more_points_are_evaluated_at_once_at_coarser_levels(monkeypatch):
    grid = Grid((24, 24, 24), (4, 4, 4), 4)
    pyramid, seen = random_pyramid(grid, keep=2), []
    monkeypatch.setattr(models.points, "MOST_POINTS", 50)
    places = models.points._places
    monkeypatch.setattr(models.points, "_places", lambda *of: seen.append(len(of[1])) or places(*of))
    pyramid.sample(random_points(grid.shape, 120))
    assert max(seen) == 50


def test_it_is_continuous_inside_a_block_also_where_coarse_cells_meet():
    grid = Grid((32, 32), (16, 16), 3)
    pyramid = random_pyramid(grid, keep=2)
    x = torch.linspace(16, 31.999, 4000, dtype=torch.float64)
    line = pyramid.sample(torch.stack([x, torch.full_like(x, 5.3)], 1))
    assert (line.diff(dim=0).abs() < 0.05 * (line.max() - line.min())).all()


@pytest.mark.parametrize("grid", [GRIDS[3], GRIDS[4], GRIDS[6], GRIDS[7]], ids=grid_id)
def test_its_derivative_is_that_of_finite_differences(grid):
    pyramid = random_pyramid(grid, n_freq=2)
    points, step = random_points(grid.shape, 40).requires_grad_(), 1e-3
    values = pyramid.sample(points)
    slopes = [torch.autograd.grad(channel.sum(), points, retain_graph=True)[0] for channel in values.unbind(1)]
    size = torch.tensor(grid.shape[::-1], dtype=torch.float64)
    for axis in range(grid.ndim):
        moved = torch.zeros(grid.ndim, dtype=torch.float64)
        moved[axis] = step
        ends = [(points.detach() + sign * moved) for sign in (1, -1)]
        # Where both ends lie between the same centres of cells and the value is not clipped.
        within = ((ends[0] * 2).floor() == (ends[1] * 2).floor()).all(1)
        within &= ((ends[0] <= size) & (ends[1] >= 0)).all(1)
        moved_values = torch.stack([pyramid.sample(end.clamp(min=0).minimum(size)) for end in ends])
        for channel, slope in enumerate(slopes):
            plus, minus = found = moved_values[..., channel]
            smooth = within & ((found > 0.001) & (found < 0.999)).all(0)
            assert smooth.sum() >= 5
            want = (plus - minus) / (2 * step)
            torch.testing.assert_close(slope[smooth, axis].float(), want[smooth], rtol=0.02, atol=2e-3)


def test_gradients_reach_the_rows_of_every_level_and_agree_with_finite_differences():
    grid = Grid((16, 32), (8, 4), 3)
    pyramid, points = random_pyramid(grid, keep=2, seed=3), random_points(grid.shape, 50)
    for networks in pyramid.levels.values():
        networks.rows.requires_grad_()
    pyramid.sample(points).sum().backward()
    for level, networks in pyramid.levels.items():
        slope, step = networks.rows.grad, 1e-3
        place = divmod(slope.abs().argmax().item(), slope.shape[1])
        sums = []
        for sign in (1, -1):
            with torch.no_grad():
                networks.rows[place] += sign * step
                sums.append(pyramid.sample(points).double().sum().item())
                networks.rows[place] -= sign * step
        assert (sums[0] - sums[1]) / (2 * step) == pytest.approx(slope[place].item(), rel=0.02), level


def test_it_fits_a_picture_by_gradient_descent_on_the_rows():
    grid = Grid((8, 8), (8, 8), 1)
    pyramid, points = random_pyramid(grid, channels=1, n_freq=2, n_hidden=8, keep=2), random_points((8, 8), 40)
    rows = pyramid.level(0).rows.requires_grad_()
    truth = (points[:, :1] / 8).float()
    optimizer = torch.optim.Adam([rows], 0.02)
    losses = []
    for _ in range(30):
        loss = (pyramid.sample(points) - truth).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 3


def test_a_file_gives_the_points_that_memory_gives_and_reads_what_they_touch(tmp_path):
    path, grid = tmp_path / "model.safetensors", Grid((64, 64), (8, 8), 3)
    signal = {"dtype": "uint8", "channels": 2, "low": 0.0, "high": 255.0, "mode": "grey+alpha"}
    pyramid = random_pyramid(grid, keep=2)
    model_file.save(path, pyramid, {"signal": signal})
    lazy, _ = model_file.load(path, lazy=True)
    points = random_points((6, 6), 30)
    assert torch.equal(lazy.sample(points), pyramid.sample(points))
    assert lazy.bytes_read == sum(4 * level.network.row_size for level in pyramid.levels.values())


def test_without_networks_it_is_the_interpolated_coarser_level():
    grid = Grid((16, 16), (8, 8), 2)
    pyramid = random_pyramid(grid, keep=2)
    network, none = pyramid.level(0).network, torch.zeros(0, dtype=torch.int64)
    points = random_points(grid.shape, 20)
    pyramid.add(0, BlockMLP(network, none, torch.zeros(0), torch.zeros(0, network.row_size)))
    empty = pyramid.sample(points)
    del pyramid.levels["0"]
    assert torch.equal(empty, pyramid.sample(points))
    coarse = pyramid.decode(level=1)
    x, y = (points[7] / 2 - 0.5).tolist()
    a, b = math.floor(y), math.floor(x)
    at = lambda i, j: coarse[min(max(i, 0), 7), min(max(j, 0), 7)]  # noqa: E731
    top, low = (at(i, b) * (1 - x + b) + at(i, b + 1) * (x - b) for i in (a, a + 1))
    torch.testing.assert_close(empty[7], top * (1 - y + a) + low * (y - a), rtol=0, atol=1e-5)


def test_the_outer_faces_belong_to_the_image_and_nothing_beyond_does():
    pyramid = random_pyramid(GRIDS[4])
    corners = torch.tensor([[0.0, 0.0], [37.0, 13.0], [0.0, 13.0]])
    assert pyramid.sample(corners).isfinite().all()
    for outside in ([[-1e-6, 3.0]], [[37.001, 3.0]], [[3.0, 13.001]], [[float("nan"), 3.0]], [[float("inf"), 0.0]]):
        with pytest.raises(ValueError, match="between 0 and the size 37 13"):
            pyramid.sample(torch.tensor(outside))
    for shape in ((3,), (4, 3), (1, 2, 2)):
        with pytest.raises(ValueError, match=r"must be \[m, 2\]"):
            pyramid.sample(torch.zeros(shape))
