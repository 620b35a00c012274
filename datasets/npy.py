"""Arrays to .npy files, strip by strip."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np

from utils import atomic_write, check_room


def write_npy(path: Path, strips: Iterable[np.ndarray], shape: tuple[int, ...], dtype: np.dtype | str) -> None:
    """Write an array that comes as strips along its first axis; the file appears whole or not at all.

    Args:
        strips: arrays of `dtype` whose cells, one strip after another, are those of `shape` in C order.

    Raises:
        ValueError: the strips have another dtype, or more or fewer cells.
    """
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        write_cells(file, strips, math.prod(shape), dtype)


def write_cells(file: BinaryIO, strips: Iterable[np.ndarray], n_cells: int, dtype: np.dtype | str) -> None:
    """Write the bytes of strips that have `n_cells` numbers of `dtype` between them, else raise ValueError.

    Raises UserError before any strip is drawn where the disk has no room for them.
    """
    check_room(Path(file.name).parent, n_cells * np.dtype(dtype).itemsize)
    written = 0
    for strip in strips:
        if strip.dtype != dtype:
            raise ValueError(f"a strip of {strip.dtype}, not {dtype}")
        file.write(np.ascontiguousarray(strip).data)
        written += strip.size
    if written != n_cells:
        raise ValueError(f"{written} numbers in the strips of an array of {n_cells}")
