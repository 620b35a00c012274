"""Rows as a file holds them: rounded once, block by block, and given back bit for bit."""

import numpy as np
import pytest
import torch

import models.precision
from models.network import Network
from models.precision import DTYPES, PackedRows, columns, pack, rounded, row_bytes, unpack
from models.rows import FileRows, Segment

NETWORKS = [
    Network(1, 1, 1, 1, "sigmoid"),
    Network(2, 3, 1, 2, "sin"),
    Network(4, 5, 3, 3, "sin"),
    Network(3, 7, 2, 1, "sigmoid"),
]
networks = pytest.mark.parametrize("network", NETWORKS, ids=str)
dtypes = pytest.mark.parametrize("dtype", DTYPES)


def hard_rows(network, n=40):
    """Fresh rows, and such as no training should give: zeros, tiny and huge numbers, columns of very unlike scales."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(n, network.row_size, generator=generator)
    rows[1] = 0
    rows[2] *= 1e-7
    rows[3] *= 1e-12
    rows[4] *= 1e4
    rows[5] *= 1e30
    rows[6:20] *= 10 ** (4 * torch.randn(14, network.row_size, generator=generator))
    return rows


@networks
@dtypes
def test_rounding_twice_changes_nothing_and_what_is_packed_is_what_was_rounded(network, dtype):
    rows = rounded(network, dtype, hard_rows(network))
    assert rows.dtype == torch.float32 and rows.isfinite().all()
    assert torch.equal(rounded(network, dtype, rows), rows)
    once, twice = pack(network, dtype, hard_rows(network)), pack(network, dtype, rows)
    assert once.keys() == twice.keys() and all(torch.equal(once[key], twice[key]) for key in once)
    assert torch.equal(unpack(network, dtype, twice), rows)


@networks
@dtypes
def test_a_row_is_rounded_by_itself(network, dtype):
    rows = hard_rows(network)
    together = rounded(network, dtype, rows)
    for n in range(len(rows)):
        assert torch.equal(rounded(network, dtype, rows[n : n + 1])[0], together[n])
    assert rounded(network, dtype, rows[:0]).shape == (0, network.row_size)


@networks
@dtypes
def test_the_tables_are_as_they_are_said_to_be(network, dtype):
    tables, said = pack(network, dtype, hard_rows(network)), columns(network, dtype)
    assert tables.keys() == said.keys()
    assert all(tables[key].shape == (40, n) and tables[key].dtype == kind for key, (n, kind) in said.items())
    assert row_bytes(network, dtype) == sum(table[0].nbytes for table in tables.values())
    per_number = {"float32": 4, "float16": 2, "int8": 1}[dtype]
    assert row_bytes(network, dtype) >= per_number * network.row_size


@networks
def test_float16_is_the_nearest_half_and_float32_is_the_row_itself(network):
    rows = hard_rows(network)
    assert rounded(network, "float32", rows) is rows
    want = np.clip(rows.numpy(), -65504, 65504).astype(np.float16).astype(np.float32)
    assert np.array_equal(rounded(network, "float16", rows).numpy(), want)


@networks
def test_int8_is_within_half_a_step_of_every_weight(network):
    rows = hard_rows(network)[:2]
    for was, now in zip(network.unpack(rows), network.unpack(rounded(network, "int8", rows)), strict=True):
        step = was.w.abs().amax(1, keepdim=True) / 127
        assert ((now.w - was.w).abs() <= 0.505 * step + 2.0**-15).all()
        torch.testing.assert_close(now.b, was.b, rtol=1e-3, atol=1e-7)
        assert was.a is None or torch.allclose(now.a, was.a, rtol=1e-3, atol=1e-7)


@dtypes
def test_rows_in_a_file_are_those_in_memory(tmp_path, monkeypatch, dtype):
    network, tables = NETWORKS[2], {}
    rows = rounded(network, dtype, hard_rows(network))
    for key, table in pack(network, dtype, rows).items():
        (tmp_path / key).write_bytes(table.numpy().tobytes())
        tables[key] = FileRows([Segment(tmp_path / key, 0, len(table))], *columns(network, dtype)[key])
    packed = PackedRows(network, dtype, tables)
    for index in ([], [7], [3, 4, 20, 39], [5, 2, 2]):
        before = packed.bytes_read
        assert torch.equal(packed.take(torch.tensor(index).long()), rows[index])
        assert packed.bytes_read - before == len(set(index)) * row_bytes(network, dtype)
    for most in (1, 7 * 4 * network.row_size, 2**24):
        monkeypatch.setattr(models.precision, "TAKEN_BYTES", most)
        assert torch.equal(packed.held(torch.device("cpu")), rows)
