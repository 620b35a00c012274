"""The results table of MINER_pl's README, row by row, with what MINER_pl printed beside ours."""

from pathlib import Path

from experiments.inputs import bunny, picture
from experiments.rows import Row

# Name, picture, size, settings, and MINER_pl's printed seconds, MiB, M parameters and quality. The settings of pluto4k,
# tokyo6k and bunny512 are printed there; for the others they are ours, with as many levels as its rule allows.
GROUP = "The table of MINER_pl's README"
PLUTO = "--patch_size 32 32 --batch_size 256 --use_pe --n_layers 3"
PRINTED = [
    ("pluto4k", "pluto", (4096, 4096), f"{PLUTO} --n_scales 4 --num_epochs 50 50 50 200", (53, 3171, 9.16, 42.14)),
    ("pluto8k", "pluto", (8192, 8192), f"{PLUTO} --n_scales 5 --num_epochs 50 50 50 50 200", (106, 6099, 28.05, 45.09)),
    ("tokyo6k", "tokyo", (6000, 4000), "--patch_size 25 25 --batch_size 192 --n_scales 5 --use_pe --n_layers 3 "
     "--num_epochs 50 50 50 50 150", (68, 6819, 35.4, 42.48)),
    ("shibuya7k", "shibuya", (7168, 2560), f"{PLUTO} --n_scales 5 --num_epochs 50 50 50 50 200",
     (101, 8967, 17.73, 37.78)),
    ("shibuya14k", "shibuya large", (14336, 5120), f"{PLUTO} --n_scales 6 --num_epochs 50 50 50 50 50 200",
     (372, 8847, 75.42, 39.32)),
    ("shibuya28k", "shibuya large", (28672, 10240), f"{PLUTO} --n_scales 6 --num_epochs 50 50 50 50 50 200",
     (890, 10255, 277.37, 41.93)),
    ("shibuya28k paper sizes", "shibuya large", (28672, 10240), "--patch_size 32 32 --batch_size 256 --no-use_pe "
     "--n_layers 4 --n_hidden 9 --n_scales 6 --num_epochs 50 50 50 50 50 200", (1244, 6277, 98.7, 37.59)),
]  # fmt: skip
BUNNY = (
    "--patch_size 16 --batch_size 512 --n_scales 4 --use_pe --n_freq 5 --n_layers 2 --n_hidden 8 --loss_thr 5e-3 "
    "--b_chunks 512 --num_epochs 50 50 50 150"
)


def results(folder: Path, stand_ins: Path | None) -> list[Row]:
    """The rows of the table, those of less work first."""
    rows = []
    for name, source, size, settings, (seconds, memory, params, quality) in PRINTED:
        options, what = picture(source, size, stand_ins)
        printed = f"{quality} dB, {params} M, {seconds} s, {memory} MiB"
        about = {"input": what, "MINER_pl, printed, on the original": printed, "settings": settings}
        rows.append(Row("results", GROUP, name, (*options, *settings.split()), about=about))
    if found := bunny(folder, stand_ins):
        options, _, what = found
        about = {"input": what, "MINER_pl, printed, on the original": "-", "settings": BUNNY}
        rows.append(Row("results", GROUP, "bunny512", (*options, *BUNNY.split()), about=about))
    return rows
