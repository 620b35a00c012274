"""Fit an image with a pyramid of tiny networks: options in, one fit, one model file and its figures out."""

import contextlib
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import torch

import opt
import utils
from machine import launch, ranks
from machine.cores import CORES
from machine.memory import give_back, share_one_heap
from models import model_file, warm_up
from models.draft import Draft
from models.pyramid import Pyramid
from models.store import Store
from options import Options
from planning import plan
from run.result import figures_of, say
from run.session import (
    alone,
    calm_lightning,
    fingerprint,
    interruptible,
    levels_left,
    read_progress,
    remove_parts,
    resumed,
    start_over,
    store_of,
    to_go_on,
)
from run.setup import Setup, set_up
from utils import Interrupted, UserError


def train(options: Options, given: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Fit one signal: writes ckpts/<exp_name>/model.safetensors and logs/<exp_name>/, and returns the figures.

    Args:
        options: what is asked for (options.Options).
        given: names of the options that were set by the user; a resume holds them against the run's.

    Raises:
        UserError: an option or a file cannot be used.
    """
    several = options.devices > 1 and not ranks.launched()
    if several:
        _check_devices(options.devices)
    result = (_fit_on_devices if several and not options.plan else _fit)(options, given)
    if result:
        say(result)
    return result


def _check_devices(devices: int) -> None:
    there, what = (torch.cuda.device_count(), "GPUs") if torch.cuda.is_available() else (CORES, "CPU cores")
    if devices > there:
        raise UserError(f"--devices {devices} is more than this machine has: give at most {there}, its {what}")


def _fit_on_devices(options: Options, given: frozenset[str]) -> dict[str, Any]:
    """Fit in a process for each device, started and looked after by this one."""
    started = time.time()
    try:
        return launch.run(_fit, options.devices, options, given)
    except (launch.Died, KeyboardInterrupt) as end:
        name = options.exp_name or opt.default_name(options)
        journal = store_of(name).journal
        # Without --resume an older one is of a run that was to be forgotten.
        ours = journal.is_file() and (options.resume or journal.stat().st_mtime > started)
        hint = to_go_on(name, options.devices) if ours else ""
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
    share_one_heap()
    name = options.exp_name or opt.default_name(options)
    model_path, store = Path("ckpts") / name / "model.safetensors", store_of(name, group.number)
    with contextlib.ExitStack() as held:
        # What another run still writes would be out of date when its turn is over.
        with group.together():
            if group.first and options.resume and store.exists and not options.plan:
                held.enter_context(alone(model_path.parent))
        with group.together():
            facts = read_progress(store, model_path) if options.resume else None
            if facts:
                options = resumed(options, given, opt.from_json(facts["options"]))
        settled = set_up(options, given, facts, model_path, group, device)
        with group.together():
            if options.plan:
                if group.first:
                    print(plan.describe(*settled[1:], options.devices))
                return {}
            if group.first and not facts:
                held.enter_context(alone(model_path.parent))
        # Python waits for threads at its end, also where an interrupt or an error is the reason.
        held.callback(settled.source.give_up)
        return _train(settled, facts, store, model_path, group, device)


def _train(
    settled: Setup,
    facts: dict[str, Any] | None,
    store: Store,
    model_path: Path,
    group: ranks.Ranks,
    device: torch.device,
) -> dict[str, Any]:
    options, source, grid, encoding, recipe, engine, limits = settled
    with group.together():
        source.begin(levels_left(store, grid.n_levels))
        kernels = warm_up.begin(grid.patch, source.signal.channels, encoding, recipe, engine, device)
        # Lightning takes seconds to import: what is wrong with options or files is said before.
        import pytorch_lightning as pl
        from pytorch_lightning.loggers import TensorBoardLogger
        from pytorch_lightning.strategies import SingleDeviceStrategy
        from torch.utils.tensorboard import SummaryWriter  # noqa: F401

        from models.miner import Miner
        from run.callbacks import Figures, Pictures, Progress, show_result

        logs = Path("logs") / options.exp_name
        run_facts = {"options": utils.jsonable(dataclasses.asdict(options)), "source": fingerprint(options.path)}
        run_facts["limits"] = {"row_bytes": limits.row_bytes}
        if facts and facts["source"] != run_facts["source"]:
            raise UserError(f"{options.path}: has changed since the run began: start over without --resume")
        if group.first and not facts:
            start_over(store, model_path, logs)
        elif group.first:
            remove_parts(model_path)

    callbacks = [
        Figures(),
        *([] if options.quiet else [Progress()]),
        *([Pictures(source, limits.strip_cells)] if options.log_image else []),
    ]
    logger = False
    if group.first:
        logger = TensorBoardLogger("logs", name=options.exp_name, version="", default_hp_metric=False)
        logger.log_hyperparams(run_facts["options"])
        # Lightning would write them while the clock of the fit runs.
        logger.save()
    warm_up.wait(kernels, quiet=options.quiet or not group.first)
    with calm_lightning(), Draft(model_path, group) as draft:
        # A Trainer for this process's own device, that knows of no others: one that does exchanges a word with them at
        # every batch, and a process that trains fewer rounds would leave the rest waiting.
        trainer = pl.Trainer(
            accelerator="gpu" if device.type == "cuda" else "cpu", devices=1, strategy=SingleDeviceStrategy(device),
            max_epochs=-1, callbacks=callbacks if group.first else [], log_every_n_steps=1,
            logger=logger, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        with group.together():
            pyramid = Pyramid(grid, encoding, source.signal.channels, engine).to(device)
            miner = Miner(source, pyramid, recipe, engine, store, run_facts, limits, draft, options.max_time, group)
            if facts:
                miner.resume(facts)
            elif group.first:
                miner.checkpoints.commit()
        with group.together():
            if not store.exists:
                raise UserError(f"{store.root}: not seen by process {group.number + 1}: all need the same folder")
        with interruptible(miner, options.exp_name, group):
            trainer.fit(miner)
            fit_seconds = miner.seconds
            fit_peak = utils.peak_device_bytes(device)
            about = {"signal": dataclasses.asdict(source.signal), "options": run_facts["options"], **source.about}
            about["levels"] = {report.level: dataclasses.asdict(report) for report in miner.reports}
            model_file.finish(draft, pyramid, utils.jsonable(about))
            save_seconds = miner.seconds - fit_seconds
            # What training has freed, measured half of its peak, would be there beside what measuring takes.
            give_back()
            source_bytes = run_facts["source"] and run_facts["source"]["bytes"]
            figures = figures_of(model_path, source, options, limits, group, fit_peak, source_bytes)

    result = figures | {
        "engine": engine.name,
        "precision": engine.precision,
        "fit_s": fit_seconds,
        "save_s": save_seconds,
        "wall_s": utils.process_seconds(),
        "stopped_early": miner.stopped_early,
    }
    if not group.first:
        return {}
    with utils.atomic_write(logs / "result.json") as temporary:
        temporary.write_text(json.dumps(utils.jsonable(result), indent=2, allow_nan=False) + "\n")
    show_result(logger, run_facts["options"], result)
    if not miner.stopped_early:
        store.clear()
    return result


def main(argv: list[str] | None = None) -> None:
    train(*opt.parse(argv))


if __name__ == "__main__":
    utils.run_command(main)
