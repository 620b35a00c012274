"""What a run shows while it trains: a progress bar, TensorBoard's curves and pictures. None of it changes a result."""

import math
import sys
import threading
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from tqdm import tqdm

from datasets.source import Source
from models.flight import Wave
from models.miner import Miner
from pictures.levels import level_pictures

# Cells along an axis of the surfaces that TensorBoard is given: a browser turns 100,000 triangles with ease.
SURFACE_CELLS = 96
# Seconds between two looks of the progress bar at the clock.
TICK = 0.5
# Final figures by which TensorBoard compares runs.
COMPARED = ("psnr", "psnr_worst_block", "ssim", "iou", "n_params", "model_bytes", "fit_s")


class Figures(pl.Callback):
    """Writes the curves of a run, coarse to fine: level, loss, PSNR, blocks in training, learning rate and speed."""

    def on_train_batch_end(self, trainer: pl.Trainer, module: Miner, *_) -> None:
        if (wave := module.wave) is None:
            return
        # Epochs as --num_epochs counts them, over all levels: the chunks of a level share its epochs.
        step = _epochs(module, len(module.reports)) + wave.level_epochs
        figures = {
            "level": wave.level,
            "loss": wave.loss,
            "psnr": wave.psnr,
            "training_blocks": wave.training,
            "lr": wave.lr,
            "cells_per_s": wave.cells_per_s,
        }
        for logger in trainer.loggers:
            logger.log_metrics({f"fit/{name}": value for name, value in figures.items()}, step)


def _epochs(module: Miner, levels: int) -> int:
    """Epochs of the first levels that were finished."""
    return sum(module.recipe.epochs[report.level] for report in module.reports[:levels])


def show_result(logger: TensorBoardLogger, options: dict[str, Any], result: dict[str, Any]) -> None:
    """Put options and final figures beside those of other runs in TensorBoard's HPARAMS."""
    figures = {name: result.get(name) for name in COMPARED}
    figures = {f"result/{name}": x for name, x in figures.items() if x is not None and math.isfinite(x)}
    logger.log_hyperparams(options, figures)
    logger.finalize("success")


class Progress(pl.Callback):
    """One bar over the whole run on a terminal; where stderr is piped, one line when a level is done."""

    bar: tqdm | None = None
    # Levels that have been told of.
    shown = 0
    BAR = "{percentage:3.0f}%|{bar:24}| {desc} [{elapsed}{postfix}]"

    def on_fit_start(self, trainer: pl.Trainer, module: Miner) -> None:
        self.shown = len(module.reports)
        if sys.stderr.isatty():
            self.bar = tqdm(total=1.0, bar_format=self.BAR, dynamic_ncols=True)
            # When the run will end, in its own seconds.
            self.ends, self.over = math.inf, threading.Event()
            self.clock = threading.Thread(target=self._tick, args=(module,), daemon=True)
            self.clock.start()

    def on_train_batch_end(self, trainer: pl.Trainer, module: Miner, *_) -> None:
        if self.bar is not None and (wave := module.wave):
            self.ends = module.left() + module.seconds
            self.bar.set_description_str(_words(wave), refresh=False)
        self._say_levels(module)

    def _say_levels(self, module: Miner) -> None:
        # A level is told of with the first round of the next one, which goes on by then.
        for report in module.reports[self.shown :] if self.bar is None else ():
            blocks = f"{report.active} of {report.all} blocks have a network, {report.converged} converged"
            words = f"{blocks}, {report.psnr:.2f} dB, {module.level_seconds[report.level]:.1f} s"
            print(f"level {report.level}: {words}", file=sys.stderr, flush=True)
            self.shown += 1

    def _tick(self, module: Miner) -> None:
        """Count down while a round goes on: one of many blocks may take minutes."""
        while not self.over.wait(TICK):
            if math.isfinite(self.ends):
                self.bar.n = max(self.bar.n, min(module.seconds / self.ends, 1.0))
                self.bar.set_postfix_str(f"{tqdm.format_interval(max(0.0, self.ends - module.seconds))} left", False)
            self.bar.refresh()

    def on_fit_end(self, trainer: pl.Trainer, module: Miner) -> None:
        if self.bar is not None:
            self._stop()
            self.bar.n = 1.0 if not module.stopped_early else self.bar.n
            self.bar.set_postfix_str("")
            self.bar.close()

    def on_exception(self, trainer: pl.Trainer, module: Miner, exception: BaseException) -> None:
        self._say_levels(module)
        if self.bar is not None:
            self._stop()
            self.bar.close()

    def _stop(self) -> None:
        self.over.set()
        self.clock.join()


def _words(wave: Wave) -> str:
    chunk = f", chunk {wave.chunk + 1}/{wave.chunks}" if wave.chunks > 1 else ""
    epoch = f"round {wave.round}, epoch {wave.epoch}/{wave.epochs}"
    return f"level {wave.level}{chunk}, {epoch}, {wave.training} blocks in training, {wave.psnr:.2f} dB"


class Pictures(pl.Callback):
    """Shows each finished level in TensorBoard: reconstruction and truth, residual, active blocks; of a shape also its
    surface. A slider leads from the coarsest level to the finest."""

    def __init__(self, source: Source, strip_cells: int):
        self.source, self.strip_cells = source, strip_cells
        self.shown = 0

    def on_fit_start(self, trainer: pl.Trainer, module: Miner) -> None:
        self.shown = len(module.reports)

    def on_train_batch_end(self, trainer: pl.Trainer, module: Miner, *_) -> None:
        for report in module.reports[self.shown :]:
            self.shown += 1
            step, pictures = _epochs(module, self.shown), self._pictures(module, report.level)
            vertices, faces = self._surface(module, report.level)
            for logger in trainer.loggers:
                for kind, picture in pictures.items():
                    logger.experiment.add_image(f"pictures/{kind}", picture, step, dataformats="HWC")
                if len(faces):
                    logger.experiment.add_mesh("pictures/surface", vertices[None], faces=faces[None], global_step=step)

    def _pictures(self, module: Miner, level: int) -> dict[str, np.ndarray]:
        return level_pictures(module.pyramid, self.source, level, strip_cells=self.strip_cells)

    def _surface(self, module: Miner, level: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The surface of a shape's level, at most SURFACE_CELLS along an axis: a finer level is averaged down."""
        if self.source.signal.mode != "occupancy":
            return torch.empty(0, 3), torch.empty(0, 3)
        from pictures.surfaces import coarse_surface

        vertices, faces = coarse_surface(module.pyramid, self.source.about["bounds"], level, SURFACE_CELLS)
        return torch.from_numpy(vertices).float(), torch.from_numpy(faces).int()
