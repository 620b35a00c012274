"""Quality against parameters and time: what targets reach, a sweep of sizes, and the settings that no other beats."""

from pathlib import Path
from typing import Any

from experiments.inputs import crop, photograph
from experiments.rows import Row

WANTED = (30, 35, 40, 45, 50, 55, 60)
# Each network that --target_psnr has, at the highest PSNR that it is taken for, and some between.
TARGETS = (30, 31, 33, 35, 37, 38, 40, 43, 45, 48, 50, 52, 55, 60, 62)
PICTURES = {"moon": (4096, 2048), "relief8k": (8192, 4096)}
EPOCHS = {"1e-3": (50, 100), "1e-4": (50, 200), "1e-5": (100, 400), "1e-6": (100, 800)}
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
    return [
        _row(f"{what}: sweep", options, *shape, thr) for thr in ("1e-4", "1e-5", "1e-6", "1e-3") for shape in SHAPES
    ]


def again(folder: Path, stand_ins: Path | None, results: list[dict[str, Any]]) -> list[Row]:
    """Settings of the front, a decibel apart, once more: alone on the machine so that times count; and on a crop."""
    if not (found := photograph("moon", PICTURES["moon"], stand_ins)):
        return []
    options, what = found
    place, name = crop(folder, options[1], (1500, 700), (1024, 1024))
    places = [("alone", options, what), ("crop", place, f"crop {name}")]
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


def _row(group: str, options: list[str], hidden: int, layers: int, patch: int, thr: str) -> Row:
    first, last = EPOCHS[thr]
    settings = (
        f"--n_hidden {hidden} --n_layers {layers} --patch_size {patch} --loss_thr {thr} --prune_thr {float(thr) / 4:g} "
        f"--n_scales 4 --num_epochs {first} {first} {first} {last}"
    )
    return Row("curve", group, settings, (*options, *settings.split()), about={"settings": settings})


def pareto(results: list[dict[str, Any]], cost: str) -> list[dict[str, Any]]:
    """The results than which none is better at no more `cost`, by rising cost."""
    front: list[dict[str, Any]] = []
    for result in sorted((r for r in results if r.get("psnr")), key=lambda r: (r[cost], -r["psnr"])):
        if not front or result["psnr"] > front[-1]["psnr"]:
            front.append(result)
    return front


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
