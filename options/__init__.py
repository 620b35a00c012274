"""Every option of train.py: its name, its meaning and its default."""

import argparse
from dataclasses import dataclass, field
from typing import Any

from options.presets import PRESETS

TASKS = ("image", "mesh", "volume")
AXES = {"image": 2, "mesh": 3, "volume": 3}
PYRAMIDS = ("laplacian", "gaussian")
ENGINES = ("auto", "reference", "fused")
PRECISIONS = ("bfloat16", "tf32", "float32")
SAVE_DTYPES = ("float32", "float16", "int8")
ACTIVATIONS = ("gaussian", "sine")
SHARING = ("none", "paper", "inherit", "exact")
OUTPUTS = ("sin", "tanh", "linear")
PRUNING = ("copy", "zero_grad", "none")
# What a task takes where nothing is given.
DEFAULTS = {
    "image": {"patch": 32, "batch_size": 256, "n_layers": 3, "n_hidden": 20, "last_epochs": 200,
              "loss_thr": 1e-4, "prune_share": 0.25, "solve_start": False},
    "mesh": {"patch": 16, "batch_size": 512, "n_layers": 2, "n_hidden": 8, "last_epochs": 150,
             "loss_thr": 5e-3, "prune_share": 1.0, "solve_start": True},
    "volume": {"patch": 16, "batch_size": 512, "n_layers": 2, "n_hidden": 16, "last_epochs": 150,
               "loss_thr": 1e-4, "prune_share": 0.25, "solve_start": False},
}  # fmt: skip
LEAST_MEMORY = 2**26


def option(default: Any, text: str, *aliases: str, **argument: Any) -> Any:
    """A field of Options with what argparse needs to know of it."""
    return field(default=default, metadata={"help": text, "aliases": aliases, "argument": argument})


@dataclass(frozen=True)
class Options:
    """What a run is asked for. None means: depends on the task and the input, settled by `opt.settle`."""

    preset: str = option(
        "ours", "where options begin: ours, the recipe of MINER_pl, or the network of the paper", choices=PRESETS
    )
    task: str = option(
        "image", "an image, an occupancy grid of preprocess_mesh.py, or a grid of numbers", choices=TASKS
    )
    path: str | None = option(None, "the file to fit (default: a built-in sample planet)", "--image_path")
    input_size: tuple[int, ...] | None = option(
        None, "resize the image to X Y before fitting, or the size of the sample (default: as it is; 1024 512); "
        "a grid must have this size",
        "--img_wh", type=int, nargs="+", metavar="N",
    )  # fmt: skip
    patch_size: tuple[int, ...] | None = option(
        None, "cells of a block along X Y [Z], or one number for all (default: 32; 3D 16)", "--patch_wh",
        type=int, nargs="+", metavar="N",
    )  # fmt: skip
    n_scales: int | None = option(
        None, "levels of the pyramid (default: the count of num_epochs, or until 128 blocks are left; 3D 8)",
        type=int, metavar="N",
    )  # fmt: skip
    batch_size: int | None = option(
        None, "cells of every block that a step sees (default: 256; 3D 512)", type=int, metavar="N"
    )
    use_pe: bool = option(True, "positional encoding of the coordinates", action=argparse.BooleanOptionalAction)
    n_freq: int | None = option(
        None, "frequencies of the encoding (default: log2 of the patch, less 1; 3D plus 1)", type=int, metavar="N"
    )
    n_layers: int | None = option(
        None, "linear layers of a block's network, the output layer counted (default: 3; 3D 2)", type=int, metavar="N"
    )
    n_hidden: int | None = option(
        None, "width of its hidden layers (default: 20; mesh 8, volume 16)", type=int, metavar="N"
    )
    activation: str = option("gaussian", "hidden layers exp(-x^2 / 2a^2), or sin(omega_0 x)", choices=ACTIVATIONS)
    omega_0: float | None = option(None, "frequency of --activation sine (default: 30)", type=float, metavar="W")
    output: str = option(
        "sin", "what networks of a residual end in: sin(a x), tanh(x) or x, times the amplitude", choices=OUTPUTS
    )
    weight_sharing: str = option(
        "none", "where a network begins: afresh, or as an heir of the coarser level's (docs/method.md)", choices=SHARING
    )
    solve_start: bool | None = option(
        None, "begin with the output layer in closed form (default: of a mesh)", action=argparse.BooleanOptionalAction
    )
    use_amplitude: bool = option(
        True, "scale a block's output by its largest residual", action=argparse.BooleanOptionalAction
    )
    # Measured on a 1024x512 Moon, two seeds: 42.75 dB, and 42.5 dB with 1.
    output_start: float = option(
        0.3, "how large the output layer starts, as a part of the usual", type=float, metavar="X"
    )
    # A coarse block without a network hands its residual down to 2^d children, each of which then needs a network of
    # its own. Measured on a 1024x512 Moon, two seeds: 1.0 gives 604 networks and 43.1 dB, 0.75 gives 575 and 42.75 dB,
    # 0.5 gives 561 and 42.65 dB.
    coarse_share: float = option(
        0.75, "part of loss_thr above which a block of a coarser level gets a network", type=float, metavar="X"
    )
    a: float = option(0.1, "where the trainable a of every activation starts", type=float, metavar="A")
    num_epochs: tuple[int, ...] | None = option(
        None, "epochs: one number for all scales, or one per scale, coarse to fine (default: 50 ... 50 200; 3D 150)",
        type=int, nargs="+", metavar="N",
    )  # fmt: skip
    lr: float = option(3e-2, "learning rate at the start of a level", type=float, metavar="LR")
    # Twice the rate gains 0.2 to 0.35 dB on relief8k and ties on moon and on shapes (docs/experiments.md), as far as
    # 2048x1024 pixels.
    coarse_lr: float = option(1.0, "learning rate of the coarser levels, as a multiple of lr", type=float, metavar="X")
    optimizer: str = option("radam", "radam, adam, muon, or one of torch-optimizer", metavar="NAME", type=str.lower)
    loss_thr: float | None = option(
        None,
        "mean square error below which a block is good enough (default: 1e-4; mesh 5e-3)",
        type=float,
        metavar="MSE",
    )
    prune_thr: float | None = option(
        None,
        "mean square error below which a block stops training (default: loss_thr if you give it, and of a mesh; else a "
        "quarter of it)",
        type=float,
        metavar="MSE",
    )
    target_psnr: float | None = option(
        None,
        "aims at a PSNR in dB: sets loss_thr and, of an image, width, patch and precision; a miss is said",
        type=float,
        metavar="DB",
    )
    pruning: str = option(
        "copy",
        "blocks that are good enough leave the training copy, or only have their gradients set to zero, which does not "
        "stop them, or train on as the others",
        choices=PRUNING,
    )
    beta2: float = option(0.99, "decay of the second moment of radam, adam and muon", type=float, metavar="B")
    val_freq: int = option(
        50, "epochs between two prunings; with --pruning none, where the model is the same whatever it is, between two "
        "points of the curves and of a resume",
        type=int, metavar="N",
    )  # fmt: skip
    pyr: str = option("laplacian", "levels learn residuals, or the signal itself", choices=PYRAMIDS)
    b_chunks: int = option(16384, "the most blocks on the device at once", type=int, metavar="N")
    memory: int | None = option(
        None,
        "bytes of host and of GPU memory that the run may take beside its imports, as 1GiB or 800MB "
        "(default: half of the free host memory, most of the free GPU memory)",
        metavar="SIZE",
    )
    engine: str = option(
        "auto", "fused: GPU kernels; reference: plain torch; auto: fused where it can run", choices=ENGINES
    )
    precision: str | None = option(
        None,
        "what the fused engine multiplies in training; sums and weights are float32 (default: bfloat16; tf32 where "
        "--target_psnr chooses for more than 52 dB)",
        choices=PRECISIONS,
    )
    save_dtype: str = option(
        "float16", "numbers of the model file; int8: weights as int8 with scales", choices=SAVE_DTYPES
    )
    seed: int = option(0, "of weights and cell order", type=int, metavar="N")
    exp_name: str | None = option(
        None, "names ckpts/<exp_name> and logs/<exp_name> (default: the file's name)", metavar="NAME"
    )
    devices: int = option(
        1, "GPUs of this machine that share the work, each with a process of its own; without a GPU, processes",
        type=int, metavar="N",
    )  # fmt: skip
    max_time: float | None = option(
        None, "stop in good order after this many seconds, or H:M:S; --resume goes on", metavar="TIME"
    )
    resume: bool = option(
        False, "go on with a run that was interrupted; its options need not be repeated", action="store_true"
    )
    log_image: bool = option(False, "show pictures in TensorBoard", action="store_true")
    plan: bool = option(False, "print blocks, parameters, memory and time, and save nothing", action="store_true")
    quiet: bool = option(False, "no progress on stderr", action="store_true")

    @property
    def levels(self) -> int | None:
        """The levels of the pyramid, where it is said how many; one number of epochs does not say it."""
        return self.n_scales or (len(self.num_epochs) if self.num_epochs and len(self.num_epochs) > 1 else None)
