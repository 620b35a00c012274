"""Work for a GPU that is done while other work goes on there."""

import functools
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor


class Beside:
    """Does one piece of work after another in a thread of its own, on a stream that is not the callers'.

    Args:
        device: a GPU.
    """

    def __init__(self, device: torch.device):
        self._device, self._stream, self._thread = device, _stream(device), _thread(device)

    def begin(self, work: Callable[[], Tensor]) -> Future:
        """Begin some work, which sees what the caller has put on the GPU before."""
        before = torch.cuda.current_stream(self._device).record_event()

        def run() -> Tensor:
            with torch.cuda.stream(self._stream):
                self._stream.wait_event(before)
                found = work()
                self._stream.synchronize()
                return found

        return self._thread.submit(run)

    def take(self, begun: Future) -> Tensor:
        """The result of some work, which it waits for."""
        found = begun.result()
        # When it is let go of, its memory must not be used by work beside before the caller's is done with it.
        found.record_stream(torch.cuda.current_stream(self._device))
        return found


@functools.cache
def _thread(device: torch.device) -> ThreadPoolExecutor:
    """One for all too, as to begin a thread can take milliseconds."""
    return ThreadPoolExecutor(1, "beside")


@functools.cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """One for all, since torch gives memory that is free again to work on the same stream only."""
    # Before rounds of training, which have the lowest priority and many blocks in wait.
    return torch.cuda.Stream(device, priority=-1)
