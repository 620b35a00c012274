"""Every claim of MINER_pl's README as rows, and what else the method's settings do."""

from pathlib import Path

from experiments.inputs import mesh, photograph, shapes, stand_in, whole
from experiments.rows import Row
from experiments.settings import MESH, PICTURES, epochs

SIZE = (2048, 1024)
EPOCHS = f"{epochs()} --patch_size 32"
PATCHES = (8, 16, 32, 64)
WHOLE = "--input_size 4096 2048 --patch_size 16"
GROUPS = {
    "Seeds": {f"seed {seed}": f"--seed {seed}" for seed in range(4)},
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
        for counts, patches in (
            ((1, 2, 3, 4, 5, 6), PATCHES),
            ((8, 10), (32, 64)),
            ((12,), (32, 64)),
            ((16, 24), (64,)),
        )
        for patch in patches
        for n in counts
    },
    "Threshold, by patch": {
        **{
            f"patch {patch}, loss_thr {thr}": f"--patch_size {patch} --loss_thr {thr}"
            for patch in PATCHES
            for thr in ("1e-3", "3e-4", "1e-4", "3e-5", "1e-5")
        },
        "patch 32, loss_thr 2e-7": "--loss_thr 2e-7",
    },
    "Learning rate, by patch": {
        f"patch {patch}, lr {lr}": f"--patch_size {patch} --lr {lr}"
        for patch in PATCHES
        for lr in ("1e-2", "3e-2", "6e-2")
    },
    "Optimizer": {
        f"{name}, lr {lr}{f', beta2 {beta2}' if beta2 else ''}": f"--optimizer {name} --lr {lr}"
        f"{f' --beta2 {beta2}' if beta2 else ''}"
        for beta2 in (None, 0.999)
        for name in ("radam", "adam")
        for lr in ("3e-2", "1e-2", "5e-4")
    },
    "Cells of a step, and memory": {
        f"batch {batch}, {engine}": f"--batch_size {batch} --engine {engine}"
        for engine in ("auto", "reference")
        for batch in (64, 128, 256, 512, 1024)
    },
    "Blocks at once, and memory": {
        f"at most {blocks} blocks, {engine}": f"--b_chunks {blocks} --engine {engine}"
        for engine in ("auto", "reference")
        for blocks in (256, 1024, 16384)
    },
    "Pictures in TensorBoard": {"without": "", "with": "--log_image"},
    "Where training begins": {
        "output layer in closed form": "--solve_start",
        "random, output layer at 0.3": "",
        "random, output layer at 1": "--output_start 1",
    },
    "When a coarser block gets a network": {f"above {x} of loss_thr": f"--coarse_share {x}" for x in (1, 0.75, 0.5)},
    "Precision of the products": {
        f"{what}{precision}": f"--loss_thr {thr} --prune_thr {float(thr) / 4:g} --precision {precision}{more}"
        for what, thr, precisions, more in (
            ("loss_thr 1e-4, ", "1e-4", ("bfloat16", "tf32", "float32"), ""),
            ("loss_thr 1e-5, ", "1e-5", ("bfloat16", "tf32", "float32"), ""),
            ("loss_thr 1e-6, ", "1e-6", ("bfloat16", "tf32", "float32"), ""),
            ("loss_thr 1e-6, 4096x2048, patch 16, ", "1e-6", ("bfloat16", "tf32"), f" {WHOLE}"),
        )
        for precision in precisions
    },
    "Second moments": {f"beta2 {x}": f"--beta2 {x}" for x in (0.999, 0.99, 0.95)},
    "Where a block stops training": {f"at {x}": f"--prune_thr {x}" for x in ("1e-4", "2.5e-5", "1e-5")},
    "What the paper has, one at a time": {
        "ours": "",
        "4 layers of 9": "--n_layers 4 --n_hidden 9",
        "6 scales": "--n_scales 6 --num_epochs 50 50 50 50 50 200",
    },
    "Pyramid": {"laplacian": "", "gaussian": "--pyr gaussian"},
    "Presets": {
        "ours": "",
        "miner_pl": "--preset miner_pl",
        "paper": "--preset paper",
        "paper, loss_thr 1e-4": "--preset paper --loss_thr 1e-4",
        "paper, lr 3e-3": "--preset paper --lr 3e-3",
    },
}
# In plain torch, which can set gradients to zero; by the fused kernels too, for what pruning saves there.
PRUNING = {
    "pruned copy, fused": ("", "none"),
    "no pruning, fused": ("--pruning none", "none"),
    "pruned copy at loss_thr, fused": ("--prune_thr 1e-4", "none"),
    "pruned copy at loss_thr, plain torch": ("--engine reference --prune_thr 1e-4", "none"),
    "pruned copy, plain torch": ("--engine reference", "none"),
    "pruned copy, plain torch, watched": ("--engine reference", "watched"),
    "gradients zeroed, plain torch": ("--engine reference --pruning zero_grad", "watched"),
    "no pruning, plain torch": ("--engine reference --pruning none", "none"),
    "pruned copy, plain torch, adam at 1e-2": ("--engine reference --optimizer adam --lr 1e-2", "watched"),
    "gradients zeroed, plain torch, adam at 1e-2": (
        "--engine reference --pruning zero_grad --optimizer adam --lr 1e-2", "watched"),
    "gradients zeroed, plain torch, unwatched": ("--engine reference --pruning zero_grad", "none"),
}  # fmt: skip


# Of about the same parameters: 826 and 852 a network, 906 and 906, 2426 and 2400.
FREQUENCIES = {
    f"patch {patch}, {n} frequencies, {hidden} hidden units": f"--patch_size {patch} --n_freq {n} --n_hidden {hidden}"
    for patch, n, hidden in (
        (32, 4, 20),
        (32, 6, 18),
        (64, 5, 20),
        (64, 10, 15),
        (64, 5, 38),
        (64, 24, 20),
    )
}
# MINER_pl itself, run unchanged: on one NVIDIA H200, and on two CPU cores.
ON_A_GPU, ON_A_CPU = "--preset miner_pl", "--preset miner_pl --n_scales 3 --num_epochs 50 50 100"
MINER_PL = [
    ("moon", PICTURES["moon"], (ON_A_GPU,), "41.66 dB, 8.47 M, 66.6 s, by an H200"),
    ("relief8k", PICTURES["relief8k"], (ON_A_GPU,), "43.32 dB, 11.82 M, 91.1 s, by an H200"),
    ("moon1k", (1024, 512), (ON_A_CPU, f"{ON_A_CPU} --seed 1"), "42.41 dB, 0.469 M, by two CPU cores"),
]


def claims(folder: Path, stand_ins: Path | None) -> list[Row]:
    """All groups on one picture, some on others too, and the thresholds of occupancy on shapes."""
    options, what = stand_in("moon", SIZE, stand_ins)
    rows = []
    for group, members in GROUPS.items():
        for name, settings in members.items():
            usual = [] if group == "Presets" else EPOCHS.split()
            rows.append(_row(f"{group} ({what})", f"{group}: {name}", (*options, *usual), settings))
    for name, (settings, variant) in PRUNING.items():
        group = "Pruning, and gradients set to zero instead"
        rows.append(_row(f"{group} ({what})", f"{group}: {name}", (*options, *EPOCHS.split()), settings, variant))
    for stem in PICTURES:
        if found := photograph(stem, SIZE, stand_ins):
            group = f"Frequencies at equal parameters, {stem}"
            for name, settings in FREQUENCIES.items():
                usual = (*found[0], *EPOCHS.split())
                rows.append(_row(f"{group} ({found[1]})", f"{group}: {name}", usual, settings))
    for stem, size, commands, measured in MINER_PL:
        if found := whole(stem, size, stand_ins):
            group, about = "The preset beside MINER_pl", {"input": found[1], "MINER_pl, measured": measured}
            for settings in commands:
                rows.append(_row(group, f"{group}: {stem}, {settings}", found[0], settings, about=about))
    for argv, name in shapes(folder, stand_ins):
        group = f"Threshold of occupancy, {name}"
        for thr in ("5e-2", "5e-3", "5e-4", "2e-7"):
            usual = (*argv, *epochs(MESH).split())
            rows.append(_row(group, f"{group}: loss_thr {thr}", usual, f"--loss_thr {thr}"))
    return rows


def meshes(folder: Path, stand_ins: Path | None) -> list[Row]:
    """What --M and --T of preprocess_mesh.py do; on the CPU."""
    path, what = mesh(folder, stand_ins)
    settings = [(f"--M {m}", (m, 1, 0.0)) for m in (1, 27, 125)]
    broken = [(f"--T {t}", (1, t, 0.05)) for t in (1, 3, 5)]
    return [
        Row(
            "meshes",
            f"{what} at 128^3{more}",
            f"{'broken' if more else 'intact'} mesh: {name}",
            (path, *map(str, values)),
            "voxels",
        )
        for more, rows in (("", settings), (", 5 % of its faces removed", broken))
        for name, values in rows
    ]


def _row(
    group: str, name: str, usual: tuple[str, ...], settings: str, variant: str = "none", about: dict | None = None
) -> Row:
    argv = (*usual, *settings.split())
    return Row("claims", group, name, argv, variant, about=(about or {}) | {"settings": settings})
