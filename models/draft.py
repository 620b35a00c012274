"""A model file in the making: its tensors are put in place by threads, in any order, and by all processes of a run.

What safetensors begins with says where each tensor lies, so it is enough to know how many networks a level has. The
rows of the finest level of a large model go into their place as its chunks are done, while others train.
"""

import contextlib
import json
import math
import os
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from machine.ranks import Ranks
from models.block_mlp import BlockMLP
from models.network import Network
from models.precision import columns, pack
from utils import atomic_write, check_room

# What safetensors calls the dtypes of tensors, in the order in which it lays them out.
TYPE_NAMES = {torch.int64: "I64", torch.float32: "F32", torch.float16: "F16", torch.int8: "I8"}
# Bytes of rows that are packed and written at once, by where they are: packing takes three times that, which is to be
# small beside a fit on a CPU, and is no slower. By how many threads, and how many chunks may wait for them.
WRITTEN_BYTES, WRITERS, MOST_WAITING = {"cpu": 2**23, "cuda": 2**25}, 4, 8
# A file of so many bytes is begun early, with room for a head whose facts are not known yet; one made later has the
# same room, so that the bytes do not depend on it.
LARGE, HEAD_ROOM = 2**23, 2**15

Shape = tuple[Network, str, int]


class Draft:
    """The model file of a fit; `save` makes it whole, and whatever was put into place before is not written again.
    Where it was not begun, as a small one is not, nothing is put into place early.

    Several processes write it together: each has one, all call `begin` and `save`, and all see the same folder. To be
    used in a with statement, after which nothing is left of a draft that was not saved.

    Args:
        path: the file; nothing of it is seen there before it is whole.
    """

    def __init__(self, path: str | Path, ranks: Ranks = Ranks()):  # noqa: B008
        self.path, self.ranks = Path(path), ranks
        self._shapes: dict[str, Shape] | None = None
        self._places: dict[str, int] = {}
        self._room = 0
        self._file = -1
        self._dropped = False
        self._jobs: deque[Future] = deque()
        self._waiting = threading.BoundedSemaphore(MOST_WAITING)
        self._pool = ThreadPoolExecutor(WRITERS, "draft")
        self._open = contextlib.ExitStack()

    def __enter__(self) -> "Draft":
        return self

    def __exit__(self, *_) -> None:
        self._drop()
        self._pool.shutdown()

    @property
    def begun(self) -> bool:
        return self._shapes is not None

    def begin(self, levels: Mapping[str, BlockMLP]) -> None:
        """Lay out a file for so many networks of each level, if it is a large one; what they are is put into it later.

        Raises:
            UserError: the disk has no room for it.
        """
        if _layout(_shapes(levels))[1] >= LARGE:
            self._begin(levels, HEAD_ROOM)

    def _begin(self, levels: Mapping[str, BlockMLP], room: int) -> None:
        self._drop()
        places, size = _layout(_shapes(levels))
        temporary = None
        with self.ranks.together(), self._named():
            if self.ranks.first:
                temporary = self._open.enter_context(atomic_write(self.path))
                check_room(self.path.parent, room + size)
                with open(temporary, "wb") as file:
                    file.truncate(room + size)
        temporary = self.ranks.gather(temporary)[0]
        with self.ranks.together(), self._named():
            # Not for reading as well: NFS then writes back whole pages, over what others have put beside.
            self._file = os.open(temporary, os.O_WRONLY)
            self._open.callback(os.close, self._file)
        self._shapes, self._room = _shapes(levels), room
        self._waiting = threading.BoundedSemaphore(MOST_WAITING)
        self._places = {name: room + place for name, place in places.items()}

    def put_level(self, name: str, networks: BlockMLP) -> None:
        """Begin to write this process's share of a finished level."""
        self.put_part(name, networks, self.ranks.share(range(len(networks))))

    def put_part(self, name: str, networks: BlockMLP, part: range) -> None:
        """Begin to write networks of a finished level, by their positions."""
        if not self.begun:
            return
        most = max(1, WRITTEN_BYTES[networks.blocks.device.type] // WRITERS // (4 * networks.network.row_size))
        few = [part[a : a + most] for a in range(0, len(part), most)]

        def write(mine: list[range]) -> None:
            for here in mine:
                if self._dropped:
                    return
                index = torch.arange(here.start, here.stop, device=networks.blocks.device)
                rows, amplitude = networks.take(index)
                packed = pack(networks.network, networks.dtype, rows)
                self._write(name, here.start, {"blocks": networks.blocks[index], "amplitude": amplitude, **packed})

        self._jobs += [self._pool.submit(write, few[n::WRITERS]) for n in range(min(WRITERS, len(few)))]

    def put(self, name: str, first: int, tables: Callable[[], dict[str, Tensor]]) -> None:
        """Begin to write some of a level's tables [n, ...], as `pack` names them, from position `first` on.

        Waits while too many are on their way already.

        Raises:
            OSError: something begun earlier could not be written.
        """
        if not self.begun:
            return
        with self._named():
            while self._jobs and self._jobs[0].done():
                self._jobs.popleft().result()

        def write() -> None:
            try:
                self._write(name, first, tables())
            finally:
                self._waiting.release()

        self._waiting.acquire()
        self._jobs.append(self._pool.submit(write))

    def save(self, levels: Mapping[str, BlockMLP], header: dict[str, Any]) -> None:
        """Write what is missing, and give the file its name.

        If what was begun is not what has come of it, all is written now.

        Args:
            header: JSON-able facts.
        """
        head = _head(_shapes(levels), {"miner": json.dumps(header, allow_nan=False)})
        if self._shapes != _shapes(levels) or len(head) > self._room:
            large = _layout(_shapes(levels))[1] >= LARGE and len(head) <= HEAD_ROOM
            self._begin(levels, HEAD_ROOM if large else len(head))
            for name, networks in levels.items():
                self.put_level(name, networks)
        with self.ranks.together():
            self._settle()
            if self.ranks.first:
                # The library takes a head that ends in spaces.
                length = struct.pack("<Q", self._room - 8)
                with self._named():
                    _pwrite(self._file, memoryview(length + head[8:].ljust(self._room - 8)), 0)
        with self.ranks.together():
            self._open.close()
        self._shapes = None

    def _write(self, name: str, first: int, tables: dict[str, Tensor]) -> None:
        for key, table in tables.items():
            if len(table):
                view = memoryview(table.detach().cpu().contiguous().numpy()).cast("B")
                _pwrite(self._file, view, self._places[f"{name}.{key}"] + first * (len(view) // len(table)))
        # While others pack: what is left to do at the end is little.
        os.fdatasync(self._file)

    def _settle(self) -> None:
        """Wait until all that was put into place is on disk."""
        with self._named():
            while self._jobs:
                self._jobs.popleft().result()

    def _drop(self) -> None:
        """Remove what was begun and not saved."""
        self._dropped = True
        for job in self._jobs:
            job.cancel()
        wait(self._jobs)
        self._jobs.clear()
        self._dropped = False
        with contextlib.suppress(_Dropped), self._open:
            raise _Dropped
        self._shapes = None

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """Name the model in what is wrong with the disk, as nobody knows the temporary file."""
        try:
            yield
        except OSError as error:
            raise OSError(error.errno, error.strerror or str(error), str(self.path)) from error


class _Dropped(Exception):
    """Makes an atomic write leave no file."""


def _shapes(levels: Mapping[str, BlockMLP]) -> dict[str, Shape]:
    return {name: (networks.network, networks.dtype, len(networks)) for name, networks in levels.items()}


def _tensors(shapes: dict[str, Shape]) -> Iterator[tuple[str, torch.dtype, list[int], int]]:
    """Name, dtype, shape and first byte of every tensor, in the order in which safetensors lays them out."""
    tensors: dict[str, tuple[torch.dtype, list[int]]] = {}
    for level, (network, dtype, n) in shapes.items():
        tensors[f"{level}.blocks"] = torch.int64, [n]
        tensors[f"{level}.amplitude"] = torch.float32, [n]
        for key, (numbers, kind) in columns(network, dtype).items():
            tensors[f"{level}.{key}"] = kind, [n, numbers]
    order, first = list(TYPE_NAMES), 0
    for name, (dtype, shape) in sorted(tensors.items(), key=lambda item: (order.index(item[1][0]), item[0])):
        yield name, dtype, shape, first
        first += math.prod(shape) * dtype.itemsize


def _layout(shapes: dict[str, Shape]) -> tuple[dict[str, int], int]:
    """Where each tensor begins after the head, and where the last one ends."""
    places, end = {}, 0
    for name, dtype, shape, first in _tensors(shapes):
        places[name], end = first, first + math.prod(shape) * dtype.itemsize
    return places, end


def _head(shapes: dict[str, Shape], metadata: dict[str, str]) -> bytes:
    """What the file begins with, as safetensors would write it."""
    header: dict[str, Any] = {"__metadata__": metadata}
    for name, dtype, shape, first in _tensors(shapes):
        end = first + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": TYPE_NAMES[dtype], "shape": shape, "data_offsets": [first, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _pwrite(file: int, view: memoryview, place: int) -> None:
    while view:
        # Python's own writing says what is wrong with the disk.
        count = os.pwrite(file, view, place)
        view, place = view[count:], place + count
