"""PSNR against the time of a fit, and as a picture with instant-ngp's beside it."""

from pathlib import Path
from typing import Any

from experiments.inputs import whole
from experiments.rows import Row
from experiments.settings import PICTURES

BASE = "--n_scales 4 --a 0.2"
SETTINGS = (
    "--num_epochs 6 6 6 12", "--num_epochs 12 12 12 25", "--num_epochs 25 25 25 25", "--num_epochs 25 25 25 50",
    "--num_epochs 25 25 25 100", "--num_epochs 50 50 50 100", "--num_epochs 50 50 50 200",
    "--num_epochs 50 50 50 200 --n_hidden 28", "--num_epochs 50 50 50 200 --n_hidden 31",
    "--num_epochs 50 50 50 200 --n_hidden 31 --prune_thr 1e-7",
    "--num_epochs 50 50 50 200 --n_hidden 31 --loss_thr 3e-5 --prune_thr 1e-7",
    "--num_epochs 50 50 50 200 --n_hidden 31 --loss_thr 1e-5 --prune_thr 1e-7",
)  # fmt: skip
# PSNR after seconds of pure training, by input and table, measured with its own image recipe on one NVIDIA H200.
SECONDS = (0.3, 0.6, 1.2, 2.3, 4.7, 6.0)
INSTANT_NGP = {
    "moon": {"17.6 M": (36.2, 36.8, 38.4, 40.8, 43.9, 44.3), "5.5 M": (32.6, 33.5, 36.0, 36.7, 37.5, 38.6)},
    "relief8k": {"31.4 M": (33.0, 35.0, 37.0, 37.6, 39.0, 39.6), "6.8 M": (32.0, 33.0, 34.7, 37.0, 39.0, 39.5)},
}


def times(folder: Path, stand_ins: Path | None) -> list[Row]:
    """Fits of rising length and width, of the pictures that instant-ngp was measured on."""
    rows = []
    for stem, size in PICTURES.items():
        if not (found := whole(stem, size, stand_ins)):
            continue
        options, what = found
        for settings in SETTINGS:
            argv = (*options, *BASE.split(), *settings.split())
            rows.append(Row("times", stem, f"{stem}: {settings}", argv, about={"input": what}))
    return rows


def plot_instant_ngp(axes, stem: str) -> None:
    """Plot its PSNR after seconds of training a picture, a line a table."""
    for (params, psnrs), style in zip(INSTANT_NGP[stem].items(), ("s-", "s:"), strict=True):
        axes.plot(SECONDS, psnrs, style, color="#30638e", markersize=4, label=f"instant-ngp, {params}")


def draw(results: list[dict[str, Any]], path: Path) -> None:
    """Draw the results of `times`, each picture in a panel of its own, into a file; none where there are none.

    Times count only of results that ran alone.
    """
    from matplotlib.figure import Figure

    results = [
        result for result in results if result.get("psnr") and result.get("alone") and "--path" in result["argv"]
    ]
    stems = [stem for stem in PICTURES if any(result["group"] == stem for result in results)]
    if not stems:
        return
    figure = Figure((4.5 * len(stems), 3.6), layout="constrained")
    for axes, stem in zip(figure.subplots(1, len(stems), sharey=True, squeeze=False)[0], stems, strict=True):
        found = sorted((r["fit_s"], r["psnr"], r["n_params"] / 1e6) for r in results if r["group"] == stem)
        best = [row for k, row in enumerate(found) if all(row[1] > before[1] for before in found[:k])]
        axes.plot(
            [s for s, _, _ in best], [dB for _, dB, _ in best], "o-", color="#d1495b", label="this, through train.py"
        )
        for seconds, psnr, params in [*best[1:-1:3], *best[-1:]]:
            axes.annotate(f"{params:.0f} M", (seconds, psnr), (6, -10), textcoords="offset points", fontsize=8)
        plot_instant_ngp(axes, stem)
        axes.set(xscale="log", xlabel="seconds of fit", title=f"{stem}, {PICTURES[stem][0]}x{PICTURES[stem][1]}")
        axes.set_xticks([0.05, 0.1, 0.2, 0.5, 1, 2, 5], ["0.05", "0.1", "0.2", "0.5", "1", "2", "5"])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, loc="upper right" if stem == "moon" else "center right")
    figure.axes[0].set_ylabel("PSNR (dB)")
    figure.savefig(path, dpi=110)
