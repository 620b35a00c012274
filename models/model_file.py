"""The one file a run leaves behind: safetensors, one row of parameters a block, everything else as metadata.

docs/format.md describes it. No code of a file is ever run, and nothing in it is believed before it is checked.
"""

import dataclasses
import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from datasets.grid import Grid
from datasets.source import Signal
from models.block_mlp import BlockMLP
from models.draft import TYPE_NAMES, Draft
from models.encoding import Encoding
from models.engine import ReferenceEngine, choose_engine
from models.network import Network
from models.precision import DTYPES, PackedRows, columns
from models.pyramid import Pyramid
from models.rows import FileRows, Segment
from utils import UserError

FORMAT = "miner"
VERSION = 2
MOST_CELLS = 2**50
# What all cells of a block are shown: numbers that a reader makes before it has seen a row.
MOST_FEATURES = 2**28
MODE_CHANNELS = {"grey": 1, "grey+alpha": 2, "RGB": 3, "RGBA": 4, "CMYK": 4, "occupancy": 1}


def check_features(grid: Grid, encoding: Encoding) -> None:
    """Refuse blocks of a model that could be saved and not loaded.

    Raises:
        UserError: such a block's cells are shown too many numbers.
    """
    if encoding.width * grid.block_cells > MOST_FEATURES:
        most = MOST_FEATURES // (encoding.width // encoding.n_freq * grid.block_cells)
        words = " ".join(map(str, grid.patch[::-1]))
        raise UserError(
            f"--n_freq {encoding.n_freq}: with --patch_size {words} at most {most}: take fewer or smaller blocks"
        )


def save(path: str | Path, pyramid: Pyramid, about: dict[str, Any]) -> None:
    """Write a pyramid to `path`, whole or not at all.

    Args:
        about: JSON-able facts that travel with the model: the signal, the options, what was converged.
    """
    with Draft(path) as draft:
        finish(draft, pyramid, about)


def finish(draft: Draft, pyramid: Pyramid, about: dict[str, Any]) -> None:
    """Make a draft the file of a pyramid, as `save` does; all processes of a run must call it."""
    header = {
        "format": FORMAT,
        "version": VERSION,
        "grid": dataclasses.asdict(pyramid.grid),
        "encoding": dataclasses.asdict(pyramid.encoding),
        "channels": pyramid.channels,
        "levels": {
            level: dataclasses.asdict(networks.network) | {"dtype": networks.dtype}
            for level, networks in pyramid.levels.items()
        },
        "about": about,
    }
    draft.save(pyramid.levels, header)


def load(
    path: str | Path, device: torch.device | str = "cpu", engine: str = "auto", lazy: bool = False
) -> tuple[Pyramid, dict[str, Any]]:
    """Rebuild a pyramid from a file, and give it with the facts it was saved with.

    Args:
        lazy: leave the rows in the file, where a decode reads those that it needs, each time it needs them, and
            raises UserError if they are not usable. Else they are read now and live on the device.

    Raises:
        UserError: the file is missing, cut, of another kind, of a newer version, or contradicts itself.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such model file: give the model.safetensors that train.py wrote")
    try:
        with safetensors.safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {}).get("miner", "null"))
            _check_kind(path, header)
            pyramid = _build(header, engine, torch.device(device))
            _add_levels(pyramid, path, file, header, None if lazy else torch.device(device))
    except UserError:
        raise
    except (safetensors.SafetensorError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError,
            struct.error, OSError) as error:  # fmt: skip
        raise UserError(f"{path}: not a usable model, it is cut or damaged ({_brief(error)})") from None
    return pyramid.to(device), header["about"]


def _check_kind(path: Path, header: Any) -> None:
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise UserError(f"{path}: a safetensors file, but not a model that train.py wrote")
    version = header.get("version")
    if type(version) is not int or version < 1:
        raise UserError(f"{path}: not a usable model, its format version is {str(version)[:20]}")
    if version > VERSION:
        raise UserError(f"{path}: written by a newer version (format {str(version)[:20]}, this reads {VERSION})")


def _build(header: dict[str, Any], engine: str, device: torch.device) -> Pyramid:
    shape, patch = (tuple(_positive(n) for n in header["grid"][key]) for key in ("shape", "patch"))
    grid = Grid(shape, patch, _positive(header["grid"]["n_levels"]))
    _require(math.prod(shape) <= MOST_CELLS and grid.block_cells <= 2**24 and grid.n_levels <= 64, "sizes")
    n_freq = header["encoding"]["n_freq"]
    _require(type(n_freq) is int and 0 <= n_freq <= 64, "encoding")
    encoding = Encoding(len(shape), n_freq)
    _require(encoding.width * grid.block_cells <= MOST_FEATURES, "sizes")
    networks = [_network(name, facts, header["version"])[0] for name, facts in header["levels"].items()]
    evaluator = ReferenceEngine()
    for network in networks:
        evaluator, refused = choose_engine(engine, network, device)
        if refused:
            break
    pyramid = Pyramid(grid, encoding, _positive(header["channels"]), evaluator)
    _check_about(header["about"], pyramid)
    return pyramid


def _add_levels(pyramid: Pyramid, path: Path, file, header: dict[str, Any], device: torch.device | None) -> None:
    """Add a file's levels to a pyramid, with rows that are read onto a device, or stay in the file."""
    offsets = _offsets(path)
    for name, facts in header["levels"].items():
        level, (network, dtype) = int(name), _network(name, facts, header["version"])
        _require(name == str(level) and 0 <= level < pyramid.grid.n_levels, f"level {name}")
        widths = (pyramid.encoding.width, pyramid.channels)
        _require((network.n_in, network.n_out) == widths, f"networks of level {name}")
        # Copies, for the library's tensors hold on to a mapping of the file.
        blocks, amplitude = (file.get_tensor(f"{name}.{key}").clone() for key in ("blocks", "amplitude"))
        _require(blocks.ndim == 1 and blocks.dtype == torch.int64, f"block numbers of level {name}")
        _require(amplitude.shape == blocks.shape, f"amplitudes of level {name}")
        _require(amplitude.dtype == torch.float32 and bool(amplitude.isfinite().all()), f"amplitudes of level {name}")
        rising = bool((blocks.diff() > 0).all()) if len(blocks) else True
        inside = not len(blocks) or bool(blocks[0] >= 0 and blocks[-1] < pyramid.grid.n_blocks(level))
        _require(rising and inside, f"block numbers of level {name}")
        tables = {}
        for key, (width, kind) in columns(network, dtype).items():
            table = file.get_slice(f"{name}.{key}")
            _require(table.get_shape() == [len(blocks), width], f"{key} of level {name}")
            _require(table.get_dtype() == TYPE_NAMES[kind], f"dtype of the {key} of level {name}")
            tables[key] = FileRows([Segment(path, offsets[f"{name}.{key}"], len(blocks))], width, kind)
        rows = PackedRows(network, dtype, tables)
        pyramid.add(level, BlockMLP(network, blocks, amplitude, rows.held(device) if device else rows, dtype))


def _offsets(path: Path) -> dict[str, int]:
    """Where each tensor's numbers begin, from a header that the library has accepted but does not show."""
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    return {name: 8 + length + item["data_offsets"][0] for name, item in header.items() if name != "__metadata__"}


def _network(name: str, facts: dict[str, Any], version: int) -> tuple[Network, str]:
    """The network of a level, and how its rows are kept; version 1 knew float32 only."""
    sizes = (facts[key] for key in ("n_in", "n_hidden", "n_layers", "n_out"))
    _require(all(_positive(size) <= 2**16 for size in sizes), f"networks of level {name}")
    shape = dict(facts)
    dtype = "float32" if version == 1 else shape.pop("dtype")
    _require(isinstance(dtype, str) and dtype in DTYPES, f"dtype of level {name}")
    return Network(**shape), dtype


def _check_about(about: Any, pyramid: Pyramid) -> None:
    """Hold the facts that decoding relies on; the others are only shown."""
    _require(isinstance(about, dict), "facts")
    signal = Signal(**about["signal"])
    numbers = (signal.low, signal.high)
    _require(all(type(n) in (int, float) and math.isfinite(n) for n in numbers), "range of values")
    _require(isinstance(signal.dtype, str) and np.dtype(signal.dtype).kind in "biuf", "dtype")
    _require(_positive(signal.channels) == pyramid.channels and isinstance(signal.mode, str), "signal")
    fits = MODE_CHANNELS.get(signal.mode, signal.channels) == signal.channels
    solid = signal.mode in ("occupancy", "volume")
    _require(fits and solid == (pyramid.grid.ndim == 3), f"mode {signal.mode[:20]}")
    if signal.mode == "occupancy":
        _check_bounds(about["bounds"])


def _check_bounds(bounds: Any) -> None:
    """Hold bounds to be two points in space, of numbers of which an array of floats can be made."""
    _require(isinstance(bounds, list) and len(bounds) == 2, "bounds")
    _require(all(isinstance(corner, list) and len(corner) == 3 for corner in bounds), "bounds")
    numbers = [n for corner in bounds for n in corner]
    _require(all(type(n) is float or (type(n) is int and abs(n) < 2**63) for n in numbers), "bounds")
    _require(all(math.isfinite(b - a) for a, b in zip(*bounds, strict=True)), "bounds")


def _positive(value: Any) -> int:
    _require(isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**40, f"size {value!r}")
    return value


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise ValueError(f"impossible {what}")


def _brief(error: Exception) -> str:
    return str(error).splitlines()[0][:120] if str(error) else type(error).__name__
