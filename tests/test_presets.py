"""Presets: what they set, and that the command line goes before them."""

import pytest

import opt
from options import TASKS
from options.presets import PRESETS, by_target, larger_target
from utils import UserError


def parse(text, shape=(4096, 4096)):
    return opt.settle(opt.parse(text.split())[0], shape)


def test_miner_pl_is_its_recipe_whatever_our_defaults_are():
    o = parse("--preset miner_pl")
    assert (o.patch_size, o.batch_size, o.n_scales, o.num_epochs) == ((32, 32), 256, 4, (50, 50, 50, 200))
    assert (o.use_pe, o.n_freq, o.n_layers, o.n_hidden) == (True, 4, 3, 20)
    assert (o.optimizer, o.lr, o.loss_thr, o.val_freq, o.a) == ("radam", 3e-2, 1e-4, 50, 0.1)
    assert (o.beta2, o.prune_thr) == (0.999, 1e-4)
    assert (o.activation, o.output, o.use_amplitude, o.pyr) == ("gaussian", "sin", True, "laplacian")
    assert (o.output_start, o.coarse_share, o.solve_start, o.weight_sharing) == (1.0, 1.0, False, "none")
    assert o.save_dtype == "float32"


def test_miner_pl_of_a_grid_is_the_bunny_command():
    o = parse("--preset miner_pl --task mesh --path a", (512,) * 3)
    assert (o.patch_size, o.batch_size, o.n_freq, o.n_layers, o.n_hidden) == ((16,) * 3, 512, 5, 2, 8)
    assert (o.loss_thr, o.n_scales, o.num_epochs) == (5e-3, 4, (50, 50, 50, 150))
    assert (o.solve_start, o.save_dtype) == (False, "float32")


def test_paper_is_the_network_of_the_paper():
    o = parse("--preset paper")
    assert (o.activation, o.omega_0, o.n_layers, o.n_hidden, o.n_scales) == ("sine", 30.0, 4, 9, 6)
    assert (o.optimizer, o.lr, o.loss_thr, o.use_pe, o.n_freq) == ("adam", 5e-4, 2e-7, False, None)
    assert (o.output, o.use_amplitude, o.weight_sharing, o.solve_start) == ("linear", False, "paper", False)


def test_what_is_given_goes_before_the_preset():
    o = parse("--preset paper --n_hidden 11 --activation gaussian --lr 0.01")
    assert (o.n_hidden, o.activation, o.omega_0, o.lr, o.n_layers) == (11, "gaussian", None, 0.01, 4)


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("--preset miner_pl --target_psnr 50", "loss_thr", pytest.approx(1e-5)),
        ("--preset miner_pl --n_scales 3", "num_epochs", (50, 50, 200)),
        ("--preset miner_pl --num_epochs 7 8", "n_scales", 2),
        ("--preset paper --num_epochs 100", "n_scales", 6),
        ("--preset miner_pl --no-use_pe", "n_freq", None),
        ("--preset paper --n_freq 3", "use_pe", True),
        ("--preset miner_pl --n_layers 1", "n_layers", 1),
        ("--preset miner_pl --optimizer yogi", "optimizer", "yogi"),
    ],
)
def test_a_preset_gives_way_to_an_option_that_says_the_contrary(text, name, value):
    assert getattr(parse(text), name) == value


def test_only_what_the_command_line_gave_counts_as_given():
    assert opt.parse(["--preset", "paper", "--lr", "1e-3"])[1] == {"preset", "lr"}


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("task", TASKS)
def test_every_preset_settles_for_every_task(name, task):
    o = parse(f"--preset {name} --task {task} --path a", (64, 64) if task == "image" else (64, 64, 64))
    assert o.preset == name and len(o.num_epochs) == o.n_scales


def test_an_unknown_preset_is_refused():
    with pytest.raises(UserError, match="--preset"):
        opt.parse(["--preset", "best"])


@pytest.mark.parametrize(
    ("text", "n_hidden", "patch"),
    [
        ("--target_psnr 30", 8, 64),
        ("--target_psnr 45", 20, 32),
        ("--target_psnr 50", 28, 32),
        ("--target_psnr 58", 28, 16),
        ("--target_psnr 58 --n_hidden 12", 12, 32),
        ("--target_psnr 58 --patch_size 8", 20, 8),
        ("--preset miner_pl --target_psnr 58", 20, 32),
        ("--target_psnr 58 --task volume --path a", 16, 16),
        ("--target_psnr 58 --n_layers 1", 20, 32),
        ("--target_psnr 58 --n_layers 2", 28, 16),
    ],
)
def test_a_target_chooses_width_and_patch_where_neither_is_given(text, n_hidden, patch):
    o = parse(text, (256, 256, 256) if "volume" in text else (4096, 4096))
    assert (o.n_hidden, o.patch_size[0]) == (n_hidden, patch)
    assert o.loss_thr == pytest.approx(10 ** (-o.target_psnr / 10))
    assert opt.settle(o, o.input_size[::-1]) == o


@pytest.mark.parametrize(
    ("text", "beside"),
    [
        ("--target_psnr 58", None),
        ("--preset miner_pl", None),
        ("--preset miner_pl --target_psnr 58", "--preset miner_pl"),
        ("--preset paper --target_psnr 58", "--preset paper"),
        ("--preset paper --target_psnr 58 --n_hidden 9", None),
        ("--target_psnr 58 --n_layers 1", "--n_layers 1"),
        ("--target_psnr 58 --n_layers 1 --patch_size 8", None),
        ("--task volume --path a --target_psnr 58", "--task volume"),
        ("--preset paper --target_psnr 58 --resume", None),
    ],
)
def test_what_a_target_does_not_choose_is_known_where_the_command_does_not(text, beside):
    assert opt.left_by_target(*opt.parse(text.split())) == beside


@pytest.mark.parametrize("psnr", [20, 31, 33.5, 40, 45, 52, 60])
def test_a_larger_target_takes_other_networks(psnr):
    assert larger_target(psnr) > psnr and by_target(larger_target(psnr)) != by_target(psnr)
    assert by_target(larger_target(psnr) - 1) == by_target(psnr)


def test_above_the_last_networks_there_is_no_larger_target():
    assert larger_target(61) is None
