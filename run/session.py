"""A run and its places: begun, found again, resumed, interrupted in good order."""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import logging
import math
import os
import shlex
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import opt
from machine.ranks import Lost, Ranks
from models.store import JOURNAL, Store
from options import Options
from utils import Done, Interrupted, UserError

# Seconds within which a second signal means what the first did.
SAME_WISH = 1.0


def store_of(name: str, number: int = 0) -> Store:
    return Store(Path("ckpts") / name / "progress", number)


def read_progress(store: Store, model_path: Path) -> dict[str, Any]:
    """The facts of an unfinished run."""
    if store.exists:
        return store.read()
    if model_path.is_file():
        raise Done(f"{model_path}: the run is finished, there is nothing to resume")
    others = sorted(path.parent.parent.name for path in Path("ckpts").glob(f"*/progress/{JOURNAL}"))
    there = f"give one of {', '.join(others[:5])} as --exp_name, or " if others else ""
    raise UserError(f"--resume: nothing to resume in {model_path.parent}: {there}start it without --resume")


def levels_left(store: Store, n_levels: int) -> int:
    """How many levels of a run are not finished: all of them, unless its progress has been read."""
    return n_levels - sum(name.startswith("level_") for name in store.names)


def resumed(options: Options, given: frozenset[str], stored: Options) -> Options:
    """The options of the run, with those of this call that may differ."""
    if wrong := opt.contradictions(options, given, stored):
        asked, began = (", ".join(opt.written(name, getattr(o, name)) for name in wrong) for o in (options, stored))
        raise UserError(
            f"{asked}: the run to resume began with {began}: leave that out, or start over without --resume"
        )
    free = [name for name in opt.FREE_ON_RESUME if name in given or name not in opt.KEPT_ON_RESUME]
    return dataclasses.replace(stored, **{name: getattr(options, name) for name in free})


def start_over(store: Store, model_path: Path, logs: Path) -> None:
    """Forget an unfinished run of this name and the last one's curves; its model stays until the new one is whole."""
    if store.exists or model_path.is_file():
        which = "an unfinished run, with which --resume would go on," if store.exists else "an earlier run"
        kept = "; its model stays until the new one is whole" if model_path.is_file() else ""
        print(f"{model_path.parent}: {which} has this name: starting over{kept}", file=sys.stderr)
    store.clear()
    for old in (file for name in ("events.out.tfevents.*", "hparams.yaml", "result.json") for file in logs.glob(name)):
        old.unlink()
    remove_parts(model_path)


def remove_parts(model_path: Path) -> None:
    """Remove what a killed run has left of a model that was being written."""
    for part in model_path.parent.glob(".*.part.*"):
        part.unlink()


def fingerprint(path: str | None) -> dict[str, Any] | None:
    """What tells a changed source apart: its size and the SHA-256 of its first megabyte; of a folder, of its list."""
    if path is None:
        return None
    folder = Path(path).is_dir()
    files = sorted(file for file in Path(path).rglob("*") if file.is_file()) if folder else [Path(path)]
    sizes = {str(file.relative_to(path)): file.stat().st_size for file in files}
    if folder:
        first = json.dumps(sizes).encode()
    else:
        with open(path, "rb") as file:
            first = file.read(2**20)
    return {"bytes": sum(sizes.values()), "sha256": hashlib.sha256(first).hexdigest()}


def nearest_folder(path: Path) -> Path:
    """The innermost folder around a path that is there."""
    return next(folder for folder in path.parents if folder.is_dir())


def to_go_on(exp_name: str, devices: int = 1) -> str:
    more = f" --devices {devices}" if devices > 1 else ""
    # A name that begins with a dash would be taken for an option.
    between = "=" if exp_name.startswith("-") else " "
    return f"; to go on: python train.py --exp_name{between}{shlex.quote(exp_name)}{more} --resume"


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep other runs out of the folder of this one.

    Raises:
        UserError: another one is in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            told = f"{folder}: another run is writing there: wait for it, or give another --exp_name"
            raise UserError(told) from None
        except OSError:
            # A file system that has no locks of folders, as NFS.
            pass
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def interruptible(miner, exp_name: str, group: Ranks) -> Iterator[None]:
    """Turn Ctrl-C, SIGTERM and another process's end into a commit of what is done, and a line on how to go on."""
    signals = (signal.SIGINT, signal.SIGTERM)
    who = f"process {group.number + 1} of {group.count} " if group.count > 1 else ""

    heard, heeded = -math.inf, False

    def interrupt(*_) -> None:
        nonlocal heard
        before, heard = heard, time.monotonic()
        # Where processes are several the same wish comes twice. Later it is one that was not heeded: what is raised in
        # a destructor nobody hears.
        if not heeded and heard - before > SAME_WISH:
            raise Interrupted(f"{who}interrupted{to_go_on(exp_name)}")

    before = {number: signal.signal(number, interrupt) for number in signals}
    try:
        yield
    except Interrupted:
        heeded = True
        miner.checkpoints.commit()
        raise
    except Lost:
        miner.checkpoints.commit()
        raise Interrupted(f"{who}stopped, because another has ended{to_go_on(exp_name)}") from None
    except BaseException:
        # Nothing of this run may be written once another one looks at its folder.
        with contextlib.suppress(OSError):
            miner.checkpoints.store.wait()
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def calm_lightning() -> Iterator[None]:
    """Keep Lightning from announcing hardware, and from advice that does not fit a module without a data loader."""
    logger = logging.getLogger("pytorch_lightning")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*configure_optimizers. returned .None.*")
            warnings.filterwarnings("ignore", ".*LeafSpec.*is deprecated", FutureWarning)
            yield
    finally:
        logger.setLevel(level)
