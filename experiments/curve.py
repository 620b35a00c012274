"""Quality against parameters and time: what targets reach, a sweep of sizes, and the settings that no other beats."""

import math
from pathlib import Path
from typing import Any

from experiments.inputs import crop, photograph
from experiments.rows import Row
from experiments.settings import IMAGE, PICTURES, epochs
from experiments.times import INSTANT_NGP, plot_instant_ngp

WANTED = (30, 35, 40, 45, 50, 55, 60)
# Each network that --target_psnr has, at the highest PSNR that it is taken for, and some between.
TARGETS = (30, 31, 33, 35, 37, 38, 40, 43, 45, 48, 50, 52, 55, 60, 62)
# By threshold: what is reached late takes long.
EPOCHS = {"1e-3": (50, 50, 50, 100), "1e-4": IMAGE, "1e-5": (100, 100, 100, 400), "1e-6": (100, 100, 100, 800)}
# The shapes that come first are those that the others lie between.
SHAPES = sorted(
    (
        (hidden, layers, patch)
        for hidden in (8, 16, 20, 28, 31, 48, 63)
        for layers in (2, 3, 4)
        for patch in (16, 32, 64)
    ),
    key=lambda shape: (shape[1] != 3, shape[2] == 64, shape[0] not in (20, 28, 31, 63)),
)


def targets(folder: Path, stand_ins: Path | None) -> list[Row]:
    """What --target_psnr reaches by itself, on two pictures."""
    return [
        Row("targets", what, f"{stem}: {words}", (*options, *words.split()), about={"settings": words})
        for stem, size in PICTURES.items()
        if (found := photograph(stem, size, stand_ins))
        for options, what in [found]
        for words in (f"--target_psnr {target}" for target in TARGETS)
    ]


def curve(folder: Path, stand_ins: Path | None) -> list[Row]:
    """The sweep, on one picture."""
    if not (found := photograph("moon", PICTURES["moon"], stand_ins)):
        return []
    options, what = found
    # Its front will be measured on a crop, too: whether that can be cut is said before.
    _crop(folder, options)
    return [
        _row(f"{what}: sweep", options, *shape, thr) for thr in ("1e-4", "1e-5", "1e-6", "1e-3") for shape in SHAPES
    ]


def again(folder: Path, stand_ins: Path | None, results: list[dict[str, Any]]) -> list[Row]:
    """Settings of the front, a decibel apart, once more: alone on the machine so that times count; and on a crop."""
    if not (found := photograph("moon", PICTURES["moon"], stand_ins)):
        return []
    options, what = found
    places = [("alone", options, what)]
    if found := _crop(folder, options):
        places.append(("crop", found[0], f"crop {found[1]}"))
    settings, last = [], 0.0
    for result in pareto(results, "n_params"):
        if result["psnr"] >= last + 1:
            settings, last = [*settings, result["about"]["settings"]], result["psnr"]
    return [
        Row("curve", f"{title}: the front", f"{label}: {words}", (*place, *words.split()), about={"settings": words},
            place=n)
        for label, place, title in places
        for n, words in enumerate(settings)
    ]  # fmt: skip


def _crop(folder: Path, options: list[str]) -> tuple[list[str], str] | None:
    return crop(folder, options[1], (1500, 700), (1024, 1024))


def _row(group: str, options: list[str], hidden: int, layers: int, patch: int, thr: str) -> Row:
    settings = (
        f"--n_hidden {hidden} --n_layers {layers} --patch_size {patch} --loss_thr {thr} --prune_thr {float(thr) / 4:g} "
        f"{epochs(EPOCHS[thr])}"
    )
    return Row("curve", group, settings, (*options, *settings.split()), about={"settings": settings})


def pareto(results: list[dict[str, Any]], cost: str) -> list[dict[str, Any]]:
    """The results than which none is better at no more `cost`, by rising cost."""
    front: list[dict[str, Any]] = []
    for result in sorted((r for r in results if r.get("psnr")), key=lambda r: (r[cost], -r["psnr"])):
        if not front or result["psnr"] > front[-1]["psnr"]:
            front.append(result)
    return front


def draw(results: list[dict[str, Any]], path: Path) -> None:
    """Draw PSNR against parameters a pixel and against seconds into a file; none where there are no results.

    Each is the front of the results of a picture; seconds count of rows that ran alone. Beside the picture that
    instant-ngp was measured on stand its own.
    """
    from matplotlib.figure import Figure

    pictures: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        if result.get("psnr"):
            pictures.setdefault(Path(result["options"]["path"]).stem, []).append(result)
    if not pictures:
        return
    figure = Figure((9, 3.8), layout="constrained")
    by_size, by_time = figure.subplots(1, 2, sharey=True)
    for (name, found), colour in zip(pictures.items(), ("#d1495b", "#edae49", "#66a182"), strict=False):
        pixels = math.prod(found[0]["options"]["input_size"])
        front = [(result["n_params"] / pixels, result["psnr"]) for result in pareto(found, "n_params")]
        times = [(result["fit_s"], result["psnr"]) for result in pareto([r for r in found if r["alone"]], "fit_s")]
        for axes, points in ((by_size, front), (by_time, times)):
            axes.plot(*zip(*points, strict=True), "o-", color=colour, markersize=3, label=name) if points else None
        if tuple(found[0]["options"]["input_size"]) == PICTURES.get(name):
            last = [(1e6 * float(size.split()[0]) / pixels, psnrs[-1]) for size, psnrs in INSTANT_NGP[name].items()]
            by_size.plot(*zip(*last, strict=True), "s", color="#30638e", markersize=5, label="instant-ngp, 6 s")
            plot_instant_ngp(by_time, name)
    by_size.set(xscale="log", xlabel="parameters a pixel", ylabel="PSNR (dB)")
    by_time.set(xscale="log", xlabel="seconds of fit")
    for axes, ticks in ((by_size, (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)), (by_time, (0.1, 0.2, 0.5, 1, 2, 5))):
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def winners(results: list[dict[str, Any]]) -> str:
    """For each target the settings that reach it with the fewest parameters and in the least time, as Markdown.

    Args:
        results: of one picture. Only times of rows that had the machine to themselves count.
    """
    lines = ["| target (dB) | fewest parameters | M | dB | least time | s | dB |", "|---|---|---|---|---|---|---|"]
    for target in WANTED:
        there = [result for result in results if (result.get("psnr") or 0) >= target]
        if not there:
            lines.append(f"| {target} | not reached | | | | | |")
            continue
        small = min(there, key=lambda r: r["n_params"])
        line = f"| {target} | {small['about']['settings']} | {small['n_params'] / 1e6:.2f} | {small['psnr']:.2f} "
        if alone := [result for result in there if result.get("alone")]:
            fast = min(alone, key=lambda r: r["fit_s"])
            line += f"| {fast['about']['settings']} | {fast['fit_s']:.2f} | {fast['psnr']:.2f} |"
        else:
            line += "| none that ran alone | | |"
        lines.append(line)
    return "\n".join(lines)
