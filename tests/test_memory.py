"""Who gets how much of the memory: together no more than there is, within every container around the process."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from machine import memory
from machine.memory import CHUNKS, GPU_CHUNKS, MOST_STRIP_CELLS, Memory, agreed, free_host_bytes, memory_of
from machine.ranks import Ranks

CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("size", [2**26, 2**30, 2**36])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_parts_of_a_fit_are_together_no_more_than_the_whole(size, channels):
    whole, cells, row = Memory(size, size), 1024, 800
    limits = whole.limits(channels, cells, row, 2**14)
    strip = limits.strip_cells * channels * memory.STRIP_VALUE_BYTES
    chunk = memory.chunk_bytes(limits.chunk_blocks, channels * cells, row)
    source = next(n for n in (size >> k for k in range(40)) if whole.holds(n // 2, n // 2))
    for itemsize in (1, 2, 4, 8):
        reading = whole.reading(channels, itemsize)
        ahead = reading.strips_ahead * reading.strip_cells * channels * itemsize
        source = max(source, reading.level_bytes + ahead)
        assert reading.strips_ahead >= 1 and reading.level_bytes > 0
    assert strip + chunk + source + limits.row_bytes + 4 * (limits.kept_values + limits.decoded_values) <= size
    assert 2 <= limits.chunk_blocks <= 2**14 and 1 <= limits.strip_cells <= MOST_STRIP_CELLS


def test_more_memory_never_means_less_at_once():
    every = [Memory(2**k, 2**k).limits(3, 1024, 800, 2**14) for k in range(10, 40)]
    for name in ("strip_cells", "kept_values", "decoded_values", "chunk_blocks", "row_bytes"):
        sizes = [getattr(limits, name) for limits in every]
        assert sizes == sorted(sizes)


def test_a_source_that_takes_the_memory_of_its_decoding_or_of_its_levels_is_not_held():
    room = Memory(1000, 1000)
    assert room.holds(100, 100) and not room.holds(200, 100)
    assert Memory(300, 10**6).holds(70, 10) and not Memory(300, 10**6).holds(80, 10)


@pytest.mark.parametrize("chunks", [CHUNKS, GPU_CHUNKS])
def test_two_blocks_fit_if_two_of_every_chunk_in_training_take_no_more_than_the_quarter_that_is_theirs(chunks):
    sizes = 3, 64 * 64, 2000
    least = 4 * chunks * memory.chunk_bytes(2, 3 * 64 * 64, 2000)
    for device, fit in ((least - 1, False), (least, True), (2 * least, True)):
        whole = Memory(2**40, device, chunks=chunks)
        assert whole.fits(*sizes) == fit
        taken = chunks * memory.chunk_bytes(whole.limits(*sizes, 2**14).chunk_blocks, 3 * 64 * 64, 2000)
        assert (taken <= device // 4) == fit


def test_processes_share_the_host_and_not_their_gpus():
    cuda = torch.device("cuda")
    assert memory_of(1000, cuda, 4).device == memory_of(1000, cuda).device and memory_of(1000, cuda, 4).host == 250
    assert memory_of(1000, CPU, 4).device == 250


def test_what_is_asked_for_is_what_it_is_and_else_a_part_of_what_is_free():
    assert memory_of(12345, CPU) == Memory(12345, 12345)
    found = memory_of(None, CPU)
    assert 0 < found.host == found.device < free_host_bytes()
    # Of a GPU torch keeps more than is in use.
    assert memory_of(1000, torch.device("cuda")).device == 750


@pytest.mark.parametrize(("device", "processes", "keeps"), [("cuda", 1, True), ("cuda", 2, False), ("cpu", 1, False)])
def test_rows_of_a_file_are_worth_being_kept_on_a_gpu_that_has_no_others_beside_it(device, processes, keeps):
    assert memory_of(2**30, torch.device(device), processes).keeps_rows == keeps


class Two(Ranks):
    """One of two processes, of which the other has as much of each figure as is given."""

    def __init__(self, *other):
        super().__init__(0, 2)
        self.other = other

    def gather(self, value):
        return [value, self.other]


def test_processes_agree_on_the_least_of_each_figure():
    ours = Memory(100, 7, 2**20, 2, keeps_rows=True)
    assert agreed(ours, Ranks()) == ours
    # Each may be alone on its machine, but none reads all of a file.
    assert agreed(ours, Two(60, 9, 2**22, 1, True)) == Memory(60, 7, 2**20, 1, keeps_rows=False)


V1, V2 = (
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ("memory.max", "memory.current", "inactive_file"),
)


@pytest.mark.parametrize("names", [V1, V2], ids=["v1", "v2"])
def test_the_limit_of_a_container_counts_less_what_it_uses_and_with_what_the_system_can_drop(
    tmp_path, monkeypatch, names
):
    limit, usage, files = names
    (tmp_path / limit).write_text(str(10**6))
    (tmp_path / usage).write_text(str(7 * 10**5))
    (tmp_path / "memory.stat").write_text(f"anon 5\n{files} 100000\n")
    monkeypatch.setattr(memory, "CGROUPS", ((tmp_path, limit, usage),))
    assert free_host_bytes() == 4 * 10**5
    (tmp_path / limit).write_text("max")
    assert free_host_bytes() > 10**6


def test_threads_take_memory_from_one_heap_and_what_is_free_in_it_goes_back():
    program = """
import ctypes, threading
from machine import memory
memory.share_one_heap()
thread = threading.Thread(target=lambda: bytes(2000))
thread.start(), thread.join()
ctypes.CDLL(None).malloc_stats()
resident = lambda: int(open("/proc/self/statm").read().split()[1])
pieces = [bytes(2**16) for _ in range(2000)]
del pieces[:-1]
before = resident()
memory.give_back()
print((before - resident()) * 4096)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr.count("Arena ") == 1
    assert int(done.stdout) > 1000 * 2**16
