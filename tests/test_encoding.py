"""The positional encoding against brute force."""

import math

import pytest
import torch
from conftest import all_cells

from datasets.grid import Grid
from models.encoding import Encoding, directions


@pytest.mark.parametrize(
    ("ndim", "n_freq", "width"), [(2, 0, 2), (3, 0, 3), (2, 1, 4), (2, 4, 16), (3, 1, 42), (3, 5, 210)]
)
def test_width_is_the_number_of_features(ndim, n_freq, width):
    encoding = Encoding(ndim, n_freq)
    assert encoding.width == width
    assert encoding(torch.zeros(7, ndim)).shape == (width, 7)
    assert encoding(torch.zeros(0, ndim)).shape == (width, 0)


@pytest.mark.parametrize(("ndim", "n_freq"), [(1, 2), (4, 2), (2, -1)])
def test_other_dimensions_and_negative_frequencies_are_refused(ndim, n_freq):
    with pytest.raises(ValueError):
        Encoding(ndim, n_freq)


@pytest.mark.parametrize(("ndim", "count"), [(2, 2), (3, 21)])
def test_directions_are_unit_different_and_spread_evenly(ndim, count):
    found = directions(ndim)
    assert found.shape == (count, ndim) and found.dtype == torch.float64
    products = (found @ found.T).abs()
    torch.testing.assert_close(products.diagonal(), torch.ones(count, dtype=torch.float64))
    assert (products - torch.eye(count)).max() < 0.99
    torch.testing.assert_close(found.T @ found, torch.eye(ndim, dtype=torch.float64) * count / ndim)


def test_every_direction_of_space_has_a_neighbour_within_22_degrees():
    random = torch.randn(2000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    nearest = (random / random.norm(dim=1, keepdim=True) @ directions(3).T).abs().amax(1)
    assert nearest.min() > math.cos(math.radians(22))


def test_without_frequencies_the_coordinates_themselves_are_shown():
    coordinates = Grid((3, 4), (3, 4), 1).coordinates()
    assert torch.equal(Encoding(2, 0)(coordinates), coordinates.T)


@pytest.mark.parametrize("patch", [(1, 1), (3, 5), (2, 3, 2)])
@pytest.mark.parametrize("n_freq", [1, 4])
def test_features_are_all_sines_then_all_cosines_by_frequency_and_direction(patch, n_freq):
    coordinates = Grid(patch, patch, 1).coordinates()
    found = Encoding(len(patch), n_freq)(coordinates)
    unit = directions(len(patch)).tolist()
    for p in range(len(list(all_cells(patch)))):
        x = coordinates[p].tolist()
        phases = [2**k * sum(a * b for a, b in zip(u, x, strict=True)) for k in range(n_freq) for u in unit]
        want = [math.sin(v) for v in phases] + [math.cos(v) for v in phases]
        assert found[:, p].tolist() == pytest.approx(want, abs=1e-6)


def test_features_of_a_cell_do_not_depend_on_the_others():
    coordinates = Grid((5, 7), (5, 7), 1).coordinates()
    encoding = Encoding(2, 4)
    assert torch.equal(encoding(coordinates)[:, 11:12], encoding(coordinates[11:12]))
