"""Rows of parameters that stay in their files: a region reads those that it touches and no other."""

import itertools
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from utils import UserError


@dataclass(frozen=True)
class Segment:
    """Consecutive rows in a file: `count` of them, from byte `offset` on."""

    path: Path
    offset: int
    count: int


class FileRows:
    """A table [n, row] of numbers that is read row by row from one file or, piece after piece, from several.

    Rows are read by pread and not through a mapping, whose pages would count as memory of this process.

    Args:
        segments: where the rows lie, in order; n is the sum of their counts.
        row: numbers of a row.
        dtype: of the numbers.

    Raises:
        OSError: a file is not there.
    """

    def __init__(self, segments: list[Segment], row: int, dtype: torch.dtype = torch.float32):
        self.row, self.dtype = row, dtype
        self.segments = segments
        self.bytes_read = 0
        self._ends = np.cumsum([0, *(segment.count for segment in segments)])
        self._files = {segment.path: _identity(segment.path.stat()) for segment in segments}

    def __len__(self) -> int:
        return int(self._ends[-1])

    def take(self, index: Tensor) -> Tensor:
        """The rows at `index`, int64 [m] in any order, as [m, row] on the device of `index`.

        Raises:
            IndexError: there is no such row.
            UserError: a file was changed, cut or removed since it was opened, or holds a number that is not finite.
        """
        wanted, place = np.unique(index.cpu().numpy(), return_inverse=True)
        if len(wanted) and not 0 <= wanted[0] <= wanted[-1] < len(self):
            raise IndexError(f"rows {wanted[0]} to {wanted[-1]} of {len(self)}")
        rows = torch.empty(len(wanted), self.row, dtype=self.dtype)
        found = rows.numpy()
        cuts = np.searchsorted(wanted, self._ends)
        for segment, first, a, b in zip(self.segments, self._ends, cuts, cuts[1:], strict=False):
            if a < b:
                try:
                    self._read(segment, wanted[a:b] - first, found[a:b])
                except FileNotFoundError:
                    raise UserError(f"{segment.path}: is gone, while it was in use: start again") from None
        return (rows if len(wanted) == len(index) and (place[1:] > place[:-1]).all() else rows[place]).to(index.device)

    def _read(self, segment: Segment, numbers: np.ndarray, into: np.ndarray) -> None:
        """Read rows of a segment, rising, each run of neighbours at once."""
        bounds = np.concatenate([[0], np.flatnonzero(np.diff(numbers) != 1) + 1, [len(numbers)]])
        with open(segment.path, "rb", buffering=0) as file:
            if _identity(os.fstat(file.fileno())) != self._files[segment.path]:
                raise UserError(f"{segment.path}: was replaced while it was in use: start again")
            for a, b in itertools.pairwise(bounds):
                view, offset = memoryview(into[a:b]).cast("B"), segment.offset + int(numbers[a]) * into.strides[0]
                while view:
                    count = os.preadv(file.fileno(), [view], offset)
                    if not count:
                        raise UserError(f"{segment.path}: ends before its rows do: it is cut or damaged")
                    view, offset, self.bytes_read = view[count:], offset + count, self.bytes_read + count
        if not np.isfinite(into).all():
            raise UserError(f"{segment.path}: not a usable model, it is cut or damaged (rows that are not finite)")


def _identity(status: os.stat_result) -> tuple[int, ...]:
    """What tells a file from another one of its name."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
