"""Sources: values to [0, 1] and back, and coarser levels as repeated halvings."""

import numpy as np
import pytest
import torch
from conftest import make_source, random_box

import datasets.source
from datasets.grid import Box, Grid, down
from datasets.source import ArraySource, Signal, cast


def round_trip(array):
    signal = Signal.of(array, "grey")
    values = signal.normalise(torch.from_numpy(array))
    assert values.dtype == torch.float32
    assert values.min() >= 0 and values.max() <= 1
    found = signal.restore(values)
    assert found.dtype == array.dtype and found.shape == array.shape
    return found


def column(values, dtype):
    return np.array(values, dtype).reshape(-1, 1, 1)


EXACT = {
    "bool": column([False, True], bool),
    "uint8": column(range(256), np.uint8),
    "uint16": column(range(65536), np.uint16),
    "int8": column(range(-128, 128), np.int8),
    "int16": column(range(-32768, 32768), np.int16),
    "part of int16": column(range(-7, 300), np.int16),
    "int32 over 2^23 values": column(np.arange(2**31 - 2**23, 2**31, 97), np.int32),
    "negative int32": column(np.arange(-(2**31), -(2**31) + 2**23, 97), np.int32),
}
CONSTANT = [(dtype, value) for dtype in (bool, np.uint8, np.uint16) for value in (0, 1)]
CONSTANT += [(dtype, value) for dtype in (np.int16, np.int32) for value in (0, -5, 30000)]
CONSTANT += [(np.float32, 0.1), (np.float64, -1e300), (np.float64, 1e-300), (np.float16, 0)]


@pytest.mark.parametrize("name", EXACT)
def test_every_value_comes_back_exactly(name):
    np.testing.assert_array_equal(round_trip(EXACT[name]), EXACT[name])


@pytest.mark.parametrize(("dtype", "value"), CONSTANT, ids=str)
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 4)])
def test_a_constant_comes_back_exactly(dtype, value, shape):
    array = np.full(shape, value, dtype)
    np.testing.assert_array_equal(round_trip(array), array)


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [
        (np.float32, 0, 1),
        (np.float32, -3e38, 3e38),
        (np.float32, -7, 1e-3),
        (np.float64, 1e12, 1e12 + 1),
        (np.float64, 1e-310, 3e-310),
        (np.float64, -1e308, 1e308),
        (np.int32, -(2**31), 2**31 - 1),
        (np.uint32, 0, 2**32 - 1),
        (np.int64, -(2**62), 2**62),
        (np.int64, -(2**63), 2**63 - 1),
        (np.uint64, 0, 2**64 - 1),
    ],
    ids=str,
)
def test_wide_ranges_come_back_within_what_float32_resolves(dtype, low, high):
    share = np.random.default_rng(0).random(1000)
    if np.issubdtype(dtype, np.integer):
        values = [low, high, *(low + int(s * 2**20) * ((high - low) >> 20) for s in share)]
    else:
        values = [low, high, *(low * (1 - s) + high * s for s in share)]
    array = column(values, dtype)
    found = round_trip(array)
    error = np.abs(found.astype(np.longdouble) - array.astype(np.longdouble)).max()
    assert error <= (np.longdouble(high) - np.longdouble(low)) * 2.0**-23 + np.finfo(np.float64).tiny


@pytest.mark.parametrize(("dtype", "high"), [(np.uint8, 255), (np.uint16, 65535), (bool, 1)])
def test_unsigned_values_are_shares_of_the_largest_of_the_dtype(dtype, high):
    array = np.array([[[0], [1]]], dtype)
    signal = Signal.of(array, "grey")
    assert (signal.low, signal.high) == (0, high)
    torch.testing.assert_close(signal.normalise(torch.from_numpy(array)).flatten(), torch.tensor([0, 1 / high]))


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.uint16, np.int16, np.float32])
def test_values_outside_are_clipped_and_those_between_rounded(dtype):
    array = np.array([[[0]], [[1]]], dtype)
    signal = Signal.of(array, "grey")
    steps = signal.high - signal.low
    found = signal.restore(torch.tensor([-3.0, 0.0, 1.0, 5.0, 0.4 / steps, 0.6 / steps]))
    limits = [signal.low, signal.low, signal.high, signal.high]
    assert found[:4].tolist() == limits
    if dtype != np.float32:
        assert found[4:].tolist() == [signal.low, signal.low + 1]


@pytest.mark.parametrize("name", ["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"])
def test_integers_are_clipped_to_the_range_of_their_dtype(name):
    dtype, limits = np.dtype(name), np.iinfo(name)
    low, high, *middle = cast(np.array([limits.min - 1e19, limits.max + 1e19, 0.5, 1.5, 2.6]), dtype)
    assert (low.dtype, middle) == (dtype, [0, 2, 3])
    # The largest 64-bit integers are no float64.
    assert low == limits.min and limits.max - 2**11 < int(high) <= limits.max
    assert high == limits.max or dtype.itemsize == 8


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 3), (16, 32), (13, 37), (1, 1, 1), (5, 11, 7)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("strip", [1, 2**24])
def test_levels_are_repeated_halvings_whatever_the_strips(shape, dtype, strip, monkeypatch):
    monkeypatch.setattr(datasets.source, "STRIP_CELLS", strip)
    source = make_source(shape, 2, dtype=dtype)
    grid, generator = Grid(shape, (1,) * len(shape), 5), np.random.default_rng(0)
    want = source.signal.normalise(source.cells)
    for level in range(5):
        whole = grid.level_box(level)
        assert torch.equal(source.read(whole, level), want)
        for _ in range(5):
            region = random_box(generator, whole.stop)
            assert torch.equal(source.read(region, level), whole.crop(want, region))
        want = down(want)


def test_a_level_is_made_once():
    source = make_source((8, 8))
    first = source.read(Box((0, 0), (4, 4)), 1)
    source.cells.zero_()
    assert torch.equal(source.read(Box((0, 0), (4, 4)), 1), first)


def test_an_array_of_any_layout_is_read():
    array = np.arange(24, dtype=np.uint8).reshape(4, 6, 1)
    signal = Signal.of(array, "grey")
    for view in (array[::-1], array.swapaxes(0, 1), array[:, ::2]):
        source = ArraySource(view, signal)
        found = signal.restore(source.read(Box((0, 0), source.shape), 0))
        np.testing.assert_array_equal(found, view)


def test_what_a_source_is_about_defaults_to_nothing():
    assert make_source((1, 1)).about == {}
