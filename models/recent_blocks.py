"""What the blocks that were evaluated last have given."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

import torch
from torch import Tensor


class RecentBlocks:
    """Keeps what blocks give, because regions side by side reach over the same blocks of the coarser levels.

    A strip of a volume that is one block thick needs two layers of blocks of the next coarser level, and every such
    layer is needed by four strips. May be asked by several threads.

    Args:
        most_values: numbers that are kept; those asked for longest ago are forgotten first.
    """

    def __init__(self, most_values: int):
        self._most, self._lock = most_values, threading.Lock()
        # Where the pieces of which blocks are. One table, as many small tensors would leave holes in the heap.
        self._slots: OrderedDict[tuple[Hashable, int], int] = OrderedDict()
        self._table: Tensor | None = None

    def get(self, level: Hashable, places: Tensor, evaluate: Callable[[Tensor], Tensor]) -> Tensor:
        """What `evaluate` gives, [m, c, p], for the blocks at `places`, int64 [m], of a level in some state; it is
        called with those of which it is not known."""
        keys = [(level, place) for place in places.tolist()]
        with self._lock:
            slots = torch.tensor([self._slots.get(key, -1) for key in keys], dtype=torch.int64)
            hit, missing = (slots >= 0).nonzero()[:, 0], (slots < 0).nonzero()[:, 0]
            known = self._table[slots[hit]] if len(hit) else None
        made = evaluate(places[missing])
        if known is None:
            found = made
        else:
            found = made.new_empty(len(keys), *made.shape[1:])
            found[hit], found[missing] = known, made
        with self._lock:
            self._keep(keys, found)
        return found

    def _keep(self, keys: list[tuple[Hashable, int]], found: Tensor) -> None:
        """Keep the last of some blocks, as many as there is room for, in place of those asked for longest ago."""
        room = self._most // max(1, found.shape[1:].numel())
        keys, found = keys[max(0, len(keys) - room) :], found[max(0, len(found) - room) :]
        if not keys:
            return
        if self._table is None:
            self._table = found.new_empty(room, *found.shape[1:])
        for key in keys:
            if key in self._slots:
                self._slots.move_to_end(key)
        new = [n for n, key in enumerate(keys) if key not in self._slots]
        for n in new:
            full = len(self._slots) == room
            self._slots[keys[n]] = self._slots.popitem(last=False)[1] if full else len(self._slots)
        self._table[[self._slots[keys[n]] for n in new]] = found[new]

    def forget(self) -> None:
        with self._lock:
            self._slots.clear()
            self._table = None
