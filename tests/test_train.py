"""train.py end to end: what a run leaves behind, of whatever it is given."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_tiff import write_pages
from train_runs import TINY, run, same_model

import opt
from datasets.image_writer import write_image
from options import SAVE_DTYPES
from train import train

ROOT = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.usefixtures("in_folder")


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


def test_the_same_options_give_the_same_model_and_another_seed_another(straight):
    straight()
    for seed in ("0", "1"):
        run("--exp_name", seed, "--seed", seed)
    assert same_model("straight", "0") and not same_model("straight", "1")


def test_a_smaller_dtype_makes_a_smaller_file_of_about_the_same_quality(finished):
    results = [finished("--save_dtype", dtype)[1] for dtype in SAVE_DTYPES]
    sizes = [result["model_bytes"] / result["n_params"] for result in results]
    assert sizes[0] > 1.6 * sizes[1] > 1.9 * sizes[2]
    assert all(abs(result["psnr"] - results[0]["psnr"]) < 0.5 for result in results)


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


def test_what_is_to_be_said_of_a_source_is_said_once(capsys):
    write_pages("a.tif", 2)
    train(*opt.parse(["--path", "a.tif", "--num_epochs", "1", "--quiet"]))
    assert capsys.readouterr().err == "note: a.tif: a TIFF of 2 pages, of which the first is read\n"


def test_plan_trains_nothing(capsys):
    run("--exp_name", "x", "--plan")
    out = capsys.readouterr().out
    assert "parameters" in out and "memory" in out
    assert not Path("ckpts").exists() and not Path("logs").exists()


def test_piped_output_has_no_control_characters():
    command = [sys.executable, str(ROOT / "train.py"), *TINY[:-1], "--exp_name", "x"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    text = done.stdout + done.stderr
    assert all(c.isprintable() or c == "\n" for c in text)
    assert done.stdout.splitlines()[-1].startswith("PSNR : ")
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["note", "level 1", "level 0"]
