"""Rows of a level that is too large for memory: those of the chunk in training are here, finished ones in files."""

import torch
from torch import Tensor


class ChunkRows:
    """Stands for a tensor [n, row] of which only one range of rows, the chunk in training, is held.

    Args:
        row: numbers of a row.
        device: where the held rows are.
    """

    def __init__(self, row: int, device: torch.device):
        self._row, self._device = row, device
        self._first, self._held = 0, torch.empty(0, row, device=device)

    def begin(self, chunk: range) -> None:
        """Hold rows of zeros at the positions `chunk`; those held before are forgotten."""
        self._first = chunk.start
        self._held = torch.zeros(len(chunk), self._row, device=self._device)

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        return self._held[self._shifted(index)]

    def __setitem__(self, index: Tensor | slice, rows: Tensor) -> None:
        self._held[self._shifted(index)] = rows

    def _shifted(self, index: Tensor | slice) -> Tensor | slice:
        if isinstance(index, slice):
            return slice(index.start - self._first, index.stop - self._first)
        return index - self._first
