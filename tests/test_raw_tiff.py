"""The scratch file: a TIFF like any other, whatever its size."""

import io

import numpy as np
import pytest
from PIL import Image

from datasets.raw_tiff import ROWS_PER_STRIP, write_raw_header


@pytest.mark.parametrize("height", [1, ROWS_PER_STRIP, ROWS_PER_STRIP + 1, 5 * ROWS_PER_STRIP + 3])
@pytest.mark.parametrize("width", [1, 37])
def test_another_reader_finds_the_rows(height, width):
    rows = np.random.default_rng(0).integers(0, 256, (height, width), dtype=np.uint8)
    file = io.BytesIO()
    write_raw_header(file, height, width)
    file.write(rows.tobytes())
    with Image.open(file) as image:
        np.testing.assert_array_equal(np.asarray(image), rows)
