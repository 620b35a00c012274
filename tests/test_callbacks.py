"""What a terminal and TensorBoard show of a run."""

import contextlib
import io
import json
import time
from pathlib import Path

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2
from train_runs import run

from models.flight import Wave
from models.level_fit import LevelReport
from run import callbacks

WAVE = Wave(0, 0, 1, 1, 50, 200, 50, 400, 0.1, 40.0, 0.03, 1e6)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Run:
    """Stands for a Miner: what it says is left, and a clock that is set by hand."""

    wave, reports, stopped_early, seconds = WAVE, [], False, 10.0

    def left(self) -> float:
        return 90.0


def begin(run, monkeypatch):
    """A bar that ticks fast, and the terminal that it is drawn on."""
    monkeypatch.setattr(callbacks, "TICK", 0.01)
    bar, terminal = callbacks.Progress(), Terminal()
    with contextlib.redirect_stderr(terminal):
        bar.on_fit_start(None, run)
    return bar, terminal


def test_a_level_has_the_time_that_it_took_and_is_told_of_also_where_the_next_one_is_broken_off(capsys):
    run, bar = Run(), callbacks.Progress()
    run.reports, run.level_seconds = [], {1: 12.34, 0: 56.78}
    bar.on_fit_start(None, run)
    bar.on_train_batch_end(None, run)
    run.reports.append(LevelReport(1, 10, 8, 6, 1e-4))
    bar.on_train_batch_end(None, run)
    run.reports.append(LevelReport(0, 40, 8, 6, 1e-4))
    bar.on_exception(None, run, KeyboardInterrupt())
    assert [line.rsplit(", ", 1)[1] for line in capsys.readouterr().err.splitlines()] == ["12.3 s", "56.8 s"]


def shows(terminal, text):
    """Whether it does soon."""
    until = time.monotonic() + 20
    while text not in terminal.getvalue() and time.monotonic() < until:
        time.sleep(0.01)
    return text in terminal.getvalue()


def test_the_bar_counts_down_while_a_round_goes_on(monkeypatch):
    run = Run()
    bar, terminal = begin(run, monkeypatch)
    bar.on_train_batch_end(None, run)
    assert shows(terminal, "01:30 left") and " 10%" in terminal.getvalue()
    run.seconds = 50.0
    assert shows(terminal, "00:50 left") and " 50%" in terminal.getvalue()
    run.seconds = 150.0
    assert shows(terminal, "00:00 left")
    bar.on_fit_end(None, run)
    assert not bar.clock.is_alive() and "100%" in terminal.getvalue()


def test_a_run_that_fails_stops_the_bar_where_it_is(monkeypatch):
    run = Run()
    bar, terminal = begin(run, monkeypatch)
    bar.on_train_batch_end(None, run)
    bar.on_exception(None, run, KeyboardInterrupt())
    assert not bar.clock.is_alive() and "100%" not in terminal.getvalue()


def test_tensorboard_shows_a_run_as_one_curve_and_its_levels_as_one_slider():
    run("--exp_name", "x", "--log_image", "--b_chunks", "2", "--val_freq", "2", "--num_epochs", "3", "4")
    events = EventAccumulator("logs/x", size_guidance={"images": 0}).Reload()
    names = {f"fit/{name}" for name in ("level", "loss", "psnr", "training_blocks", "lr", "cells_per_s")}
    assert {name for name in events.Tags()["scalars"] if name.startswith("fit/")} == names
    curve = [(event.step, event.value) for event in events.Scalars("fit/level")]
    assert curve == sorted(curve, key=lambda point: (point[0], -point[1])) and curve[-1][0] <= 7
    assert {level for step, level in curve if step < 3} == {1} and {level for step, level in curve if step > 3} == {0}
    kinds = {f"pictures/{kind}" for kind in ("reconstruction_and_truth", "residual", "active_blocks")}
    assert set(events.Tags()["images"]) == kinds
    for kind in kinds:
        assert [event.step for event in events.Images(kind)] == [3, 7]
        assert all(event.width >= 256 or event.height >= 256 for event in events.Images(kind))


def test_tensorboard_compares_the_options_and_final_figures_of_runs():
    for seed in ("3", "4"):
        result = run("--exp_name", "x", "--seed", seed)
    options = yaml.safe_load(Path("logs/x/hparams.yaml").read_text())
    assert options == json.loads(Path("logs/x/result.json").read_text())["options"] and options["seed"] == 4
    events = EventAccumulator("logs/x").Reload()
    assert events.Scalars("result/psnr")[-1].value == pytest.approx(result["psnr"])
    found = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    started = plugin_data_pb2.HParamsPluginData.FromString(found).session_start_info
    assert started.hparams["seed"].number_value == 4 and started.hparams["num_epochs"].string_value == "[4, 6]"
