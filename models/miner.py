"""The method: coarse to fine over levels, chunk by chunk, round by round, as one fit of Lightning's Trainer.

An epoch of the Trainer is one wave: one round of a chunk.
"""

from collections.abc import Iterator
from typing import Any

import pytorch_lightning as pl

from datasets.residual import LevelTargets
from datasets.source import Source
from machine.memory import Limits, give_back
from machine.ranks import Ranks
from models.block_mlp import BlockMLP
from models.checkpoints import Checkpoints
from models.chunks import Chunks
from models.clock import Clock
from models.draft import Draft
from models.flight import Wave, first_row
from models.forecast import Forecast, guess
from models.inheritance import Inheritance
from models.lanes import first_lane
from models.level_fit import LevelFit, LevelReport
from models.pyramid import Pyramid
from models.recipe import Recipe
from models.rounds import Rounds
from models.store import Store


class Miner(pl.LightningModule):
    """Trains a pyramid to give back a source.

    Args:
        source: the signal, on the device that the Trainer will use.
        pyramid: receives the levels, coarse to fine.
        recipe: how levels are trained.
        engine: what trains the blocks (models.engine).
        store: where progress is kept; what it holds already is gone on from.
        facts: JSON-able facts that every commit of the store carries along.
        limits: what is held at once.
        draft: of the model's file. Rows of the finest level that are not held are put into it as they come.
        max_time: seconds after which no further round begins, or None.
        ranks: the processes that share the run; all need the same of the above, but each a store of its own.
    """

    def __init__(
        self,
        source: Source,
        pyramid: Pyramid,
        recipe: Recipe,
        engine,
        store: Store,
        facts: dict[str, Any],
        limits: Limits,
        draft: Draft,
        max_time: float | None = None,
        ranks: Ranks | None = None,
    ):
        super().__init__()
        self.automatic_optimization = False
        self.source, self.pyramid, self.recipe, self.engine = source, pyramid, recipe, engine
        self.limits, self.ranks = limits, ranks or Ranks()
        forecast = Forecast(
            pyramid.grid,
            recipe.epochs,
            recipe.val_freq,
            recipe.b_chunks,
            limits.kept_values // (pyramid.channels * pyramid.grid.block_cells) if self.ranks.count == 1 else 0,
            lambda: guess(source, pyramid.grid, pyramid.inputs, recipe, engine),
            self.ranks.count,
        )
        self.clock = Clock(forecast, max_time)
        where = recipe.save_dtype, source.device, self.ranks
        self.checkpoints = Checkpoints(store, draft, facts, self.clock, *where)
        self.reports: list[LevelReport] = []
        # Of the levels that this session has trained, and closed.
        self.level_seconds: dict[int, float] = {}
        self.wave: Wave | None = None
        self._rounds = Rounds(pyramid.grid, source.device)
        # Of the level in training.
        self._chunks: Chunks | None = None

    @property
    def seconds(self) -> float:
        """Time spent on this fit, with what earlier sessions of it took."""
        return self.clock.seconds

    @property
    def stopped_early(self) -> bool:
        """Whether its time was over before it was done."""
        return self.checkpoints.stopped_early

    def left(self) -> float:
        """After a wave: the seconds that the rest takes."""
        return self.clock.left(self.checkpoints.points, self._chunks.later)

    def resume(self, facts: dict[str, Any]) -> None:
        """Take up the finished levels of an earlier session; chunks are taken up when their turn comes."""
        self.clock.earlier = facts["seconds"]
        for networks, report in self.checkpoints.levels(self.pyramid.grid.n_levels):
            self._add(networks, report)

    # What Lightning asks of a module: one batch an epoch, and no optimizer of its own.

    def configure_optimizers(self) -> None:
        return None

    def train_dataloader(self) -> list[int]:
        return [0]

    def on_fit_start(self) -> None:
        self._waves = self._levels()

    def training_step(self, batch: int, batch_idx: int) -> None:
        with first_lane(self.device):
            self.wave = next(self._waves, None)
        if self.wave is None:
            self.trainer.should_stop = True

    def cpu(self) -> "Miner":
        """Stays where it is: Lightning would empty the GPU at the end of a fit, but the pyramid is still needed."""
        return self

    # The method.

    def _levels(self) -> Iterator[Wave]:
        levels = [level for level in range(self.pyramid.grid.n_levels) if self.pyramid.level(level) is None]
        self.source.prepare(len(levels), self.ranks)
        for level in reversed(levels):
            if not self.stopped_early:
                yield from self._level(level)

    def _level(self, level: int) -> Iterator[Wave]:
        started = self.seconds
        fit = self._begin(level)
        begun = self.checkpoints.begin_level(fit, self.pyramid.levels)
        self._chunks = Chunks(fit, begun, self.checkpoints, self.clock, self.ranks)
        yield from self._chunks.train()
        self._end(fit, self._chunks)
        self.level_seconds[level] = self.seconds - started
        # The next survey needs its room.
        self._chunks = None

    def _begin(self, level: int) -> LevelFit:
        """What is left to learn at a level, and which blocks are active."""
        grid, coarser = self.pyramid.grid, self.pyramid.level(level + 1)
        prediction = None if level == grid.n_levels - 1 else lambda region: self.pyramid.decode(region, level)
        if prediction and grid.level_box(level + 1).size * self.pyramid.channels <= self.limits.decoded_values:
            self.pyramid.hold(level + 1, self.limits.strip_cells)
        sizes = self.limits.strip_cells, self.limits.kept_values
        targets = LevelTargets(self.source, prediction, grid, level, self.recipe.residual, *sizes)
        heirs = None
        if self.recipe.weight_sharing != "none" and coarser is not None:
            heirs = Inheritance(self.recipe.weight_sharing, coarser, grid, level, self.pyramid.encoding)
        room, inputs = self.limits.row_bytes - self.pyramid.held_row_bytes, self.pyramid.inputs
        fit = LevelFit(targets, self.recipe, inputs, self.engine, self.ranks, heirs, room, self._rounds)
        if self.device.type == "cpu":
            # What strips took would be there beside what training takes. To do so for every chunk as well costs a
            # twentieth of a run, as the system clears what it gets back.
            give_back()
        return fit

    def _end(self, fit: LevelFit, chunks: Chunks) -> None:
        """Bring together what the processes have trained of a level, and close it."""
        level, files = fit.level, self.checkpoints.files(fit.level, fit.network)
        if files and level and self.ranks.count > 1:
            # The journal of the first is to name files that those of their owners name.
            self.checkpoints.commit()
        # Before anyone closes the level all must know whether it is whole.
        met = self.ranks.gather((chunks.taken, self.checkpoints.out_of_time(), files))
        if any(late for _, late, _ in met):
            self.checkpoints.stop_early()
        fit.exchange([(owner, chunks.all[number]) for owner, (taken, _, _) in enumerate(met) for number in taken])
        files = {name: segments for *_, theirs in met for name, segments in theirs.items()}
        names = sorted(files, key=first_row)
        rows = None if fit.holds_rows else self.checkpoints.rows(fit.network, [files[name] for name in names])
        networks, report = fit.finish(rows)
        self._add(networks, report)
        self.checkpoints.level_done(fit, networks, report, names)

    def _add(self, networks: BlockMLP, report: LevelReport) -> None:
        self.pyramid.add(report.level, networks)
        self.reports.append(report)
