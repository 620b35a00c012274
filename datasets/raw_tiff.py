"""Bytes in rows as a plain TIFF file, from which libvips reads a few rows at a time. (Its raw files it maps whole.)"""

import struct
from typing import BinaryIO

import numpy as np

ROWS_PER_STRIP = 16


def write_raw_header(file: BinaryIO, height: int, row_bytes: int) -> None:
    """Write what stands before `height` rows of `row_bytes` bytes each: the header of a grey, uncompressed BigTIFF."""
    starts = np.arange(0, height, ROWS_PER_STRIP, dtype="<u8")
    sizes = (np.minimum(starts + ROWS_PER_STRIP, height) - starts) * row_bytes
    # TIFF 6.0 section 8 with the 64-bit offsets of BigTIFF: (tag, type, count, value); type 4 is 32 bits, 16 is 64.
    head, n_entries = 16, 9
    arrays = head + 8 + 20 * n_entries + 8
    first = arrays + (16 * len(starts) if len(starts) > 1 else 0)
    offsets = first + starts * row_bytes
    # An array of one stands where its place would.
    places = (arrays, arrays + 8 * len(starts)) if len(starts) > 1 else (int(offsets[0]), int(sizes[0]))
    entries = [
        (256, 4, 1, row_bytes),  # width
        (257, 4, 1, height),
        (258, 4, 1, 8),  # bits of a sample
        (259, 4, 1, 1),  # no compression
        (262, 4, 1, 1),  # 0 is black
        (273, 16, len(starts), places[0]),  # offsets of the strips
        (277, 4, 1, 1),  # samples of a pixel
        (278, 4, 1, ROWS_PER_STRIP),
        (279, 16, len(starts), places[1]),  # bytes of the strips
    ]
    file.write(struct.pack("<2sHHHQQ", b"II", 43, 8, 0, head, n_entries))
    for entry in entries:
        file.write(struct.pack("<HHQQ", *entry))
    file.write(struct.pack("<Q", 0))
    if len(starts) > 1:
        file.write(offsets.astype("<u8").tobytes() + sizes.astype("<u8").tobytes())
