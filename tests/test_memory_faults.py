"""Runs that do not fit in memory: the same model, and nothing lost or half-written, whatever happens to the disk."""

import errno
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from train_runs import same_model

import datasets.file_array
import models.checkpoints
import models.chunks
import models.draft
import models.store
import opt
import train
from datasets.source import ArraySource
from datasets.streamed_source import StreamedSource
from machine.memory import Memory
from models import model_file
from run import setup
from utils import run_command

LITTLE = Memory(2**16, 2**16)
TINY = ["--path", "a.npy", "--patch_size", "8", "--num_epochs", "4", "--val_freq", "2", "--n_scales", "3", "--quiet"]


@pytest.fixture(autouse=True)
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_source()


def write_source() -> None:
    y, x = np.mgrid[:45, :61]
    np.save("a.npy", np.uint8(127 + 120 * np.sin((y[..., None] + x[..., None] * [1, 2, 3]) / 7)))


def run(name: str, *argv: str) -> dict:
    return train.train(*opt.parse([*TINY, "--exp_name", name, *argv]))


def resume(name: str) -> dict:
    return train.train(*opt.parse(["--exp_name", name, "--resume", "--quiet"]))


@pytest.fixture(autouse=True)
def every_model_is_large(monkeypatch):
    """Large enough to be written while its last level is trained, where rows are not held."""
    monkeypatch.setattr(models.draft, "LARGE", 0)


@pytest.fixture
def little(monkeypatch):
    """A memory in which neither the source, nor the targets, nor the rows of a level have room."""
    monkeypatch.setattr(setup, "memory_of", lambda *_: LITTLE)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of the run that has all the memory it wants, and its figures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("whole"))
        patch.setattr(models.draft, "LARGE", 0)
        write_source()
        return Path("ckpts/whole").absolute(), run("whole")


@pytest.fixture
def whole(finished):
    """The figures of that run, whose model is here."""
    folder, result = finished
    shutil.copytree(folder, "ckpts/whole")
    return result


@pytest.fixture
def opened(monkeypatch):
    """The kind of every source that is opened."""
    kinds, open_source = [], setup.open_source

    def note(*given):
        source = open_source(*given)
        kinds.append(type(source))
        return source

    monkeypatch.setattr(setup, "open_source", note)
    return kinds


def test_the_model_does_not_depend_on_the_memory(whole, opened, monkeypatch):
    written, write = [], models.store.Store.write
    monkeypatch.setattr(models.store.Store, "write", lambda *a: written.append(a[1]) or write(*a))
    monkeypatch.setattr(setup, "memory_of", lambda *_: LITTLE)
    with monkeypatch.context() as patch:
        patch.setattr(models.draft, "LARGE", 2**30)
        run("small")
    assert same_model("small", "whole")
    written.clear()
    result = run("little")
    assert opened == [StreamedSource] * 2
    assert len({name for name in written if name.startswith("rows_0")}) > 2
    assert same_model("little", "whole")
    for name in ("psnr", "psnr_worst_block", "ssim", "seam", "n_params"):
        assert result[name] == pytest.approx(whole[name], rel=1e-6)
    assert [path.name for path in Path("ckpts/little").iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("task", ["volume", "mesh"])
def test_a_volume_and_a_shape_that_do_not_fit_are_fitted_the_same(task, opened, monkeypatch):
    array = np.random.default_rng(0).random((11, 17, 9), np.float32)
    np.save("v.npy", array if task == "volume" else np.linalg.norm(np.mgrid[:11, :17, :9] - 5, axis=0) < 4)
    options = ["--task", task, "--path", "v.npy", "--patch_size", "4", "--loss_thr", "1e-4", "--num_epochs", "2"]
    first = run("whole", *options)
    monkeypatch.setattr(setup, "memory_of", lambda *_: Memory(2**12, 2**12))
    second = run("little", *options)
    assert opened == [ArraySource, StreamedSource]
    assert same_model("whole", "little")
    assert second["psnr"] == pytest.approx(first["psnr"], rel=1e-6)


def deadly_run(moment: str, count: int) -> None:
    """In a process of its own: a run that is killed when something has been done so often, or is about to be."""
    models.draft.LARGE, models.checkpoints.SECONDS_BETWEEN_COMMITS = 0, 0
    setup.memory_of = lambda *_: LITTLE
    seen = []

    def deadly(function, after):
        def call(*a, **k):
            seen.append(1)
            if len(seen) == count and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = function(*a, **k)
            if len(seen) == count and after:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call

    store = models.store.Store
    if moment == "rows":
        store._write = deadly(store._write, True)
    elif moment == "journal":
        atomic_write = models.store.atomic_write
        deadly_write = deadly(atomic_write, False)
        pick = lambda path: deadly_write if path.name == "journal.json" else atomic_write  # noqa: E731
        models.store.atomic_write = lambda path, **how: pick(path)(path, **how)
    elif moment == "commit":
        store._commit = deadly(store._commit, True)
    else:
        model_file.finish = deadly(model_file.finish, False)
    run_command(lambda: train.main([*TINY, "--exp_name", "killed"]))


@pytest.mark.parametrize(("moment", "count"), [("rows", 4), ("journal", 3), ("commit", 2), ("model", 1)])
def test_a_run_killed_at_a_chosen_moment_loses_only_the_work_in_flight(whole, apart, moment, count):
    done = apart(deadly_run, moment, count)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not Path("ckpts/killed/model.safetensors").exists()
    # With the memory that there is now: chunks and files stay as the run began them.
    resume("killed")
    assert same_model("killed", "whole")
    assert [path.name for path in Path("ckpts/killed").iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("kind", ["rows", "scratch"])
def test_a_disk_that_fills_up_is_one_line_and_the_run_goes_on_later(kind, whole, little, monkeypatch, capsys):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        if kind == "rows":
            write, seen = models.store.atomic_write, []

            def failing(path, **how):
                seen.append(path.suffix)
                return full() if seen.count(".rows") > 3 else write(path, **how)

            patch.setattr(models.store, "atomic_write", failing)
            patch.setattr(models.checkpoints, "SECONDS_BETWEEN_COMMITS", 0)
        else:
            # So little that the source's levels are in files.
            patch.setattr(setup, "memory_of", lambda *_: Memory(2**14, 2**14))
            patch.setattr(datasets.file_array.os, "pwrite", full)
        with pytest.raises(SystemExit) as exit_:
            run_command(lambda: run("full"))
    assert exit_.value.code == 2
    line = capsys.readouterr().err
    assert line.startswith("error: ") and "free some space" in line and line.count("\n") == 1
    assert not Path("ckpts/full/model.safetensors").exists()
    resume("full")
    assert same_model("full", "whole")


def test_a_source_that_is_cut_while_it_is_read_is_one_line_and_no_model(little, monkeypatch, capsys):
    start = models.chunks.Chunks._start

    def cut(self, *chunk):
        Path("a.npy").write_bytes(Path("a.npy").read_bytes()[:4000])
        return start(self, *chunk)

    monkeypatch.setattr(models.chunks.Chunks, "_start", cut)
    with pytest.raises(SystemExit) as exit_:
        run_command(lambda: run("cut"))
    assert exit_.value.code == 2
    line = capsys.readouterr().err
    assert line.startswith("error: a.npy: ends before") and line.count("\n") == 1
    assert not Path("ckpts/cut/model.safetensors").exists()


def test_a_plan_writes_nothing(little, capsys):
    run("x", "--plan")
    assert "host memory" in capsys.readouterr().out
    assert [path.name for path in Path().iterdir()] == ["a.npy"]
