"""A run and its places."""

import shlex
from pathlib import Path

import numpy as np
import pytest

import opt
from models.miner import Miner
from run.session import to_go_on
from train import train


@pytest.mark.parametrize("name", ["x", "two words", "-x", "-"])
def test_how_to_go_on_can_be_typed_as_it_is_said(name):
    told = to_go_on(name, 2).removeprefix("; to go on: python train.py ")
    options, _ = opt.parse(shlex.split(told))
    assert (options.exp_name, options.devices, options.resume) == (name, 2, True)


def test_a_source_that_is_moved_away_while_it_is_fitted_is_missed_by_nobody(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("a.npy", np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8))
    size = Path("a.npy").stat().st_size
    step = Miner.training_step

    def move(self, *batch):
        Path("a.npy").unlink(missing_ok=True)
        step(self, *batch)

    monkeypatch.setattr(Miner, "training_step", move)
    result = train(*opt.parse(["--path", "a.npy", "--patch_size", "8", "--num_epochs", "2", "2", "--quiet"]))
    assert not Path("a.npy").exists()
    assert result["ratio_to_source_file"] == result["model_bytes"] / size
