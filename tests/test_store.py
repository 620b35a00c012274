"""Progress on disk: what was committed is what is found, whenever the process dies."""

import errno
import json
import os
import resource
import signal

import pytest
import torch
from conftest import same

import models.store
from models.lanes import to_host
from models.rows import FileRows
from models.store import JOURNAL, Store
from utils import UserError, atomic_write

CPU = torch.device("cpu")


def piece(number):
    moments = {
        "state": {0: {"step": torch.tensor(float(number)), "m": torch.full((2, 3), float(number))}},
        "param_groups": [{"lr": 0.1}],
    }
    return {
        "epoch": number,
        "rows": torch.arange(6) * number,
        "moments": moments,
        "index": torch.zeros(0, dtype=torch.int64),
    }


def commit(store, facts=None):
    store.begin_commit(facts or {})
    store.wait()


def found(folder):
    """What a new process finds: the facts, and every piece that the journal names."""
    store = Store(folder)
    facts = store.read()
    pieces = {name: store.piece(name, CPU) for name in facts["pieces"]}
    return {name: value for name, value in facts.items() if name in ("seconds", "options", "fresh")}, pieces


def test_nothing_is_there_before_the_first_commit(tmp_path):
    store = Store(tmp_path / "progress")
    store.keep("a", piece(1))
    assert not store.exists and not (tmp_path / "progress").exists()


def test_pieces_and_facts_come_back(tmp_path):
    store = Store(tmp_path / "progress")
    store.keep("a", piece(1))
    store.keep("b", piece(2))
    commit(store, {"seconds": 1.5, "options": {"lr": 0.03}})
    facts, pieces = found(tmp_path / "progress")
    assert (facts["seconds"], facts["options"]) == (1.5, {"lr": 0.03})
    assert same(pieces, {"a": piece(1), "b": piece(2)})
    assert Store(tmp_path / "progress").exists


def test_a_commit_of_nothing_is_a_commit(tmp_path):
    commit(Store(tmp_path / "progress"), {"seconds": 0})
    assert found(tmp_path / "progress") == ({"seconds": 0}, {})


def test_a_piece_that_is_not_in_the_journal_is_none(tmp_path):
    store = Store(tmp_path)
    commit(store)
    torch.save(piece(1), tmp_path / "stray.pt")
    store.keep("later", piece(2))
    assert store.piece("stray", CPU) is None and store.piece("later", CPU) is None


def test_pieces_stay_until_they_are_dropped_and_then_leave_the_disk(tmp_path):
    store = Store(tmp_path)
    for name in ("chunk_1_0", "chunk_1_1", "level_2", "point"):
        store.keep(name, piece(1))
    commit(store)
    commit(store, {"again": True})
    assert set(found(tmp_path)[1]) == {"chunk_1_0", "chunk_1_1", "level_2", "point"}
    store.drop("chunk_")
    store.keep("level_1", piece(3))
    assert len(found(tmp_path)[1]) == 4
    commit(store)
    assert set(found(tmp_path)[1]) == {"level_1", "level_2", "point"}
    assert len(list(tmp_path.iterdir())) == 4


def test_a_piece_dropped_before_its_commit_is_never_written(tmp_path):
    store = Store(tmp_path)
    store.keep("point", piece(1))
    store.drop("point")
    commit(store)
    assert [file.name for file in tmp_path.iterdir()] == [JOURNAL]


def test_a_later_process_goes_on_with_the_pieces(tmp_path):
    store = Store(tmp_path)
    store.keep("a", piece(1))
    commit(store)
    store = Store(tmp_path)
    store.read()
    store.keep("b", piece(2))
    commit(store)
    assert set(found(tmp_path)[1]) == {"a", "b"}


class Killed(BaseException):
    pass


@pytest.mark.parametrize("writes", [0, 1, 2, 3])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_kill_within_a_commit_leaves_the_last_commit_or_the_new_one(tmp_path, monkeypatch, writes, moment):
    """Killed at the n-th write, before it or after its renaming; the fourth write is the journal."""
    store = Store(tmp_path)
    store.keep("chunk_1_0", piece(1))
    store.keep("point", piece(2))
    commit(store, {"seconds": 1})
    last = found(tmp_path)
    left = writes

    def failing_write(path):
        nonlocal left
        if left == 0 and moment == "before":
            raise Killed
        left -= 1
        return atomic_write(path) if left >= 0 else killed_after(path)

    def killed_after(path):
        class Context:
            def __enter__(self):
                self.inner = atomic_write(path)
                return self.inner.__enter__()

            def __exit__(self, *error):
                self.inner.__exit__(*error)
                raise Killed

        return Context()

    monkeypatch.setattr(models.store, "atomic_write", failing_write)
    store.drop("point")
    store.drop("chunk_")
    for name, number in (("level_1", 5), ("chunk_0_0", 6), ("point", 7)):
        store.keep(name, piece(number))
    with pytest.raises(Killed):
        commit(store, {"seconds": 2})
    new = {"seconds": 2}, {"chunk_0_0": piece(6), "level_1": piece(5), "point": piece(7)}
    assert same(found(tmp_path), last) or (writes == 3 and moment == "after" and same(found(tmp_path), new))


def test_a_kill_while_old_pieces_are_removed_leaves_the_new_commit(tmp_path, monkeypatch):
    store = Store(tmp_path)
    store.keep("a", piece(1))
    commit(store)
    store.drop("a")
    store.keep("b", piece(2))
    unlink = type(tmp_path).unlink

    def killed(path, **options):
        if ".part" not in path.name:
            raise Killed
        unlink(path, **options)

    monkeypatch.setattr(type(tmp_path), "unlink", killed)
    with pytest.raises(Killed):
        commit(store)
    monkeypatch.undo()
    assert same(found(tmp_path)[1], {"b": piece(2)})


def test_what_a_killed_write_left_behind_is_removed_by_the_next_commit(tmp_path):
    store = Store(tmp_path)
    commit(store)
    (tmp_path / f".point.{os.getpid() + 1}.part.pt").write_bytes(b"half")
    store.keep("point", piece(1))
    commit(store)
    assert not list(tmp_path.glob(".*"))


def test_clear_leaves_nothing_and_can_be_repeated(tmp_path):
    store = Store(tmp_path / "progress")
    store.clear()
    store.keep("a", piece(1))
    commit(store)
    store.clear()
    store.clear()
    assert not store.exists and not (tmp_path / "progress").exists()
    commit(store, {"fresh": True})
    assert found(tmp_path / "progress") == ({"fresh": True}, {})


def test_a_kill_within_clear_leaves_a_run_or_none_but_never_half_of_one(tmp_path, monkeypatch):
    store = Store(tmp_path / "progress")
    store.keep("a", piece(1))
    commit(store)
    unlink, calls = type(tmp_path).unlink, []

    def once(path, **options):
        if calls:
            raise Killed
        calls.append(path)
        unlink(path, **options)

    monkeypatch.setattr(type(tmp_path), "unlink", once)
    with pytest.raises(Killed):
        store.clear()
    assert not Store(tmp_path / "progress").exists


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "3",
        "null",
        '{"version": 1}',
        '{"version": 99, "pieces": []}',
        '{"version": 1, "pieces": 3}',
        "\xff\x00",
    ],
)
def test_a_damaged_journal_is_one_line(tmp_path, text):
    (tmp_path / JOURNAL).write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError) as error:
        Store(tmp_path).read()
    assert "--resume" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("damage", [b"", b"\x00" * 100, b"half", None])
def test_a_damaged_or_missing_piece_is_one_line(tmp_path, damage):
    store = Store(tmp_path)
    store.keep("a", piece(1))
    commit(store)
    for file in tmp_path.iterdir():
        if file.name != JOURNAL:
            file.unlink() if damage is None else file.write_bytes(damage)
    with pytest.raises(UserError) as error:
        store.piece("a", CPU)
    assert "--resume" in str(error.value) and "\n" not in str(error.value)


def table(n):
    return torch.arange(n * 3, dtype=torch.float32).reshape(n, 3)


class Beside:
    """Two tables of rows side by side."""

    def __init__(self, *tables):
        self.tables = tables

    def take(self, index):
        return torch.cat([table.take(index) for table in self.tables], 1)


def halves(table):
    return [to_host(table[:, :2]), to_host(table[:, 2:])]


def rows_of(store, *names):
    files = store.tables("rows_0_", [8, 4])
    halves = (FileRows([files[name][k] for name in names], n) for k, n in enumerate((2, 1)))
    return Beside(*halves)


def test_rows_are_written_at_once_and_believed_with_the_next_commit(tmp_path):
    store = Store(tmp_path / "progress")
    commit(store)
    for name, n in (("rows_0_0", 4), ("rows_0_1", 0), ("rows_0_2", 2)):
        store.write(name, halves(table(n)))
    store.write("rows_1_0", halves(table(9)))
    assert list(store.tables("rows_1_", [8, 4])) == ["rows_1_0"]
    rows = rows_of(store, "rows_0_0", "rows_0_1", "rows_0_2")
    assert torch.equal(rows.take(torch.arange(6)), torch.cat([table(4), table(2)]))
    later = Store(tmp_path / "progress")
    assert not later.read()["pieces"]
    commit(store)
    later = Store(tmp_path / "progress")
    later.read()
    assert torch.equal(rows_of(later, "rows_0_2", "rows_0_0").take(torch.arange(6)), torch.cat([table(2), table(4)]))
    commit(later)
    assert torch.equal(rows.take(torch.arange(4)), table(4))


def test_rows_of_another_process_are_found_by_a_later_session(tmp_path):
    first, second = Store(tmp_path / "progress"), Store(tmp_path / "progress", 1)
    for store, name, n in ((first, "rows_0_0", 4), (second, "rows_0_4", 2)):
        store.write(name, halves(table(n)))
        commit(store)
    later = Store(tmp_path / "progress")
    later.read()
    assert torch.equal(rows_of(later, "rows_0_4", "rows_0_0").take(torch.arange(6)), torch.cat([table(2), table(4)]))
    later.clear()
    assert not (tmp_path / "progress").exists()


def test_rows_written_before_a_kill_are_removed_by_the_next_commit(tmp_path):
    store = Store(tmp_path)
    commit(store)
    store.write("rows_0_0", halves(table(4)))
    rows_of(store, "rows_0_0")
    store = Store(tmp_path)
    store.read()
    commit(store)
    assert [file.name for file in tmp_path.iterdir()] == [JOURNAL]


def test_rows_of_which_the_file_is_gone_are_one_line(tmp_path):
    store = Store(tmp_path)
    store.write("rows_0_0", halves(table(4)))
    commit(store)
    next(tmp_path.glob("*.rows")).unlink()
    with pytest.raises(UserError, match="--resume"):
        rows_of(store, "rows_0_0")


@pytest.mark.parametrize("what", ["piece", "rows"])
def test_a_full_disk_is_an_error_that_names_the_file_and_leaves_the_last_commit(tmp_path, what):
    store = Store(tmp_path)
    store.keep("a", piece(1))
    commit(store, {"seconds": 1})
    before = found(tmp_path)
    if what == "rows":
        store.write("rows_0_0", halves(torch.zeros(100000, 3)))
    else:
        store.keep("a", {"rows": torch.zeros(100000, 3)})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20000, limits[1]))
    try:
        with pytest.raises(OSError) as error:
            if what == "rows":
                store.write("rows_0_1", halves(torch.zeros(100000, 3)))
            commit(store, {"seconds": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert error.value.errno == errno.EFBIG and str(tmp_path) in error.value.filename
    assert same(found(tmp_path), before)


class Bomb:
    def __reduce__(self):
        return (open, ("bomb.txt", "w"))


def test_code_in_a_piece_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = Store(tmp_path / "progress")
    store.keep("a", piece(1))
    commit(store)
    for file in (tmp_path / "progress").glob("*.pt"):
        torch.save(Bomb(), file)
    with pytest.raises(UserError):
        store.piece("a", CPU)
    assert not (tmp_path / "bomb.txt").exists()


def test_facts_that_are_no_json_leave_the_last_commit(tmp_path):
    store = Store(tmp_path)
    commit(store, {"seconds": 1})
    with pytest.raises(ValueError):
        commit(store, {"seconds": float("nan")})
    assert json.loads((tmp_path / JOURNAL).read_text())["seconds"] == 1


def three_processes(folder):
    """What three processes of a session left: a level, three chunks, and one of these twice."""
    for number, names in enumerate(
        [("level_2", "chunk_1_0_4_9"), ("chunk_1_4_8_9",), ("chunk_1_8_9_2", "chunk_1_0_4_9")]
    ):
        store = Store(folder, number)
        for name in names:
            store.keep(name, piece(number + 1))
        commit(store, {"seconds": number})


@pytest.mark.parametrize("number", range(4))
def test_every_process_of_a_later_session_finds_the_pieces_of_all(tmp_path, number):
    three_processes(tmp_path)
    store = Store(tmp_path, number)
    assert store.exists and store.read()["seconds"] == 0
    assert store.names == ["chunk_1_0_4_9", "chunk_1_4_8_9", "chunk_1_8_9_2", "level_2"]
    assert same(store.piece("chunk_1_4_8_9", CPU), piece(2)) and same(store.piece("chunk_1_8_9_2", CPU), piece(3))


def test_a_process_that_commits_removes_only_its_own_old_files(tmp_path):
    three_processes(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.parent.name != "process_1"}
    store = Store(tmp_path, 1)
    store.read()
    store.drop("chunk_1_")
    assert store.names == ["level_2"]
    store.keep("chunk_0_0_5_3", piece(7))
    commit(store)
    assert all(path.read_bytes() == bytes_ for path, bytes_ in before.items())
    assert sorted(path.name.split(".")[0] for path in (tmp_path / "process_1").iterdir()) == [
        "chunk_0_0_5_3",
        "journal",
    ]
    later = Store(tmp_path)
    later.read()
    assert later.names == ["chunk_0_0_5_3", "chunk_1_0_4_9", "chunk_1_8_9_2", "level_2"]


def test_nothing_counts_without_the_journal_of_the_first_process_and_clear_takes_all(tmp_path):
    three_processes(tmp_path / "progress")
    (tmp_path / "progress" / JOURNAL).unlink()
    assert not Store(tmp_path / "progress", 1).exists
    three_processes(tmp_path / "progress")
    store = Store(tmp_path / "progress")
    store.clear()
    assert not store.exists and not (tmp_path / "progress").exists()


def test_after_a_commit_that_failed_there_is_no_other(tmp_path, monkeypatch):
    store = Store(tmp_path)
    store.keep("a", piece(1))
    commit(store, {"seconds": 1})
    before = (tmp_path / JOURNAL).read_text()
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        store.keep("b", piece(2))
        store.begin_commit({"seconds": 2})
        with pytest.raises(OSError, match="No space"):
            store.wait()
    for _ in range(2):
        with pytest.raises(OSError, match="No space"):
            commit(store, {"seconds": 3})
    assert (tmp_path / JOURNAL).read_text() == before
