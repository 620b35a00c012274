"""A source of any size: level 0 is read from its file by region, level 1 averaged from it, the others are made once."""

import threading
from collections import deque
from collections.abc import Iterable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from datasets.beside import Beside
from datasets.file_array import FileArray
from datasets.grid import Box, child, down
from datasets.source import Signal, Source, levels_bytes, points
from machine.cores import TILE_VALUES, in_threads
from machine.memory import Reading
from machine.ranks import Ranks

# The finest level that is stored in a file: of a picture of bytes level 1 as float32 has as many bytes as level 0.
FIRST_IN_FILES = 2
# Strips of it, a sixteenth of what is read, that a process makes before all exchange theirs; of level 1 it is one.
TURN = 8


class Reader(Protocol):
    """What gives the cells of level 0, of `shape` with the channels last; from one thread at a time."""

    shape: tuple[int, ...]
    dtype: np.dtype

    def read(self, region: Box, out: np.ndarray | None = None) -> np.ndarray:
        """The cells of a region as stored, [*region, c] in native byte order, put into `out` if it is given."""


class _Ahead(threading.local):
    """By level and region: what is being read for a thread, and what is to be read after it."""

    def __init__(self):
        self.reading: dict[tuple[int, Box], Future] = {}
        self.wanted: deque[tuple[int, Box]] = deque()


class StreamedSource(Source):
    """Reads by region what a reader gives. The values are those of an ArraySource, bit for bit.

    The coarser levels are made in one pass over level 0. They are held on the device if they have room there. Where
    level 1 has none, it is averaged from level 0 whenever it is read; where the others have none, they are put in
    scratch files. Of level 0 itself the first rows (of a volume slices) are held, if there is room and `begin` has
    said that one process alone makes the levels.

    Args:
        reader: gives cells of level 0.
        shape: cells along each axis, slow to fast.
        folder: where scratch files are put; they have no names and vanish with the process.
        limits: what is held at once.
    """

    def __init__(
        self,
        reader: Reader,
        shape: tuple[int, ...],
        signal: Signal,
        device: torch.device | str,
        about: dict[str, Any] | None,
        folder: Path,
        limits: Reading,
    ):
        super().__init__(shape, signal, device, about)
        self._reader, self._folder, self._limits = reader, folder, limits
        self._levels: dict[int, Tensor | FileArray] = {}
        # The finest level that is stored.
        self._first = 1 if self._bytes_from(1) <= limits.level_bytes else FIRST_IN_FILES
        # The first rows of level 0, as stored, from when the levels are made.
        self._rows: Tensor | None = None
        # Files are read by this thread alone, so that what is expected is read while the caller works.
        self._thread = ThreadPoolExecutor(1, "read")
        self._ahead = _Ahead()
        # The finest stored level, where it is being made beside other work.
        self._beside: Beside | None = None
        self._begun: Future | None = None
        self._given_up = False

    @property
    def held_bytes(self) -> int:
        return self._n_rows * self._row_bytes

    @property
    def _row_bytes(self) -> int:
        return self.raw_bytes // self.shape[0]

    @property
    def _n_rows(self) -> int:
        """Rows of level 0 that have room; never all, for then the source would not be streamed."""
        room = (self._limits.level_bytes - self.level_bytes) // self._row_bytes if self._limits.keeps_rows else 0
        return min(room, self.shape[0] - 1)

    @property
    def level_bytes(self) -> int:
        size = self._bytes_from(self._first)
        return size if size <= self._limits.level_bytes else 0

    def _bytes_from(self, level: int) -> int:
        """What a level and those above it take."""
        return levels_bytes(self._whole(level - 1).shape, self.signal.channels)

    def read(self, region: Box, level: int) -> Tensor:
        self._end()
        if level >= self._first and level not in self._levels:
            self.prepare(level + 1, Ranks())
        if level >= self._first:
            return self._stored(region, level)
        if level == 0:
            return self._averaged(region, 0, 0)
        parts = self._parts(region, 1, 0)
        if len(parts) == 1:
            return self._averaged(region, level, 0)
        found = torch.empty(*region.shape, self.signal.channels, device=self.device)
        for part in parts:
            region.crop(found, part)[...] = self._averaged(part, level, 0)
        return found

    def expect(self, regions: Iterable[Box], level: int) -> None:
        """Begin to read regions; what was expected before and not read since is forgotten."""
        self._end()
        if level == 1 and level < self._first:
            self._expect((0, self._below(part, 1, 0)) for region in regions for part in self._parts(region, 1, 0))
        elif level == 0 or isinstance(self._levels.get(level), FileArray):
            self._expect((level, region) for region in regions)
        else:
            self._expect(())

    def begin(self, n_levels: int) -> None:
        if not self._limits.keeps_rows or n_levels <= self._first:
            return
        if self.device.type == "cuda" and self.level_bytes:
            self._beside = Beside(self.device)
            self._begun = self._beside.begin(lambda: self._make(self._first, 0, Ranks()))
        else:
            self._expect((0, self._below(strip, self._first, 0)) for strip in self._strips(self._first, 0))

    def prepare(self, n_levels: int, ranks: Ranks) -> None:
        self._end()
        for level in range(self._first, n_levels):
            if level not in self._levels:
                # What is made of another stored level costs little, and is not worth sharing.
                first = level == self._first
                self._levels[level] = self._make(level, 0 if first else level - 1, ranks if first else Ranks())

    def give_up(self) -> None:
        self._given_up = True

    def _end(self) -> None:
        """Wait for the level that was begun, with which the rows of level 0 come."""
        begun, self._begun = self._begun, None
        if begun:
            self._levels[self._first] = self._beside.take(begun)

    def _make(self, level: int, finer: int, ranks: Ranks) -> Tensor | FileArray:
        """Average a finer level into a level to be stored: in turns, of TURN strips by each process."""
        whole, channels = self._whole(level), self.signal.channels
        held = self.level_bytes > 0
        if held:
            made = torch.empty(*whole.stop, channels, device=self.device)
        else:
            made = FileArray.scratch(self._folder, (*whole.stop, channels), np.float32)
        strips = self._strips(level, finer)
        self._expect((finer, self._below(strip, level, finer)) for strip in strips[ranks.number :: ranks.count])
        rows = None
        if finer == 0 and self._n_rows:
            size = (self._n_rows, *self.shape[1:], channels)
            rows = torch.empty(size, dtype=getattr(torch, self.signal.dtype), device=self.device)
        most = (TURN if level > 1 else 1) * ranks.count
        for first in range(0, len(strips), most):
            turn = strips[first : first + most]
            parts = [
                self._averaged(strip, level, finer, rows).contiguous()
                if n % ranks.count == ranks.number
                else torch.empty(*strip.shape, channels, device=self.device)
                for n, strip in enumerate(turn)
            ]
            ranks.exchange([(n % ranks.count, part) for n, part in enumerate(parts)])
            for strip, cells in zip(turn, parts, strict=True):
                if held:
                    whole.crop(made, strip)[...] = cells
                else:
                    made.write(strip, cells.cpu().numpy())
        self._rows = rows if finer == 0 else self._rows
        return made

    def _averaged(self, region: Box, level: int, finer: int, rows: Tensor | None = None) -> Tensor:
        """A region of a level as means of a finer one, which is read for it, and put into `rows` as far as they go."""
        if self._given_up:
            raise CancelledError
        below = self._below(region, level, finer)
        stored = self._stored(below, finer)
        if rows is not None and below.start[0] < len(rows):
            part = Box(below.start, (min(below.stop[0], len(rows)), *below.stop[1:]))
            self._whole(0).crop(rows, part)[...] = below.crop(stored, part)

        def means(cells: Tensor) -> Tensor:
            cells = cells if finer else self.signal.normalise(cells)
            for _ in range(finer, level):
                cells = down(cells)
            return cells

        if self.device.type == "cuda":
            return means(stored)
        found = torch.empty(*region.shape, self.signal.channels)

        def put(part: Box) -> None:
            cells = below.crop(stored, self._below(part, level, finer))
            # The means of zeros are zero.
            zero = (finer or not self.signal.low) and not cells.numpy().any()
            region.crop(found, part)[...] = 0 if zero else means(cells)

        in_threads(put, self._parts(region, level, finer, TILE_VALUES // self.signal.channels))
        return found

    def _below(self, region: Box, level: int, finer: int) -> Box:
        """The cells of a finer level that a region covers."""
        for above in range(level, finer, -1):
            region = child(region, points(self.shape, above), above)
        return region

    def _parts(self, region: Box, level: int, finer: int, strip_cells: int | None = None) -> list[Box]:
        """A region cut so that each part covers no more than a strip of a finer level."""
        most = (strip_cells or self._limits.strip_cells) >> len(self.shape) * (level - finer)
        return list(points(self.shape, level).boxes(level, max(1, most), region))

    def _strips(self, level: int, finer: int) -> list[Box]:
        """The parts of a level that are made of a finer one, one after another."""
        return self._parts(self._whole(level), level, finer)

    def _whole(self, level: int) -> Box:
        return points(self.shape, level).level_box(level)

    def _held(self, region: Box, level: int) -> Tensor | None:
        """A region of a level, of the finest one as the file has it, if it is held."""
        stored = self._levels.get(level) if level else self._rows
        if not isinstance(stored, Tensor) or region.stop[0] > len(stored):
            return None
        return self._whole(level).crop(stored, region)

    def _stored(self, region: Box, level: int) -> Tensor:
        """A region of a level that need not be averaged; of the finest one as the file has it."""
        if (held := self._held(region, level)) is not None:
            return held
        return self._take((level, region)).to(self.device, non_blocking=True)

    def _expect(self, keys: Iterable[tuple[int, Box]]) -> None:
        keys = [key for key in dict.fromkeys(keys) if self._held(key[1], key[0]) is None]
        for key in self._ahead.reading.keys() - set(keys):
            self._ahead.reading.pop(key).cancel()
        self._ahead.wanted = deque(key for key in keys if key not in self._ahead.reading)
        self._read_on()

    def _take(self, key: tuple[int, Box]) -> Tensor:
        """What is stored of a region of a level, as the file has it."""
        future = self._ahead.reading.pop(key, None)
        if future is None:
            if key in self._ahead.wanted:
                self._ahead.wanted.remove(key)
            future = self._begin(*key)
        self._read_on()
        return future.result()

    def _read_on(self) -> None:
        while self._ahead.wanted and len(self._ahead.reading) < self._limits.strips_ahead:
            key = self._ahead.wanted.popleft()
            self._ahead.reading[key] = self._begin(*key)

    def _begin(self, level: int, region: Box) -> Future:
        reader, dtype = (self._levels[level], "float32") if level else (self._reader, self.signal.dtype)

        def load() -> Tensor:
            if self.device.type == "cuda":
                # From pinned memory cells go to the GPU while the host goes on; torch keeps and reuses it.
                size = (*region.shape, self.signal.channels)
                found = torch.empty(size, dtype=getattr(torch, dtype), pin_memory=True)
                reader.read(region, found.numpy())
                return found
            cells = reader.read(region)
            # torch takes neither what may not be written nor strides below zero.
            return torch.from_numpy(cells if cells.flags.c_contiguous and cells.flags.writeable else cells.copy())

        return self._thread.submit(load)
