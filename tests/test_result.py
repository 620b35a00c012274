"""What a run has come to: the figures of its saved model, and the words for them."""

import dataclasses

import numpy as np
import pytest
from train_runs import run

import opt
import utils
from datasets.samples import noise, planet
from machine.memory import Limits, Memory
from models import model_file
from models.engine import ReferenceEngine
from run import result
from train import train

pytestmark = pytest.mark.usefixtures("in_folder")


def test_the_psnr_is_that_of_the_decoded_file_against_the_source(straight):
    result = straight()
    pyramid, _ = model_file.load("ckpts/straight/model.safetensors")
    truth = planet(45, 70).astype(np.float64) / 255
    mse = np.mean((pyramid.decode().double().numpy() - truth) ** 2)
    assert result["psnr"] == pytest.approx(-10 * np.log10(mse), abs=1e-4)


def test_the_memory_of_a_fit_is_told_apart_from_that_of_measuring_its_model(finished, monkeypatch):
    assert finished()[1]["fit_peak_device_bytes"] is None
    so_far, quality = [7], result.quality

    def measure(*given):
        so_far[0] = 12
        return quality(*given)

    monkeypatch.setattr(utils, "peak_device_bytes", lambda device: so_far[0])
    monkeypatch.setattr(result, "quality", measure)
    found = run()
    assert (found["fit_peak_device_bytes"], found["peak_device_bytes"]) == (7, 12)


@pytest.mark.parametrize(("dtype", "digits"), [("float32", 1), ("float16", 2), ("int8", 4)])
def test_a_model_is_measured_in_memory_where_all_digits_of_its_rows_have_room(monkeypatch, dtype, digits):
    lazy, load = [], model_file.load
    monkeypatch.setattr(model_file, "load", lambda *given, **how: lazy.append(how["lazy"]) or load(*given, **how))
    bytes_ = run("--save_dtype", dtype, "--exp_name", "x")["model_bytes"]
    for room in (bytes_ * digits, bytes_ * digits - 1):
        limits = dataclasses.replace(Limits(), row_bytes=room)
        monkeypatch.setattr(Memory, "limits", lambda *given, limits=limits, **how: limits)
        run("--save_dtype", dtype, "--exp_name", "x")
    assert lazy == [False, False, True]


def test_the_engine_of_a_result_is_the_one_that_trained(monkeypatch):
    # A model that plain torch trained, on a GPU for what the fused kernels do not have, is decoded by those.
    monkeypatch.setattr(model_file, "ReferenceEngine", type("Other", (ReferenceEngine,), {"name": "other"}))
    monkeypatch.setattr(model_file, "choose_engine", lambda *_: (model_file.ReferenceEngine(), None))
    assert run()["engine"] == "reference"


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


def test_a_target_that_is_missed_says_by_how_much_and_what_to_change(capsys):
    result = run("--exp_name", "a", "--target_psnr", "40", "--num_epochs", "1")
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "target_psnr" in line)
    assert f"missed by {40 - result['psnr']:.2f} dB" in line and "--target_psnr 41 chooses larger networks" in line
    run("--exp_name", "a", "--target_psnr", "5", "--num_epochs", "4")
    assert "target_psnr" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("psnr", "correlation", "noise"),
    [(15.4, 0.0, True), (30.0, -0.2, True), (44.0, 0.0, False), (15.4, 0.5, False), (15.4, -0.9, False),
     (15.4, float("nan"), False)],
)  # fmt: skip
def test_only_a_picture_whose_neighbours_have_little_in_common_is_called_noise(
    psnr, correlation, noise, finished, capsys
):
    _, found = finished("--num_epochs", "1", "--loss_thr", "2e-7")
    capsys.readouterr()
    level = found["levels"]["0"] | {"active": 4, "converged": 0}
    found = found | {"psnr": psnr, "neighbour_correlation": correlation, "levels": {"0": level}}
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
        (RANDOM.integers(0, 256, (8, 8, 8)).astype(np.uint8), "1e-2", False),
    ],
    ids=["grey", "RGB", "float", "RGBA float", "sample", "sample, untrained", "constant", "volume"],
)
def test_noise_is_what_the_pixels_are_and_not_how_well_they_were_learnt(array, rate, noise, capsys):
    np.save("x.npy", array)
    task = ["--task", "volume"] if array.shape == (8, 8, 8) else []
    argv = ["--path", "x.npy", *task, "--patch_size", "16", "--num_epochs", "50", "--lr", rate, "--loss_thr", "1e-6"]
    train(*opt.parse([*argv, "--n_scales", "2", "--quiet"]))
    assert ("as random as noise" in capsys.readouterr().out) == noise
