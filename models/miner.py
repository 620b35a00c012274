"""The method: coarse to fine over levels, chunk by chunk, round by round, as one fit of Lightning's Trainer.

An epoch of the Trainer is one wave: one round of a chunk. The chunks of a level are trained one after another, each
through all its rounds, so that weights and moments exist for the chunks in flight only: one on a CPU, two on a GPU,
whose rounds take turns (models.lanes). Where several processes share the run, each takes the next chunk that nobody has
taken, and they meet when the level is done.
"""

import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import pytorch_lightning as pl
import torch

from datasets.residual import LevelTargets
from datasets.source import Source
from machine.memory import Limits, give_back
from machine.ranks import Ranks
from models.block_mlp import BlockMLP
from models.draft import Draft
from models.engine.contract import cosine_lr
from models.flight import Point, Wave, first_row, level_state, piece_name, rows_name
from models.forecast import Forecast, guess
from models.inheritance import Inheritance
from models.lanes import first_lane, join, lanes, to_host
from models.level_fit import LevelFit, LevelReport
from models.network import Network
from models.precision import PackedRows, columns, table_bytes
from models.pyramid import Pyramid
from models.recipe import Recipe
from models.rounds import Rounds
from models.rows import Segment
from models.store import Store

# A killed run loses at most the larger of one round and 30 seconds.
SECONDS_BETWEEN_COMMITS = 15
# At the end of a level, less is done again as fast as it is written.
WORTH_A_COMMIT = 1
# What a lane says when it has trained all its chunks.
DONE = object()


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
        self.store, self.facts, self.limits, self.draft = store, facts, limits, draft
        self.max_time, self.ranks = max_time, ranks or Ranks()
        self._all_rounds = Rounds(pyramid.grid, source.device)
        self.reports: list[LevelReport] = []
        self.wave: Wave | None = None
        self.stopped_early = False
        # Of the chunks in flight by their numbers; replaced as a whole too.
        self._points: dict[int, Point] = {}
        # Blocks of the level whose chunks are not begun.
        self._later = 0
        # Chunks of the level in training whose rows an earlier session has put in files.
        self._restored: list[range] = []
        self._earlier = 0.0
        self._started = self._committed = self._ended = time.perf_counter()
        # Epochs of blocks trained so far, and the seconds they took; and those in which rounds were told of.
        self._work, self._work_seconds, self._telling = 0, 1e-9, 0.0
        self._forecast = Forecast(
            pyramid.grid,
            recipe.epochs,
            recipe.val_freq,
            recipe.b_chunks,
            limits.kept_values // (pyramid.channels * pyramid.grid.block_cells) if self.ranks.count == 1 else 0,
            lambda: guess(source, pyramid.grid, pyramid.inputs, recipe, engine),
            self.ranks.count,
        )

    @property
    def seconds(self) -> float:
        """Time spent on this fit, with what earlier sessions of it took."""
        return self._earlier + self._session

    @property
    def _session(self) -> float:
        return time.perf_counter() - self._started

    @property
    def _clock(self) -> float:
        """Seconds that stand still while others hear of a round."""
        return time.perf_counter() - self._telling

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
        grid = self.pyramid.grid
        prediction = None if level == grid.n_levels - 1 else lambda region: self.pyramid.decode(region, level)
        if prediction and grid.level_box(level + 1).size * self.pyramid.channels <= self.limits.decoded_values:
            self.pyramid.hold(level + 1, self.limits.strip_cells)
        sizes = self.limits.strip_cells, self.limits.kept_values
        targets = LevelTargets(self.source, prediction, grid, level, self.recipe.residual, *sizes)
        heirs, room = self._inheritance(level), self.limits.row_bytes - self.pyramid.held_row_bytes
        inputs = self.pyramid.inputs
        fit = LevelFit(targets, self.recipe, inputs, self.engine, self.ranks, heirs, room, self._all_rounds)
        if self.device.type == "cpu":
            # What strips took would be there beside what training takes. To do so for every chunk as well costs a
            # twentieth of a run, as the system clears what it gets back.
            give_back()
        if not level and not fit.holds_rows:
            self._begin_draft(fit)
        pieces, self._restored = self._stored(level), []
        chunks, mine = fit.chunks(list(pieces)), []
        taken = self._taken(level, len(chunks))
        busy = deque((lane, self._lane(fit, chunks, pieces, taken, mine)) for lane in lanes(self.device))
        while busy:
            lane, waves = busy[0]
            with torch.cuda.stream(lane):
                wave = next(waves, DONE)
            if wave is DONE:
                busy.popleft()
            elif wave is None:
                # A round has begun; while it goes on, the next lane ends its own.
                busy.rotate(-1)
            else:
                yield wave
        join(self.device)
        files = self._files(level, fit.network)
        if files and level and self.ranks.count > 1:
            # The journal of the first is to name files that those of their owners name.
            self.commit()
        # Before anyone closes the level all must know whether it is whole.
        met = self.ranks.gather((mine, self._out_of_time(), files))
        if any(late for _, late, _ in met):
            self._stop_early()
        fit.exchange([(owner, chunks[number]) for owner, (numbers, _, _) in enumerate(met) for number in numbers])
        files = {name: segments for *_, theirs in met for name, segments in theirs.items()}
        names = sorted(files, key=first_row)
        rows = None if fit.holds_rows else self._rows(fit.network, [files[name] for name in names])
        networks, report = fit.finish(rows)
        for chunk in self._restored if len(networks) == len(fit.target) else ():
            self.draft.put_part(str(level), networks, chunk)
        self.pyramid.add(level, networks)
        self.reports.append(report)
        # Of the finest level what is kept of its chunks is enough, for the model is written next.
        if self.ranks.first and level:
            # The pieces of the others stay until the run is done: this one does not know when to let go of them.
            self.store.keep(f"level_{level}", level_state(networks, report, names))
            self.store.drop(f"chunk_{level}_")
        if level and time.perf_counter() - self._committed > WORTH_A_COMMIT and not self.stopped_early:
            # The next survey may take long.
            self.begin_commit()

    def _taken(self, level: int, n: int) -> Iterator[tuple[int, int | None]]:
        """The numbers of the chunks, of `n`, that this process trains, each with the one after it or None.

        That is taken at the same time, so that what it needs can be made while this one trains; not so near the end
        that another process would have none, nor on a CPU, where several make nothing ahead.
        """
        count, following = self.ranks.count, None
        while True:
            number = self.ranks.take(f"chunks_{level}") if following is None else following
            if number >= n:
                return
            # Each of several may hold two.
            ahead = count == 1 or (self.device.type == "cuda" and number + 3 * count <= n + 1)
            following = self.ranks.take(f"chunks_{level}") if ahead else None
            yield number, following if following is not None and following < n else None

    def _begin_draft(self, fit: LevelFit) -> None:
        """Begin the model's file before its last level is trained, as if all of its networks were kept."""
        levels, name = dict(self.pyramid.levels), str(fit.level)
        self.draft.begin({**levels, name: fit.target})
        for finished, networks in levels.items():
            self.draft.put_level(finished, networks)
        if self.ranks.first:
            self.draft.put(name, 0, lambda: {"blocks": fit.target.blocks, "amplitude": fit.target.amplitude})

    def _files(self, level: int, network: Network) -> dict[str, list[Segment]]:
        """Where the rows of a level's chunks are that are in files."""
        return self.store.tables(f"rows_{level}_", table_bytes(network, self.recipe.save_dtype))

    def _rows(self, network: Network, segments: list[list[Segment]]) -> PackedRows:
        return PackedRows.of_segments(network, self.recipe.save_dtype, segments)

    def _inheritance(self, level: int) -> Inheritance | None:
        parents = self.pyramid.level(level + 1)
        if self.recipe.weight_sharing == "none" or parents is None:
            return None
        return Inheritance(self.recipe.weight_sharing, parents, self.pyramid.grid, level, self.pyramid.encoding)

    def _lane(
        self,
        fit: LevelFit,
        chunks: list[range],
        pieces: dict[range, tuple[int, str]],
        taken: Iterator[tuple[int, int | None]],
        mine: list[int],
    ) -> Iterator[Wave | None]:
        """Train chunks that are taken, one after another: None when a round has begun, and its wave when it is done.

        Args:
            pieces: where an earlier session has left some of the chunks.
            mine: grows by the numbers of the chunks.
        """
        for number, following in taken:
            chunk = chunks[number]
            epoch, piece = pieces.get(chunk, (0, None))
            mine.append(number)
            if epoch == fit.epochs or (piece is not None and self._out_of_time()):
                # As far as an earlier session has brought it.
                self._restore(fit, chunk, self.store.piece(piece, self.device)["target"])
            elif not self._out_of_time():
                self._points = {**self._points, number: self._start(fit, chunk, epoch, piece)}
                if following is not None and chunks[following] not in pieces:
                    fit.expect(chunks[following])
                yield from self._rounds(fit, chunks, number)
            fit.end(chunk)

    def _rounds(self, fit: LevelFit, chunks: list[range], number: int) -> Iterator[Wave | None]:
        """Train a chunk in flight through all its rounds; each is told of while the next goes on."""
        chunk, wave = chunks[number], None
        while (point := self._points[number]).epoch < fit.epochs and len(point.copy) and not self._out_of_time():
            started = self._clock
            window = self._window(point)
            copy, mse = fit.train(point.copy, window)
            if wave:
                yield from self._told(wave)
            yield None
            at_end = window.stop % self.recipe.val_freq == 0 or window.stop == fit.epochs
            point = Point(fit, chunk, window.stop, fit.sync(copy, mse, prune=at_end))
            self._points = {**self._points, number: point}
            loss, gain = fit.figures(mse)
            ended = self._clock
            # Of the time that two rounds share the first has what came before its end.
            seconds, self._ended = ended - max(started, self._ended), ended
            self._work += len(copy) * len(window)
            self._work_seconds += seconds
            self._forecast.trained(fit.level, window.stop, len(window), len(copy), len(point.copy), seconds)
            rate = len(copy) * len(window) * fit.grid.block_cells / seconds
            gain, rate = self.ranks.pool(f"level_{fit.level}", [gain, rate])
            lr = cosine_lr(self.recipe.lr, window[-1], fit.epochs)
            round_ = -(-window.stop // self.recipe.val_freq)
            where = fit.level, number, len(chunks), round_, window.stop, fit.epochs, self._level_epochs(fit, chunks)
            if time.perf_counter() - self._committed > SECONDS_BETWEEN_COMMITS:
                self.begin_commit()
            self._later = sum(map(len, chunks[max(self._points) + 1 :]))
            wave = Wave(*where, len(copy), loss, fit.psnr(gain), lr, rate)
        if wave:
            yield from self._told(wave)
        state = fit.state(chunk)
        if not fit.holds_rows:
            self._write_rows(fit, chunk)
            del state["rows"]
        if not self.stopped_early:
            self.store.drop(piece_name(point))
            self.store.keep(piece_name(point, fit.epochs), {"target": state})
        self._points = {other: point for other, point in self._points.items() if other != number}

    def _told(self, wave: Wave) -> Iterator[Wave]:
        started = time.perf_counter()
        yield wave
        self._telling += time.perf_counter() - started

    def _restore(self, fit: LevelFit, chunk: range, state: dict[str, Any]) -> None:
        """Take up a chunk that an earlier session has finished."""
        fit.restore(chunk, state)
        if not fit.holds_rows and "rows" in state:
            # That session ended between the last round and the writing of the rows.
            self._write_rows(fit, chunk)
        elif not fit.holds_rows:
            self._restored.append(chunk)

    def _write_rows(self, fit: LevelFit, chunk: range) -> None:
        """Begin to write the rows of a finished chunk: where a resume finds them, and into the model's file."""
        tables = [to_host(table) for table in fit.finished_rows(chunk)]
        self.store.write(rows_name(fit, chunk), tables)
        keys = columns(fit.network, self.recipe.save_dtype)
        named = lambda: {key: table() for key, table in zip(keys, tables, strict=True)}  # noqa: E731
        self.draft.put(str(fit.level), chunk.start, named)

    def _stored(self, level: int) -> dict[range, tuple[int, str]]:
        """The chunks of a level that an earlier session has begun: the epoch they have reached, and their piece."""
        found: dict[range, tuple[int, str]] = {}
        for name in self.store.names:
            kind, *numbers = name.split("_")
            if kind == "chunk" and int(numbers[0]) == level:
                start, stop, epoch = map(int, numbers[1:])
                chunk = range(start, stop)
                found[chunk] = max(found.get(chunk, (0, "")), (epoch, name))
        return found

    def _start(self, fit: LevelFit, chunk: range, epoch: int, piece: str | None) -> Point:
        """A chunk's fresh networks, or where an earlier session left them."""
        if piece is None:
            copy = fit.start(chunk)
        else:
            stored = self.store.piece(piece, self.device)
            fit.restore(chunk, stored["target"])
            copy = fit.copy(stored["index"], stored["rows"], stored["moments"], chunk, stored.get("zeroed"))
        if len(chunk) == len(fit.target):
            fit.targets.forget()
        return Point(fit, chunk, epoch, copy)

    def _window(self, point: Point) -> range:
        """The epochs up to the next pruning, or as many as the time that is left is enough for."""
        rounds = point.epoch // self.recipe.val_freq + 1
        stop = min(rounds * self.recipe.val_freq, point.fit.epochs)
        if self.max_time is not None and self._work:
            blocks = sum(len(other.copy) for other in self._points.values())
            affordable = (self.max_time - self._session) * self._work / self._work_seconds / blocks
            stop = min(stop, point.epoch + max(1, int(affordable)))
        return range(point.epoch, stop)

    def _out_of_time(self) -> bool:
        if self.max_time is not None and not self.stopped_early and self._session >= self.max_time:
            self._stop_early()
        return self.stopped_early

    def _stop_early(self) -> None:
        """A resume goes on from here; the levels are closed as they stand, and that is never committed."""
        self.commit()
        self.stopped_early = True

    def _level_epochs(self, fit: LevelFit, chunks: list[range]) -> int:
        """Epochs of a level that are behind, as a mean over its chunks; those before the ones in flight are done."""
        done = max(self._points) + 1 - len(self._points)
        return (done * fit.epochs + sum(point.epoch for point in self._points.values())) // len(chunks)

    def left(self) -> float:
        """After a wave: the seconds that the rest takes."""
        fit = next(iter(self._points.values())).fit
        training = [(point.epoch, len(point.copy)) for point in self._points.values()]
        other = self._session - self._work_seconds
        left = self._forecast.left(fit.level, training, self._later, len(fit.target), other)
        if self.max_time is not None:
            left = min(left, max(0.0, self.max_time - self._session))
        return left

    # Progress on disk.

    def commit(self) -> None:
        """Put on disk what a resume needs: finished levels, finished chunks, and the chunks in flight."""
        if not self.stopped_early:
            self.begin_commit()
            self.store.wait()

    def begin_commit(self) -> None:
        """Begin a commit, which is written while training goes on: no round changes what its points are kept as."""
        for point in self._points.values():
            self.store.drop(piece_name(point))
            self.store.keep(piece_name(point, point.epoch), point.state())
        # The thread that writes it reads from the GPU what may have been put there a moment ago.
        join(self.device)
        self.store.begin_commit({**self.facts, "seconds": self.seconds})
        self._committed = time.perf_counter()

    def resume(self, facts: dict[str, Any], device: torch.device) -> None:
        """Take up the finished levels of the store; chunks are taken up when their turn comes."""
        self._earlier = facts["seconds"]
        for level in reversed(range(self.pyramid.grid.n_levels)):
            stored = self.store.piece(f"level_{level}", device)
            if stored:
                network = Network(**stored["network"])
                if "rows" in stored:
                    rows = stored["rows"]
                else:
                    files = self._files(level, network)
                    rows = self._rows(network, [files[name] for name in stored["files"]])
                tensors = stored["blocks"], stored["amplitude"], rows
                self.pyramid.add(level, BlockMLP(network, *tensors, self.recipe.save_dtype))
                self.reports.append(LevelReport(**stored["report"]))
