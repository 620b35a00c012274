"""What a resume needs, on disk: pieces that are written once, and a journal that is renamed into place last.

The journal names the pieces it believes in, so a run killed between two writes finds the last journal and its pieces.
Everything is written by one thread, one thing after another, while the run goes on.
"""

import contextlib
import itertools
import json
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.rows import Segment
from utils import UserError, atomic_write, to_disk

JOURNAL = "journal.json"
VERSION = 3
# Tables of rows that may wait in memory for the disk.
MOST_WAITING = 4


class Store:
    """The progress of a run, in a folder of its own.

    Of several processes each writes pieces and a journal of its own, the first in the folder itself and every other in
    one within it, and commits when it likes; a later session finds the pieces of all. That session may have another
    number of processes. Nothing of it counts without the first one's journal.

    Args:
        folder: where the pieces live; removed when the run is finished.
        number: which of the processes this is, from 0.
    """

    def __init__(self, folder: Path, number: int = 0):
        self.root = folder
        self.folder = folder / f"process_{number}" if number else folder
        self._written: dict[str, str] = {}
        # Pieces that other processes committed in an earlier session: where they are.
        self._elsewhere: dict[str, Path] = {}
        self._commits = 0
        self._waiting: dict[str, Any] = {}
        self._tables: deque[Future] = deque()
        self._unflushed: dict[str, str] = {}
        self._begun: Future | None = None
        self._thread = ThreadPoolExecutor(1, "write")

    @property
    def journal(self) -> Path:
        """Of the first process."""
        return self.root / JOURNAL

    @property
    def exists(self) -> bool:
        return self.journal.is_file()

    @property
    def names(self) -> list[str]:
        """Of the pieces of the last commit."""
        return sorted({*self._elsewhere, *self._written})

    def keep(self, name: str, piece: Any) -> None:
        """Remember a piece, tensors and numbers in dicts and lists, under a name until the next commit writes it."""
        self._waiting[name] = piece

    def write(self, name: str, tables: Sequence[Callable[[], Tensor]]) -> None:
        """Begin to write tables [n, ...] of one n under a name, for what no memory is to hold until the next commit.

        Args:
            tables: what gives each of them on the host (models.lanes.to_host).

        Raises:
            OSError: something begun earlier could not be written.
        """
        while len(self._tables) >= MOST_WAITING:
            self._tables.popleft().result()
        # Never the name of a file that the last journal believes in.
        file = f"{name}.{self._commits + 1}.rows"
        self._tables.append(self._thread.submit(self._write, file, tables))
        # An interrupt before this leaves a file that is not wanted, one after it none that is missing.
        self._unflushed[name] = self._written[name] = file

    def tables(self, prefix: str, row_bytes: Sequence[int]) -> dict[str, list[Segment]]:
        """Where the tables are that were written under names that start so. They stay in their files.

        Args:
            row_bytes: what a row takes in each of a name's tables.

        Raises:
            UserError: a file is not there.
        """
        self.wait()
        paths = self._elsewhere | {name: self.folder / file for name, file in self._written.items()}
        try:
            counts = {
                name: path.stat().st_size // sum(row_bytes) for name, path in paths.items() if name.startswith(prefix)
            }
        except OSError as error:
            raise UserError(f"{error.filename}: damaged ({error.strerror}): start over without --resume") from None
        before = [0, *itertools.accumulate(row_bytes)][:-1]
        return {name: [Segment(paths[name], n * first, n) for first in before] for name, n in counts.items()}

    def _write(self, file: str, tables: Sequence[Callable[[], Tensor]]) -> None:
        # The next commit flushes it; until then the disk need not hear of it.
        with atomic_write(self.folder / file, flush=False) as temporary, open(temporary, "wb") as out:
            for table in tables:
                out.write(memoryview(table().numpy()))

    def wait(self) -> None:
        """Until all that was begun is on disk.

        Raises:
            OSError: something could not be written.
        """
        while self._tables:
            self._tables.popleft().result()
        self._end_commit()

    def _end_commit(self) -> None:
        # Of one that failed every later one says so too, for it would name what was never written.
        if self._begun:
            self._begun.result()
            self._begun = None

    def drop(self, prefix: str) -> None:
        """Forget the pieces whose names start so; the next commit leaves them out."""
        self._waiting = {name: piece for name, piece in self._waiting.items() if not name.startswith(prefix)}
        self._written = {name: file for name, file in self._written.items() if not name.startswith(prefix)}
        self._elsewhere = {name: path for name, path in self._elsewhere.items() if not name.startswith(prefix)}

    def begin_commit(self, facts: dict[str, Any]) -> None:
        """Begin a commit: of what waits now, which nothing may change from here on, then of the journal with `facts`
        (JSON-able). What that no longer names is removed.

        Raises:
            OSError: something begun earlier could not be written.
        """
        self._end_commit()
        # Never the name of a file that the last journal believes in.
        number = self._commits + 1
        files = {name: f"{name}.{number}.pt" for name in self._waiting}
        written = self._written | files
        pieces = {files[name]: piece for name, piece in self._waiting.items()}
        journal = json.dumps({"version": VERSION, "commits": number, "pieces": written, **facts}, allow_nan=False)
        # Wherever an interrupt comes, what waits still waits, or is on its way.
        tables = list(self._tables), list(self._unflushed.values())
        self._begun = self._thread.submit(self._commit, *tables, pieces, journal, {*written.values()})
        self._commits, self._written, self._waiting, self._unflushed = number, written, {}, {}

    def _commit(
        self, tables: list[Future], unflushed: list[str], pieces: dict[str, Any], journal: str, named: set[str]
    ) -> None:
        for table in tables:
            table.result()
        for file in unflushed:
            to_disk(self.folder / file)
        for file, piece in pieces.items():
            with atomic_write(self.folder / file) as temporary, open(temporary, "wb") as out:
                try:
                    torch.save(piece, out)
                except RuntimeError as error:
                    # What is wrong with the disk is behind what torch makes of it.
                    raise error.__context__ if isinstance(error.__context__, OSError) else error from None
        with atomic_write(self.folder / JOURNAL) as temporary:
            temporary.write_text(journal)
        to_disk(self.folder)
        # What is begun after this commit is written after it.
        for file in self.folder.iterdir():
            if file.is_file() and file.name not in (JOURNAL, *named):
                file.unlink()

    def read(self) -> dict[str, Any]:
        """The facts of the first process's last commit; from now on the pieces of all processes are known."""
        for path in self.root.glob(f"*/{JOURNAL}"):
            if path.parent != self.folder:
                self._elsewhere |= _pieces(path)
        if self.folder != self.root:
            self._elsewhere |= _pieces(self.root / JOURNAL)
        if (self.folder / JOURNAL).is_file():
            facts = _journal(self.folder / JOURNAL)
            self._written, self._commits = facts["pieces"], facts["commits"]
        return _journal(self.root / JOURNAL)

    def piece(self, name: str, device: torch.device) -> Any:
        """A piece of the last commit; None if the journal does not name it."""
        self.wait()
        path = self.folder / self._written[name] if name in self._written else self._elsewhere.get(name)
        if path is None:
            return None
        try:
            return torch.load(path, map_location=device, weights_only=True)
        except Exception as error:
            raise UserError(f"{path}: damaged ({type(error).__name__}): start over without --resume") from None

    def clear(self) -> None:
        """Remove everything, the journal first, so that what is left behind by a kill is never believed."""
        # What could not be written is not wanted either.
        with contextlib.suppress(OSError):
            self.wait()
        self._tables.clear()
        self._begun = None
        self._waiting, self._written, self._elsewhere = {}, {}, {}
        self._thread.submit(self._remove).result()

    def _remove(self) -> None:
        if self.root.is_dir():
            (self.root / JOURNAL).unlink(missing_ok=True)
            for folder in (*(path for path in self.root.iterdir() if path.is_dir()), self.root):
                for file in folder.iterdir():
                    file.unlink()
                folder.rmdir()


def _journal(path: Path) -> dict[str, Any]:
    try:
        facts = json.loads(path.read_text())
        facts = {**facts, "pieces": dict(facts["pieces"]), "commits": int(facts["commits"])}
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{path}: damaged: start over without --resume") from None
    if facts.get("version") != VERSION:
        raise UserError(f"{path}: written by another version: start over without --resume")
    return facts


def _pieces(path: Path) -> dict[str, Path]:
    return {name: path.parent / file for name, file in _journal(path)["pieces"].items()}
