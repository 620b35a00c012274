"""Runs of train.py that take a moment, and what tests ask of them."""

import pytest
import safetensors.torch
import torch

import opt
from train import main, train
from utils import run_command

TINY = ["--input_size", "70", "45", "--patch_size", "16", "--num_epochs", "4", "6", "--val_freq", "2", "--quiet"]


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


def same_model(a: str, b: str) -> bool:
    first, second = tensors(a), tensors(b)
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
