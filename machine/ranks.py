"""The processes of a run: which of them this one is, and the little that they say to one another.

A run on several devices is one process for each, and they train apart. They meet where a level begins and ends; in
between they take chunks from a common counter and say how far they are, and wait for nobody. What they say goes over
TCP (gloo), which notices at once when one of them is gone; tensors go from device to device (NCCL on GPUs). Where a
whole machine is gone without a word, its processes are missed when they give no sign of life any more.
"""

import contextlib
import ctypes
import functools
import itertools
import json
import os
import pickle
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from utils import Done, UserError, complaint

# Processes that begin wait so long for one another; later a process may take any time for its chunk.
START, PATIENCE = timedelta(minutes=5), timedelta(days=7)
# Seconds between two looks at the others while waiting for them.
LOOK = 0.25
# Seconds between two signs of life, and after how many without one a process is taken for gone.
BEAT, SILENCE = 5.0, 60.0
_fits = itertools.count()


class Lost(Exception):
    """Another process of the run has ended."""


class Ranks:
    """One process alone; `Group` is one of several, and says the same to its callers.

    Args:
        number: which of the processes this is, from 0.
        count: how many there are.
        local: which of those on this machine it is, and so which GPU is its own.
    """

    def __init__(self, number: int = 0, count: int = 1, local: int = 0):
        self.number, self.count, self.local = number, count, local
        self._taken: Counter[str] = Counter()

    @property
    def first(self) -> bool:
        """Whether this is the process that prints, logs and writes the model."""
        return self.number == 0

    def share(self, items: Sequence) -> Sequence:
        """The part of some items that is this process's: parts follow one another and are equally long."""
        return items[slice(*self._bounds(len(items), self.number))]

    def owners(self, items: Sequence) -> list[int]:
        """Which process has each of some items, as `share` cuts them."""
        return [number for number in range(self.count) for _ in range(*self._bounds(len(items), number))]

    def _bounds(self, n: int, number: int) -> tuple[int, int]:
        return n * number // self.count, n * (number + 1) // self.count

    def take(self, counter: str) -> int:
        """The next number of a counter that all processes share: 0, 1, 2, ..., each given once."""
        self._taken[counter] += 1
        return self._taken[counter] - 1

    def pool(self, topic: str, values: list[float]) -> list[float]:
        """Say some numbers; in the first process the sums of what each process said last. Waits for nobody.

        Raises:
            Lost: another process has ended.
        """
        return values

    def gather(self, value: Any) -> list[Any]:
        """What every process gives, in their order; all must call it.

        Raises:
            Lost: another process has ended.
        """
        return [value]

    def exchange(self, parts: list[tuple[int, Tensor]]) -> None:
        """Give every process the contents of tensors, each from its owner, in place; all must call it alike.

        Args:
            parts: the owner's number and a contiguous tensor, of which an owner has the values and the others room.

        Raises:
            Lost: another process has ended.
        """

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Get something ready in every process; if one cannot, none goes on, and the first says why."""
        yield


class Group(Ranks):
    """One process of several; see `Ranks`.

    Args:
        store: what all processes can read and write.
        tensors: the process group that carries tensors of this process's device.
    """

    def __init__(self, number: int, count: int, local: int, store: dist.Store, tensors: dist.ProcessGroup | None):
        super().__init__(number, count, local)
        self._store, self._tensors = store, tensors
        self._said: set[str] = set()
        # Of each other process: its last sign of life, and when that was new.
        self._heard: dict[int, tuple[bytes, float]] = {}
        self._listened = time.monotonic()
        self._gone = threading.Event()
        threading.Thread(target=self._live, name="beat", daemon=True).start()

    def take(self, counter: str) -> int:
        with _or_lost():
            return self._store.add(f"take/{counter}", 1) - 1

    def pool(self, topic: str, values: list[float]) -> list[float]:
        self._look()
        with _or_lost():
            self._store.set(f"pool/{topic}/{self.number}", json.dumps(values))
            if not self.first:
                return values
            keys = [f"pool/{topic}/{number}" for number in range(1, self.count)]
            self._said.update(key for key in keys if key not in self._said and self._store.check([key]))
            found = [json.loads(text) for text in self._store.multi_get([key for key in keys if key in self._said])]
        return [sum(column) for column in zip(values, *found, strict=True)]

    def gather(self, value: Any) -> list[Any]:
        own = torch.frombuffer(bytearray(pickle.dumps(value)), dtype=torch.uint8)
        sizes = self._all_gathered(torch.tensor([len(own)]))
        longest = max(map(int, sizes))
        found = self._all_gathered(torch.nn.functional.pad(own, (0, longest - len(own))))
        return [pickle.loads(said[: int(size)].numpy()) for said, size in zip(found, sizes, strict=True)]

    def _all_gathered(self, own: Tensor) -> list[Tensor]:
        """What all give, alike in size."""
        found = [torch.empty_like(own) for _ in range(self.count)]
        with _or_lost():
            work = dist.all_gather(found, own, async_op=True)
        self._wait([work])
        return found

    def exchange(self, parts: list[tuple[int, Tensor]]) -> None:
        # Only when all are there: what NCCL has begun keeps a GPU busy until the last one comes.
        with _or_lost():
            met = dist.barrier(async_op=True)
        self._wait([met])
        with _or_lost():
            sent = [
                dist.broadcast(tensor.detach(), owner, group=self._tensors if tensor.is_cuda else None, async_op=True)
                for owner, tensor in parts
                if tensor.numel()
            ]
        self._wait(sent)

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        error = None
        try:
            yield
        except Exception as caught:
            error = caught
        if error is not None and not isinstance(error, Done) and not complaint(error):
            raise error
        said = self.gather(None if error is None else (complaint(error) or str(error), isinstance(error, Done)))
        if not any(said):
            return
        line, done = next(filter(None, said))
        if not self.first:
            raise SystemExit(0 if done else 2)
        raise error or UserError(line)

    def end(self) -> None:
        """Tell the others that this process ends before its time."""
        with contextlib.suppress(RuntimeError):
            self._store.set("ended", str(self.number))

    def keep(self) -> None:
        """Never let go of the connections: torch would wait there, deaf, for what this process has given up."""
        for kept in (dist.group.WORLD, self._tensors):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(kept))

    def leave(self) -> None:
        """Give no more signs of life."""
        self._gone.set()

    def _live(self) -> None:
        """Give a sign of life now and then: a number that rises."""
        with contextlib.suppress(RuntimeError):
            for beat in itertools.count():
                self._store.set(f"beat/{self.number}", str(beat))
                if self._gone.wait(BEAT):
                    return

    def _look(self) -> None:
        with _or_lost():
            if self._store.check(["ended"]):
                raise Lost
            now = time.monotonic()
            if now - self._listened < BEAT:
                return
            for number in set(range(self.count)) - {self.number}:
                key = f"beat/{number}"
                beat = self._store.get(key) if self._store.check([key]) else b""
                if self._heard.get(number, (None,))[0] != beat:
                    self._heard[number] = beat, now
                elif now - self._heard[number][1] > SILENCE + now - self._listened:
                    raise Lost
            self._listened = now

    def _wait(self, works: list[dist.Work]) -> None:
        """Wait for what all do together, awake to signals and to the end of another process."""
        pause, looked = 1e-4, time.monotonic()
        for work in works:
            while not work.is_completed():
                time.sleep(pause)
                pause = min(pause * 1.5, 0.01)
                if time.monotonic() - looked > LOOK:
                    self._look()
                    looked = time.monotonic()
            with _or_lost():
                work.wait()


@contextlib.contextmanager
def _or_lost() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise Lost from error


def launched() -> bool:
    """Whether something, as torchrun, has started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", 1)) > 1 and "RANK" in os.environ


def on_this_machine() -> int:
    """How many processes of the run are on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if launched() else 1


@functools.cache
def _rendezvous() -> tuple[dist.Store, int, int]:
    return next(iter(dist.rendezvous("env://", timeout=START)))


@contextlib.contextmanager
def join(cuda: bool) -> Iterator[Ranks]:
    """The processes of a run, of which this is one, while it lasts; one alone if nothing started several.

    Args:
        cuda: whether each has a GPU of its own.
    """
    if not launched():
        yield Ranks()
        return
    root, number, count = _rendezvous()
    local = int(os.environ.get("LOCAL_RANK", 0))
    store = dist.PrefixStore(f"fit_{next(_fits)}", root)
    if cuda:
        torch.cuda.set_device(local)
    dist.init_process_group("gloo", store=dist.PrefixStore("group", store), rank=number, world_size=count,
                            timeout=PATIENCE)  # fmt: skip
    group = Group(number, count, local, store, dist.new_group(backend="nccl") if cuda else None)
    try:
        if cuda:
            # The first exchange connects the GPUs, which takes a while and may fail: better before the fit than in it.
            group.exchange([(0, torch.zeros(1, device="cuda"))])
        yield group
        group.gather(None)
    except BaseException:
        group.end()
        group.keep()
        raise
    finally:
        group.leave()
    dist.destroy_process_group()
