"""Work of a GPU that overlaps: the lanes in which chunks train, and what all of them use though one has made it.

A GPU does one after another what is put on one of its streams. Of two chunks on streams of their own one goes on while
the host prunes the other, and fills the processors that the other's last blocks leave idle.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch


def lanes(device: torch.device) -> list[torch.cuda.Stream | None]:
    """Where chunks train at the same time: on a GPU the usual stream and another, which waits for what is on the first
    so far. A CPU has one lane, as a chunk keeps all cores busy.
    """
    if device.type != "cuda":
        return [None]
    _second(device).wait_stream(torch.cuda.default_stream(device))
    return [torch.cuda.default_stream(device), _second(device)]


def join(device: torch.device) -> None:
    """Make the usual stream, which is that of other threads too, wait for what was put on the other lane."""
    if device.type == "cuda":
        torch.cuda.default_stream(device).wait_stream(_second(device))


def to_host(table: torch.Tensor) -> Callable[[], torch.Tensor]:
    """Begin to copy a tensor to the host, without waiting for a GPU: what gives the copy once it is made."""
    if not table.is_cuda:
        return table.contiguous
    copy = torch.empty(table.shape, dtype=table.dtype, pin_memory=True).copy_(table, non_blocking=True)
    made = torch.cuda.current_stream(table.device).record_event()

    def wait() -> torch.Tensor:
        made.synchronize()
        return copy

    return wait


class Made:
    """A value whose tensors may still be being computed; whoever takes it on another stream waits there.

    Args:
        tensors: of the value, if it is not one or a tuple of them.
    """

    def __init__(self, value: Any, tensors: Iterable[torch.Tensor] | None = None):
        self.value = value
        self._tensors = list(tensors or (value if isinstance(value, tuple) else (value,)))
        self._stream = torch.cuda.current_stream() if torch.cuda.is_initialized() else None
        self._event = self._stream.record_event() if self._stream else None

    def take(self) -> Any:
        if self._stream and (here := torch.cuda.current_stream()) != self._stream:
            here.wait_event(self._event)
            for tensor in self._tensors:
                if tensor.is_cuda:
                    # When it is let go of, its memory must not be used again before this stream is done with it.
                    tensor.record_stream(here)
        return self.value


def made_once(most: int) -> Callable[[Callable], Callable]:
    """As functools.lru_cache, for what is made on one stream and used on any."""

    def decorate(make: Callable) -> Callable:
        @functools.lru_cache(most)
        def made(*args) -> Made:
            return Made(make(*args))

        @functools.wraps(make)
        def take(*args) -> Any:
            return made(*args).take()

        return take

    return decorate


@functools.cache
def _second(device: torch.device) -> torch.cuda.Stream:
    """One for all, since torch gives memory that is free again to work on the same stream only."""
    return torch.cuda.Stream(device)
