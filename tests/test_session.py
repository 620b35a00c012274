"""A run and its places: what is said of one that is interrupted, found again, resumed or started over."""

import contextlib
import os
import resource
import shlex
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from torch.utils.tensorboard import SummaryWriter
from train_runs import TINY, refused, run, same_model

import models.checkpoints
import models.miner
import opt
import run.session as run_session
from models import model_file
from run.session import alone, to_go_on
from train import main, train
from utils import run_command

pytestmark = pytest.mark.usefixtures("in_folder")


@pytest.mark.parametrize("name", ["x", "two words", "-x", "-"])
def test_how_to_go_on_can_be_typed_as_it_is_said(name):
    told = to_go_on(name, 2).removeprefix("; to go on: python train.py ")
    options, _ = opt.parse(shlex.split(told))
    assert (options.exp_name, options.devices, options.resume) == (name, 2, True)


def test_a_resized_picture_is_noted_and_not_held_against_the_file_of_the_whole_one(capsys):
    np.save("a.npy", np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8))
    argv = ["--path", "a.npy", "--patch_size", "8", "--num_epochs", "2", "2", "--quiet"]
    result = train(*opt.parse([*argv, "--input_size", "10", "16"]))
    said = capsys.readouterr()
    assert "note: a.npy: resized from 30 x 20 to 10 x 16 pixels\n" in said.err and "source file" not in said.out
    assert result["ratio_to_source_file"] is None
    train(*opt.parse([*argv, "--input_size", "30", "20"]))
    said = capsys.readouterr()
    assert "resized" not in said.err and "times the source file" in said.out


def test_a_name_without_a_path_says_that_it_is_of_the_sample(capsys):
    argv = [word for word in TINY if word != "--quiet"]
    train(*opt.parse([*argv, "--exp_name", "x"]))
    assert "note: no --path: the built-in sample is fitted\n" in capsys.readouterr().err
    train(*opt.parse(argv))
    assert "no --path" not in capsys.readouterr().err


def test_a_source_that_is_moved_away_while_it_is_fitted_is_missed_by_nobody(monkeypatch):
    np.save("a.npy", np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8))
    size = Path("a.npy").stat().st_size
    step = models.miner.Miner.training_step

    def move(self, *batch):
        Path("a.npy").unlink(missing_ok=True)
        step(self, *batch)

    monkeypatch.setattr(models.miner.Miner, "training_step", move)
    result = train(*opt.parse(["--path", "a.npy", "--patch_size", "8", "--num_epochs", "2", "2", "--quiet"]))
    assert not Path("a.npy").exists()
    assert result["ratio_to_source_file"] == result["model_bytes"] / size


def test_ctrl_c_ends_cleanly_and_says_how_to_resume(monkeypatch, capsys, epochs):
    step, seen = models.miner.Miner.training_step, []

    def press(self, batch, batch_idx):
        if len(seen) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        seen.append(1)
        return step(self, batch, batch_idx)

    monkeypatch.setattr(models.miner.Miner, "training_step", press)
    with pytest.raises(SystemExit) as exit_:
        run_command(lambda: main([*TINY, "--exp_name", "x"]))
    assert exit_.value.code == 130
    assert capsys.readouterr().err == "interrupted; to go on: python train.py --exp_name x --resume\n"
    monkeypatch.setattr(models.miner.Miner, "training_step", step)
    before = epochs[:]
    epochs.clear()
    main(["--exp_name", "x", "--resume", "--quiet"])
    resumed = epochs[:]
    epochs.clear()
    run("--exp_name", "straight")
    assert before + resumed == epochs
    assert same_model("x", "straight")


def test_ctrl_c_is_heard_also_within_what_makes_errors_of_its_own_of_others(monkeypatch, capsys):
    # As Lightning's logger does of whatever TensorBoard raises.
    monkeypatch.setattr(SummaryWriter, "add_scalar", lambda *_, **__: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(SystemExit) as exit_:
        run_command(lambda: main([*TINY, "--exp_name", "x"]))
    assert exit_.value.code == 130
    assert capsys.readouterr().err == "interrupted; to go on: python train.py --exp_name x --resume\n"


@pytest.mark.parametrize("later", [0, 10])
def test_a_signal_that_nobody_could_hear_is_heard_when_it_comes_again(later, monkeypatch, capsys):
    class Deaf:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGINT)

    step, seconds = models.miner.Miner.training_step, [0.0]

    def press(self, batch, batch_idx):
        if batch_idx == 0 and not seconds[0]:
            Deaf()
            seconds[0] = later
            # At the same time it is one wish.
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, batch, batch_idx)

    monkeypatch.setattr(models.miner.Miner, "training_step", press)
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    monkeypatch.setattr(run_session.time, "monotonic", lambda: seconds[0])
    with pytest.raises(SystemExit) if later else contextlib.nullcontext() as exit_:
        run_command(lambda: main([*TINY, "--exp_name", "x"]))
    assert Path("ckpts/x/progress").exists() == bool(later)
    assert not later or (exit_.value.code, "--resume" in capsys.readouterr().err) == (130, True)


@pytest.mark.parametrize("moment", ["finish", "load"])
def test_an_interrupt_while_the_model_is_written_or_measured_says_how_to_resume(moment, straight, monkeypatch, capsys):
    straight()
    with monkeypatch.context() as patch:
        patch.setattr(model_file, moment, lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(SystemExit) as exit_:
            run_command(lambda: main([*TINY, "--exp_name", "x"]))
    assert exit_.value.code == 130
    assert capsys.readouterr().err == "interrupted; to go on: python train.py --exp_name x --resume\n"
    main(["--exp_name", "x", "--resume", "--quiet"])
    assert same_model("x", "straight") and not Path("ckpts/x/progress").exists()


def test_a_finished_run_says_so_and_an_unknown_one_has_nothing_to_resume(straight, capsys):
    straight()
    capsys.readouterr()
    run_command(lambda: main(["--exp_name", "straight", "--resume"]))
    assert "finished" in capsys.readouterr().out
    assert "nothing to resume in ckpts/y: start it" in refused(capsys, "--exp_name", "y", "--resume")
    Path("ckpts/half/progress").mkdir(parents=True)
    Path("ckpts/half/progress/journal.json").touch()
    assert "give one of half as --exp_name, or start it" in refused(capsys, "--exp_name", "y", "--resume")
    assert not Path("ckpts/y").exists()


def test_options_that_contradict_the_run_are_named(capsys, monkeypatch):
    monkeypatch.setattr(models.miner.Miner, "training_step", lambda *_: (_ for _ in ()).throw(RuntimeError))
    with pytest.raises(RuntimeError):
        run("--exp_name", "x")
    capsys.readouterr()
    other = ["--lr", "0.5", "--patch_size", "8", "--no-use_pe", "--omega_0", "25", "--n_hidden", "20"]
    assert refused(capsys, "--exp_name", "x", "--resume", *other) == (
        "error: --lr 0.5, --omega_0 25.0, --patch_size 8, --no-use_pe: the run to resume began with --lr 0.03, "
        "no --omega_0, --patch_size 16 16, --use_pe: leave that out, or start over without --resume\n"
    )


def test_starting_over_says_so_and_keeps_the_old_model_until_the_new_one_is_whole(straight, capsys, monkeypatch):
    straight()
    before = Path("ckpts/straight/model.safetensors").read_bytes()
    step = models.miner.Miner.training_step
    monkeypatch.setattr(models.miner.Miner, "training_step", lambda *_: (_ for _ in ()).throw(RuntimeError))
    capsys.readouterr()
    with pytest.raises(RuntimeError):
        run("--exp_name", "straight", "--seed", "3")
    assert "starting over" in capsys.readouterr().err
    assert Path("ckpts/straight/model.safetensors").read_bytes() == before
    monkeypatch.setattr(models.miner.Miner, "training_step", step)
    run("--exp_name", "straight", "--seed", "3")
    assert Path("ckpts/straight/model.safetensors").read_bytes() != before


def run_on_a_small_disk(commit_always: bool) -> None:
    """In a process of its own: a run on a disk that has no room for files of more than 20 kB."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
    models.checkpoints.SECONDS_BETWEEN_COMMITS = 0 if commit_always else 1000
    run_command(lambda: main([*TINY, "--exp_name", "straight", "--seed", "5"]))


@pytest.mark.parametrize("commit_always", [False, True])
def test_a_full_disk_gives_one_line_and_leaves_the_last_good_file(commit_always, straight, apart):
    straight()
    before = Path("ckpts/straight/model.safetensors").read_bytes()
    done = apart(run_on_a_small_disk, commit_always)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: ckpts/straight/") and "Traceback" not in done.stderr
    assert Path("ckpts/straight/model.safetensors").read_bytes() == before
    assert not list(Path("ckpts/straight").rglob("*.part*"))


def test_a_run_is_refused_while_another_writes_into_its_folder(straight, capsys):
    straight()
    before = Path("ckpts/straight/model.safetensors").read_bytes()
    with alone(Path("ckpts/straight")):
        assert "--exp_name" in refused(capsys, *TINY, "--exp_name", "straight", "--seed", "3")
    assert Path("ckpts/straight/model.safetensors").read_bytes() == before
    run("--exp_name", "straight", "--seed", "3")
    assert Path("ckpts/straight/model.safetensors").read_bytes() != before


def test_progress_is_not_read_while_another_run_writes_it(capsys):
    journal = Path("ckpts/x/progress/journal.json")
    journal.parent.mkdir(parents=True)
    journal.write_text("half of one")
    with alone(Path("ckpts/x")):
        assert "another run is writing there" in refused(capsys, "--exp_name", "x", "--resume")
    assert "damaged" in refused(capsys, "--exp_name", "x", "--resume")
