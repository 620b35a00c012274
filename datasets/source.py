"""Where cells come from: a source has a shape and reads any region of any level, as values in [0, 1]."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datasets.grid import Box, Grid, child, down
from machine.ranks import Ranks
from utils import UserError

# Cells turned to float32 at once while a coarser level is made.
STRIP_CELLS = 2**22


@dataclass(frozen=True)
class Signal:
    """What the numbers of a source mean, so that a reconstruction can be given back in kind.

    Args:
        dtype: numpy name of the dtype.
        channels: numbers of a cell.
        low, high: the values that become 0 and 1: 0 and the dtype's largest value, or the data's range for floats and
            signed integers.
        mode: how channels are to be read: "grey", "RGB", ... of an image, else "occupancy" or "volume".
    """

    dtype: str
    channels: int
    low: float
    high: float
    mode: str

    @classmethod
    def of(cls, array: np.ndarray, mode: str) -> "Signal":
        """The signal of an array [*space, c]."""
        return cls.of_parts([array], array.dtype, array.shape[-1], mode)

    @classmethod
    def of_parts(cls, parts: Iterable[np.ndarray], dtype: np.dtype, channels: int, mode: str) -> "Signal":
        """The signal of an array that comes in parts; they are looked at only if the range of the data counts."""
        if dtype.kind == "f" and dtype.itemsize > 8:
            raise UserError(f"numbers of type {dtype} are wider than this reads: save them as float64")
        if dtype.kind == "b":
            low, high = 0.0, 1.0
        elif dtype.kind == "u":
            low, high = 0.0, float(np.iinfo(dtype).max)
        else:
            low, high = math.inf, -math.inf
            for part in parts:
                low, high = min(low, float(part.min())), max(high, float(part.max()))
        return cls(dtype.name, channels, low, high, mode)

    @property
    def half(self) -> float:
        """Half of what lies between 0 and 1; the whole may be more than a float holds. Of a constant, 1/2."""
        return (self.high / 2 - self.low / 2) or 0.5

    def normalise(self, values: Tensor) -> Tensor:
        """Values of the dtype as float32 in [0, 1]."""
        # float32 holds every number of up to 16 bits, so that only wider ones need the slower arithmetic.
        if self.dtype in ("bool", "uint8"):
            return values.float().div_(self.high)
        return ((values.double() / 2 - self.low / 2) / self.half).float()

    def restore(self, values: Tensor) -> np.ndarray:
        """Values in [0, 1] as an array of the dtype, clipped and rounded."""
        dtype = np.dtype(self.dtype)
        if dtype == np.uint8:
            # On their device, so that bytes leave it.
            return (values.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
        return cast((values.double().clamp(0, 1).cpu().numpy() * self.half + self.low / 2) * 2, dtype)


class Source(ABC):
    """A signal that can be read by region.

    Args:
        shape: cells of level 0 along each axis, slow to fast.
        signal: what the numbers mean.
        device: where `read` puts its result.
        about: JSON-able facts of the source that travel with a model of it, as the bounds of a grid.
    """

    def __init__(
        self, shape: tuple[int, ...], signal: Signal, device: torch.device | str, about: dict[str, Any] | None = None
    ):
        self.shape, self.signal, self.device, self.about = tuple(shape), signal, torch.device(device), about or {}
        # What is to be said of it, a line each.
        self.notes: tuple[str, ...] = ()
        # Whether it has another number of cells than its file.
        self.resized = False

    @property
    def raw_bytes(self) -> int:
        """What level 0 takes in its own dtype."""
        return math.prod(self.shape) * self.signal.channels * np.dtype(self.signal.dtype).itemsize

    @property
    @abstractmethod
    def held_bytes(self) -> int:
        """What is held of level 0 on the device once the coarser levels are made."""

    @property
    def streamed(self) -> bool:
        """Whether not all of level 0 is held."""
        return self.held_bytes < self.raw_bytes

    @property
    @abstractmethod
    def level_bytes(self) -> int:
        """What is held of coarser levels on the device once all are made."""

    @abstractmethod
    def read(self, region: Box, level: int) -> Tensor:
        """The cells of a region of a level, [*region, c] float32 in [0, 1]: 2x means of the level below it."""

    def expect(self, regions: Iterable[Box], level: int) -> None:  # noqa: B027 (what is in memory takes no time)
        """Say which regions are read next, in their order, so that a source that takes time for it may begin."""

    def begin(self, n_levels: int) -> None:  # noqa: B027 (nor does it)
        """Say, before anything is read, that `prepare` will be called for `n_levels`: a source may begin with it."""

    def give_up(self) -> None:  # noqa: B027 (nor does it)
        """Make no more of what was begun: the run ends, and would wait for it."""

    def prepare(self, n_levels: int, ranks: Ranks) -> None:  # noqa: B027 (nor does it)
        """Make the coarser levels up to `n_levels` before they are read, which makes them else.

        Several processes share the work; all of them must call this, on sources that may take the same memory.
        """


class ArraySource(Source):
    """An array [*space, c] of any real dtype, held on the device. Coarser levels are made once and kept."""

    def __init__(
        self, array: np.ndarray, signal: Signal, device: torch.device | str = "cpu", about: dict[str, Any] | None = None
    ):
        self.cells = torch.from_numpy(np.ascontiguousarray(array)).to(device)
        super().__init__(array.shape[:-1], signal, self.cells.device, about)
        self._levels: dict[int, Tensor] = {}

    @property
    def held_bytes(self) -> int:
        return self.raw_bytes

    @property
    def level_bytes(self) -> int:
        return levels_bytes(self.shape, self.signal.channels)

    def read(self, region: Box, level: int) -> Tensor:
        whole = points(self.shape, level).level_box(level)
        if level == 0:
            return self.signal.normalise(whole.crop(self.cells, region))
        if level not in self._levels:
            self._levels[level] = self._make(level)
        return whole.crop(self._levels[level], region)

    def _make(self, level: int) -> Tensor:
        grid = points(self.shape, level)
        whole = grid.level_box(level)
        made = torch.empty(*whole.stop, self.signal.channels, device=self.cells.device)
        for strip in grid.boxes(level, STRIP_CELLS >> len(self.shape)):
            whole.crop(made, strip)[...] = down(self.read(child(strip, grid, level), level - 1))
        return made


def cast(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Floats as a dtype: integers rounded and clipped to its range, bool from 1/2 on."""
    if dtype.kind == "f":
        return values.astype(dtype, copy=False)
    if dtype.kind == "b":
        return values >= 0.5
    limits = np.iinfo(dtype)
    high = float(limits.max)
    # float64 rounds the largest 64-bit integer up, out of the range.
    high = np.nextafter(high, 0) if int(high) > limits.max else high
    return np.clip(np.rint(values), limits.min, high).astype(dtype)


def points(shape: tuple[int, ...], level: int) -> Grid:
    """The levels of a signal up to `level`, with blocks of one cell."""
    return Grid(tuple(shape), (1,) * len(shape), level + 1)


def levels_bytes(shape: tuple[int, ...], channels: int) -> int:
    """About what all coarser levels of a signal take in float32."""
    return 4 * channels * math.prod(shape) // (2 ** len(shape) - 1)
