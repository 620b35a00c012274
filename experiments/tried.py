"""Weight sharing at three budgets, and every idea that was tried, won or lost."""

from collections.abc import Iterator
from pathlib import Path

from experiments.inputs import gyroid, shape, stand_in
from experiments.rows import Row
from experiments.variants import VARIANTS

SIZE = (2048, 1024)
WAYS = {
    f"{way}, {'solved' if solve else 'random'}": f"--weight_sharing {way} --{'' if solve else 'no-'}solve_start"
    for way in ("none", "paper", "inherit", "exact")
    for solve in (True, False)
}
BUDGETS = {"full": 1.0, "half": 0.5, "quarter": 0.25}


def sharing(folder: Path, stand_ins: Path | None) -> list[Row]:
    """Ways to begin, on three pictures and two shapes, at full, half and a quarter of the epochs."""
    rows = []
    for what, options, last in _inputs(folder, stand_ins):
        for budget, part in BUDGETS.items():
            epochs = [str(round(n * part)) for n in (50, 50, 50, last)]
            usual = ["--n_scales", "4", "--num_epochs", *epochs, "--val_freq", str(round(50 * part))]
            for way, settings in WAYS.items():
                name = f"{what}, {budget}: {way}"
                rows.append(Row("sharing", f"{what}, {budget} budget", name, (*options, *usual, *settings.split())))
    return rows


def _inputs(folder: Path, stand_ins: Path | None) -> Iterator[tuple[str, list[str], int]]:
    """Name, options and epochs of the finest level of what weight sharing is measured on."""
    for stem in ("moon", "relief8k", None):
        yield stem or "sample", stand_in(stem, SIZE, stand_ins)[0], 200
    yield "gyroid", gyroid(folder, 128)[0], 150
    if bunny := shape("bunny_", stand_ins):
        yield "bunny", bunny[0], 150


def tried(folder: Path, stand_ins: Path | None) -> list[Row]:
    """Every variant beside the method, at full and half budget, and at a threshold that no block reaches early."""
    options, what = stand_in("moon", SIZE, stand_ins)
    rows = []
    for label, settings in {
        "loss_thr 1e-4": "--num_epochs 50 50 50 200",
        "loss_thr 1e-4, half the epochs": "--num_epochs 25 25 25 100 --val_freq 25",
        "loss_thr 1e-5": "--num_epochs 100 100 100 400 --loss_thr 1e-5",
    }.items():
        for variant in VARIANTS:
            # Two branches of 12 each have the parameters of 20 hidden units.
            width = ["--n_hidden", "30"] if variant == "split layer" else []
            argv = (*options, "--n_scales", "4", "--engine", "reference", *settings.split(), *width)
            rows.append(Row("tried", f"{what}, {label}", f"{variant}, {label}", argv, variant))
        linear = (*options, "--n_scales", "4", "--engine", "reference", *settings.split(), "--output", "linear")
        rows.append(Row("tried", f"{what}, {label}", f"normalised residual, linear output, {label}", linear,
                        "normalised residual"))  # fmt: skip
    return rows
