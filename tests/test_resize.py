"""Pictures at another size: means where they shrink, cubics where they grow, and the same whatever the parts."""

import cv2
import numpy as np
import pytest
from test_image_writer import INTEGERS, picture

from datasets.grid import Box
from datasets.resize import resized
from datasets.samples import planet


def resize(array, width, height, part_cells=2**22):
    """All parts put together, each cell once."""
    whole = Box((0, 0), array.shape[:2])
    result, count = np.empty((height, width, array.shape[2]), array.dtype), np.zeros((height, width), int)
    for part, cells in resized(lambda box: whole.crop(array, box), whole.stop, (height, width), part_cells):
        Box((0, 0), (height, width)).crop(result, part)[...] = cells
        Box((0, 0), (height, width)).crop(count, part)[...] += 1
    assert (count == 1).all()
    return result


@pytest.mark.parametrize("dtype", ["bool", *INTEGERS, "int64", "uint64", "float16", "float32", "float64", ">u2"])
@pytest.mark.parametrize("channels", [1, 7])
def test_any_dtype_keeps_its_kind_and_does_not_depend_on_the_parts(dtype, channels):
    array = picture((4, 6, channels), dtype)
    for width, height in ((5, 3), (12, 8), (3, 10), (13, 2), (6, 4), (1, 1)):
        result = resize(array, width, height)
        np.testing.assert_array_equal(result, resize(array, width, height, 20))
        np.testing.assert_array_equal(result, resize(array, width, height, 1))
    # Of 64-bit integers float64 keeps the first 53 bits.
    np.testing.assert_allclose(resize(array, 6, 4), array, rtol=1e-15 if array.dtype.itemsize == 8 else 0)
    constant = np.full_like(array, array.dtype.type(1))
    np.testing.assert_allclose(resize(constant, 3, 10).astype(float), 1, atol=1e-6)


def test_no_part_takes_more_than_it_may():
    array, sizes = picture((120, 180, 1)), []
    whole = Box((0, 0), (120, 180))

    def read(box):
        sizes.append(box.size)
        return whole.crop(array, box)

    for size in ((60, 90), (7, 11), (480, 90), (11, 400)):
        parts = [part for part, _ in resized(read, (120, 180), size, 1000)]
        # Cells of the picture that two parts share, or that the cubic reaches, come on top.
        assert max(part.size for part in parts) <= 1000 and max(sizes) < 2500


def test_values_are_those_of_opencv_where_it_has_the_same_filter():
    array = planet(70, 90)
    for width, height in ((45, 35), (31, 24), (89, 69), (90, 7)):
        wanted = cv2.resize(array, (width, height), interpolation=cv2.INTER_AREA)
        assert np.abs(resize(array, width, height).astype(int) - wanted).max() <= 1


def test_values_at_the_ends_of_a_dtype():
    edge = np.zeros((4, 40000, 1), np.uint16)
    edge[:, 20000:] = 65535
    small = resize(edge, 1000, 2)
    assert (small[:, :500] == 0).all() and (small[:, 500:] == 65535).all()
    for dtype in (np.uint64, np.int64, np.int8):
        limits = np.iinfo(dtype)
        steps = np.repeat(np.array([limits.min, limits.max], dtype), 8).reshape(1, 16, 1)
        large = resize(steps, 64, 1)
        assert large[0, 0, 0] == limits.min and large[0, -1, 0] >= limits.max - 2**12
