"""Fit an image with a pyramid of tiny networks: options in, one fit, one model file and its figures out."""

import contextlib
import dataclasses
import hashlib
import json
import logging
import math
import platform
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import launch
import opt
import plan
import ranks
import utils
from datasets import Place, open_source
from datasets.grid import Grid
from datasets.source import Source
from memory import Limits, memory_of
from metrics import psnr
from models import model_file
from models.encoding import Encoding
from models.engine import choose_engine
from models.engine.reference import CORES
from models.level_fit import Recipe, level_network
from models.pyramid import Pyramid
from models.store import Store
from opt import Options
from report import quality, shape_distance
from utils import Interrupted, UserError

# A result this many dB below what loss_thr asks for is worth a word on what to change.
FAR_BELOW = 3.0


def train(options: Options, given: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Fit one signal: writes ckpts/<exp_name>/model.safetensors and logs/<exp_name>/, and returns the figures.

    Args:
        options: what is asked for (opt.Options).
        given: names of the options that were set by the user; a resume holds them against the run's.

    Raises:
        UserError: an option or a file cannot be used.
    """
    if options.devices > 1 and not options.plan and not ranks.launched():
        result = _fit_on_devices(options, given)
    else:
        result = _fit(options, given)
    if result:
        _say(result)
    return result


def _fit_on_devices(options: Options, given: frozenset[str]) -> dict[str, Any]:
    """Fit in a process for each device, started and looked after by this one."""
    there, what = (torch.cuda.device_count(), "GPUs") if torch.cuda.is_available() else (CORES, "CPU cores")
    if options.devices > there:
        raise UserError(f"--devices {options.devices} is more than this machine has: give at most {there}, its {what}")
    started = time.time()
    try:
        return launch.run(_fit, options.devices, options, given)
    except (launch.Died, KeyboardInterrupt) as end:
        name = options.exp_name or opt.default_name(options)
        journal = _store(name).journal
        hint = _to_go_on(name, options.devices) if journal.is_file() and journal.stat().st_mtime > started else ""
        if isinstance(end, launch.Died):
            raise UserError(f"{end}{hint}") from None
        raise Interrupted(f"interrupted{hint}") from None


def _fit(options: Options, given: frozenset[str]) -> dict[str, Any]:
    """Fit with the processes that there are, of which this is one; the figures, in the first of them."""
    cuda = torch.cuda.is_available()
    if "devices" in given and ranks.launched() and options.devices != ranks.on_this_machine():
        raise UserError(
            f"--devices {options.devices}: {ranks.on_this_machine()} processes were started here: leave it out"
        )
    try:
        with ranks.join(cuda) as group:
            device = torch.device("cuda", group.local) if cuda else torch.device("cpu")
            return _fit_in_group(options, given, group, device)
    except ranks.Lost:
        raise Interrupted("stopped, because another process of the run has ended") from None


def _fit_in_group(options: Options, given: frozenset[str], group: ranks.Ranks, device: torch.device) -> dict[str, Any]:
    utils.forget_peaks(device)
    name = options.exp_name or opt.default_name(options)
    model_path, store = Path("ckpts") / name / "model.safetensors", _store(name, group.number)
    with group.together():
        facts = None
        if options.resume:
            facts = _read_progress(store, model_path)
            options = _resumed(options, given, opt.from_json(facts["options"]))

        memory = memory_of(options.memory, device, ranks.on_this_machine())
        place = Place(device, memory, _nearest(model_path))
        source = open_source(options.task, options.path, options.input_size, place)
        options = opt.settle(options, source.shape)
        grid = Grid(source.shape, options.patch_size[::-1], options.n_scales)
        encoding, recipe = Encoding(grid.ndim, options.n_freq or 0), _recipe(options)
        network = level_network(recipe, encoding.width, source.signal.channels, coarsest=False)
        limits = memory.limits(source.signal.channels, grid.block_cells, network.row_size, options.b_chunks)
        # What has been put in files stays there.
        limits = dataclasses.replace(limits, **(facts["limits"] if facts else {}))
        recipe = dataclasses.replace(recipe, b_chunks=limits.chunk_blocks)
        engine, fallback = choose_engine(options.engine, network, device, options.optimizer, options.beta2)
        if fallback and group.first:
            print(f"--engine auto: plain torch is used, not the fused kernels: {fallback}", file=sys.stderr)
        if options.plan:
            if group.first:
                print(plan.describe(source, grid, encoding, recipe, engine, limits, options.devices))
            return {}

        # Lightning takes seconds to import: what is wrong with options or files is said before.
        import pytorch_lightning as pl
        from pytorch_lightning.loggers import TensorBoardLogger
        from pytorch_lightning.strategies import SingleDeviceStrategy
        from torch.utils.tensorboard import SummaryWriter  # noqa: F401

        from callbacks import Figures, Pictures, Progress
        from models.miner import Miner

        logs = Path("logs") / options.exp_name
        run_facts = {"options": utils.jsonable(dataclasses.asdict(options)), "source": _fingerprint(options.path)}
        if facts and facts["source"] != run_facts["source"]:
            raise UserError(f"{options.path}: has changed since the run began: start over without --resume")
        if group.first and not facts:
            _start_over(store, model_path, logs)
    # All cut strips and chunks alike, as the one does that has the least memory.
    limits = Limits(*map(min, zip(*group.gather(dataclasses.astuple(limits)), strict=True)))
    recipe = dataclasses.replace(recipe, b_chunks=limits.chunk_blocks)
    run_facts["limits"] = {"row_bytes": limits.row_bytes}

    callbacks = [
        Figures(),
        *([] if options.quiet else [Progress()]),
        *([Pictures(source, limits.strip_cells)] if options.log_image else []),
    ]
    with _calm_lightning():
        # A Trainer for this process's own device, that knows of no others: one that does exchanges a word with them at
        # every batch, and a process that trains fewer rounds would leave the rest waiting.
        trainer = pl.Trainer(
            accelerator="gpu" if device.type == "cuda" else "cpu", devices=1, strategy=SingleDeviceStrategy(device),
            max_epochs=-1, callbacks=callbacks if group.first else [], log_every_n_steps=1,
            logger=TensorBoardLogger("logs", name=options.exp_name, version="") if group.first else False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        with group.together():
            pyramid = Pyramid(grid, encoding, source.signal.channels, engine).to(device)
            miner = Miner(source, pyramid, recipe, engine, store, run_facts, limits, options.max_time, group)
            if facts:
                miner.resume(facts, device)
            elif group.first:
                miner.commit()
        with group.together():
            if not store.exists:
                raise UserError(f"{store.root}: not seen by process {group.number + 1}: all need the same folder")
        with _interruptible(miner, options.exp_name, group):
            trainer.fit(miner)
    fit_seconds = miner.seconds
    with group.together():
        if group.first:
            about = {"signal": dataclasses.asdict(source.signal), "options": run_facts["options"], **source.about}
            about["levels"] = {report.level: dataclasses.asdict(report) for report in miner.reports}
            model_file.save(model_path, pyramid, utils.jsonable(about))
    save_seconds = miner.seconds - fit_seconds

    result = _figures(model_path, source, options, limits, group) | {
        "fit_s": fit_seconds,
        "save_s": save_seconds,
        "wall_s": utils.process_seconds(),
        "stopped_early": miner.stopped_early,
    }
    if not group.first:
        return {}
    with utils.atomic_write(logs / "result.json") as temporary:
        temporary.write_text(json.dumps(utils.jsonable(result), indent=2, allow_nan=False) + "\n")
    if not miner.stopped_early:
        store.clear()
    return result


def _store(name: str, number: int = 0) -> Store:
    return Store(Path("ckpts") / name / "progress", number)


def _recipe(o: Options) -> Recipe:
    same = {field.name: getattr(o, field.name) for field in dataclasses.fields(Recipe) if hasattr(o, field.name)}
    return Recipe(epochs=o.num_epochs[::-1], residual=o.pyr == "laplacian", **same)


def _figures(path: Path, source: Source, options: Options, limits: Limits, group: ranks.Ranks) -> dict[str, Any]:
    """What the saved file is worth: its quality, its size, what it is made of, and the most memory a process took."""
    model_bytes = path.stat().st_size
    source_bytes = sum(file.stat().st_size for file in _files(options.path)) if options.path else None
    pyramid, about = model_file.load(path, source.device, options.engine, lazy=model_bytes > limits.row_bytes)
    cell = "pixel" if options.task == "image" else "voxel"
    measured = quality(pyramid, source, group, limits.strip_cells)
    if options.task == "mesh" and group.first:
        measured |= shape_distance(pyramid, about)
    peaks = zip(*group.gather((utils.peak_host_bytes(), utils.peak_device_bytes(source.device))), strict=True)
    peak_host, peak_device = (max(bytes_, key=lambda n: n or 0) for bytes_ in peaks)
    return {
        **measured,
        "n_params": pyramid.n_params,
        "model_bytes": model_bytes,
        f"bits_per_{cell}": model_bytes * 8 / math.prod(source.shape),
        "ratio_to_raw": model_bytes / source.raw_bytes,
        "ratio_to_source_file": model_bytes / source_bytes if source_bytes else None,
        "source_format": Path(options.path).suffix[1:].lower() if options.path else None,
        "levels": about["levels"],
        "engine": pyramid.engine.name,
        "device": torch.cuda.get_device_name() if source.device.type == "cuda" else platform.processor() or "cpu",
        "devices": group.count,
        "peak_host_bytes": peak_host,
        "peak_device_bytes": peak_device,
        "seed": options.seed,
        "versions": utils.versions(),
        "options": dataclasses.asdict(options),
    }


def _say(result: dict[str, Any]) -> None:
    options = opt.from_json(result["options"])
    path = Path("ckpts") / options.exp_name / "model.safetensors"
    cell = "pixel" if options.task == "image" else "voxel"
    params, bits = result["n_params"] / 1e6, result[f"bits_per_{cell}"]
    print(f"{path}: {params:.3f} M parameters, {bits:.2f} bits per {cell}, fitted in {result['fit_s']:.2f} s")
    beside = f", {result['ratio_to_source_file']:.2f} times the source file" if options.path else ""
    print(f"its bytes: {result['ratio_to_raw']:.2f} times the raw {cell}s{beside}")
    if result["stopped_early"]:
        print(f"stopped by --max_time{_to_go_on(options.exp_name, options.devices)}")
    if not result["n_params"] and not result["stopped_early"]:
        if result["psnr"] >= psnr(options.loss_thr):
            print("no block needed a network: the source is zero throughout, or nearly so, and so is the model")
        else:
            print("no network was better than none, so the model is empty: try a lower --lr, or --a nearer to 0.1")
    finest, wanted = result["levels"].get("0"), psnr(options.loss_thr)
    if finest and result["psnr"] < wanted - FAR_BELOW and finest["converged"] < finest["active"] / 2:
        patch = " ".join(map(str, options.patch_size))
        print(
            f"{finest['active'] - finest['converged']} of {finest['active']} networks of the finest level stayed above "
            f"loss_thr ({wanted:.0f} dB): raise --n_hidden (was {options.n_hidden}) or --num_epochs, or take a smaller "
            f"--patch_size (was {patch})"
        )
    if options.task != "mesh":
        print(f"PSNR : {result['psnr']:.2f} dB", flush=True)
    elif math.isnan(result["iou"]):
        print("IoU : undefined, the grid is empty", flush=True)
    else:
        if result["mean"] == 1:
            print("the grid is full: every cell is occupied, and there is no surface inside it")
        print(f"IoU : {result['iou']:.6f}", flush=True)


def _read_progress(store: Store, model_path: Path) -> dict[str, Any]:
    """The facts of an unfinished run."""
    if store.exists:
        return store.read()
    if model_path.is_file():
        raise utils.Done(f"{model_path}: the run is finished, there is nothing to resume")
    raise UserError(f"--resume: nothing to resume in {model_path.parent}: start it without --resume")


def _resumed(options: Options, given: frozenset[str], stored: Options) -> Options:
    """The options of the run, with those of this call that may differ."""
    if wrong := opt.contradictions(options, given, stored):
        told = ", ".join(f"--{name} (was {getattr(stored, name)})" for name in wrong)
        raise UserError(f"--resume: these options contradict the run's: {told}: leave them out")
    return dataclasses.replace(stored, **{name: getattr(options, name) for name in opt.FREE_ON_RESUME})


def _start_over(store: Store, model_path: Path, logs: Path) -> None:
    """Forget an unfinished run of this name and the last one's curves; its model stays until the new one is whole."""
    if store.exists or model_path.is_file():
        kept = "; its model stays until the new one is whole" if model_path.is_file() else ""
        print(f"{model_path.parent}: an earlier run has this name: starting over{kept}", file=sys.stderr)
    store.clear()
    for old in (*logs.glob("events.out.tfevents.*"), *logs.glob("result.json"), *model_path.parent.glob(".*.part.*")):
        old.unlink()


def _fingerprint(path: str | None) -> dict[str, Any] | None:
    """What tells a changed source apart: its size and the SHA-256 of its first megabyte; of a folder, of its list."""
    if path is None:
        return None
    sizes = {str(file.relative_to(path)): file.stat().st_size for file in _files(path)}
    if Path(path).is_dir():
        first = json.dumps(sizes).encode()
    else:
        with open(path, "rb") as file:
            first = file.read(2**20)
    return {"bytes": sum(sizes.values()), "sha256": hashlib.sha256(first).hexdigest()}


def _files(path: str) -> list[Path]:
    """A source's file, or all files of a folder."""
    return sorted(file for file in Path(path).rglob("*") if file.is_file()) if Path(path).is_dir() else [Path(path)]


def _nearest(path: Path) -> Path:
    """The innermost folder around a path that is there."""
    return next(folder for folder in path.parents if folder.is_dir())


def _to_go_on(exp_name: str, devices: int = 1) -> str:
    more = f" --devices {devices}" if devices > 1 else ""
    return f"; to go on: python train.py --exp_name {exp_name}{more} --resume"


@contextlib.contextmanager
def _interruptible(miner, exp_name: str, group: ranks.Ranks) -> Iterator[None]:
    """Turn Ctrl-C, SIGTERM and another process's end into a commit of what is done, and a line on how to go on."""
    signals = (signal.SIGINT, signal.SIGTERM)
    who = f"process {group.number + 1} of {group.count} " if group.count > 1 else ""

    def interrupt(*_) -> None:
        for number in signals:
            # Not SIG_IGN: of a signal that has come meanwhile Python would complain.
            signal.signal(number, lambda *_: None)
        raise Interrupted(f"{who}interrupted{_to_go_on(exp_name)}")

    before = {number: signal.signal(number, interrupt) for number in signals}
    try:
        yield
    except Interrupted:
        miner.commit()
        raise
    except ranks.Lost:
        miner.commit()
        raise Interrupted(f"{who}stopped, because another has ended{_to_go_on(exp_name)}") from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _calm_lightning() -> Iterator[None]:
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


def main(argv: list[str] | None = None) -> None:
    train(*opt.parse(argv))


if __name__ == "__main__":
    utils.run_command(main)
