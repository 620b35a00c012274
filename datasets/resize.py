"""Pictures at another size, part by part: the same numbers whether the picture is held or read by region."""

from collections.abc import Callable, Iterator

import numpy as np
import torch

from datasets.grid import Box
from datasets.resample import Axis, made_from, resample
from datasets.source import cast, points


def resized(
    read: Callable[[Box], np.ndarray], shape: tuple[int, ...], size: tuple[int, ...], part_cells: int
) -> Iterator[tuple[Box, np.ndarray]]:
    """A picture at another size, in parts [*box, c] of its own dtype, from the top down.

    An axis that shrinks is averaged over what its new cells cover, cells covered in part counted in part; one that
    grows is interpolated by Catmull-Rom's cubic. Integers are rounded and clipped to their dtype's range.

    Args:
        read: gives the cells of a region, [*region, c].
        shape: height and width of the picture.
        size: those wanted.
        part_cells: cells handled at once, but no less than what one new cell covers.
    """
    axes = [Axis(0, old, new) for old, new in zip(shape, size, strict=True)]
    down, across = (old / new for old, new in zip(shape, size, strict=True))
    # A new cell takes so many before the first axis is done, and before the second.
    most = int(part_cells / max(1, across, down * across))
    for part in points(size, 0).boxes(0, max(1, most)):
        region = made_from(axes, part, shape)
        cells = read(region)
        # float32 tells all numbers of 8 bits apart, and sums of them.
        work = np.float32 if cells.dtype.itemsize == 1 else np.float64
        values = resample(axes, torch.from_numpy(cells.astype(work)), region, part)
        yield part, cast(values.numpy(), cells.dtype.newbyteorder("="))
