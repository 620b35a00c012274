"""A source read by region gives the bits of the one in memory, and all of its stored levels cost one pass."""

import sys
from concurrent.futures import CancelledError, ThreadPoolExecutor

import numpy as np
import pytest
import torch
from conftest import Counting, random_box

import datasets.streamed_source
from datasets import Place, open_source
from datasets.file_array import FileArray
from datasets.grid import Box
from datasets.source import ArraySource, Signal, points
from datasets.streamed_source import StreamedSource
from machine.memory import Memory, Reading
from machine.ranks import Ranks

SHAPES = [(1, 1), (1, 7), (13, 37), (16, 32), (1, 1, 1), (5, 11, 7)]


def both(shape, dtype=np.uint8, strip_cells=64, folder=".", ahead=2, level_bytes=0, keeps_rows=False):
    array = np.random.default_rng(0).integers(0, 250, (*shape, 2)).astype(dtype)
    signal, reader = Signal.of(array, "grey+alpha"), Counting(array)
    limits = Reading(strip_cells, ahead, level_bytes, keeps_rows)
    return ArraySource(array, signal), StreamedSource(reader, shape, signal, "cpu", None, folder, limits), reader


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    ("dtype", "strip_cells"),
    [(np.uint8, 1), (np.uint8, 50), (np.uint8, 10**9), (np.uint16, 50), (np.float32, 1), (np.int32, 10**9)],
)
@pytest.mark.parametrize(("level_bytes", "keeps_rows"), [(0, False), (500, False), (500, True), (10**9, True)])
def test_every_level_is_that_of_the_array(tmp_path, shape, dtype, strip_cells, level_bytes, keeps_rows):
    held, streamed, _ = both(shape, dtype, strip_cells, tmp_path, level_bytes=level_bytes, keeps_rows=keeps_rows)
    streamed.begin(5)
    generator = np.random.default_rng(0)
    for level in (3, 0, 1, 2, 4):
        whole = points(shape, level).level_box(level)
        for region in [whole, *(random_box(generator, whole.stop) for _ in range(4))]:
            found = streamed.read(region, level)
            assert found.dtype == torch.float32 and torch.equal(found, held.read(region, level))
    assert (streamed.shape, streamed.raw_bytes, streamed.streamed) == (held.shape, held.raw_bytes, True)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [np.uint8, np.int16])
def test_tiles_and_zeros_do_not_change_a_bit(tmp_path, monkeypatch, shape, dtype):
    """Of signed numbers zero is not the value that becomes zero."""
    array = np.zeros((*shape, 1), dtype)
    array.flat[-1] = -5 if dtype == np.int16 else 5
    signal = Signal.of(array, "grey")
    held = ArraySource(array, signal)
    for tile in (1, 2**18):
        monkeypatch.setattr(datasets.streamed_source, "TILE_VALUES", tile)
        streamed = StreamedSource(Counting(array), shape, signal, "cpu", None, tmp_path, Reading(64, 2, 0))
        for level in range(4):
            whole = points(shape, level).level_box(level)
            assert torch.equal(streamed.read(whole, level), held.read(whole, level))


@pytest.mark.parametrize("level_bytes", [0, 16 * 32])
def test_the_stored_levels_cost_one_pass_over_the_file_and_each_read_of_level_1_what_it_covers(tmp_path, level_bytes):
    _, streamed, reader = both((16, 32), folder=tmp_path, level_bytes=level_bytes)
    for level in (4, 2, 4, 3):
        streamed.read(points((16, 32), level).level_box(level), level)
    assert sum(region.size for region in reader.asked) == 16 * 32
    streamed.read(Box((1, 2), (7, 13)), 1)
    assert sum(region.size for region in reader.asked) == 16 * 32 + 4 * 6 * 11
    assert max(region.size for region in reader.asked) <= 64
    assert not list(tmp_path.iterdir())


def test_levels_are_held_where_they_have_room_with_level_1_or_without_and_else_none_is():
    shape, above, all_of_them = (64, 48), 16 * 12 * 8 * 4 // 3, 32 * 24 * 8 * 4 // 3
    for room, held in ((all_of_them, 4), (all_of_them - 1, 3), (above, 3), (above - 1, 0)):
        _, streamed, reader = both(shape, level_bytes=room)
        streamed.prepare(5, Ranks())
        assert [isinstance(level, torch.Tensor) for level in streamed._levels.values()] == [held > 0] * max(held, 3)
        assert streamed.level_bytes == [0, None, None, above, all_of_them][held]
        streamed.read(points(shape, 1).level_box(1), 1)
        assert sum(region.size for region in reader.asked) == 64 * 48 * (1 if held == 4 else 2)


def test_the_first_rows_are_held_in_the_room_that_the_levels_leave(tmp_path):
    held, streamed, reader = both((16, 32), folder=tmp_path, level_bytes=16 * 32 * 2 * 4 // 3 + 5 * 64, keeps_rows=True)
    assert streamed.held_bytes == 5 * 64
    streamed.begin(3)
    streamed.prepare(3, Ranks())
    assert streamed.held_bytes == 5 * 64
    reader.asked.clear()
    for start, stop, read in ((0, 5, 0), (2, 4, 0), (2, 6, 4 * 32), (5, 9, 4 * 32)):
        region = Box((start, 0), (stop, 32))
        streamed.expect([region], 0)
        assert torch.equal(streamed.read(region, 0), held.read(region, 0))
        assert sum(region.size for region in reader.asked) == read
        reader.asked.clear()


@pytest.mark.parametrize("keeps_rows", [True, False])
def test_one_process_alone_begins_to_read_for_the_levels_before_they_are_made_and_reads_nothing_twice(
    tmp_path, keeps_rows
):
    _, streamed, reader = both((16, 32), folder=tmp_path, level_bytes=10**9, keeps_rows=keeps_rows)
    streamed.begin(3)
    assert len(streamed._ahead.reading) == 2 * keeps_rows
    streamed.prepare(3, Ranks())
    assert sum(region.size for region in reader.asked) == 16 * 32 and not streamed._ahead.reading


@pytest.mark.parametrize(("level_bytes", "n_levels"), [(10**9, 0), (10**9, 1), (16 * 32 * 2 * 4 // 3 - 1, 2)])
def test_where_no_level_is_to_be_stored_nothing_is_read_ahead_and_no_row_held(tmp_path, level_bytes, n_levels):
    _, streamed, reader = both((16, 32), folder=tmp_path, level_bytes=level_bytes, keeps_rows=True)
    streamed.begin(n_levels)
    streamed.prepare(n_levels, Ranks())
    assert streamed._rows is None and not streamed._ahead.reading and not reader.asked


def test_where_several_make_the_levels_nothing_is_read_that_is_not_wanted_and_no_row_held(tmp_path):
    _, streamed, reader = both((16, 32), folder=tmp_path, level_bytes=10**9)
    streamed.begin(3)
    streamed.prepare(3, Ranks(1, 2))
    assert streamed.held_bytes == 0 and streamed._rows is None
    assert sum(region.size for region in reader.asked) == 16 * 32 // 2


def test_no_more_is_read_ahead_than_there_is_room_for(tmp_path):
    _, streamed, reader = both((16, 32), folder=tmp_path, ahead=2)
    regions = [Box((a, 0), (a + 4, 32)) for a in (0, 4, 8, 12)]
    streamed.expect(regions, 0)
    assert list(streamed._ahead.reading) == [(0, region) for region in regions[:2]]
    streamed.read(regions[0], 0)
    assert list(streamed._ahead.reading) == [(0, region) for region in regions[1:3]]
    streamed.read(regions[3], 0)
    streamed.read(regions[1], 0)
    assert list(streamed._ahead.reading) == [(0, regions[2])] and not streamed._ahead.wanted
    streamed.read(regions[2], 0)
    assert sorted(region.start for region in reader.asked) == [region.start for region in regions]


def test_what_is_expected_is_read_once_and_what_is_not_wanted_any_more_is_forgotten(tmp_path):
    held, streamed, reader = both((16, 32), folder=tmp_path)
    regions = [Box((a, 0), (a + 4, 32)) for a in (0, 4, 8, 12)]
    streamed.expect(regions[:2], 0)
    assert torch.equal(streamed.read(regions[1], 0), held.read(regions[1], 0))
    streamed.expect(regions[2:3], 0)
    streamed.expect([], 3)
    for region in regions:
        assert torch.equal(streamed.read(region, 0), held.read(region, 0))
    assert reader.asked.count(regions[1]) == 2 and not streamed._ahead.reading


@pytest.mark.gpu
@pytest.mark.parametrize("level_bytes", [0, 10**9])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_on_a_gpu_it_is_that_of_the_array_though_many_strips_are_on_their_way(tmp_path, level_bytes, dtype):
    array = np.random.default_rng(0).integers(0, 256, (2048, 1024, 3)).astype(dtype)
    signal, limits = Signal.of(array, "RGB"), Reading(2**16, 3, level_bytes, keeps_rows=True)
    streamed = StreamedSource(Counting(array), array.shape[:2], signal, "cuda", None, tmp_path, limits)
    streamed.begin(4)
    held = ArraySource(array, signal, "cuda")
    for level in (0, 1, 2, 3):
        whole = points(held.shape, level).level_box(level)
        regions = [Box((a, 0), (min(a + 32, whole.stop[0]), whole.stop[1])) for a in range(0, whole.stop[0], 32)]
        streamed.expect(regions, level)
        found = [streamed.read(region, level) for region in regions]
        assert torch.equal(torch.cat(found), held.read(whole, level))


def test_an_error_of_the_file_comes_out_where_the_region_is_read(tmp_path):
    held, _, _ = both((8, 8))
    file = FileArray.scratch(tmp_path, (8, 8, 2), np.uint8)
    file.write(Box((0, 0), (4, 8)), np.ones((4, 8, 2)))
    streamed = StreamedSource(file, (8, 8), held.signal, "cpu", None, tmp_path, Reading(64, 1, 0))
    streamed.expect([Box((4, 0), (8, 8))], 0)
    assert streamed.read(Box((0, 0), (4, 8)), 0).shape == (4, 8, 2)
    streamed.expect([Box((4, 0), (8, 8))], 0)
    with pytest.raises(Exception, match="ends before"):
        streamed.read(Box((4, 0), (8, 8)), 0)


@pytest.mark.gpu
def test_an_error_of_the_file_while_the_levels_are_begun_comes_out_where_they_are_needed(tmp_path):
    file = FileArray.scratch(tmp_path, (8, 8, 2), np.uint8)
    file.write(Box((0, 0), (4, 8)), np.ones((4, 8, 2)))
    limits = Reading(16, 1, 10**9, keeps_rows=True)
    streamed = StreamedSource(file, (8, 8), both((8, 8))[0].signal, "cuda", None, tmp_path, limits)
    streamed.begin(3)
    with pytest.raises(Exception, match="ends before"):
        streamed.prepare(3, Ranks())


def test_no_more_is_read_for_levels_that_are_given_up(tmp_path):
    """They are made in a thread, for which the end of the process waits."""
    _, streamed, reader = both((64, 32), strip_cells=64, folder=tmp_path, ahead=2, level_bytes=10**9)
    read = reader.read

    def read_and_end(region, out=None):
        streamed.give_up()
        return read(region, out)

    reader.read = read_and_end
    with pytest.raises(CancelledError):
        streamed.prepare(3, Ranks())
    assert 1 <= len(reader.asked) <= 4


def test_nothing_is_mapped(tmp_path):
    """A mapped file would count as memory of the process."""
    array = np.zeros((64, 64, 1), np.uint8)
    np.save(tmp_path / "a.npy", array)
    source = open_source("image", str(tmp_path / "a.npy"), place=Place("cpu", Memory(2**10, 2**10), tmp_path))
    source.read(points((64, 64), 2).level_box(2), 2)
    with open("/proc/self/maps") as maps:
        assert str(tmp_path) not in maps.read()
    assert [file.name for file in tmp_path.iterdir()] == ["a.npy"]


def test_threads_that_expect_and_read_at_once_do_not_disturb_one_another(tmp_path):
    held, streamed, _ = both((64, 32), folder=tmp_path, ahead=2)
    regions = [Box((a, 0), (a + 4, 32)) for a in range(0, 64, 4)]
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(2) as pool:
            for done in [pool.submit(read_all, streamed, held, regions[::step]) for step in (1, -1)] * 2:
                done.result()
    finally:
        sys.setswitchinterval(usual)


def read_all(streamed, held, regions):
    for _ in range(20):
        streamed.expect(regions, 0)
        for region in regions:
            assert torch.equal(streamed.read(region, 0), held.read(region, 0))
