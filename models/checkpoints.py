"""What of a fit is on disk while it goes on: what a resume goes on from, and rows that no memory is to hold."""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from machine.ranks import Ranks
from models.block_mlp import BlockMLP
from models.clock import Clock
from models.draft import Draft
from models.flight import Point, level_state, piece_name, rows_name
from models.lanes import join, to_host
from models.level_fit import LevelFit, LevelReport
from models.network import Network
from models.precision import PackedRows, columns, table_bytes
from models.rows import Segment
from models.store import Store
from models.training_copy import TrainingCopy

# A killed run loses at most the larger of one round and 30 seconds.
SECONDS_BETWEEN_COMMITS = 15
# At the end of a level, less is done again as fast as it is written.
WORTH_A_COMMIT = 1


class Checkpoints:
    """The progress of a fit on disk.

    Args:
        store: where it is kept; what it holds already is gone on from.
        draft: of the model's file. Rows of the finest level that are not held are put into it as they come.
        facts: JSON-able facts that every commit carries along.
        clock: says how long the fit has taken, and when its time is over.
        save_dtype: of rows in files.
        device: where the fit is.
        ranks: the processes that share it; the first keeps the finished levels.
    """

    def __init__(
        self,
        store: Store,
        draft: Draft,
        facts: dict[str, Any],
        clock: Clock,
        save_dtype: str,
        device: torch.device,
        ranks: Ranks,
    ):
        self.store, self.draft, self.facts, self.clock = store, draft, facts, clock
        self.save_dtype, self.device, self.ranks = save_dtype, device, ranks
        self.stopped_early = False
        # The chunks in flight by their numbers; replaced as a whole, so that an interrupt never sees half of it.
        self.points: Mapping[int, Point] = {}
        # Chunks of the level in training whose rows an earlier session has put in files.
        self._restored: list[range] = []
        self._committed = time.perf_counter()

    def out_of_time(self) -> bool:
        """Whether no further round may begin. Levels are closed as they stand then, which is never committed."""
        if not self.stopped_early and self.clock.over:
            self.stop_early()
        return self.stopped_early

    def stop_early(self) -> None:
        """Commit for the last time: a resume goes on from here."""
        self.commit()
        self.stopped_early = True

    def commit(self) -> None:
        """Put on disk what a resume needs: finished levels, finished chunks, and the chunks in flight."""
        if not self.stopped_early:
            self._begin_commit()
            self.store.wait()

    def _begin_commit(self) -> None:
        """Begin a commit, which is written while training goes on: no round changes what its points are kept as."""
        for point in self.points.values():
            self.store.drop(piece_name(point))
            self.store.keep(piece_name(point, point.epoch), point.state())
        # The thread that writes it reads from the GPU what may have been put there a moment ago.
        join(self.device)
        self.store.begin_commit({**self.facts, "seconds": self.clock.seconds})
        self._committed = time.perf_counter()

    def commit_if_due(self) -> None:
        """Begin a commit if the last one is long ago."""
        self._commit_after(SECONDS_BETWEEN_COMMITS)

    def _commit_after(self, seconds: float) -> None:
        if not self.stopped_early and time.perf_counter() - self._committed > seconds:
            self._begin_commit()

    # Chunks in flight.

    def put(self, number: int, point: Point) -> None:
        """Take note of where a chunk in flight is."""
        self.points = {**self.points, number: point}

    def chunk_done(self, number: int) -> None:
        """Keep a chunk that is trained to its end."""
        point = self.points[number]
        fit, chunk = point.fit, point.chunk
        state = fit.state(chunk)
        if not fit.holds_rows:
            self._write_rows(fit, chunk)
            del state["rows"]
        if not self.stopped_early:
            self.store.drop(piece_name(point))
            self.store.keep(piece_name(point, fit.epochs), {"target": state})
        self.points = {other: there for other, there in self.points.items() if other != number}

    def _write_rows(self, fit: LevelFit, chunk: range) -> None:
        """Begin to write the rows of a finished chunk: where a resume finds them, and into the model's file."""
        tables = [to_host(table) for table in fit.finished_rows(chunk)]
        self.store.write(rows_name(fit, chunk), tables)
        keys = columns(fit.network, self.save_dtype)
        named = lambda: {key: table() for key, table in zip(keys, tables, strict=True)}  # noqa: E731
        self.draft.put(str(fit.level), chunk.start, named)

    # Levels.

    def begin_level(self, fit: LevelFit, finished: Mapping[str, BlockMLP]) -> dict[range, tuple[int, str]]:
        """Prepare for a level's chunks. Those that an earlier session has begun: the epoch that each has reached, and
        the piece that has it.

        Args:
            finished: the coarser levels.
        """
        if not fit.level and not fit.holds_rows:
            self._begin_draft(fit, finished)
        self._restored = []
        found: dict[range, tuple[int, str]] = {}
        for name in self.store.names:
            kind, *numbers = name.split("_")
            if kind == "chunk" and int(numbers[0]) == fit.level:
                start, stop, epoch = map(int, numbers[1:])
                chunk = range(start, stop)
                found[chunk] = max(found.get(chunk, (0, "")), (epoch, name))
        return found

    def _begin_draft(self, fit: LevelFit, finished: Mapping[str, BlockMLP]) -> None:
        """Begin the model's file before its last level is trained, as if all of its networks were kept."""
        self.draft.begin({**finished, str(fit.level): fit.target})
        for level, networks in finished.items():
            self.draft.put_level(level, networks)
        if self.ranks.first:
            self.draft.put(str(fit.level), 0, lambda: {"blocks": fit.target.blocks, "amplitude": fit.target.amplitude})

    def copy(self, fit: LevelFit, chunk: range, piece: str) -> TrainingCopy:
        """A chunk as an earlier session has left it, to go on with."""
        stored = self.store.piece(piece, self.device)
        fit.restore(chunk, stored["target"])
        return fit.copy(stored["index"], stored["rows"], stored["moments"], chunk, stored.get("zeroed"))

    def restore(self, fit: LevelFit, chunk: range, piece: str) -> None:
        """Take up a chunk that nothing is to be added to as an earlier session has left it."""
        state = self.store.piece(piece, self.device)["target"]
        fit.restore(chunk, state)
        if not fit.holds_rows and "rows" in state:
            # That session ended between the last round and the writing of the rows.
            self._write_rows(fit, chunk)
        elif not fit.holds_rows:
            self._restored.append(chunk)

    def files(self, level: int, network: Network) -> dict[str, list[Segment]]:
        """Where the rows of a level's chunks are that are in files."""
        return self.store.tables(f"rows_{level}_", table_bytes(network, self.save_dtype))

    def rows(self, network: Network, files: Sequence[list[Segment]]) -> PackedRows:
        """The rows of a level that are in files, in their order."""
        return PackedRows.of_segments(network, self.save_dtype, files)

    def level_done(self, fit: LevelFit, networks: BlockMLP, report: LevelReport, files: list[str]) -> None:
        """Keep a finished level; where its rows are not held they are in `files`, in their order."""
        for chunk in self._restored if len(networks) == len(fit.target) else ():
            self.draft.put_part(str(fit.level), networks, chunk)
        if not fit.level:
            # What is kept of its chunks is enough, for the model is written next.
            return
        if self.ranks.first:
            # The pieces of the others stay until the run is done: this one does not know when to let go of them.
            self.store.keep(f"level_{fit.level}", level_state(networks, report, files))
            self.store.drop(f"chunk_{fit.level}_")
        # The next survey may take long.
        self._commit_after(WORTH_A_COMMIT)

    def levels(self, n_levels: int) -> Iterator[tuple[BlockMLP, LevelReport]]:
        """The finished levels that an earlier session has left, coarse to fine."""
        for level in reversed(range(n_levels)):
            if stored := self.store.piece(f"level_{level}", self.device):
                network, rows = Network(**stored["network"]), stored.get("rows")
                if rows is None:
                    files = self.files(level, network)
                    rows = self.rows(network, [files[name] for name in stored["files"]])
                networks = BlockMLP(network, stored["blocks"], stored["amplitude"], rows, self.save_dtype)
                yield networks, LevelReport(**stored["report"])
