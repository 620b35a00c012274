"""Weight sharing at three budgets, and every idea that was tried, won or lost."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from experiments.inputs import crop, gyroid, photograph, shapes, stand_in
from experiments.rows import Row
from experiments.settings import IMAGE, MESH, epochs
from experiments.variants import VARIANTS

SIZE = (2048, 1024)
WAYS = {
    f"{way}, {'solved' if solve else 'random'}": f"--weight_sharing {way} --{'' if solve else 'no-'}solve_start"
    for way in ("none", "paper", "inherit", "exact")
    for solve in (True, False)
}
BUDGETS = {"full": 1.0, "half": 0.5, "quarter": 0.25}
# What heirs of "inherit" may begin with instead of what lies halfway.
HEIRS = ("heirs keep their a", "heirs begin with the usual a")
# And those of "exact", which are not scaled.
EXACT = "exact heirs halfway"
# Of the variants, those that are no idea to be tried.
SHOWN_ELSEWHERE = ("watched", *HEIRS, EXACT)
# Two branches of 13 hidden units have about the parameters of 20: 851 numbers for 826.
SPLIT = ("--n_hidden", "26")
# Ideas that options are all of, or a part of.
OPTIONS = {
    "split layer": SPLIT,
    "no pruning": ("--pruning", "none"),
    "Muon": ("--optimizer", "muon"),
    "half the rate at the finest level": ("--lr", "1.5e-2", "--coarse_lr", "2"),
    "twice the rate at coarser levels": ("--coarse_lr", "2"),
}
SETTINGS = {
    "full": epochs(),
    "half the epochs": f"{epochs(part=0.5)} --val_freq 25",
    "loss_thr 1e-5": f"{epochs(part=2)} --loss_thr 1e-5",
}
# These won something somewhere, so that a second seed and shapes are worth their time.
CLOSE = ("none", "Muon", "wider coarser levels", "narrower coarser levels", "twice the rate at coarser levels")


def sharing(folder: Path, stand_ins: Path | None) -> list[Row]:
    """Ways to begin, on three pictures and two shapes, at full, half and a quarter of the epochs."""
    rows, moon = [], None
    for stem, what, options, full in _inputs(folder, stand_ins):
        for budget, part in BUDGETS.items():
            usual = (*options, *epochs(full, part).split(), "--val_freq", str(round(50 * part)))
            for seed in (0, 1) if "mesh" in options else (0,):
                group = f"{what}, {budget} budget, seed {seed}"
                name, argv = f"{stem}, {budget}, seed {seed}", (*usual, "--seed", str(seed))
                rows += _ways(group, name, argv, WAYS) + _heirs(group, name, argv)
                if budget != "half":
                    rows += _heirs(group, name, argv, "exact", (EXACT,))
        usual = (*options, *epochs(full).split())
        if "mesh" in options:
            # What may be to blame where an heir does worse after more epochs.
            few = [way for way in WAYS if way.startswith(("none", "inherit"))]
            rows += _ways(f"{what}, full budget, lr 1e-2", f"{stem}, lr 1e-2", (*usual, "--lr", "1e-2"), few)
        elif stem == "moon":
            moon = options[1]
            rows += _ways(f"{what}, full budget, Gaussian", f"{stem}, Gaussian", (*usual, "--pyr", "gaussian"), WAYS)
    # Small enough for a CPU.
    options, what = gyroid(folder, 96)[0], "gyroid at 96^3"
    rows += _small(what, "small gyroid", options, MESH[1:])
    if moon and (found := crop(folder, moon, (1500, 700), (512, 512))):
        rows += _small(found[1], "small moon", found[0], (50, 50, 100))
    return rows


def _ways(group: str, name: str, usual: tuple[str, ...], ways: Iterable[str]) -> list[Row]:
    return [Row("sharing", group, f"{name}: {way}", (*usual, *WAYS[way].split())) for way in ways]


def _heirs(
    group: str, name: str, usual: tuple[str, ...], sharing: str = "inherit", variants: Iterable[str] = HEIRS
) -> list[Row]:
    """Other heirs of a way to share weights."""
    return [
        Row("sharing", group, f"{name}: {way}, {variant}", (*usual, *WAYS[way].split()), variant)
        for way in (f"{sharing}, solved", f"{sharing}, random")
        for variant in variants
    ]


def _small(what: str, stem: str, options: list[str], full: tuple[int, ...]) -> list[Row]:
    rows = []
    for budget, more in (("full", ()), ("quarter", ("--val_freq", "12"))):
        group, name = f"{what}, {budget} budget, small", f"{stem}, {budget}"
        usual = (*options, *epochs(full, BUDGETS[budget]).split(), *more)
        rows += _ways(group, name, usual, [way for way in WAYS if not way.startswith("paper")])
        rows += _heirs(group, name, usual)
    return rows


def _inputs(folder: Path, stand_ins: Path | None) -> Iterator[tuple[str, str, list[str], tuple[int, ...]]]:
    """Name, what it is, options and epochs of what weight sharing is measured on."""
    for stem in ("moon", "relief8k"):
        if found := photograph(stem, SIZE, stand_ins):
            yield stem, found[1].removeprefix("stand-in: "), found[0], IMAGE
    options, what = stand_in(None, SIZE, stand_ins)
    yield "sample", what.removeprefix("stand-in: "), options, IMAGE
    for options, what in shapes(folder, stand_ins):
        yield what.split()[0], what, options, MESH


def tried(folder: Path, stand_ins: Path | None) -> list[Row]:
    """Every variant beside the method on two pictures, at full and half budget, and at a threshold that no block
    reaches early; those that came close with a second seed, and on two shapes.
    """
    rows = []
    for stem in ("moon", "relief8k"):
        if not (found := photograph(stem, SIZE, stand_ins)):
            continue
        options, what = found
        for label, settings in SETTINGS.items():
            usual = (*options, "--engine", "reference", *settings.split())
            group = f"{what.removeprefix('stand-in: ')}, {label}"
            for variant in dict.fromkeys((*VARIANTS, *OPTIONS)):
                if variant not in SHOWN_ELSEWHERE:
                    rows.append(_row(group, f"{stem}, {label}: {variant}", usual, variant))
            linear = (*usual, "--output", "linear")
            rows.append(
                Row("tried", group, f"{stem}, {label}: normalised residual, linear output", linear,
                    "normalised residual")
            )  # fmt: skip
            for variant in CLOSE:
                rows.append(_row(group, f"{stem}, {label}: {variant}, seed 1", (*usual, "--seed", "1"), variant))
    for options, what in shapes(folder, stand_ins):
        for seed in (0, 1):
            usual = (*options, *epochs(MESH).split(), "--engine", "reference", "--seed", str(seed))
            # Two layers have no matrix between hidden ones, which is what Muon is of.
            for variant in (variant for variant in CLOSE if variant != "Muon"):
                name = f"{what}: {variant}{f', seed {seed}' if seed else ''}"
                rows.append(_row(f"{what}, full", name, usual, variant))
    return rows


def _row(group: str, name: str, usual: tuple[str, ...], variant: str) -> Row:
    argv = (*usual, *OPTIONS.get(variant, ()))
    if variant not in (*VARIANTS, *OPTIONS):
        raise KeyError(f"no variant is called {variant!r}")
    return Row("tried", group, name, argv, variant if variant in VARIANTS else "none")
