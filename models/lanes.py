"""Work of a GPU that overlaps: the lanes in which chunks train, and what all of them use though one has made it.

A GPU does one after another what is put on one of its streams. Of two chunks on streams of their own one goes on while
the host prunes the other, and fills the processors that the other's last blocks leave idle. A round of training has
many blocks that wait for a processor; so that all else need not wait until they have had theirs, rounds have a lower
priority than the lanes.
"""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

from machine.memory import GPU_CHUNKS

# Of the streams of a fit, for all work but rounds of training; those that torch makes otherwise have 0, the lowest.
PRIORITY = -1


@contextlib.contextmanager
def first_lane(device: torch.device) -> Iterator[None]:
    """Do what a fit does on its first lane; for the rest of the program it is as if the usual stream had done it."""
    if device.type != "cuda":
        yield
        return
    with _in_turn(torch.cuda.default_stream(device), _lane(device, 0)):
        yield


def lanes(device: torch.device) -> list[torch.cuda.Stream | None]:
    """Where chunks train at the same time: on a GPU on two streams, which wait for what is on the current one so far.
    A CPU has one lane, as a chunk keeps all cores busy.
    """
    if device.type != "cuda":
        return [None]
    found, here = [_lane(device, n) for n in range(GPU_CHUNKS)], torch.cuda.current_stream(device)
    for lane in found:
        lane.wait_stream(here)
    return found


def join(device: torch.device) -> None:
    """Make the current stream and the usual one, which is that of other threads, wait for what was put on the lanes."""
    if device.type == "cuda":
        for waiting in (torch.cuda.current_stream(device), torch.cuda.default_stream(device)):
            for lane in range(GPU_CHUNKS):
                waiting.wait_stream(_lane(device, lane))


@contextlib.contextmanager
def giving_way(device: torch.device) -> Iterator[None]:
    """Launch a round of training in its turn on the current stream, and so that it gives way to what is on others.

    Nothing may be allocated in it.
    """
    if device.type != "cuda":
        yield
        return
    here = torch.cuda.current_stream(device)
    with _in_turn(here, _behind(here)):
        yield


@contextlib.contextmanager
def _in_turn(here: torch.cuda.Stream, other: torch.cuda.Stream) -> Iterator[None]:
    """Put work on another stream, after what is on one so far and before what comes there next."""
    other.wait_stream(here)
    try:
        with torch.cuda.stream(other):
            yield
    finally:
        here.wait_stream(other)


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
def _lane(device: torch.device, number: int) -> torch.cuda.Stream:
    """The same for all fits, since torch gives memory that is free again to work on the same stream only."""
    return torch.cuda.Stream(device, priority=PRIORITY)


@functools.cache
def _behind(lane: torch.cuda.Stream) -> torch.cuda.Stream:
    return torch.cuda.Stream(lane.device)
