"""The model file, read by hand as docs/format.md has it, and a golden file that every later version must decode."""

import itertools
import json
import math
import struct
from pathlib import Path

import numpy as np
import pytest
from conftest import random_pyramid

from datasets.grid import Grid
from models import model_file
from models.encoding import directions

GOLDEN = Path(__file__).parent / "golden"
# The first two are of version 1, the others of version 2.
GOLDEN_FILES = ["image", "shape", "image_float16", "image_int8"]


def read_by_hand(path: Path) -> tuple[dict, dict[str, np.ndarray]]:
    """Header and tensors of a safetensors file without its library."""
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    meta = json.loads(header.pop("__metadata__")["miner"])
    types = {"I64": np.int64, "F32": np.float32, "F16": np.float16, "I8": np.int8}
    tensors = {}
    for name, item in header.items():
        a, b = (8 + length + offset for offset in item["data_offsets"])
        tensors[name] = np.frombuffer(raw[a:b], types[item["dtype"]]).reshape(item["shape"])
    return meta, tensors


def features(patch: list[int], n_freq: int) -> np.ndarray:
    """What a network is shown of each cell of a block, [p, features]."""
    axes = [np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in patch]
    xyz = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(patch))[:, ::-1]
    if not n_freq:
        return xyz
    along = [2**k * (xyz @ u) for k in range(n_freq) for u in directions(len(patch)).numpy()]
    return np.stack([np.sin(a) for a in along] + [np.cos(a) for a in along], -1)


def block(row: np.ndarray, network: dict, amplitude: float, x: np.ndarray) -> np.ndarray:
    """The values of one block's cells, [p, c], from its row."""
    sizes = [network["n_in"], *[network["n_hidden"]] * (network["n_layers"] - 1), network["n_out"]]
    for layer, (i, o) in enumerate(itertools.pairwise(sizes)):
        w, b, row = row[: i * o].reshape(i, o), row[i * o : i * o + o], row[i * o + o :]
        y = x @ w + b
        if layer < len(sizes) - 2 and network.get("omega_0"):
            x = np.sin(network["omega_0"] * y)
        elif layer < len(sizes) - 2:
            a, row = row[0], row[1:]
            x = np.exp(-(y**2) / (2 * a * a))
    if network["output"] == "sigmoid":
        return 1 / (1 + np.exp(-y))
    return (
        amplitude
        * {"sin": lambda: np.sin(row[0] * y), "tanh": lambda: np.tanh(y), "linear": lambda: y}[network["output"]]()
    )


def whole_rows(tensors: dict[str, np.ndarray], level: int, network: dict) -> np.ndarray:
    """The rows of a level as numbers, [n, row], whatever dtype they are kept in."""
    rows = tensors[f"{level}.rows"].astype(float)
    if network.get("dtype", "float32") != "int8":
        return rows
    rest, parts = tensors[f"{level}.rest"].astype(float), []
    sizes = [network["n_in"], *[network["n_hidden"]] * (network["n_layers"] - 1), network["n_out"]]
    for layer, (i, o) in enumerate(itertools.pairwise(sizes)):
        a = int(layer < len(sizes) - 2 or network["output"] == "sin")
        scale, b_and_a, rest = rest[:, :o], rest[:, o : 2 * o + a], rest[:, 2 * o + a :]
        w, rows = rows[:, : i * o].reshape(-1, i, o), rows[:, i * o :]
        parts += [(w * scale[:, None]).reshape(len(w), -1), b_and_a]
    return np.concatenate(parts, 1)


def upsampled(coarse: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    for axis, n in enumerate(shape):
        fine = np.arange(n)
        own = fine // 2
        near = np.clip(own + np.where(fine % 2, 1, -1), 0, coarse.shape[axis] - 1)
        coarse = 0.75 * coarse.take(own, axis) + 0.25 * coarse.take(near, axis)
    return coarse


def decode_by_hand(path: Path) -> np.ndarray:
    meta, tensors = read_by_hand(path)
    shape, patch, channels = meta["grid"]["shape"], meta["grid"]["patch"], meta["channels"]
    x, values = features(patch, meta["encoding"]["n_freq"]), None
    for level in reversed(range(meta["grid"]["n_levels"])):
        size = tuple(math.ceil(n / 2**level) for n in shape)
        values = np.zeros((*size, channels)) if values is None else upsampled(values, size)
        counts = [math.ceil(n / p) for n, p in zip(size, patch, strict=True)]
        network = meta["levels"].get(str(level))
        numbers = tensors.get(f"{level}.blocks", ())
        rows = whole_rows(tensors, level, network) if network else ()
        for i, number in enumerate(numbers):
            place = np.unravel_index(number, counts)
            found = block(rows[i], network, tensors[f"{level}.amplitude"][i], x)
            found = found.reshape(*patch, channels)
            where = tuple(slice(k * p, min(k * p + p, n)) for k, p, n in zip(place, patch, size, strict=True))
            inside = found[tuple(slice(0, s.stop - s.start) for s in where)]
            values[where] = inside if network["output"] == "sigmoid" else values[where] + inside
        values = values.clip(0, 1)
    return values


@pytest.mark.parametrize("name", GOLDEN_FILES)
def test_the_golden_files_decode_to_what_they_decoded_to(name):
    pyramid, about = model_file.load(GOLDEN / f"{name}.safetensors")
    assert np.abs(pyramid.decode().numpy() - np.load(GOLDEN / f"{name}.npy")).max() < 1e-5
    assert about["signal"]["mode"] == ("occupancy" if name == "shape" else "RGB")


@pytest.mark.parametrize("name", GOLDEN_FILES)
def test_a_decoder_written_from_the_format_page_agrees(name):
    assert np.abs(decode_by_hand(GOLDEN / f"{name}.safetensors") - np.load(GOLDEN / f"{name}.npy")).max() < 1e-5


@pytest.mark.parametrize(("output", "omega_0"), [("tanh", None), ("linear", None), ("sin", 30.0)])
def test_a_decoder_written_from_the_format_page_agrees_on_other_networks(tmp_path, output, omega_0):
    pyramid = random_pyramid(Grid((13, 21), (4, 5), 2), output=output, omega_0=omega_0)
    signal = {"dtype": "uint8", "channels": 2, "low": 0.0, "high": 255.0, "mode": "grey+alpha"}
    model_file.save(path := tmp_path / "model.safetensors", pyramid, {"signal": signal})
    assert np.abs(decode_by_hand(path) - model_file.load(path)[0].decode().numpy()).max() < 1e-4
