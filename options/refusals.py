"""What is refused of options whatever the input is, in one line that names the option."""

import dataclasses
import re
from collections.abc import Callable

from options import AXES, DEFAULTS, LEAST_MEMORY, Options
from utils import UserError

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


def _one_level(o: Options) -> bool:
    return o.levels == 1


def _no_residual(o: Options) -> bool:
    return o.pyr == "gaussian" or _one_level(o)


def _no_hidden_layer(o: Options) -> bool:
    return o.n_layers == 1


# Options, when they change nothing as far as the command line says, and what makes it so.
IDLE: tuple[tuple[tuple[str, ...], Callable[[Options], bool], str], ...] = (
    (("n_freq",), lambda o: not o.use_pe, "--no-use_pe"),
    (("n_hidden", "activation", "omega_0"), _no_hidden_layer, "--n_layers 1, which has no hidden layer"),
    (("omega_0",), lambda o: o.activation != "sine", "--activation gaussian"),
    (("pyr", "coarse_share", "coarse_lr"), _one_level, "--n_scales 1"),
    (("output", "use_amplitude"), _no_residual, "--pyr gaussian or --n_scales 1, where no level learns a residual"),
    (("a",), lambda o: (o.activation == "sine" or _no_hidden_layer(o)) and (o.output != "sin" or _no_residual(o)),
     "networks that have neither a Gaussian layer nor a sin output"),
    (("output_start",), lambda o: DEFAULTS[o.task]["solve_start"] if o.solve_start is None else o.solve_start,
     "--solve_start, also the default of a mesh, which solves the output layer"),
    (("weight_sharing",), lambda o: o.weight_sharing != "none" and _one_level(o), "--n_scales 1"),
    (("weight_sharing",), lambda o: o.weight_sharing == "paper" and o.levels == 2,
     "--n_scales 2 or two --num_epochs, as it begins at the third level"),
    (("weight_sharing",), lambda o: _no_hidden_layer(o) and
     (o.weight_sharing == "inherit" or (o.weight_sharing == "exact" and o.pyr == "laplacian")),
     "--n_layers 1, which has no hidden layer to inherit"),
    (("optimizer",), lambda o: o.optimizer == "muon" and (o.n_layers or DEFAULTS[o.task]["n_layers"]) <= 2,
     "fewer than 3 --n_layers, also the default in 3D, where no matrix lies between hidden layers and muon is radam"),
    (("beta2",), lambda o: o.optimizer not in ("radam", "adam", "muon"), "an --optimizer of torch-optimizer"),
    (("prune_thr",), lambda o: o.pruning == "none", "--pruning none, which stops no block"),
    (("prune_thr", "pruning"), lambda o: max(o.num_epochs or (DEFAULTS[o.task]["last_epochs"],)) <= o.val_freq,
     "--val_freq at --num_epochs or above, where training ends before a pruning"),
    (("precision",), lambda o: o.engine == "reference" and o.precision != "float32",
     "--engine reference, which has float32"),
)  # fmt: skip


def check(o: Options) -> None:
    """Raise UserError for what makes no sense whatever the input is."""
    for name in ("n_scales", "batch_size", "n_layers", "n_hidden", "val_freq", "devices"):
        value = getattr(o, name)
        refuse(value is not None and value < 1, name, f"must be at least 1, not {value}")
    for name in ("input_size", "patch_size", "num_epochs"):
        value = getattr(o, name)
        refuse(value is not None and min(value) < 1, name, f"must be at least 1, not {words(value)}")
    positive = (
        "lr", "coarse_lr", "loss_thr", "prune_thr", "a", "omega_0", "output_start", "coarse_share", "max_time",
        "target_psnr",
    )  # fmt: skip
    for name in positive:
        value = getattr(o, name)
        # Larger numbers are infinite in float32, in which all is computed.
        bad = value is not None and not 0 < value <= 1e38
        refuse(bad, name, f"must be a positive number up to 1e38, not {value}")
    for name in ("input_size", "patch_size"):
        value = getattr(o, name)
        axes, each = AXES[o.task], "X Y" if AXES[o.task] == 2 else "X Y Z"
        refuse(
            value is not None and len(value) not in (1, axes),
            name,
            f"has {len(value or ())} numbers: give one, or {each}",
        )
    refuse(o.b_chunks < 2, "b_chunks", f"must be at least 2, not {o.b_chunks}")
    refuse(o.memory is not None and o.memory < LEAST_MEMORY, "memory", f"must be at least 64 MiB, not {o.memory} bytes")
    refuse(not 0 <= o.seed < 2**31, "seed", f"must be between 0 and 2147483647, not {o.seed}")
    refuse(o.target_psnr is not None and o.loss_thr is not None, "target_psnr", "sets loss_thr: give one of the two")
    refuse(not 0 < o.beta2 < 1, "beta2", f"must be between 0 and 1, not {o.beta2}")
    refuse(o.n_freq is not None and not 1 <= o.n_freq <= 24, "n_freq", f"must be between 1 and 24, not {o.n_freq}")
    refuse(
        o.n_scales is not None and o.num_epochs is not None and len(o.num_epochs) not in (1, o.n_scales),
        "num_epochs", f"has {len(o.num_epochs or ())} numbers for {o.n_scales} scales: give one, or one per scale",
    )  # fmt: skip
    for name, most in MOST.items():
        value = getattr(o, name)
        values = value if isinstance(value, tuple) else (value,)
        refuse(value is not None and max(values) > most, name, f"must be at most {most}, not {words(values)}")
    bad_name = o.exp_name is not None and not re.fullmatch(r"[\w.+-][\w.+ -]*", o.exp_name)
    refuse(
        bad_name or len(o.exp_name or "") > 200 or o.exp_name in (".", ".."),
        "exp_name",
        f"{(o.exp_name or '')[:40]!r} is no folder name: use at most 200 letters, digits, spaces, . _ + -",
    )
    refuse(o.path is None and o.task != "image", "path", f"is missing: --task {o.task} needs a .npy file")
    refuse(o.resume and o.plan, "plan", "is of a whole run, and --resume of the rest of one: leave one of them out")


def refuse_idle(o: Options, given: frozenset[str]) -> None:
    """Raise UserError for an option that is given and changes nothing."""
    for name, where in idle(o, given):
        refuse(True, name, f"has no meaning with {where}: leave it out, or change that")


def idle(o: Options, given: frozenset[str]) -> list[tuple[str, str]]:
    """Options that are given and change nothing, and beside what; of settled options also what their levels make so."""
    usual = {item.name: item.default for item in dataclasses.fields(Options)}
    return [
        (name, where)
        for names, changes_nothing, where in IDLE
        for name in names
        if name in given and getattr(o, name) != usual[name] and changes_nothing(o)
    ]


def words(values: tuple[int, ...] | None) -> str:
    """Numbers as a command line has them."""
    return " ".join(map(str, values or ()))


def refuse(condition: bool, name: str, what: str) -> None:
    """Raise UserError about an option, if a condition holds that makes no sense."""
    if condition:
        raise UserError(f"--{name} {what}")
