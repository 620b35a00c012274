"""What train.py cannot do is one line that names it, and leaves nothing behind."""

from pathlib import Path

import numpy as np
import pytest
from train_runs import TINY, refused, run

import opt
from datasets.image_writer import write_image
from datasets.samples import planet
from train import train
from utils import UserError

pytestmark = pytest.mark.usefixtures("in_folder")


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


def test_an_unwritable_folder_is_one_line(capsys):
    Path("ckpts").write_text("a file where a folder should be")
    assert "ckpts" in refused(capsys, *TINY)


def test_a_user_error_is_what_the_python_function_raises():
    with pytest.raises(UserError, match=r"missing\.png"):
        run("--path", "missing.png")


def test_an_engine_that_cannot_zero_gradients_is_refused_by_name(capsys):
    assert "--engine fused cannot run this" in refused(capsys, *TINY, "--pruning", "zero_grad", "--engine", "fused")


def test_a_memory_that_two_blocks_do_not_fit_in_is_refused():
    with pytest.raises(UserError, match="--memory: two blocks do not fit"):
        train(*opt.parse(["--input_size", "64", "64", "--patch_size", "1024", "--memory", "64MiB"]))
