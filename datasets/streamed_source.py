"""A source of any size: level 0 is read from its file by region, coarser levels from scratch files made once."""

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from datasets.file_array import FileArray
from datasets.grid import Box, child, down
from datasets.source import Signal, Source, points


class Reader(Protocol):
    """What gives the cells of level 0, of `shape` with the channels last; from one thread at a time."""

    shape: tuple[int, ...]
    dtype: np.dtype

    def read(self, region: Box) -> np.ndarray:
        """The cells of a region as they are stored, [*region, c]."""


class StreamedSource(Source):
    """Reads by region what a reader gives. The values are those of an ArraySource, bit for bit.

    Args:
        reader: gives cells of level 0.
        shape: cells along each axis, slow to fast.
        folder: where the scratch files of the coarser levels are put; they have no names and vanish with the process.
        strip_cells: cells of a level handled at once while the next one is made of them.
    """

    def __init__(
        self,
        reader: Reader,
        shape: tuple[int, ...],
        signal: Signal,
        device: torch.device | str,
        about: dict[str, Any] | None,
        folder: Path,
        strip_cells: int,
    ):
        super().__init__(shape, signal, device, about)
        self._readers: list[Reader] = [reader]
        self._folder, self._strip_cells = folder, strip_cells
        # Files are read by this thread alone, so that what is expected is read while the caller works.
        self._thread = ThreadPoolExecutor(1, "read")
        self._expected: dict[tuple[Box, int], Future] = {}

    @property
    def held_bytes(self) -> int:
        return 0

    def read(self, region: Box, level: int) -> Tensor:
        if level >= len(self._readers):
            self._make(level)
        future = self._expected.pop((region, level), None) or self._begin(region, level)
        cells = torch.from_numpy(future.result()).to(self.device)
        return cells if level else self.signal.normalise(cells)

    def expect(self, regions: Iterable[Box], level: int) -> None:
        """Begin to read regions; what was expected before and not read since is forgotten."""
        wanted = [(region, level) for region in regions] if level < len(self._readers) else []
        for key in self._expected.keys() - set(wanted):
            self._expected.pop(key).cancel()
        for key in wanted:
            if key not in self._expected:
                self._expected[key] = self._begin(*key)

    def _begin(self, region: Box, level: int) -> Future:
        def load() -> np.ndarray:
            cells = self._readers[level].read(region)
            # torch takes neither what may not be written nor strides below zero.
            return cells if cells.flags.c_contiguous and cells.flags.writeable else cells.copy()

        return self._thread.submit(load)

    def _make(self, level: int) -> None:
        """Make the levels up to `level`, each in one pass over the one below it."""
        for finer in range(len(self._readers) - 1, level):
            grid = points(self.shape, finer + 1)
            made = FileArray.scratch(self._folder, (*grid.level_box(finer + 1).stop, self.signal.channels), np.float32)
            strips = list(grid.boxes(finer + 1, max(1, self._strip_cells >> grid.ndim)))
            regions = [child(strip, grid, finer + 1) for strip in strips]
            for n, strip in enumerate(strips):
                self.expect(regions[n : n + 2], finer)
                made.write(strip, down(self.read(regions[n], finer)).cpu().numpy())
            self._readers.append(made)
