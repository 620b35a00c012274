"""Random pixels, the closing question of MINER_pl's README: it reached 43.91 dB on such a picture, a hash grid 17."""

from pathlib import Path

from experiments.inputs import random_pixels
from experiments.rows import Row

# A block of 16 x 16 x 3 random numbers needs 1.6 times as many parameters, many epochs, and products of more than the
# 8 bits of bfloat16. Full batches save time, for half a decibel.
FOUND = {
    "patch_size": 16, "n_scales": 1, "n_layers": 3, "n_hidden": 28, "batch_size": 256, "num_epochs": 800,
    "loss_thr": "4e-5", "precision": "tf32",
}  # fmt: skip
CHANGES = {
    "the settings found": {},
    "31 hidden units": {"n_hidden": 31},
    "in float32": {"precision": "float32"},
    "in bfloat16": {"precision": "bfloat16"},
    "half the epochs": {"num_epochs": 400},
    "twice the epochs": {"num_epochs": 1600},
    "26 hidden units, twice the epochs": {"n_hidden": 26, "num_epochs": 1600},
    "24 hidden units, twice the epochs": {"n_hidden": 24, "num_epochs": 1600},
    "4 layers of 22": {"n_layers": 4, "n_hidden": 22},
    "2 layers of 48": {"n_layers": 2, "n_hidden": 48},
    "batches of 64, a quarter of the epochs": {"batch_size": 64, "num_epochs": 200},
    "batches of 64": {"batch_size": 64},
    "second moments 0.999": {"beta2": 0.999},
    "a pyramid of 2": {"n_scales": 2},
    "a pyramid of 2, 24 hidden units": {"n_scales": 2, "n_hidden": 24},
    "one level, 32 hidden units": {"n_hidden": 32},
}
DEFAULTS = {
    "defaults": "",
    "defaults, patch 16": "--patch_size 16",
    "defaults, patch 16, 64 hidden units": "--patch_size 16 --n_hidden 64",
}
ROWS = {
    name: " ".join(f"--{option} {value}" for option, value in (FOUND | change).items())
    for name, change in CHANGES.items()
} | DEFAULTS


def random_pixel_rows(folder: Path, stand_ins: Path | None) -> list[Row]:
    """Pictures of random pixels, 512 and 2048 wide."""
    return [
        Row("noise", f"{size}x{size} random pixels", f"{name}, {size}", (*options, *settings.split()),
            about={"settings": settings})
        for size in (512, 2048)
        for options, _ in [random_pixels(folder, size)]
        for name, settings in ROWS.items()
    ]  # fmt: skip
