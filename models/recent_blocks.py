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
        self._kept: OrderedDict[tuple[Hashable, int], Tensor] = OrderedDict()

    def get(self, level: Hashable, places: Tensor, evaluate: Callable[[Tensor], Tensor]) -> Tensor:
        """What `evaluate` gives, [m, c, p], for the blocks at `places`, int64 [m], of a level in some state; it is
        called with those of which it is not known."""
        keys = [(level, place) for place in places.tolist()]
        with self._lock:
            found = [self._kept.get(key) for key in keys]
        missing = [n for n, piece in enumerate(found) if piece is None]
        made = evaluate(places[missing])
        for n, piece in zip(missing, made, strict=True):
            found[n] = piece.clone()
        with self._lock:
            for key, piece in zip(keys, found, strict=True):
                self._kept[key] = piece
                self._kept.move_to_end(key)
            while len(self._kept) * made.shape[1:].numel() > self._most:
                self._kept.popitem(last=False)
        return made if len(missing) == len(keys) else torch.stack(found)

    def forget(self) -> None:
        with self._lock:
            self._kept.clear()
