"""One line that names the flag, for everything that makes no sense and for every option that would change nothing."""

import pytest
from test_opt import parse, refused

import opt
from utils import UserError

COUNTS = ("patch_size", "input_size", "batch_size", "n_layers", "n_hidden", "n_scales", "val_freq", "num_epochs")
AMOUNTS = ("lr", "a", "loss_thr", "target_psnr", "omega_0", "output_start", "coarse_share", "coarse_lr")
CHOICES = ("task", "pyr", "engine", "precision", "preset", "activation", "output", "weight_sharing", "pruning")
BAD = [
    *[(f"--{name} {value}", name) for name in COUNTS for value in ("0", "-3", "x", "1.5", "")],
    *[(f"--{name} {value}", name) for name in AMOUNTS for value in ("0", "-1", "nan", "inf", "1e39", "x", "")],
    *[(f"--max_time {value}", "max_time") for value in ("0", "nan", "inf", "x", "1:2:3:4", "1:-5", ":", "-1")],
    *[(f"--memory {value}", "memory") for value in ("0", "-1", "x", "1PiB", "63MiB", "GiB", "nan", "9" * 400)],
    *[(f"--n_freq {value}", "n_freq") for value in ("0", "-1", "25", "x")],
    *[(f"--b_chunks {value}", "b_chunks") for value in ("0", "1", "-2", "x")],
    *[(f"--seed {value}", "seed") for value in ("-1", str(2**31), "x")],
    *[(f"--{name} x", name) for name in CHOICES],
    ("--patch_size 0 4", "patch_size"),
    ("--patch_size 4 4 4", "patch_size"),
    ("--input_size 4 4 4", "input_size"),
    ("--task mesh --path a --patch_size 4 4", "patch_size"),
    ("--task mesh", "path"),
    ("--num_epochs 50 0 50", "num_epochs"),
    ("--n_scales 4 --num_epochs 50 50", "num_epochs"),
    ("--n_scales 1 --num_epochs 50 50", "num_epochs"),
    ("--target_psnr 40 --loss_thr 1e-4", "target_psnr"),
    ("--target_psnr 4000", "target_psnr"),
    ("--resume --plan", "plan"),
    ("--nonsense 3", "nonsense"),
    ("--n_freqs 3", "n_freqs"),
    ("--epochs 3", "epochs"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "flag"), BAD, ids=[text or "empty" for text, _ in BAD])
def test_what_makes_no_sense_is_one_line_that_names_the_flag(text, flag):
    assert f"--{flag}" in refused(text)


@pytest.mark.parametrize("name", ["a/b", "../a", "/a", ".", "..", "", "a\\b", "a\nb", "-x y/", " a", "a\x00"])
def test_a_name_of_a_run_that_is_no_folder_name_is_refused(name):
    with pytest.raises(UserError) as error:
        opt.parse([f"--exp_name={name}"])
    assert "--exp_name" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["a", "pluto4k_4scale", "run 3", "1.5", "Über", "a+b-c"])
def test_a_name_of_a_run_may_be_any_folder_name(name):
    assert opt.parse([f"--exp_name={name}"])[0].exp_name == name


@pytest.mark.parametrize("words", ["--beta2 1", "--beta2 0", "--beta2 nan"])
def test_a_beta2_that_makes_no_sense_is_refused(words):
    assert "--beta2" in refused(words)


# A command, and what may be added to it without a change.
IDLE = [
    ("--no-use_pe", "--n_freq 4"),
    ("--n_layers 1", "--n_hidden 9"),
    ("--n_layers 1", "--activation sine"),
    ("--activation gaussian", "--omega_0 25"),
    ("--preset paper --n_layers 1", "--omega_0 25"),
    ("--n_scales 1", "--pyr gaussian"),
    ("--n_scales 1", "--coarse_share 0.1"),
    ("--n_scales 1", "--coarse_lr 2"),
    ("--n_scales 1", "--weight_sharing exact"),
    ("--n_scales 2", "--weight_sharing paper"),
    ("--num_epochs 2 3", "--weight_sharing paper"),
    ("--n_layers 1", "--weight_sharing inherit"),
    ("--n_layers 1", "--weight_sharing exact"),
    ("--pyr gaussian", "--output tanh"),
    ("--n_scales 1", "--output tanh"),
    ("--pyr gaussian", "--no-use_amplitude"),
    ("--n_scales 1", "--no-use_amplitude"),
    ("--activation sine --output linear", "--a 0.5"),
    ("--activation sine --pyr gaussian", "--a 0.5"),
    ("--n_layers 1 --output tanh", "--a 0.5"),
    ("--solve_start", "--output_start 1"),
    ("--n_scales 3 --num_epochs 3 --val_freq 3", "--prune_thr 1e-6"),
    ("--val_freq 200", "--prune_thr 1e-6"),
    ("--val_freq 200", "--pruning zero_grad"),
    ("--pruning none --num_epochs 2 4 --val_freq 2 --loss_thr 0.05", "--prune_thr 0.04"),
    ("--engine reference", "--precision tf32"),
    ("--n_layers 2", "--optimizer muon"),
    ("--n_layers 1", "--optimizer muon"),
]


# The same, of what tests do not train.
IDLE_ELSEWHERE = [("--optimizer yogi", "--beta2 0.9"), ("--task mesh --path a", "--output_start 1"),
                  ("--task mesh --path a", "--optimizer muon"),
                  ("--task volume --path a --preset miner_pl", "--optimizer muon")]  # fmt: skip


def test_a_default_may_be_spelled_out():
    for command in ("--n_scales 1 --pyr laplacian --use_amplitude", "--optimizer yogi --beta2 0.99"):
        parse(command)


@pytest.mark.parametrize(("command", "added"), [*IDLE, *IDLE_ELSEWHERE])
def test_an_option_that_changes_nothing_is_refused(command, added):
    parse(command)
    flag = added.split()[0].replace("no-", "")
    line = refused(f"{command} {added}")
    assert line.startswith(f"{flag} has no meaning with ") and line.endswith(": leave it out, or change that")


@pytest.mark.parametrize(
    "command",
    [
        "--weight_sharing none --n_scales 1",
        "--no-solve_start --output_start 1",
        "--task mesh --path a --no-solve_start --output_start 1",
        "--activation sine --a 0.5",
        "--n_layers 1 --a 0.5",
        "--weight_sharing exact --n_layers 1 --pyr gaussian",
        "--num_epochs 50 100 --val_freq 50 --prune_thr 1e-6",
        "--val_freq 199 --prune_thr 1e-6",
        "--val_freq 199 --pruning none",
        "--pruning zero_grad --prune_thr 1e-6",
        "--num_epochs 7 --weight_sharing paper",
        "--num_epochs 7 8 9 --weight_sharing paper",
        "--preset paper --num_epochs 7 8",
        "--engine reference --precision float32",
        "--preset paper --n_scales 1",
        "--preset paper --pyr gaussian",
        "--preset miner_pl --solve_start",
        "--resume --n_scales 1 --coarse_share 0.5",
        "--optimizer yogi",
        "--optimizer muon",
        "--optimizer muon --task mesh --path a --n_layers 3",
        "--optimizer muon --task mesh --path a --preset paper",
    ],
)
def test_an_option_that_a_preset_sets_or_a_run_began_with_is_no_reason_to_refuse(command):
    parse(command)
