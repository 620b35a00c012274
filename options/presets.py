"""Recipes that options may begin from; docs/method.md has their sources and what they measured."""

import math
from typing import Any

_MINER_PL = {
    "optimizer": "radam",
    "beta2": 0.999,
    "lr": 3e-2,
    "coarse_lr": 1.0,
    "val_freq": 50,
    "n_scales": 4,
    "output_start": 1.0,
    "coarse_share": 1.0,
    "solve_start": False,
    "save_dtype": "float32",
}
_MINER_PL_IMAGE = _MINER_PL | {
    "patch_size": (32,), "batch_size": 256, "n_freq": 4, "n_layers": 3, "n_hidden": 20, "loss_thr": 1e-4,
    "num_epochs": (50, 50, 50, 200),
}  # fmt: skip
_MINER_PL_GRID = _MINER_PL | {
    "patch_size": (16,), "batch_size": 512, "n_freq": 5, "n_layers": 2, "n_hidden": 8, "loss_thr": 5e-3,
    "num_epochs": (50, 50, 50, 150),
}  # fmt: skip
_PAPER = {
    "n_scales": 6, "n_layers": 4, "n_hidden": 9, "use_pe": False, "activation": "sine", "output": "linear",
    "use_amplitude": False, "optimizer": "adam", "beta2": 0.999, "lr": 5e-4, "coarse_lr": 1.0, "loss_thr": 2e-7,
    "output_start": 1.0, "coarse_share": 1.0, "solve_start": False, "weight_sharing": "paper",
}  # fmt: skip

# By name and task.
PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "ours": {"image": {}, "mesh": {}, "volume": {}},
    "miner_pl": {"image": _MINER_PL_IMAGE, "mesh": _MINER_PL_GRID, "volume": _MINER_PL_GRID},
    "paper": {"image": _PAPER, "mesh": _PAPER, "volume": _PAPER},
}
# What --target_psnr takes for an image where neither width nor patch is given: up to so many dB, the smallest of these
# networks that reached it, with the usual epochs, on both a 4096x2048 Moon and an 8192x4096 relief
# (docs/experiments.md). Small pictures, which hold more in each block, may miss it; longer training needs fewer
# parameters.
_BY_TARGET = (
    (31, {"patch_size": (64,), "n_hidden": 8}),
    (33, {"patch_size": (64,), "n_hidden": 16}),
    (35, {"patch_size": (64,), "n_hidden": 20}),
    (37, {"patch_size": (64,), "n_hidden": 28}),
    (38, {"patch_size": (64,), "n_hidden": 31}),
    (40, {"n_hidden": 16}),
    (45, {}),
    (50, {"n_hidden": 28}),
    (52, {"n_hidden": 31}),
    (60, {"patch_size": (16,), "n_hidden": 28, "precision": "tf32"}),
    (math.inf, {"patch_size": (16,), "n_hidden": 31, "precision": "tf32"}),
)
# What a preset does not set where another option is given that says the contrary.
_GIVES_WAY = {
    "loss_thr": "target_psnr", "n_scales": "num_epochs", "num_epochs": "n_scales", "n_freq": "use_pe",
    "use_pe": "n_freq",
}  # fmt: skip


def by_target(psnr: float) -> dict[str, Any]:
    """Width and patch of an image's networks, and the precision of their training, for a PSNR in dB to aim at."""
    return next(values for most, values in _BY_TARGET if psnr <= most)


def larger_target(psnr: float) -> float | None:
    """The least PSNR in whole dB that `by_target` has larger networks for than for this one; None if it has none."""
    most = next(most for most, _ in _BY_TARGET if psnr <= most)
    return None if most == math.inf else most + 1


def preset_values(given: dict[str, Any]) -> dict[str, Any]:
    """What the preset sets of the options that are neither given nor contradicted by one that is."""
    values = PRESETS[given.get("preset", "ours")][given.get("task", "image")]
    told = set(given)
    if len(given.get("num_epochs", ())) == 1:
        # One number for all levels says nothing of how many there are.
        told.discard("num_epochs")
    values = {name: v for name, v in values.items() if name not in given and _GIVES_WAY.get(name) not in told}
    if given.get("n_layers") == 1:
        values.pop("n_hidden", None)
    if given.get("optimizer", "adam") not in ("radam", "adam", "muon"):
        values.pop("beta2", None)
    return values
