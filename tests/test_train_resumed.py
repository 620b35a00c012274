"""A run that broke off anywhere and is resumed has the model of one that nothing stopped, bit for bit."""

import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from train_runs import TINY, run, same_model, tensors

import models.checkpoints
import models.clock
import models.miner
import opt
from datasets.source import Source
from train import main, train

pytestmark = pytest.mark.usefixtures("in_folder")


def break_off(waves: int, monkeypatch, *argv: str) -> None:
    """A run that is over after so many waves, all of which have been committed, as are those of what resumes it."""
    step, seen = models.miner.Miner.training_step, []

    def die(self, batch, batch_idx):
        if len(seen) == waves:
            raise RuntimeError("power is gone")
        seen.append(1)
        return step(self, batch, batch_idx)

    monkeypatch.setattr(models.checkpoints, "SECONDS_BETWEEN_COMMITS", 0)
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="power is gone"):
        patch.setattr(models.miner.Miner, "training_step", die)
        run(*argv)


ZEROED = "--pruning zero_grad --loss_thr 0.02"


@pytest.mark.parametrize(
    ("waves", "options"),
    [
        (1, "--save_dtype float32"), (2, "--save_dtype float16"), (2, "--save_dtype int8"), (4, "--save_dtype float32"),
        (1, ZEROED), (4, ZEROED),
    ],
)  # fmt: skip
def test_a_run_interrupted_between_rounds_and_resumed_is_bit_for_bit_the_uninterrupted_one(
    waves, options, monkeypatch, epochs
):
    run("--exp_name", "straight", "--b_chunks", "8", *options.split())
    rounds = epochs[:]
    break_off(waves, monkeypatch, "--exp_name", "broken", "--b_chunks", "8", *options.split())
    assert not Path("ckpts/broken/model.safetensors").exists()
    epochs.clear()
    train(*opt.parse(["--exp_name", "broken", "--resume", "--quiet"]))
    assert epochs == rounds[waves:]
    assert same_model("straight", "broken")
    assert not Path("ckpts/broken/progress").exists()


def run_that_commits_always(argv: list[str]) -> None:
    models.checkpoints.SECONDS_BETWEEN_COMMITS = 0
    main(argv)


def test_a_run_killed_at_any_moment_and_resumed_is_bit_for_bit_the_uninterrupted_one(apart):
    # No block is good enough before the last round, so that there is time to kill it.
    long = ["--num_epochs", "3", "45", "--val_freq", "3", "--prune_thr", "1e-12"]
    run("--exp_name", "straight", *long)
    journal = Path("ckpts/killed/progress/journal.json")

    def kill_in_the_finest_level(process):
        while process.is_alive() and not (journal.exists() and '"chunk_0_' in journal.read_text()):
            time.sleep(0.001)
        process.kill()

    done = apart(run_that_commits_always, [*TINY, "--exp_name", "killed", *long], meanwhile=kill_in_the_finest_level)
    assert done.returncode == -signal.SIGKILL and not Path("ckpts/killed/model.safetensors").exists()
    train(*opt.parse(["--exp_name", "killed", "--resume", "--quiet"]))
    assert same_model("straight", "killed")


def test_max_time_stops_in_good_order_and_a_resume_goes_on(capsys, epochs, monkeypatch):
    run("--exp_name", "straight", "--num_epochs", "8", "--val_freq", "4")
    result = run("--exp_name", "x", "--num_epochs", "8", "--val_freq", "4", "--max_time", "0.0001")
    assert result["stopped_early"] and np.isfinite(result["psnr"])
    assert "--resume" in capsys.readouterr().out
    # Time for some epochs of a round only: the resume must not prune where the straight run did not.
    monkeypatch.setattr(models.clock.Clock, "affordable", lambda *_: 3)
    train(*opt.parse(["--exp_name", "x", "--resume", "--quiet"]))
    assert (0, 3) in epochs
    assert same_model("x", "straight")


def test_a_resume_without_time_keeps_what_a_chunk_in_flight_has_learned(monkeypatch, epochs):
    # The clock of a session stands still until so many rounds are trained.
    rounds = 5
    monkeypatch.setattr(models.clock.Clock, "_session", property(lambda _: 1e3 if len(epochs) >= rounds else 0.0))
    left = []
    monkeypatch.setattr(Source, "begin", lambda source, n_levels: left.append(n_levels))
    argv = ["--b_chunks", "7", "--val_freq", "3", "--max_time", "10", "--prune_thr", "1e-9"]
    stopped = run("--exp_name", "x", *argv)
    before = tensors("x")
    # Of the finest level's chunks one is done, with all its six epochs, and one is in flight, with three.
    pieces = {path.name.split(".")[0] for path in Path("ckpts/x/progress").glob("*.pt")}
    assert len(epochs) == 5 and {"level_1", "chunk_0_0_5_6", "chunk_0_5_10_3"} <= pieces
    assert before["0.blocks"].max() >= 5
    epochs.clear()
    rounds = 0
    again = train(*opt.parse(["--exp_name", "x", "--resume", "--max_time", "10", "--quiet"]))
    assert left == [2, 1]
    assert epochs == [] and again["stopped_early"] and again["psnr"] == stopped["psnr"]
    after = tensors("x")
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_a_kill_while_the_figures_are_measured_loses_none_of_them(straight):
    straight()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
        patch.setattr("run.result.quality", lambda *_: (_ for _ in ()).throw(RuntimeError("killed")))
        run("--exp_name", "x")
    train(*opt.parse(["--exp_name", "x", "--resume", "--quiet"]))
    assert same_model("x", "straight") and Path("logs/x/result.json").exists()


@pytest.mark.parametrize("way", ["paper", "inherit", "exact"])
@pytest.mark.parametrize("pyr", ["laplacian", "gaussian"])
def test_a_run_whose_levels_inherit_trains_and_is_resumed_with_the_same_bits(way, pyr, monkeypatch):
    options = f"--input_size 40 28 --weight_sharing {way} --pyr {pyr} --num_epochs 2 2 2 --n_scales 3".split()
    run(*options, "--exp_name", "whole")
    # Two of three levels are done: the last one inherits from what was stored.
    break_off(2, monkeypatch, *options, "--exp_name", "part")
    train(*opt.parse(["--exp_name", "part", "--resume", "--quiet"]))
    assert same_model("whole", "part")
