"""Rows in files: what is taken is what a tensor would give, from any pieces, and only that is read."""

import numpy as np
import pytest
import torch

from models.block_mlp import BlockMLP
from models.network import Network
from models.rows import FileRows, Segment
from utils import UserError

ROW = 5


def stored(folder, counts, offset=12):
    """A table of random rows as a tensor, and the same in one file a piece, each after some other bytes."""
    table = torch.rand(sum(counts), ROW, generator=torch.Generator().manual_seed(0))
    segments = []
    for n, piece in enumerate(table.split(counts)):
        path = folder / f"{n}.bin"
        path.write_bytes(b"\1" * offset + piece.numpy().tobytes() + b"\2" * 7)
        segments.append(Segment(path, offset, len(piece)))
    return table, FileRows(segments, ROW)


@pytest.mark.parametrize("counts", [[0], [1], [0, 0], [9], [4, 0, 1, 4], [1] * 9], ids=str)
def test_taken_rows_are_those_of_the_table(tmp_path, counts):
    table, rows = stored(tmp_path, counts)
    n, generator = len(table), np.random.default_rng(0)
    assert len(rows) == n
    for index in [[], range(n), range(n - 1, -1, -1), range(0, n, 2), *generator.integers(0, max(n, 1), (20, 6))]:
        index = torch.tensor([i for i in index if i < n], dtype=torch.int64)
        found = rows.take(index)
        assert found.dtype == torch.float32 and torch.equal(found, table[index])


def test_two_pieces_may_lie_in_one_file(tmp_path):
    table, rows = stored(tmp_path, [6])
    path, size = tmp_path / "0.bin", 4 * ROW
    swapped = FileRows([Segment(path, 12 + 2 * size, 4), Segment(path, 12, 2)], ROW)
    assert torch.equal(swapped.take(torch.arange(6)), table.roll(-2, 0))
    assert rows.bytes_read == 0 and swapped.bytes_read == 6 * size


def test_only_what_is_taken_is_read_and_once(tmp_path):
    _, rows = stored(tmp_path, [50, 50])
    for index, count in (([], 0), ([3, 3, 3], 1), ([99, 0], 2), (range(45, 60), 15)):
        before = rows.bytes_read
        rows.take(torch.tensor(list(index), dtype=torch.int64))
        assert rows.bytes_read - before == count * ROW * 4


@pytest.mark.parametrize("index", [[-1], [9], [0, 9]])
def test_a_row_that_is_not_there_is_refused(tmp_path, index):
    with pytest.raises(IndexError):
        stored(tmp_path, [9])[1].take(torch.tensor(index))


def test_a_file_that_is_cut_or_replaced_or_gone_is_one_line(tmp_path):
    _, rows = stored(tmp_path, [9])
    path = tmp_path / "0.bin"
    whole = path.read_bytes()
    beyond = FileRows([Segment(path, 12, 10)], ROW)
    with pytest.raises(UserError, match=r"0\.bin: ends before"):
        beyond.take(torch.tensor([9]))
    path.write_bytes(whole[:-30])
    with pytest.raises(UserError, match=r"0\.bin: was replaced"):
        rows.take(torch.tensor([0]))
    path.unlink()
    with pytest.raises(UserError, match=r"0\.bin: is gone"):
        rows.take(torch.tensor([0]))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_is_refused_when_it_is_read(tmp_path, value):
    table = np.zeros((4, ROW), np.float32)
    table[2, 3] = value
    (tmp_path / "rows").write_bytes(table.tobytes())
    rows = FileRows([Segment(tmp_path / "rows", 0, 4)], ROW)
    assert not rows.take(torch.tensor([0, 1, 3])).any()
    with pytest.raises(UserError, match="not finite"):
        rows.take(torch.tensor([2]))


def test_networks_take_their_rows_from_either_place(tmp_path):
    network = Network(2, 3, 2, 1, "sin")
    table = torch.rand(6, network.row_size)
    (tmp_path / "rows").write_bytes(table.numpy().tobytes())
    rows = FileRows([Segment(tmp_path / "rows", 0, 6)], network.row_size)
    blocks, amplitude = torch.arange(6) * 2, torch.rand(6)
    here, there = (BlockMLP(network, blocks, amplitude, part) for part in (table, rows))
    assert here.n_params == there.n_params == table.numel()
    for index in ([], [5, 0], [1, 2, 3]):
        for a, b in zip(here.take(torch.tensor(index).long()), there.take(torch.tensor(index).long()), strict=True):
            assert torch.equal(a, b)
    assert here.bytes_read == 0 and there.bytes_read == 5 * network.row_size * 4
