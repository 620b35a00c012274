"""How rows are kept in a file: as float32, as float16, or as int8 weights with a scale for each unit.

A row is rounded by itself, so that it is the same whichever rows stand beside it, and rounding twice changes nothing.
What a file gives back is what was rounded when a level was trained, bit for bit.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from models.network import Network
from models.rows import FileRows, Segment

DTYPES = {"float32": torch.float32, "float16": torch.float16, "int8": torch.int8}
LARGEST_INT8 = 127
LARGEST_HALF = 65504.0
# The smallest half with all its digits; a column of smaller weights loses less than this.
SMALLEST_SCALE = 2.0**-14
# Bytes of rows that are unpacked at once where all are taken.
TAKEN_BYTES = 2**24


def columns(network: Network, dtype: str) -> dict[str, tuple[int, torch.dtype]]:
    """The tables that hold the rows of a level: the numbers of a row in each, and their dtype.

    "rows" has the whole row, but of an int8 one the weights only; "rest" then has, layer by layer, the scale of each
    column of weights [out], the biases [out] and the activation's a, as float16.
    """
    if dtype != "int8":
        return {"rows": (network.row_size, DTYPES[dtype])}
    weights = sum(i * o for i, o in network.widths)
    scales = sum(o for _, o in network.widths)
    return {"rows": (weights, torch.int8), "rest": (network.row_size - weights + scales, torch.float16)}


def table_bytes(network: Network, dtype: str) -> list[int]:
    """Bytes of a row in each table of a file."""
    return [n * kind.itemsize for n, kind in columns(network, dtype).values()]


def row_bytes(network: Network, dtype: str) -> int:
    """Bytes of a row in a file."""
    return sum(table_bytes(network, dtype))


def pack(network: Network, dtype: str, rows: Tensor) -> dict[str, Tensor]:
    """Rows [n, row] float32, rounded to the tables of `columns`, [n, numbers] each."""
    if dtype == "float32":
        return {"rows": rows}
    if dtype == "float16":
        return {"rows": _half(rows)}
    weights, rest = [], []
    for layer in network.unpack(rows):
        scale = _half((layer.w.abs().amax(1) / LARGEST_INT8).clamp(min=SMALLEST_SCALE))
        steps = (layer.w / scale.float()[:, None]).round().clamp(-LARGEST_INT8, LARGEST_INT8)
        weights.append(steps.to(torch.int8).flatten(1))
        rest += [scale, _half(layer.b)] + ([] if layer.a is None else [_half(layer.a)])
    return {"rows": torch.cat(weights, 1), "rest": torch.cat(rest, 1)}


def unpack(network: Network, dtype: str, tables: dict[str, Tensor]) -> Tensor:
    """Rows [n, row] float32 from the tables that `pack` made."""
    if dtype != "int8":
        return tables["rows"].float()
    weights, rest, row = tables["rows"], tables["rest"].float(), []
    has_a = network.sizes[2::3]
    for (i, o), a in zip(network.widths, has_a, strict=True):
        w, weights = weights[:, : i * o].unflatten(1, (i, o)), weights[:, i * o :]
        scale, b_and_a, rest = rest[:, :o], rest[:, o : 2 * o + a], rest[:, 2 * o + a :]
        row += [(w.float() * scale[:, None]).flatten(1), b_and_a]
    return torch.cat(row, 1)


def rounded(network: Network, dtype: str, rows: Tensor) -> Tensor:
    """Rows [n, row] float32 as a file of this dtype gives them back."""
    return rows if dtype == "float32" else unpack(network, dtype, pack(network, dtype, rows))


class PackedRows:
    """Rows that stay in tables in files, by the keys of `columns`; read and unpacked where they are taken."""

    def __init__(self, network: Network, dtype: str, tables: dict[str, FileRows]):
        self.network, self.dtype, self.tables = network, dtype, tables

    @classmethod
    def of_segments(cls, network: Network, dtype: str, segments: Sequence[Sequence[Segment]]) -> "PackedRows":
        """Rows that lie in several places, one after another: of each place, where its tables are."""
        found = {}
        for n, (key, (numbers, kind)) in enumerate(columns(network, dtype).items()):
            found[key] = FileRows([tables[n] for tables in segments], numbers, kind)
        return cls(network, dtype, found)

    def __len__(self) -> int:
        return len(self.tables["rows"])

    def held(self, device: torch.device) -> Tensor:
        """All rows as float32 [n, row] on a device, put there a few at a time."""
        rows = torch.empty(len(self), self.network.row_size, device=device)
        most = max(1, TAKEN_BYTES // (4 * self.network.row_size))
        for first in range(0, len(self), most):
            part = torch.arange(first, min(first + most, len(self)), device=device)
            rows[first : first + len(part)] = self.take(part)
        return rows

    @property
    def bytes_read(self) -> int:
        return sum(table.bytes_read for table in self.tables.values())

    def take(self, index: Tensor) -> Tensor:
        """The rows at `index`, int64 [m] in any order, as float32 [m, row] on the device of `index`."""
        return unpack(self.network, self.dtype, {key: table.take(index) for key, table in self.tables.items()})


def _half(values: Tensor) -> Tensor:
    return values.clamp(-LARGEST_HALF, LARGEST_HALF).half()
