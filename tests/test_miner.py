"""Chunks and their rounds: how they are cut and take turns changes nothing, and what is beside them costs no time."""

import contextlib
import dataclasses
import time
import types

import pytest
from train_runs import TINY, run, same_model

import models.checkpoints
import models.chunks
import models.clock
import models.draft
import models.flight
import models.forecast
import models.miner
import models.store
import opt
from machine import memory
from options import SAVE_DTYPES
from run.callbacks import Figures
from train import train

pytestmark = pytest.mark.usefixtures("in_folder")


@pytest.mark.parametrize("dtype", SAVE_DTYPES)
def test_how_chunks_are_cut_does_not_change_the_model(dtype, straight):
    straight("--save_dtype", dtype)
    run("--exp_name", "cut", "--b_chunks", "3", "--save_dtype", dtype)
    assert same_model("straight", "cut")


def test_what_a_commit_keeps_is_begun_before_the_thread_that_writes_is_made_to_wait_for_it(monkeypatch):
    done = []

    def noted(owner, name):
        call = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *args: done.append(name) or call(*args))

    monkeypatch.setattr(models.checkpoints, "SECONDS_BETWEEN_COMMITS", 0)
    for owner, name in (
        (models.flight.Point, "state"),
        (models.checkpoints, "join"),
        (models.store.Store, "begin_commit"),
    ):
        noted(owner, name)
    run("--exp_name", "x", "--b_chunks", "5")
    ends = [n for n, what in enumerate(done) if what == "begin_commit"]
    assert done.count("state") > 2 and all(done[n - 1] == "join" for n in ends)


def test_a_level_has_the_time_from_its_survey_to_its_end(monkeypatch, capsys):
    late, levels = [0.0], models.miner.Miner._begin
    clock = types.SimpleNamespace(perf_counter=lambda: time.perf_counter() + late[0])

    def slowly(self, level):
        late[0] += 1000 * (1 + level)
        return levels(self, level)

    monkeypatch.setattr(models.clock, "time", clock)
    monkeypatch.setattr(models.miner.Miner, "_begin", slowly)
    train(*opt.parse([word for word in [*TINY, "--exp_name", "x"] if word != "--quiet"]))
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("level ")]
    assert [round(float(line.split()[-2]), -3) for line in said] == [2000, 1000]


def test_what_hears_of_a_round_takes_no_time_of_training(monkeypatch):
    late, seconds = [0.0], []
    clock = types.SimpleNamespace(perf_counter=lambda: time.perf_counter() + late[0])
    hear, trained = Figures.on_train_batch_end, models.forecast.Forecast.trained

    def slowly(self, *args):
        late[0] += 1e6
        hear(self, *args)

    def note(self, *args):
        seconds.append(args[-1])
        trained(self, *args)

    monkeypatch.setattr(models.clock, "time", clock)
    monkeypatch.setattr(models.chunks, "lanes", lambda device: [None, None])
    monkeypatch.setattr(Figures, "on_train_batch_end", slowly)
    monkeypatch.setattr(models.forecast.Forecast, "trained", note)
    run("--exp_name", "x", "--b_chunks", "5")
    assert len(seconds) > 4 and max(seconds) < 1e6


def in_turns(waves, monkeypatch) -> list[int]:
    """A run in chunks of five blocks that ends after so many waves, if not None, and is resumed: how many chunks were
    in flight after each."""
    step, flying = models.miner.Miner.training_step, []

    def die(self, batch, batch_idx):
        if len(flying) == waves:
            raise RuntimeError("power is gone")
        step(self, batch, batch_idx)
        flying.append(len(self.checkpoints.points))

    with monkeypatch.context() as patch:
        patch.setattr(models.miner.Miner, "training_step", die)
        with pytest.raises(RuntimeError, match="power is gone") if waves else contextlib.nullcontext():
            run("--exp_name", "turns", "--b_chunks", "5")
    if waves:
        train(*opt.parse(["--exp_name", "turns", "--resume", "--quiet"]))
    return flying


@pytest.mark.parametrize("waves", [None, 1, 3, 6])
@pytest.mark.parametrize("held", [True, False])
def test_chunks_that_take_turns_give_the_model_of_chunks_one_after_another(waves, held, straight, monkeypatch):
    straight()
    # As on a GPU, where the second lane is a stream.
    monkeypatch.setattr(models.chunks, "lanes", lambda device: [None, None])
    monkeypatch.setattr(models.checkpoints, "SECONDS_BETWEEN_COMMITS", 0)
    if not held:
        limits = memory.Memory.limits
        monkeypatch.setattr(models.draft, "LARGE", 0)
        monkeypatch.setattr(
            memory.Memory, "limits", lambda *a, **k: dataclasses.replace(limits(*a, **k), row_bytes=0, kept_values=0)
        )
    flying = in_turns(waves, monkeypatch)
    assert waves or max(flying) == 2
    assert same_model("straight", "turns")


@pytest.mark.gpu
@pytest.mark.parametrize("waves", [1, 3, 6])
def test_chunks_that_take_turns_on_a_gpu_give_the_model_of_one_chunk_after_a_resume_too(waves, monkeypatch):
    run("--exp_name", "straight")
    monkeypatch.setattr(models.checkpoints, "SECONDS_BETWEEN_COMMITS", 0)
    in_turns(waves, monkeypatch)
    assert same_model("straight", "turns")
