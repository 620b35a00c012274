"""The cores that a process may use, and work cut into tiles that are shared among them."""

import functools
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

# Processes of one run share the cores of their machine.
CORES = max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
# Values of a tile: the steps of its work stay within the cache of a core.
TILE_VALUES = 2**18


def in_threads(function: Callable[[Any], Any], parts: Iterable, flush: bool = False) -> list:
    """Map over parts of work on the CPU: a thread for each core takes one after another, running torch on its own.

    Where torch shares every single step among its threads, each step waits for the slowest: on two cores that others
    use as well, a survey took six times as long.

    Args:
        flush: whether numbers too small to be normal become zero, as they are slow on a CPU.
    """
    futures = [_threads(flush).submit(function, part) for part in parts]
    try:
        return [future.result() for future in futures]
    finally:
        for future in futures:
            future.cancel()


@functools.cache
def _threads(flush: bool) -> ThreadPoolExecutor:
    def start() -> None:
        torch.set_num_threads(1)
        torch.set_flush_denormal(flush)

    return ThreadPoolExecutor(CORES, "core", start)
