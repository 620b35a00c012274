"""Where cells come from: a source has a shape and reads any region of any level, as values in [0, 1]."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datasets.grid import Box, Grid, child, down
from utils import UserError

# Cells turned to float32 at once while a coarser level is made.
STRIP_CELLS = 2**24


@dataclass(frozen=True)
class Signal:
    """What the numbers of a source mean, so that a reconstruction can be given back in kind.

    Args:
        dtype: numpy name of the dtype.
        channels: numbers of a cell.
        low, high: the values that become 0 and 1: 0 and the dtype's largest value, or the data's range for floats.
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
        if array.dtype.kind == "f" and array.dtype.itemsize > 8:
            raise UserError(f"numbers of type {array.dtype} are wider than this reads: save them as float64")
        if array.dtype.kind == "b":
            low, high = 0.0, 1.0
        elif array.dtype.kind == "u":
            low, high = 0.0, float(np.iinfo(array.dtype).max)
        else:
            low, high = float(array.min()), float(array.max())
        return cls(array.dtype.name, array.shape[-1], low, high, mode)

    @property
    def half(self) -> float:
        """Half of what lies between 0 and 1; the whole may be more than a float holds. Of a constant, 1/2."""
        return (self.high / 2 - self.low / 2) or 0.5

    def normalise(self, values: Tensor) -> Tensor:
        """Values of the dtype as float32 in [0, 1]."""
        # float32 holds every number of up to 16 bits, so that only wider ones need the slower arithmetic.
        if self.dtype in ("bool", "uint8"):
            return values.float() / self.high
        return ((values.double() / 2 - self.low / 2) / self.half).float()

    def restore(self, values: Tensor) -> np.ndarray:
        """Values in [0, 1] as an array of the dtype, clipped and rounded."""
        dtype = np.dtype(self.dtype)
        if dtype == np.uint8:
            return (values.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
        values = (values.double().clamp(0, 1).cpu().numpy() * self.half + self.low / 2) * 2
        if dtype.kind == "b":
            return values >= 0.5
        if dtype.kind in "iu":
            # float64 rounds the largest 64-bit integers up, out of their range.
            beyond = 2.0 ** (8 * dtype.itemsize - (dtype.kind == "i"))
            values = np.minimum(np.rint(values), np.nextafter(beyond, 0))
        return values.astype(dtype)


class Source:
    """An array in memory, read as float32 in [0, 1] on a device. Coarser levels are made once and kept.

    Args:
        array: [*space, c] of any real dtype.
        signal: what its numbers mean.
        device: where `read` puts its result; the array is held there too.
        about: JSON-able facts of the source that travel with a model of it, as the bounds of a grid.
    """

    def __init__(
        self, array: np.ndarray, signal: Signal, device: torch.device | str = "cpu", about: dict[str, Any] | None = None
    ):
        self.signal, self.about = signal, about or {}
        self.shape = array.shape[:-1]
        self.cells = torch.from_numpy(np.ascontiguousarray(array)).to(device)
        self.device = self.cells.device
        self._levels: dict[int, Tensor] = {}

    def read(self, region: Box, level: int) -> Tensor:
        """The cells of a region of a level, [*region, c] float32 in [0, 1]: 2x means of the level below it."""
        whole = Grid(self.shape, (1,) * len(self.shape), level + 1).level_box(level)
        if level == 0:
            return self.signal.normalise(whole.crop(self.cells, region))
        if level not in self._levels:
            self._levels[level] = self._make(level)
        return whole.crop(self._levels[level], region)

    def _make(self, level: int) -> Tensor:
        grid = Grid(self.shape, (1,) * len(self.shape), level + 1)
        whole = grid.level_box(level)
        made = torch.empty(*whole.stop, self.signal.channels, device=self.cells.device)
        for strip in grid.strips(level, STRIP_CELLS >> len(self.shape)):
            made[strip.start[0] : strip.stop[0]] = down(self.read(child(strip, grid, level), level - 1))
        return made
