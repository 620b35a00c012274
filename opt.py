"""Every option of train.py: its name, its meaning, its default and its check."""

import argparse
import dataclasses
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from presets import PRESETS, by_target, preset_values
from utils import UserError

TASKS = ("image", "mesh", "volume")
AXES = {"image": 2, "mesh": 3, "volume": 3}
PYRAMIDS = ("laplacian", "gaussian")
ENGINES = ("auto", "reference", "fused")
PRECISIONS = ("bfloat16", "tf32", "float32")
SAVE_DTYPES = ("float32", "float16", "int8")
ACTIVATIONS = ("gaussian", "sine")
SHARING = ("none", "paper", "inherit", "exact")
OUTPUTS = ("sin", "tanh", "linear")
# What a task takes where nothing is given; None: from the patch, as `settle` has it.
DEFAULTS = {
    "image": {"patch": 32, "batch_size": 256, "n_layers": 3, "n_hidden": 20, "last_epochs": 200,
              "loss_thr": 1e-4, "prune_share": 0.25},
    "mesh": {"patch": 16, "batch_size": 512, "n_layers": 2, "n_hidden": 8, "last_epochs": 150,
             "loss_thr": 5e-3, "prune_share": 1.0},
    "volume": {"patch": 16, "batch_size": 512, "n_layers": 2, "n_hidden": 16, "last_epochs": 150,
               "loss_thr": 1e-4, "prune_share": 0.25},
}  # fmt: skip
# Coarsest level: halve until at most this many blocks are left.
COARSEST_BLOCKS = {2: 128, 3: 8}
# Beyond these nothing fits any machine.
MOST = {
    "n_hidden": 4096,
    "n_layers": 64,
    "num_epochs": 10**6,
    "val_freq": 10**6,
    "batch_size": 2**20,
    "b_chunks": 2**24,
    "n_scales": 64,
    # Float32 sums know no smaller errors.
    "target_psnr": 120,
}
LEAST_MEMORY = 2**26
UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
# Of those below, options that a resume takes over from the run unless it is given them.
KEPT_ON_RESUME = ("memory", "log_image", "quiet")
# Options that may differ between a run and its resume: they change what is shown or when it stops, not the result.
FREE_ON_RESUME = ("resume", "max_time", "memory", "log_image", "quiet", "plan", "devices")


def option(default: Any, text: str, *aliases: str, **argument: Any) -> Any:
    """A field of Options with what argparse needs to know of it."""
    return field(default=default, metadata={"help": text, "aliases": aliases, "argument": argument})


@dataclass(frozen=True)
class Options:
    """What a run is asked for. None means: depends on the task and the input, settled by `settle`."""

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
    solve_start: bool = option(
        False, "begin with the output layer in closed form", action=argparse.BooleanOptionalAction
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
    optimizer: str = option("radam", "radam, adam, or one of torch-optimizer", metavar="NAME", type=str.lower)
    loss_thr: float | None = option(
        None,
        "mean square error below which a block is good enough (default: 1e-4; mesh 5e-3)",
        type=float,
        metavar="MSE",
    )
    prune_thr: float | None = option(
        None,
        "mean square error below which a block stops training (default: loss_thr if you give it, else a quarter of it)",
        type=float,
        metavar="MSE",
    )
    target_psnr: float | None = option(
        None,
        "sets loss_thr from a PSNR in dB and, of an image, width, patch and precision that reach it",
        type=float,
        metavar="DB",
    )
    beta2: float = option(0.99, "decay of the second moment of radam and adam", type=float, metavar="B")
    val_freq: int = option(50, "epochs between two prunings", type=int, metavar="N")
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
        "what the fused engine multiplies in training; sums and weights are float32 (default: bfloat16)",
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
    plan: bool = option(False, "print blocks, parameters, memory and time, and train nothing", action="store_true")
    quiet: bool = option(False, "no progress on stderr", action="store_true")


def _levels(o: Options) -> int | None:
    """The levels of the pyramid where the options say how many; one number of epochs does not."""
    return o.n_scales or (len(o.num_epochs) if o.num_epochs and len(o.num_epochs) > 1 else None)


def _one_level(o: Options) -> bool:
    return _levels(o) == 1


def _no_residual(o: Options) -> bool:
    return o.pyr == "gaussian" or _one_level(o)


def _no_hidden_layer(o: Options) -> bool:
    return o.n_layers == 1


# Options, when they change nothing as far as the command line says, and what makes it so.
IDLE: tuple[tuple[tuple[str, ...], Callable[[Options], bool], str], ...] = (
    (("n_freq",), lambda o: not o.use_pe, "--no-use_pe"),
    (("n_hidden", "activation", "omega_0"), _no_hidden_layer, "--n_layers 1, which has no hidden layer"),
    (("omega_0",), lambda o: o.activation != "sine", "--activation gaussian"),
    (("pyr", "coarse_share"), _one_level, "--n_scales 1"),
    (("output", "use_amplitude"), _no_residual, "--pyr gaussian or --n_scales 1, where no level learns a residual"),
    (("a",), lambda o: (o.activation == "sine" or _no_hidden_layer(o)) and (o.output != "sin" or _no_residual(o)),
     "networks that have neither a Gaussian layer nor a sin output"),
    (("output_start",), lambda o: o.solve_start, "--solve_start, which solves the output layer"),
    (("weight_sharing",), lambda o: o.weight_sharing != "none" and _one_level(o), "--n_scales 1"),
    (("weight_sharing",), lambda o: o.weight_sharing == "paper" and _levels(o) == 2,
     "--n_scales 2 or two --num_epochs, as it begins at the third level"),
    (("weight_sharing",), lambda o: _no_hidden_layer(o) and
     (o.weight_sharing == "inherit" or (o.weight_sharing == "exact" and o.pyr == "laplacian")),
     "--n_layers 1, which has no hidden layer to inherit"),
    (("beta2",), lambda o: o.optimizer not in ("radam", "adam"), "an --optimizer other than radam and adam"),
    (("prune_thr",), lambda o: max(o.num_epochs or (DEFAULTS[o.task]["last_epochs"],)) <= o.val_freq,
     "--val_freq at --num_epochs or above, where training ends before a pruning"),
    (("precision",), lambda o: o.engine == "reference" and o.precision != "float32",
     "--engine reference, which has float32"),
)  # fmt: skip


class Parser(argparse.ArgumentParser):
    """argparse, with errors as one line."""

    def error(self, message: str) -> None:
        raise UserError(f"{message} (see {self.prog} --help)")


def parse(argv: list[str] | None = None) -> tuple[Options, frozenset[str]]:
    """Options from a command line, checked, and the names of those it gave.

    Raises:
        UserError: naming the option that makes no sense.
    """
    parser = Parser(
        "train.py", description="Fit an image, a shape or a volume with a pyramid of tiny networks.", allow_abbrev=False
    )
    for item in dataclasses.fields(Options):
        argument = dict(item.metadata["argument"])
        parser.add_argument(
            f"--{item.name}", *item.metadata["aliases"], dest=item.name, help=item.metadata["help"],
            default=argparse.SUPPRESS, **argument,
        )  # fmt: skip
    given = vars(parser.parse_args(argv))
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    if "max_time" in given:
        given["max_time"] = _seconds(given["max_time"])
    if "memory" in given:
        given["memory"] = memory_bytes(given["memory"])
    options = Options(**preset_values(given), **given)
    check(options)
    if not options.resume:
        _refuse_idle(options, frozenset(given))
    return options, frozenset(given)


def check(o: Options) -> None:
    """Refuse what makes no sense whatever the input is."""
    for name in ("n_scales", "batch_size", "n_layers", "n_hidden", "val_freq", "devices"):
        value = getattr(o, name)
        _refuse(value is not None and value < 1, name, f"must be at least 1, not {value}")
    for name in ("input_size", "patch_size", "num_epochs"):
        value = getattr(o, name)
        _refuse(value is not None and min(value) < 1, name, f"must be at least 1, not {_words(value)}")
    positive = (
        "lr", "loss_thr", "prune_thr", "a", "omega_0", "output_start", "coarse_share", "max_time", "target_psnr",
    )  # fmt: skip
    for name in positive:
        value = getattr(o, name)
        bad = value is not None and not (math.isfinite(value) and value > 0)
        _refuse(bad, name, f"must be a positive number, not {value}")
    for name in ("input_size", "patch_size"):
        value = getattr(o, name)
        axes, words = AXES[o.task], "X Y" if AXES[o.task] == 2 else "X Y Z"
        _refuse(
            value is not None and len(value) not in (1, axes),
            name,
            f"has {len(value or ())} numbers: give one, or {words}",
        )
    _refuse(o.b_chunks < 2, "b_chunks", f"must be at least 2, not {o.b_chunks}")
    _refuse(
        o.memory is not None and o.memory < LEAST_MEMORY, "memory", f"must be at least 64 MiB, not {o.memory} bytes"
    )
    _refuse(not 0 <= o.seed < 2**31, "seed", f"must be between 0 and 2147483647, not {o.seed}")
    _refuse(o.target_psnr is not None and o.loss_thr is not None, "target_psnr", "sets loss_thr: give one of the two")
    _refuse(not 0 < o.beta2 < 1, "beta2", f"must be between 0 and 1, not {o.beta2}")
    _refuse(o.n_freq is not None and not 1 <= o.n_freq <= 24, "n_freq", f"must be between 1 and 24, not {o.n_freq}")
    _refuse(
        o.n_scales is not None and o.num_epochs is not None and len(o.num_epochs) not in (1, o.n_scales),
        "num_epochs", f"has {len(o.num_epochs or ())} numbers for {o.n_scales} scales: give one, or one per scale",
    )  # fmt: skip
    for name, most in MOST.items():
        value = getattr(o, name)
        values = value if isinstance(value, tuple) else (value,)
        _refuse(
            value is not None and max(values) > most, name, f"must be at most {most}, not {' '.join(map(str, values))}"
        )
    bad_name = o.exp_name is not None and not re.fullmatch(r"[\w.+-][\w.+ -]*", o.exp_name)
    _refuse(
        bad_name or len(o.exp_name or "") > 200 or o.exp_name in (".", ".."),
        "exp_name",
        f"{(o.exp_name or '')[:40]!r} is no folder name: use at most 200 letters, digits, . _ + -",
    )
    _refuse(o.path is None and o.task != "image", "path", f"is missing: --task {o.task} needs a .npy file")
    _refuse(o.resume and o.plan, "plan", "trains nothing, so there is nothing to --resume: leave one of them out")


def _refuse_idle(o: Options, given: frozenset[str]) -> None:
    """Refuse options that are given and change nothing."""
    usual = {item.name: item.default for item in dataclasses.fields(Options)}
    for names, idle, where in IDLE:
        for name in names:
            changed = name in given and getattr(o, name) != usual[name]
            _refuse(changed and idle(o), name, f"has no meaning with {where}: leave one of them out")


def settle(o: Options, shape: tuple[int, ...]) -> Options:
    """Fill in what depends on the input, whose cells are `shape`, slow to fast."""
    usual = DEFAULTS[o.task]
    if o.target_psnr and (o.task, o.preset, o.n_hidden, o.patch_size) == ("image", "ours", None, None):
        chosen = by_target(o.target_psnr)
        o = dataclasses.replace(o, **{name: value for name, value in chosen.items() if getattr(o, name) is None})
    patch = _per_axis(o.patch_size or (usual["patch"],), len(shape))
    _refuse(
        math.prod(patch) > 2**20, "patch_size", f"{_words(patch)} has more than a million cells: use smaller blocks"
    )
    n_scales = _levels(o) or _scales(shape, patch)
    most = max(shape).bit_length() + 1
    _refuse(
        n_scales > most,
        "n_scales",
        f"{n_scales} levels are more than a size of {_words(shape[::-1])} can be halved to: use at most {most}",
    )
    epochs = o.num_epochs or (*[50] * (n_scales - 1), usual["last_epochs"])
    loss_thr = o.loss_thr or (10 ** (-o.target_psnr / 10) if o.target_psnr else usual["loss_thr"])
    own = o.loss_thr or o.target_psnr
    prune_thr = o.prune_thr or (loss_thr if own else loss_thr * usual["prune_share"])
    _refuse(prune_thr > loss_thr, "prune_thr", f"must be at most loss_thr, {loss_thr:g}, not {prune_thr:g}")
    more = -1 if len(shape) == 2 else 1
    n_freq = (o.n_freq or max(1, round(math.log2(max(patch))) + more)) if o.use_pe else None
    return dataclasses.replace(
        o, input_size=shape[::-1], patch_size=patch, n_scales=n_scales, loss_thr=loss_thr, prune_thr=prune_thr,
        n_freq=n_freq, omega_0=(o.omega_0 or 30.0) if o.activation == "sine" else None,
        num_epochs=epochs if len(epochs) == n_scales else epochs * n_scales,
        batch_size=o.batch_size or usual["batch_size"], n_layers=o.n_layers or usual["n_layers"],
        n_hidden=o.n_hidden or usual["n_hidden"], precision=o.precision or "bfloat16",
        exp_name=o.exp_name or default_name(o),
    )  # fmt: skip


def default_name(o: Options) -> str:
    """The name of a run that was given none."""
    if o.path is None:
        return "sample"
    name = re.sub(r"[^\w.+-]", "_", Path(o.path).stem)
    return name if name.strip(".") else "unnamed"


def contradictions(o: Options, given: frozenset[str], stored: Options) -> list[str]:
    """Options of a resume that are given and differ from those the run began with."""
    names = given - set(FREE_ON_RESUME) - {"exp_name"}
    if o.path and stored.path and Path(o.path).resolve() == Path(stored.path).resolve():
        names = names - {"path"}
    return sorted(name for name in names if _differ(name, getattr(o, name), stored))


def written(name: str, value: Any) -> str:
    """An option as a command line has it."""
    if value is None:
        return f"no --{name}"
    if isinstance(value, bool):
        return f"--{'' if value else 'no-'}{name}"
    return f"--{name} {_words(value) if isinstance(value, tuple) else value}"


def _differ(name: str, value: Any, stored: Options) -> bool:
    was = getattr(stored, name)
    if isinstance(value, tuple) and len(value) == 1 and isinstance(was, tuple):
        return any(w != value[0] for w in was)
    return value != was and not (
        name == "target_psnr" and was is None and math.isclose(10 ** (-value / 10), stored.loss_thr)
    )


def from_json(values: dict[str, Any]) -> Options:
    """Options as `dataclasses.asdict` and JSON left them."""
    names = {item.name for item in dataclasses.fields(Options)}
    return Options(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k in names})


def _per_axis(value: tuple[int, ...], axes: int) -> tuple[int, ...]:
    return value * axes if len(value) == 1 else value


def _scales(shape: tuple[int, ...], patch: tuple[int, ...]) -> int:
    n = 1
    most = COARSEST_BLOCKS[len(shape)]
    while math.prod(-(-s // (p << (n - 1))) for s, p in zip(shape, patch[::-1], strict=True)) > most:
        n += 1
    return n


def _seconds(text: str) -> float:
    parts = text.split(":")
    try:
        values = [float(part) for part in parts]
    except ValueError:
        values = []
    _refuse(
        not 1 <= len(values) <= 3 or min(values, default=0) < 0,
        "max_time",
        f"{text!r} is no time: give seconds, or H:M:S",
    )
    return sum(value * 60**power for power, value in enumerate(reversed(values)))


def memory_bytes(text: str) -> int:
    """The bytes of a size as 1GiB or 800MB."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]i?)?b?", text.strip().lower())
    _refuse(not match, "memory", f"{text[:40]!r} is no size: give one as 1GiB or 800MB")
    return int(float(match[1]) * UNITS[match[2] or ""])


def _words(values: tuple[int, ...] | None) -> str:
    return " ".join(map(str, values or ()))


def _refuse(condition: bool, name: str, what: str) -> None:
    if condition:
        raise UserError(f"--{name} {what}")
