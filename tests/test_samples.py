"""Tests of datasets/samples.py: the sample picture reads by region, at any size, and has detail at every size."""

import numpy as np
import pytest

from datasets.samples import noise, planet


def active_fraction(image):
    """Fraction of the 32x32 blocks whose mean square residual to the 2x down- and upsampled picture exceeds 1e-4."""
    image = image.astype(np.float32) / 255
    height, width, _ = image.shape
    low = image.reshape(height // 2, 2, width // 2, 2, 3).mean((1, 3))
    for axis in (0, 1):
        low = np.moveaxis(low, axis, 0)
        padded = np.concatenate([low[:1], low, low[-1:]])
        low = np.stack([padded[:-2] + 3 * low, 3 * low + padded[2:]], 1).reshape(-1, *low.shape[1:]) / 4
        low = np.moveaxis(low, 0, axis)
    blocks = (image - low).reshape(height // 32, 32, width // 32, 32, 3)
    return np.mean(np.square(blocks).mean((1, 3, 4)) > 1e-4)


@pytest.mark.parametrize(("height", "width"), [(512, 1024), (389, 797), (1500, 700)])
def test_region_equals_crop(height, width):
    whole = planet(height, width)
    rng = np.random.default_rng(0)
    for _ in range(12):
        y0, x0 = rng.integers(height), rng.integers(width)
        y1, x1 = rng.integers(y0 + 1, min(y0 + 120, height) + 1), rng.integers(x0 + 1, min(x0 + 120, width) + 1)
        np.testing.assert_array_equal(planet(height, width, (y0, y1), (x0, x1)), whole[y0:y1, x0:x1])
    for y, x in ((0, 0), (height - 1, width - 1), (height // 2, 33)):
        np.testing.assert_array_equal(planet(height, width, (y, y + 1), (x, x + 1))[0, 0], whole[y, x])
    np.testing.assert_array_equal(planet(height, width, rows=(7, 12)), whole[7:12])
    np.testing.assert_array_equal(planet(height, width, columns=(5, 6)), whole[:, 5:6])


def test_gigapixel_region_equals_crop():
    whole = planet(32768, 36864, (20001, 20501), (9003, 9450))
    part = planet(32768, 36864, (20130, 20147), (9100, 9239))
    np.testing.assert_array_equal(part, whole[129:146, 97:236])


def test_deterministic():
    np.testing.assert_array_equal(planet(200, 300), planet(200, 300))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 1000), (36864, 1), (2, 3), (31, 37), (127, 1009)])
def test_degenerate_sizes(height, width):
    image = planet(height, width)
    assert image.dtype == np.uint8
    assert image.shape == (height, width, 3)


@pytest.mark.parametrize(("height", "width"), [(256, 512), (512, 1024), (1024, 1024)])
def test_detail_in_most_blocks_but_not_in_all(height, width):
    assert 0.6 < active_fraction(planet(height, width)) < 0.95


def test_detail_in_most_blocks_of_a_gigapixel_picture():
    starts = [(k * 32768 // 8 + 1600) // 32 * 32 for k in range(8)]
    crops = [planet(32768, 32768, (y, y + 96), (x, x + 96)) for y in starts for x in starts]
    assert 0.6 < np.mean([active_fraction(crop) for crop in crops]) < 0.95


def test_same_landscape_at_every_size():
    small, large = (planet(n, 2 * n).astype(np.float32) for n in (128, 512))
    means = [image.reshape(8, len(image) // 8, 16, len(image) // 8, 3).mean((1, 3)) for image in (small, large)]
    assert np.abs(means[0] - means[1]).mean() < 12


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (-1, 5), (5, 1 << 17)])
def test_bad_size(size):
    with pytest.raises(ValueError, match="height and width"):
        planet(*size)


@pytest.mark.parametrize("interval", [(-1, 3), (3, 3), (4, 2), (0, 11), (10, 12)])
def test_bad_region(interval):
    with pytest.raises(ValueError, match="rows"):
        planet(10, 10, rows=interval)
    with pytest.raises(ValueError, match="columns"):
        planet(10, 10, columns=interval)


def test_random_pixels_are_random_in_every_channel_and_the_same_every_time():
    image = noise(64, 48)
    assert image.shape == (64, 48, 3) and image.dtype == np.uint8
    assert np.array_equal(image, noise(64, 48)) and not np.array_equal(image, noise(64, 48, seed=1))
    flat = image.reshape(-1, 3).astype(float)
    assert np.abs(np.corrcoef(flat.T) - np.eye(3)).max() < 0.06
    assert np.abs(flat.mean(0) - 127.5).max() < 5
