"""How much memory a run may take, and what of it goes where: the one place that decides. No result depends on it.

On a GPU the sizes come out of its memory, and the host holds what is read of a file; else they come out of the host's.
"""

import ctypes
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import torch

from machine.ranks import Ranks

# What a run takes of the host where nothing is asked for, as a part of what is free.
HOST_SHARE = 0.5
# What it uses of the GPU memory that it may take: torch keeps what was freed, and so up to a third more than is in use.
DEVICE_SHARE = 0.75
# Bytes that a value (a channel of a cell) of a strip takes while it is surveyed or decoded, measured.
STRIP_VALUE_BYTES = 24
# A block in training takes its targets twice, and its rows with moments, gradients and copies of them this many times.
TARGET_COPIES, ROW_COPIES = 2, 10
# Larger strips are no faster, but where a GPU reads them from a file.
MOST_STRIP_CELLS, MOST_STREAMED_CELLS = 2**22, 2**24
# Nor are more of them ahead.
MOST_STRIPS_AHEAD = 3
# Chunks that train at the same time: one on a CPU, and as many lanes (models.lanes) of a GPU.
CHUNKS, GPU_CHUNKS = 1, 2
# The C library's number for how many heaps its threads share (malloc.h).
M_ARENA_MAX = -8
# Where cgroups 2 and 1 are, and what they call a group's limit and use.
CGROUPS = (
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current"),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes"),
)


@dataclass(frozen=True)
class Memory:
    """Bytes that a run may take of the host, beside its imports, and of its device: the host itself without a GPU.

    `most_streamed_cells` of a signal that is not held are worth being handled at once, `chunks` are trained, and
    `keeps_rows` says whether a part of such a signal is worth being held: the system holds for the host what it can,
    and of several processes that share the reading none has the whole part.
    """

    host: int
    device: int
    most_streamed_cells: int = MOST_STRIP_CELLS
    chunks: int = CHUNKS
    keeps_rows: bool = False

    def holds(self, raw: int, levels: int) -> bool:
        """Whether a signal of `raw` bytes and its coarser levels are to be held whole; decoding takes it twice."""
        return 2 * raw <= self.host // 2 and raw + levels <= self.device // 4

    def strip_cells(self, channels: int, streamed: bool) -> int:
        """Cells of a level that are handled at once."""
        most = self.most_streamed_cells if streamed else MOST_STRIP_CELLS
        return max(1, min(most, self.device // 8 // (STRIP_VALUE_BYTES * channels)))

    def reading(self, channels: int, itemsize: int) -> "Reading":
        """How a source that is not held stays within the quarter that it would have.

        Args:
            channels: numbers of a cell.
            itemsize: bytes of a number in the file.
        """
        cells = self.strip_cells(channels, streamed=True)
        strip = cells * channels * itemsize
        strips = min(MOST_STRIPS_AHEAD, max(1, min(self.host, self.device) // 32 // strip))
        return Reading(cells, strips, self.device // 4 - strips * strip, self.keeps_rows)

    def fits(self, channels: int, block_cells: int, row_size: int) -> bool:
        """Whether there is room for the two blocks that a chunk has at least; the arguments are those of `limits`."""
        return self._chunk_blocks(channels * block_cells, row_size) >= 2

    def _chunk_blocks(self, block_values: int, row_size: int) -> int:
        return self.device // 4 // (self.chunks * chunk_bytes(1, block_values, row_size))

    def limits(
        self, channels: int, block_cells: int, row_size: int, most_blocks: int, streamed: bool = False
    ) -> "Limits":
        """How a fit stays within this.

        Args:
            channels: numbers of a cell.
            block_cells: cells of a block.
            row_size: numbers of a block's network.
            most_blocks: cap of a chunk.
            streamed: whether the signal is not held.
        """
        chunk = max(2, min(most_blocks, self._chunk_blocks(channels * block_cells, row_size)))
        eighth = self.device // 8
        return Limits(self.strip_cells(channels, streamed), eighth // 4, eighth // 4, chunk, eighth)


@dataclass(frozen=True)
class Reading:
    """What a source that is read by region holds at once.

    Args:
        strip_cells: cells of level 0 that are handled at once.
        strips_ahead: strips that are read before they are asked for.
        level_bytes: what its coarser levels may take on the device; those that take more are not held there.
        keeps_rows: whether the first rows of level 0 have what they leave of it, as one process reads them all.
    """

    strip_cells: int
    strips_ahead: int
    level_bytes: int
    keeps_rows: bool = False


@dataclass(frozen=True)
class Limits:
    """What a fit holds at once.

    Args:
        strip_cells: cells of a level that are handled at once.
        kept_values: most values of a level whose targets are kept from its survey until they are trained.
        decoded_values: most values of a finished level that is held decoded, as the finer ones build upon it.
        chunk_blocks: most blocks of a chunk.
        row_bytes: finished rows of all levels that are kept in memory; those beyond stay in files.
    """

    strip_cells: int = MOST_STRIP_CELLS
    kept_values: int = 2**27
    decoded_values: int = 2**27
    chunk_blocks: int = 2**14
    row_bytes: int = 2**62


def chunk_bytes(blocks: int, block_values: int, row_size: int) -> int:
    """What blocks in training take."""
    return 4 * blocks * (TARGET_COPIES * block_values + ROW_COPIES * row_size)


def memory_of(limit: int | None, device: torch.device, processes: int = 1) -> Memory:
    """What each of some processes of a machine may take: of `limit` bytes, or of what machine and containers have free.

    They share the host, and have a GPU each.
    """
    host = (int(free_host_bytes() * HOST_SHARE) if limit is None else limit) // processes
    if device.type != "cuda":
        return Memory(host, host)
    own = torch.cuda.mem_get_info(device)[0] if limit is None else limit
    return Memory(host, int(own * DEVICE_SHARE), MOST_STREAMED_CELLS, GPU_CHUNKS, keeps_rows=processes == 1)


def agreed(memory: Memory, ranks: Ranks) -> Memory:
    """What the process that has the least may take, of each figure: so all hold, read and cut alike. All must call it.

    Raises:
        Lost: another process has ended.
    """
    least = Memory(*map(min, zip(*ranks.gather(astuple(memory)), strict=True)))
    return replace(least, keeps_rows=least.keeps_rows and ranks.count == 1)


def share_one_heap() -> None:
    """Let all threads of this process take memory from one heap of the C library, from now on.

    What is freed in a heap of a thread's own stays there: measured, a third of what a fit took.
    """
    # Other C libraries have no such heaps.
    if hasattr(library := ctypes.CDLL(None), "mallopt"):
        library.mallopt(M_ARENA_MAX, 1)


def give_back() -> None:
    """Return what is free in the heap to the system, which the C library does by itself at its end only."""
    if hasattr(library := ctypes.CDLL(None), "malloc_trim"):
        library.malloc_trim(0)


def free_host_bytes() -> int:
    """Bytes that this process may still take of the host, within every container around it."""
    with open("/proc/meminfo") as file:
        free = next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))
    own = [line.rstrip().split(":", 2)[2] for line in Path("/proc/self/cgroup").read_text().splitlines()]
    for root, limit, usage in CGROUPS:
        for folder in {root, *(root / path.lstrip("/") for path in own)}:
            free = min([free, *(_room(group, limit, usage) for group in (folder, *folder.parents))])
    return free


def _room(folder: Path, limit: str, usage: str) -> float:
    """What a group of processes has left, counting what the system can drop of its files as free."""
    try:
        most, used = (int((folder / name).read_text()) for name in (limit, usage))
        rows = (line.split() for line in (folder / "memory.stat").read_text().splitlines())
        files = {name: int(value) for name, value in rows}
        return most - used + files.get("total_inactive_file", files.get("inactive_file", 0))
    # No such group, or no limit, which is the word "max".
    except (OSError, ValueError):
        return float("inf")
