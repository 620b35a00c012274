"""What options make of a run, and that those which are said to change nothing do not."""

import json
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_refusals import IDLE
from train_runs import run, same_model

import opt
from models import model_file
from options import refusals
from planning import plan
from train import train

pytestmark = pytest.mark.usefixtures("in_folder")


def test_gaussian_pyramids_and_other_optimizers_train(finished):
    _, laplacian = finished()
    gaussian = run("--exp_name", "b", "--pyr", "gaussian")
    yogi = run("--exp_name", "c", "--optimizer", "yogi")
    assert len({r["psnr"] for r in (laplacian, gaussian, yogi)}) == 3
    assert all(np.isfinite(r["psnr"]) for r in (gaussian, yogi))


@pytest.mark.parametrize("preset", ["miner_pl", "paper"])
def test_presets_train_and_their_file_decodes(preset):
    result = run("--preset", preset, "--input_size", "70", "45", "--exp_name", "p")
    pyramid, about = model_file.load("ckpts/p/model.safetensors")
    assert about["options"]["preset"] == preset
    assert pyramid.level(0).network.omega_0 == (30.0 if preset == "paper" else None)
    assert result["psnr"] > 10


def test_target_psnr_sets_the_threshold():
    assert run("--target_psnr", "30")["options"]["loss_thr"] == pytest.approx(1e-3)


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


@pytest.mark.parametrize(("command", "added"), IDLE)
def test_an_option_that_is_refused_as_idle_would_change_nothing(command, added, monkeypatch):
    usual = ["--input_size", "24", "16", "--patch_size", "8", "--quiet", *command.split()]
    _, given = opt.parse(command.split())
    usual += [] if given & {"n_scales", "num_epochs"} else ["--n_scales", "3"]
    usual += [] if "num_epochs" in given else ["--num_epochs", "2"]
    monkeypatch.setattr(refusals, "IDLE", ())
    alone, both = (train(*opt.parse(argv)) for argv in (usual, [*usual, *added.split()]))
    assert (alone["psnr"], alone["psnr_worst_block"]) == (both["psnr"], both["psnr_worst_block"])


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


def test_a_precision_that_the_engine_does_not_have_is_said(capsys):
    result = run("--exp_name", "a", "--precision", "tf32")
    assert result["precision"] == json.loads(Path("logs/a/result.json").read_text())["precision"] == "float32"
    assert "--precision tf32 is of the fused engine" in capsys.readouterr().err


@pytest.mark.parametrize("beside", ["--preset paper", "--n_layers 1"])
def test_a_target_that_chooses_no_networks_says_so_and_is_not_advised_to_choose_larger_ones(beside, capsys):
    argv = ["--input_size", "24", "16", "--num_epochs", "1", "--quiet", "--target_psnr", "40", *beside.split()]
    train(*opt.parse([*argv, "--exp_name", "a"]))
    told = capsys.readouterr().err.splitlines()
    assert f"--target_psnr sets loss_thr alone: with {beside} it chooses no n_hidden and no patch_size" in told[0]
    (missed,) = (line for line in told if "missed" in line)
    assert "chooses" not in missed and ("--n_layers (was 1)" in missed) == (beside == "--n_layers 1")
