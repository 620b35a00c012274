"""Every claim of the MINER_pl seeds as rows, and their closing question: random pixels."""

from pathlib import Path

from experiments.inputs import random_pixels, stand_in
from experiments.rows import Row

SIZE = (2048, 1024)
EPOCHS = "--n_scales 4 --num_epochs 50 50 50 200 --patch_size 32"
GROUPS = {
    "Output of a residual, with and without its amplitude": {
        f"{output}{', amplitude 1' if not amplitude else ''}": f"--output {output}"
        f"{' --no-use_amplitude' if not amplitude else ''}"
        for output in ("sin", "tanh", "linear")
        for amplitude in (True, False)
    },
    "Hidden activation": {
        "Gaussian": "",
        **{
            f"sine, omega_0 {omega}, lr {lr}": f"--activation sine --omega_0 {omega} --lr {lr}"
            for omega in (5, 10, 30)
            for lr in ("3e-2", "3e-3")
        },
    },
    "Positional encoding against one more layer, at equal parameters": {
        "encoding, 3 layers of 20": "--n_freq 4 --n_layers 3 --n_hidden 20",
        "none, 4 layers of 18": "--no-use_pe --n_layers 4 --n_hidden 18",
        "none, 3 layers of 25": "--no-use_pe --n_layers 3 --n_hidden 25",
    },
    "Frequencies of the encoding, by patch": {
        f"patch {patch}, {n} frequencies": f"--patch_size {patch} --n_freq {n}"
        for patch in (8, 16, 32, 64)
        for n in (1, 2, 3, 4, 5, 6)
    },
    "Threshold, by patch": {
        f"patch {patch}, loss_thr {thr}": f"--patch_size {patch} --loss_thr {thr}"
        for patch in (8, 16, 32, 64)
        for thr in ("1e-3", "3e-4", "1e-4", "3e-5", "1e-5")
    },
    "Optimizer": {
        f"{name}, lr {lr}": f"--optimizer {name} --lr {lr}"
        for name in ("radam", "adam")
        for lr in ("3e-2", "1e-2", "5e-4")
    },
    "Cells of a step, and memory": {
        f"batch {batch}, {engine}": f"--batch_size {batch} --engine {engine}"
        for engine in ("auto", "reference")
        for batch in (64, 128, 256, 512, 1024)
    },
    "Where training begins": {
        "output layer in closed form": "--solve_start",
        "random, output layer at 0.3": "",
        "random, output layer at 1": "--output_start 1",
    },
    "When a coarser block gets a network": {f"above {x} of loss_thr": f"--coarse_share {x}" for x in (1, 0.75, 0.5)},
    "Precision of the products": {
        f"loss_thr {thr}, {precision}": f"--loss_thr {thr} --prune_thr {float(thr) / 4:g} --precision {precision}"
        for thr in ("1e-4", "1e-5", "1e-6")
        for precision in ("bfloat16", "tf32", "float32")
    },
    "Second moments": {f"beta2 {x}": f"--beta2 {x}" for x in (0.999, 0.99, 0.95)},
    "Where a block stops training": {f"at {x}": f"--prune_thr {x}" for x in ("1e-4", "2.5e-5", "1e-5")},
    "Pyramid": {"laplacian": "", "gaussian": "--pyr gaussian"},
    "Presets": {
        "ours": "",
        "miner_pl": "--preset miner_pl",
        "paper": "--preset paper",
        "paper, loss_thr 1e-4": "--preset paper --loss_thr 1e-4",
        "paper, lr 3e-3": "--preset paper --lr 3e-3",
    },
}
# A block of 16 x 16 x 3 random numbers needs 1.6 times as many parameters, full batches, many steps, and products of
# more than the 8 bits of bfloat16.
NOISE = (
    "--patch_size 16 --n_scales 1 --n_layers 3 --n_hidden 28 --batch_size 256 --num_epochs 800 --loss_thr 4e-5 "
    "--precision tf32"
)
NOISE_ROWS = {
    "the settings found": NOISE,
    "31 hidden units": NOISE.replace("n_hidden 28", "n_hidden 31"),
    "in float32": NOISE.replace("tf32", "float32"),
    "in bfloat16": NOISE.replace("tf32", "bfloat16"),
    "half the epochs": NOISE.replace("800", "400"),
    "24 hidden units, twice the epochs": NOISE.replace("n_hidden 28", "n_hidden 24").replace("800", "1600"),
    "batches of 64, a quarter of the epochs": NOISE.replace("batch_size 256", "batch_size 64").replace("800", "200"),
    "a Laplacian pyramid of 2": NOISE.replace("n_scales 1", "n_scales 2"),
    "defaults": "",
    "defaults, patch 16": "--patch_size 16",
}


def claims(folder: Path, stand_ins: Path | None) -> list[Row]:
    """All groups on one picture, and the demonstration that zeroed gradients do not stop a block."""
    options, what = stand_in("moon", SIZE, stand_ins)
    rows = []
    for group, members in GROUPS.items():
        for name, settings in members.items():
            usual = [] if group == "Presets" else EPOCHS.split()
            argv = (*options, *usual, *settings.split())
            rows.append(Row("claims", f"{group} ({what})", f"{group}: {name}", argv, about={"settings": settings}))
    pruning = "Pruning: what it saves, and that zeroed gradients do not stop a block"
    rows.append(Row("claims", pruning, "pruned copy", (*options, *EPOCHS.split())))
    rows.append(Row("claims", pruning, "no pruning", (*options, *EPOCHS.split()), "no pruning"))
    rows.append(Row("claims", pruning, "zeroed gradients", (), "zeroed gradients"))
    return rows


def random_pixel_rows(folder: Path, stand_ins: Path | None) -> list[Row]:
    """Pictures of random pixels, 512 and 2048 wide; MINER_pl reached 43.91 dB on one, a hash grid 17."""
    return [
        Row("noise", f"{size}x{size} random pixels", f"{name}, {size}", (*options, *settings.split()),
            about={"settings": settings})
        for size in (512, 2048)
        for options, _ in [random_pixels(folder, size)]
        for name, settings in NOISE_ROWS.items()
    ]  # fmt: skip
