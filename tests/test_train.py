"""train.py end to end: what a run leaves behind, what is resumed, what is refused."""

import contextlib
import dataclasses
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2
from test_refusals import IDLE
from test_tiff import write_pages

import models.checkpoints
import models.chunks
import models.clock
import models.draft
import models.flight
import models.forecast
import models.level_fit
import models.miner
import models.store
import opt
import utils
from datasets.image_writer import write_image
from datasets.samples import noise, planet
from datasets.source import Source
from machine import memory
from machine.ranks import Ranks
from models import model_file
from models.engine import ReferenceEngine
from options import SAVE_DTYPES, refusals
from planning import plan
from run import result
from run.callbacks import Figures
from train import main, train
from utils import UserError, run_command

ROOT = Path(__file__).resolve().parent.parent
TINY = ["--input_size", "70", "45", "--patch_size", "16", "--num_epochs", "4", "6", "--val_freq", "2", "--quiet"]


@pytest.fixture(autouse=True)
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(*argv: str) -> dict:
    return train(*opt.parse([*TINY, *argv]))


def refused(capsys, *argv: str) -> str:
    """The one line on stderr of a call that exits with 2."""
    with pytest.raises(SystemExit) as exit_:
        run_command(lambda: main(list(argv)))
    assert exit_.value.code == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1
    return err


def tensors(name: str) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(f"ckpts/{name}/model.safetensors")


@pytest.fixture
def epochs(monkeypatch) -> list[tuple[int, int]]:
    """The (level, first epoch) of every round that is trained."""
    seen, train_round = [], models.level_fit.LevelFit.train

    def note(self, copy, window):
        seen.append((self.level, window.start))
        return train_round(self, copy, window)

    monkeypatch.setattr(models.level_fit.LevelFit, "train", note)
    return seen


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The folder of a run that nothing interrupted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("straight"))
        run("--exp_name", "straight")
        return Path("ckpts/straight").absolute()


@pytest.fixture
def straight(finished) -> None:
    """That run's model is here."""
    shutil.copytree(finished, "ckpts/straight")


def same_model(a: str, b: str) -> bool:
    first, second = tensors(a), tensors(b)
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_a_run_leaves_a_model_its_figures_and_curves_and_nothing_else(capsys):
    result = run("--exp_name", "x", "--log_image")
    assert capsys.readouterr().out.splitlines()[-1] == f"PSNR : {result['psnr']:.2f} dB"
    assert sorted(p.name for p in Path("ckpts/x").iterdir()) == ["model.safetensors"]
    stored = json.loads(Path("logs/x/result.json").read_text())
    assert stored["psnr"] == result["psnr"] and stored["options"]["n_scales"] == 2
    assert {"psnr_worst_block", "ssim", "seam", "n_params", "model_bytes", "bits_per_pixel", "ratio_to_raw",
            "ratio_to_source_file", "source_format", "levels", "fit_s", "save_s", "wall_s", "peak_host_bytes",
            "peak_device_bytes", "engine", "device", "seed", "versions", "options"} <= stored.keys()  # fmt: skip
    assert stored["model_bytes"] == Path("ckpts/x/model.safetensors").stat().st_size
    assert list(Path("logs/x").glob("events.out.tfevents.*"))


def test_the_memory_of_a_fit_is_told_apart_from_that_of_measuring_its_model(monkeypatch):
    assert run()["fit_peak_device_bytes"] is None
    so_far, quality = [7], result.quality

    def measure(*given):
        so_far[0] = 12
        return quality(*given)

    monkeypatch.setattr(utils, "peak_device_bytes", lambda device: so_far[0])
    monkeypatch.setattr(result, "quality", measure)
    found = run()
    assert (found["fit_peak_device_bytes"], found["peak_device_bytes"]) == (7, 12)


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


def test_the_psnr_is_that_of_the_decoded_file_against_the_source():
    result = run("--exp_name", "x")
    pyramid, _ = model_file.load("ckpts/x/model.safetensors")
    truth = planet(45, 70).astype(np.float64) / 255
    mse = np.mean((pyramid.decode().double().numpy() - truth) ** 2)
    assert result["psnr"] == pytest.approx(-10 * np.log10(mse), abs=1e-4)


def test_the_same_options_give_the_same_model_and_another_seed_another():
    for name, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        run("--exp_name", name, "--seed", seed)
    assert same_model("a", "b") and not same_model("a", "c")


@pytest.mark.parametrize("dtype", SAVE_DTYPES)
def test_how_chunks_are_cut_does_not_change_the_model(dtype):
    run("--exp_name", "whole", "--save_dtype", dtype)
    run("--exp_name", "cut", "--b_chunks", "3", "--save_dtype", dtype)
    assert same_model("whole", "cut")


def test_a_smaller_dtype_makes_a_smaller_file_of_about_the_same_quality():
    results = [run("--exp_name", dtype, "--save_dtype", dtype) for dtype in SAVE_DTYPES]
    sizes = [result["model_bytes"] / result["n_params"] for result in results]
    assert sizes[0] > 1.6 * sizes[1] > 1.9 * sizes[2]
    assert all(abs(result["psnr"] - results[0]["psnr"]) < 0.5 for result in results)


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
    monkeypatch.setattr(models.checkpoints, "SECONDS_BETWEEN_COMMITS", 0)
    step, seen = models.miner.Miner.training_step, []

    def die(self, batch, batch_idx):
        if len(seen) == waves:
            raise RuntimeError("power is gone")
        seen.append(1)
        return step(self, batch, batch_idx)

    monkeypatch.setattr(models.miner.Miner, "training_step", die)
    with pytest.raises(RuntimeError, match="power is gone"):
        run("--exp_name", "broken", "--b_chunks", "8", *options.split())
    monkeypatch.setattr(models.miner.Miner, "training_step", step)
    assert not Path("ckpts/broken/model.safetensors").exists()
    epochs.clear()
    train(*opt.parse(["--exp_name", "broken", "--resume", "--quiet"]))
    assert epochs == rounds[waves:]
    assert same_model("straight", "broken")
    assert not Path("ckpts/broken/progress").exists()


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


@pytest.mark.parametrize("moment", ["finish", "load"])
def test_an_interrupt_while_the_model_is_written_or_measured_says_how_to_resume(moment, straight, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(model_file, moment, lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(SystemExit) as exit_:
            run_command(lambda: main([*TINY, "--exp_name", "x"]))
    assert exit_.value.code == 130
    assert capsys.readouterr().err == "interrupted; to go on: python train.py --exp_name x --resume\n"
    main(["--exp_name", "x", "--resume", "--quiet"])
    assert same_model("x", "straight") and not Path("ckpts/x/progress").exists()


def test_a_finished_run_says_so_and_an_unknown_one_has_nothing_to_resume(capsys):
    run("--exp_name", "x")
    capsys.readouterr()
    run_command(lambda: main(["--exp_name", "x", "--resume"]))
    assert "finished" in capsys.readouterr().out
    assert "nothing to resume" in refused(capsys, "--exp_name", "y", "--resume")


@pytest.mark.parametrize(("command", "added"), IDLE)
def test_an_option_that_is_refused_as_idle_would_change_nothing(command, added, monkeypatch):
    usual = ["--input_size", "24", "16", "--patch_size", "8", "--quiet", *command.split()]
    _, given = opt.parse(command.split())
    usual += [] if given & {"n_scales", "num_epochs"} else ["--n_scales", "3"]
    usual += [] if "num_epochs" in given else ["--num_epochs", "2"]
    monkeypatch.setattr(refusals, "IDLE", ())
    alone, both = (train(*opt.parse(argv)) for argv in (usual, [*usual, *added.split()]))
    assert (alone["psnr"], alone["psnr_worst_block"]) == (both["psnr"], both["psnr_worst_block"])


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


def test_starting_over_says_so_and_keeps_the_old_model_until_the_new_one_is_whole(capsys, monkeypatch):
    run("--exp_name", "x")
    before = Path("ckpts/x/model.safetensors").read_bytes()
    step = models.miner.Miner.training_step
    monkeypatch.setattr(models.miner.Miner, "training_step", lambda *_: (_ for _ in ()).throw(RuntimeError))
    capsys.readouterr()
    with pytest.raises(RuntimeError):
        run("--exp_name", "x", "--seed", "3")
    assert "starting over" in capsys.readouterr().err
    assert Path("ckpts/x/model.safetensors").read_bytes() == before
    monkeypatch.setattr(models.miner.Miner, "training_step", step)
    run("--exp_name", "x", "--seed", "3")
    assert Path("ckpts/x/model.safetensors").read_bytes() != before


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
    with pytest.MonkeyPatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
        patch.setattr("run.result.quality", lambda *_: (_ for _ in ()).throw(RuntimeError("killed")))
        run("--exp_name", "x")
    train(*opt.parse(["--exp_name", "x", "--resume", "--quiet"]))
    assert same_model("x", "straight") and Path("logs/x/result.json").exists()


def run_on_a_small_disk(commit_always: bool) -> None:
    """In a process of its own: a run on a disk that has no room for files of more than 20 kB."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
    models.checkpoints.SECONDS_BETWEEN_COMMITS = 0 if commit_always else 1000
    run_command(lambda: main([*TINY, "--exp_name", "x", "--seed", "5"]))


@pytest.mark.parametrize("commit_always", [False, True])
def test_a_full_disk_gives_one_line_and_leaves_the_last_good_file(commit_always, apart):
    run("--exp_name", "x")
    before = Path("ckpts/x/model.safetensors").read_bytes()
    done = apart(run_on_a_small_disk, commit_always)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: ckpts/x/") and "Traceback" not in done.stderr
    assert Path("ckpts/x/model.safetensors").read_bytes() == before
    assert not list(Path("ckpts/x").rglob("*.part*"))


def test_an_unwritable_folder_is_one_line(capsys):
    Path("ckpts").write_text("a file where a folder should be")
    assert "ckpts" in refused(capsys, *TINY)


def test_what_is_to_be_said_of_a_source_is_said_once(capsys):
    write_pages("a.tif", 2)
    train(*opt.parse(["--path", "a.tif", "--num_epochs", "1", "--quiet"]))
    assert capsys.readouterr().err == "note: a.tif: a TIFF of 2 pages, of which the first is read\n"


def test_plan_trains_nothing(capsys):
    run("--exp_name", "x", "--plan")
    out = capsys.readouterr().out
    assert "parameters" in out and "memory" in out
    assert not Path("ckpts").exists() and not Path("logs").exists()


def test_a_plan_for_several_devices_is_of_what_each_of_them_may_take(monkeypatch):
    asked = []
    monkeypatch.setattr("train._check_devices", lambda devices: None)
    monkeypatch.setattr("train.memory_of", lambda *args: asked.append(args[2]) or memory.memory_of(*args))
    monkeypatch.setattr(plan, "describe", lambda *_: "")
    run("--exp_name", "x", "--plan", "--devices", "2")
    assert asked == [2]


def test_only_a_process_that_is_alone_in_its_run_begins_to_read_for_the_levels(monkeypatch):
    begun = []
    monkeypatch.setattr("train._check_devices", lambda devices: None)
    monkeypatch.setattr(Source, "begin", lambda source, n_levels: begun.append(n_levels))
    monkeypatch.setattr(plan, "describe", lambda *_: "")
    run("--exp_name", "x", "--plan", "--devices", "2")
    assert begun == []
    run("--exp_name", "x", "--plan")
    # Another process, on another machine.
    monkeypatch.setattr("machine.ranks.join", lambda cuda: contextlib.nullcontext(Two()))
    run("--exp_name", "x", "--plan")
    assert begun == [2]


class Two(Ranks):
    """The first of two processes, the other of which says the same."""

    def __init__(self):
        super().__init__(0, 2)

    def gather(self, value):
        return [value, value]


@pytest.mark.parametrize(
    ("array", "name"),
    [
        (np.full((1, 1, 3), 200, np.uint8), "one.png"),
        (np.arange(7, dtype=np.uint8).reshape(1, 7, 1) * 30, "row.png"),
        (np.zeros((37, 23, 3), np.uint8), "black.png"),
        (np.random.default_rng(0).integers(0, 65536, (19, 31, 4)).astype(np.uint16), "deep.png"),
        (np.random.default_rng(0).normal(5, 3, (21, 17, 2)).astype(np.float32), "float.npy"),
        (np.full((9, 9, 1), -3.5), "constant.npy"),
    ],
)
def test_any_image_trains_and_comes_back_in_kind(array, name):
    if name.endswith(".npy"):
        np.save(name, array)
    else:
        write_image(name, array, {1: "grey", 3: "RGB", 4: "RGBA"}[array.shape[2]])
    result = train(
        *opt.parse(["--path", name, "--patch_size", "16", "--num_epochs", "2", "--quiet", "--exp_name", "x"])
    )
    json.loads(Path("logs/x/result.json").read_text(), parse_constant=lambda text: pytest.fail(text))
    assert not np.isnan(result["psnr"])


def test_gaussian_pyramids_and_other_optimizers_train():
    laplacian = run("--exp_name", "a")
    gaussian = run("--exp_name", "b", "--pyr", "gaussian")
    yogi = run("--exp_name", "c", "--optimizer", "yogi")
    assert len({r["psnr"] for r in (laplacian, gaussian, yogi)}) == 3
    assert all(np.isfinite(r["psnr"]) for r in (gaussian, yogi))


def test_what_becomes_of_good_blocks_changes_the_model_and_without_pruning_they_train_to_the_end():
    easy = "--num_epochs", "20", "40", "--val_freq", "10", "--loss_thr", "0.02"
    copied, zeroed, whole = (run(*easy, "--pruning", way)["psnr"] for way in ("copy", "zero_grad", "none"))
    assert whole > copied != zeroed != whole


def test_without_pruning_val_freq_is_of_the_curves_alone_as_its_help_says(capsys):
    for often in ("2", "3"):
        run("--exp_name", often, "--pruning", "none", "--val_freq", often)
    assert same_model("2", "3")
    curves = [EventAccumulator(f"logs/{name}").Reload().Scalars("fit/loss") for name in ("2", "3")]
    assert [[event.step for event in curve] for curve in curves] == [[2, 4, 6, 8, 10], [3, 4, 7, 10]]
    with pytest.raises(SystemExit):
        opt.parse(["--help"])
    told = " ".join(capsys.readouterr().out.split("--val_freq")[-1].split("--pyr")[0].split())
    assert "with --pruning none, where the model is the same" in told


def test_an_engine_that_cannot_zero_gradients_is_refused_by_name(capsys):
    assert "--engine fused cannot run this" in refused(capsys, *TINY, "--pruning", "zero_grad", "--engine", "fused")


def test_the_engine_of_a_result_is_the_one_that_trained(monkeypatch):
    # A model that plain torch trained, on a GPU for what the fused kernels do not have, is decoded by those.
    monkeypatch.setattr(models.model_file, "ReferenceEngine", type("Other", (ReferenceEngine,), {"name": "other"}))
    monkeypatch.setattr(models.model_file, "choose_engine", lambda *_: (models.model_file.ReferenceEngine(), None))
    assert run()["engine"] == "reference"


def test_target_psnr_sets_the_threshold():
    assert run("--target_psnr", "30")["options"]["loss_thr"] == pytest.approx(1e-3)


def test_bad_input_is_one_line_that_names_it(capsys):
    Path("text.png").write_text("this is not a picture")
    Path("empty.png").touch()
    write_image("whole.png", planet(40, 40), "RGB")
    Path("cut.png").write_bytes(Path("whole.png").read_bytes()[:-200])
    np.save("nan.npy", np.full((4, 4), np.nan))
    Path("folder").mkdir()
    for name in ("missing.png", "text.png", "empty.png", "cut.png", "nan.npy", "folder"):
        assert name in refused(capsys, "--path", name)
    for option in ("--patch_size", "--batch_size", "--n_layers", "--val_freq", "--n_hidden", "--n_scales"):
        assert option in refused(capsys, option, "0")
    assert "--num_epochs" in refused(capsys, "--n_scales", "3", "--num_epochs", "1", "2")
    assert "--nonsense" in refused(capsys, "--nonsense")
    assert "lamb" in refused(capsys, "--optimizer", "lamb")
    assert not Path("ckpts").exists() and not Path("logs").exists()


def test_piped_output_has_no_control_characters():
    command = [sys.executable, str(ROOT / "train.py"), *TINY[:-1], "--exp_name", "x"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    text = done.stdout + done.stderr
    assert all(c.isprintable() or c == "\n" for c in text)
    assert done.stdout.splitlines()[-1].startswith("PSNR : ")
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["level 1", "level 0"]


def test_a_user_error_is_what_the_python_function_raises():
    with pytest.raises(UserError, match=r"missing\.png"):
        run("--path", "missing.png")


@pytest.mark.parametrize("preset", ["miner_pl", "paper"])
def test_presets_train_and_their_file_decodes(preset):
    result = run("--preset", preset, "--input_size", "70", "45", "--exp_name", "p")
    pyramid, about = model_file.load("ckpts/p/model.safetensors")
    assert about["options"]["preset"] == preset
    assert pyramid.level(0).network.omega_0 == (30.0 if preset == "paper" else None)
    assert result["psnr"] > 10


@pytest.mark.parametrize("way", ["paper", "inherit", "exact"])
@pytest.mark.parametrize("pyr", ["laplacian", "gaussian"])
def test_a_run_whose_levels_inherit_trains_and_is_resumed_with_the_same_bits(way, pyr):
    options = ["--weight_sharing", way, "--pyr", pyr, "--num_epochs", "2", "2", "2", "--n_scales", "3"]
    run(*options, "--exp_name", "whole")
    run(*options, "--exp_name", "part", "--max_time", "1e-9")
    train(*opt.parse(["--exp_name", "part", "--resume", "--quiet"]))
    whole, part = tensors("whole"), tensors("part")
    assert whole.keys() == part.keys() and all(torch.equal(whole[key], part[key]) for key in whole)


def test_a_picture_that_the_networks_are_too_small_for_says_what_to_change(tmp_path, capsys):
    np.save("noise.npy", noise(32, 32))
    size = ["--input_size", "32", "32", "--n_scales", "2"]
    run("--path", "noise.npy", *size, "--num_epochs", "50", "--exp_name", "noise")
    line, advice = capsys.readouterr().out.splitlines()[-3:-1]
    assert line.startswith("4 of 4 networks") and all(
        f"--{n}" in line for n in ("n_hidden", "num_epochs", "patch_size")
    )
    assert "--n_scales 1" in advice
    opt.parse(["--path", "noise.npy", *advice.split(": ")[1].split(" (")[0].split()])
    np.save("grey.npy", np.full((32, 32), 128, np.uint8))
    run("--path", "grey.npy", "--input_size", "32", "32", "--n_scales", "2", "--num_epochs", "50", "--exp_name", "grey")
    assert "networks of the finest" not in capsys.readouterr().out


def test_a_memory_that_two_blocks_do_not_fit_in_is_refused():
    with pytest.raises(UserError, match="--memory: two blocks do not fit"):
        train(*opt.parse(["--input_size", "64", "64", "--patch_size", "1024", "--memory", "64MiB"]))


def test_processes_with_a_gpu_each_do_not_share_its_memory(monkeypatch):
    monkeypatch.setattr("train._check_devices", lambda devices: None)
    monkeypatch.setattr("train.memory_of", lambda limit, *_: memory.Memory(limit // 8, limit))
    monkeypatch.setattr(plan, "describe", lambda *_: "")
    run("--exp_name", "x", "--plan", "--devices", "8", "--patch_size", "256", "--memory", "64MiB")


def test_a_precision_that_the_engine_does_not_have_is_said(capsys):
    result = run("--exp_name", "a", "--precision", "tf32")
    assert result["precision"] == json.loads(Path("logs/a/result.json").read_text())["precision"] == "float32"
    assert "--precision tf32 is of the fused engine" in capsys.readouterr().err


def test_a_target_that_is_missed_says_by_how_much_and_what_to_change(capsys):
    result = run("--exp_name", "a", "--target_psnr", "40", "--num_epochs", "1")
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "target_psnr" in line)
    assert f"missed by {40 - result['psnr']:.2f} dB" in line and "--target_psnr 41 chooses larger networks" in line
    run("--exp_name", "a", "--target_psnr", "5", "--num_epochs", "4")
    assert "target_psnr" not in capsys.readouterr().err


@pytest.mark.parametrize("beside", ["--preset paper", "--n_layers 1"])
def test_a_target_that_chooses_no_networks_says_so_and_is_not_advised_to_choose_larger_ones(beside, capsys):
    argv = ["--input_size", "24", "16", "--num_epochs", "1", "--quiet", "--target_psnr", "40", *beside.split()]
    train(*opt.parse([*argv, "--exp_name", "a"]))
    told = capsys.readouterr().err.splitlines()
    assert f"--target_psnr sets loss_thr alone: with {beside} it chooses no n_hidden and no patch_size" in told[0]
    (missed,) = (line for line in told if "missed" in line)
    assert "chooses" not in missed and ("--n_layers (was 1)" in missed) == (beside == "--n_layers 1")


@pytest.mark.parametrize(
    ("psnr", "correlation", "noise"),
    [(15.4, 0.0, True), (30.0, -0.2, True), (44.0, 0.0, False), (15.4, 0.5, False), (15.4, -0.9, False),
     (15.4, float("nan"), False)],
)  # fmt: skip
def test_only_a_picture_whose_neighbours_have_little_in_common_is_called_noise(psnr, correlation, noise, capsys):
    found = run("--exp_name", "a", "--num_epochs", "1", "--loss_thr", "2e-7")
    capsys.readouterr()
    level = found["levels"]["0"] | {"active": 4, "converged": 0}
    found |= {"psnr": psnr, "neighbour_correlation": correlation, "levels": {"0": level}}
    result.say(found | {"options": found["options"] | {"num_epochs": (50, 200)}})
    assert ("as random as noise" in capsys.readouterr().out) == noise
    result.say(found | {"options": found["options"] | {"num_epochs": (50, 200)}, "stopped_early": True})
    assert "networks of the finest" not in capsys.readouterr().out
    result.say(found)
    assert "as random as noise" not in capsys.readouterr().out


RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("array", "rate", "noise"),
    [
        (RANDOM.integers(0, 256, (32, 32, 1)).astype(np.uint8), "3e-2", True),
        (RANDOM.integers(0, 256, (32, 32, 3)).astype(np.uint8), "3e-2", True),
        (RANDOM.normal(5, 3, (33, 31, 3)).astype(np.float32), "3e-2", True),
        (RANDOM.random((32, 32, 4)), "3e-2", True),
        (planet(32, 32), "3e-2", False),
        (planet(32, 32), "1e-6", False),
        (np.full((32, 32, 3), 90, np.uint8), "1e-6", False),
        (RANDOM.integers(0, 256, (16, 16, 16)).astype(np.uint8), "1e-2", False),
    ],
    ids=["grey", "RGB", "float", "RGBA float", "sample", "sample, untrained", "constant", "volume"],
)
def test_noise_is_what_the_pixels_are_and_not_how_well_they_were_learnt(array, rate, noise, capsys):
    np.save("x.npy", array)
    task = ["--task", "volume"] if array.shape == (16, 16, 16) else []
    argv = ["--path", "x.npy", *task, "--patch_size", "16", "--num_epochs", "50", "--lr", rate, "--loss_thr", "1e-6"]
    train(*opt.parse([*argv, "--n_scales", "2", "--quiet"]))
    assert ("as random as noise" in capsys.readouterr().out) == noise


@pytest.mark.parametrize(
    "options", ["--weight_sharing inherit", "--output tanh", "--coarse_share 0.2", "--pyr gaussian"]
)
def test_an_option_that_changes_nothing_at_the_levels_of_a_picture_is_said(options, capsys, monkeypatch):
    # What the plan says takes seconds to find out.
    monkeypatch.setattr(plan, "describe", lambda *_: "")
    name = options.split()[0]
    argv = ["--input_size", "16", "16", "--num_epochs", "1", "--engine", "reference", "--plan", *options.split()]
    train(*opt.parse(argv))
    line = capsys.readouterr().err.splitlines()[0]
    assert line.startswith(f"{name} changes nothing here, with ") and "--n_scales 1" in line
