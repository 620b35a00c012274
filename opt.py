"""Options from a command line, settled for an input, and held against a run that is resumed."""

import argparse
import dataclasses
import difflib
import math
import re
import sys
from pathlib import Path
from typing import Any

from options import DEFAULTS, Options
from options.presets import by_target, preset_values
from options.refusals import check, refuse, refuse_idle, words
from utils import UserError

# Coarsest level: halve until at most this many blocks are left.
COARSEST_BLOCKS = {2: 128, 3: 8}
UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
# Options that may differ between a run and its resume: they change what is shown or when it stops, not the result.
FREE_ON_RESUME = ("resume", "max_time", "memory", "log_image", "quiet", "plan", "devices")
# Of those, options that a resume takes over from the run unless it is given them.
KEPT_ON_RESUME = ("memory", "log_image", "quiet")


class Parser(argparse.ArgumentParser):
    """argparse, with errors as one line, and without names that not every library can open."""

    def parse_known_args(self, args=None, namespace=None):
        args = sys.argv[1:] if args is None else list(args)
        for word in args:
            # Python keeps such bytes as lone surrogates, at which OpenCV crashes, and printing and TensorBoard fail.
            if any("\ud800" <= letter <= "\udfff" for letter in word):
                self.error(f"{word!a}: a name in bytes that are no UTF-8: rename the file or folder")
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> None:
        if message.startswith("unrecognized arguments: --"):
            asked = message.split()[2].split("=")[0]
            near = difflib.get_close_matches(asked, self._option_string_actions, 1)
            message += f": did you mean {near[0]}?" if near else ""
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
        refuse_idle(options, frozenset(given))
    return options, frozenset(given)


def settle(o: Options, shape: tuple[int, ...]) -> Options:
    """Fill in what depends on the input, whose cells are `shape`, slow to fast."""
    usual = DEFAULTS[o.task]
    if o.target_psnr and (o.n_hidden, o.patch_size) == (None, None) and not other_networks(o):
        chosen = by_target(o.target_psnr)
        o = dataclasses.replace(o, **{name: value for name, value in chosen.items() if getattr(o, name) is None})
    patch = _per_axis(o.patch_size or (usual["patch"],), len(shape))
    refuse(math.prod(patch) > 2**20, "patch_size", f"{words(patch)} has more than a million cells: use smaller blocks")
    n_scales = o.levels or _scales(shape, patch)
    most = max(shape).bit_length() + 1
    refuse(
        n_scales > most,
        "n_scales",
        f"{n_scales} levels are more than a size of {words(shape[::-1])} can be halved to: use at most {most}",
    )
    epochs = o.num_epochs or (*[50] * (n_scales - 1), usual["last_epochs"])
    loss_thr = o.loss_thr or (10 ** (-o.target_psnr / 10) if o.target_psnr else usual["loss_thr"])
    own = o.loss_thr or o.target_psnr
    prune_thr = o.prune_thr or (loss_thr if own else loss_thr * usual["prune_share"])
    refuse(prune_thr > loss_thr, "prune_thr", f"must be at most loss_thr, {loss_thr:g}, not {prune_thr:g}")
    more = -1 if len(shape) == 2 else 1
    n_freq = (o.n_freq or max(1, round(math.log2(max(patch))) + more)) if o.use_pe else None
    return dataclasses.replace(
        o, input_size=shape[::-1], patch_size=patch, n_scales=n_scales, loss_thr=loss_thr, prune_thr=prune_thr,
        n_freq=n_freq, omega_0=(o.omega_0 or 30.0) if o.activation == "sine" else None,
        num_epochs=epochs if len(epochs) == n_scales else epochs * n_scales,
        batch_size=o.batch_size or usual["batch_size"], n_layers=o.n_layers or usual["n_layers"],
        n_hidden=o.n_hidden or usual["n_hidden"],
        solve_start=usual["solve_start"] if o.solve_start is None else o.solve_start,
        precision=o.precision or "bfloat16", exp_name=o.exp_name or default_name(o),
    )  # fmt: skip


def other_networks(o: Options) -> str | None:
    """What keeps --target_psnr from choosing width and patch, for networks that its choice was not measured with."""
    if o.task != "image":
        return f"--task {o.task}"
    if o.preset != "ours":
        return f"--preset {o.preset}"
    return "--n_layers 1" if o.n_layers == 1 else None


def left_by_target(o: Options, given: frozenset[str]) -> str | None:
    """Beside what a --target_psnr that is given chooses no width and no patch, where neither is given."""
    free = "target_psnr" in given and not given & {"n_hidden", "patch_size"} and not o.resume
    return other_networks(o) if free else None


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
    return f"--{name} {words(value) if isinstance(value, tuple) else value}"


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
    refuse(
        not 1 <= len(values) <= 3 or min(values, default=0) < 0,
        "max_time",
        f"{text!r} is no time: give seconds, or H:M:S",
    )
    return sum(value * 60**power for power, value in enumerate(reversed(values)))


def memory_bytes(text: str) -> int:
    """The bytes of a size as 1GiB or 800MB."""
    match = re.fullmatch(r"(\d{1,18}(?:\.\d{1,18})?)\s*([kmgt]i?)?b?", text.strip().lower())
    refuse(not match, "memory", f"{text[:40]!r} is no size: give one as 1GiB or 800MB")
    return int(float(match[1]) * UNITS[match[2] or ""])
