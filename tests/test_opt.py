"""Options: the commands of the seeds, defaults, what the input settles, what a resume may repeat."""

import dataclasses
import json

import pytest

import opt
from options import AXES, Options
from options.refusals import check
from run import session
from utils import UserError, jsonable

# The commands of both seed documents; the older one lacks a backslash after its first line.
PLUTO_OLD = """--image_path images/pluto.png --img_wh 4096 4096 --patch_wh 32 32 --batch_size 256 --n_scales 4
    --num_epochs 500 --exp_name pluto4k_4scale"""
TOKYO_OLD = """--image_path images/tokyo-station.jpg --img_wh 6000 4000 --patch_wh 25 25 --batch_size 192 --n_scales 5
    --num_epochs 500 --exp_name tokyo4k_5scale"""
PLUTO = """--task image --path images/pluto.png --input_size 4096 4096 --patch_size 32 32 --batch_size 256 --n_scales 4
    --use_pe --n_layers 3 --num_epochs 50 50 50 200 --exp_name pluto4k_4scale"""
TOKYO = """--task image --path images/tokyo-station.jpg --input_size 6000 4000 --patch_size 25 25 --batch_size 192
    --n_scales 5 --use_pe --n_layers 3 --num_epochs 50 50 50 50 150 --exp_name tokyo6k_5scale"""
BUNNY = """--task mesh --path occupancy/bunny_512.npy --input_size 512 --patch_size 16 --batch_size 512 --n_scales 4
    --use_pe --n_freq 5 --n_layers 2 --n_hidden 8 --loss_thr 5e-3 --b_chunks 512 --num_epochs 50 50 50 150
    --exp_name bunny512_4scale"""


def parse(text):
    return opt.parse(text.split())[0]


def test_a_name_that_is_no_text_is_refused_by_every_command():
    with pytest.raises(UserError, match=r"'m\\udcff\.png': a name in bytes that are no UTF-8: rename"):
        opt.Parser("x.py").parse_args(["--path", "m\udcff.png"])


def refused(text):
    with pytest.raises(UserError) as error:
        parse(text)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("command", [PLUTO_OLD, PLUTO], ids=["older", "newer"])
def test_the_pluto_command_of_the_seeds(command):
    o = parse(command)
    assert (o.task, o.path, o.input_size, o.patch_size) == ("image", "images/pluto.png", (4096, 4096), (32, 32))
    assert (o.batch_size, o.n_scales, o.exp_name, o.use_pe) == (256, 4, "pluto4k_4scale", True)
    assert o.num_epochs == ((500,) if command is PLUTO_OLD else (50, 50, 50, 200))
    settled = opt.settle(o, (4096, 4096))
    assert settled.num_epochs == ((500,) * 4 if command is PLUTO_OLD else (50, 50, 50, 200))
    assert (settled.n_layers, settled.n_hidden, settled.n_freq, settled.loss_thr, settled.lr) == (3, 20, 4, 1e-4, 3e-2)
    assert (settled.optimizer, settled.val_freq, settled.a) == ("radam", 50, 0.1)


@pytest.mark.parametrize("command", [TOKYO_OLD, TOKYO], ids=["older", "newer"])
def test_the_tokyo_command_of_the_seeds(command):
    o = opt.settle(parse(command), (4000, 6000))
    assert (o.input_size, o.patch_size, o.batch_size, o.n_scales) == ((6000, 4000), (25, 25), 192, 5)
    assert o.num_epochs == ((500,) * 5 if command is TOKYO_OLD else (50, 50, 50, 50, 150))


def test_the_bunny_command_of_the_seeds():
    o = opt.settle(parse(BUNNY), (512, 512, 512))
    assert (o.task, o.input_size, o.patch_size, o.batch_size) == ("mesh", (512,) * 3, (16,) * 3, 512)
    assert (o.n_freq, o.n_layers, o.n_hidden, o.loss_thr, o.b_chunks) == (5, 2, 8, 5e-3, 512)
    assert (o.n_scales, o.num_epochs) == (4, (50, 50, 50, 150))


@pytest.mark.parametrize(("wrong", "right"), [("--input-size 5 5", "--input_size"), ("--pth=a.png", "--path")])
def test_an_option_that_is_misspelt_is_told_the_one_that_is_near(wrong, right):
    assert f"did you mean {right}?" in refused(wrong)
    assert "did you mean" not in refused("--zzzzzz 1")


def test_a_command_without_its_backslash_is_refused_and_not_guessed():
    assert "positional" in refused("--path a.png \\") or "unrecognized" in refused("--path a.png \\")


OPTIONS = """--task image --path a.png --input_size 64 32 --patch_size 8 4 --n_scales 3 --batch_size 7 --no-use_pe
    --n_layers 2 --n_hidden 9 --num_epochs 1 2 3 --lr 0.01 --optimizer Yogi --target_psnr 38.5 --val_freq 3
    --activation sine --omega_0 25 --weight_sharing inherit --output_start 0.5
    --coarse_share 0.9 --coarse_lr 1.5 --no-solve_start --preset miner_pl --pyr gaussian --b_chunks 5 --engine fused
    --precision tf32 --seed 11 --exp_name x --max_time 1:02:03 --log_image --memory 1.5GiB --quiet --plan"""


MORE = "--output tanh --no-use_amplitude --a 0.2 --pruning zero_grad"


def test_every_option_is_read():
    o = parse(OPTIONS)
    assert o == Options(
        task="image", path="a.png", input_size=(64, 32), patch_size=(8, 4), n_scales=3, batch_size=7, use_pe=False,
        n_layers=2, n_hidden=9, num_epochs=(1, 2, 3), lr=0.01, optimizer="yogi", target_psnr=38.5, val_freq=3,
        pyr="gaussian", b_chunks=5, engine="fused", seed=11, exp_name="x", max_time=3723, log_image=True,
        quiet=True, plan=True, activation="sine", omega_0=25.0, weight_sharing="inherit", output_start=0.5,
        coarse_share=0.9, coarse_lr=1.5, solve_start=False, preset="miner_pl", save_dtype="float32",
        memory=3 * 2**29, precision="tf32",
    )  # fmt: skip
    assert parse(MORE) == Options(output="tanh", use_amplitude=False, a=0.2, pruning="zero_grad")


def test_options_that_are_given_are_told_from_defaults():
    assert opt.parse(["--lr", "0.03", "--img_wh", "4", "5"])[1] == {"lr", "input_size"}
    assert opt.parse([])[1] == frozenset()


@pytest.mark.parametrize(("task", "axes"), [("image", 2), ("mesh", 3), ("volume", 3)])
def test_one_number_is_meant_for_every_axis(task, axes):
    o = opt.settle(parse(f"--task {task} --path a --patch_size 8"), (64,) * axes)
    assert (o.input_size, o.patch_size) == ((64,) * axes, (8,) * axes)


def test_positional_encoding_is_on_unless_it_is_switched_off():
    assert parse("").use_pe and parse("--use_pe").use_pe and not parse("--no-use_pe").use_pe


@pytest.mark.parametrize(
    ("text", "size"), [("1GiB", 2**30), ("2gb", 2 * 10**9), ("800M", 8 * 10**8), ("70000000", 7 * 10**7)]
)
def test_sizes_are_read_in_units_of_1000_and_of_1024(text, size):
    assert parse(f"--memory {text}").memory == size


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("1.5", 1.5), ("2:30", 150), ("1:00:00", 3600), ("0:0:7.5", 7.5)]
)
def test_a_time_is_seconds_or_hours_minutes_and_seconds(text, seconds):
    assert parse(f"--max_time {text}").max_time == seconds


@pytest.mark.parametrize(
    ("text", "shape", "n_scales", "epochs"),
    [
        ("", (1, 1), 1, (200,)),
        ("", (32 * 8, 32 * 16), 1, (200,)),
        ("", (32 * 8, 32 * 16 + 1), 2, (50, 200)),
        ("", (2048, 4096), 4, (50, 50, 50, 200)),
        ("--n_scales 2", (2048, 4096), 2, (50, 200)),
        ("--num_epochs 7", (512, 1024), 2, (7, 7)),
        ("--num_epochs 7 8", (2048, 4096), 2, (7, 8)),
        ("--num_epochs 7 --n_scales 2", (64, 64), 2, (7, 7)),
        ("--patch_size 16", (512, 1024), 3, (50, 50, 200)),
    ],
)
def test_scales_come_from_the_size_and_epochs_from_the_scales(text, shape, n_scales, epochs):
    o = opt.settle(parse(text), shape)
    assert (o.n_scales, o.num_epochs) == (n_scales, epochs)


@pytest.mark.parametrize(
    ("text", "shape", "n_freq"),
    [
        ("", (64, 64), 4),
        ("--patch_size 32", (64, 64), 4),
        ("--patch_size 16", (64, 64), 3),
        ("--patch_size 25", (64, 64), 4),
        ("--patch_size 1", (64, 64), 1),
        ("--patch_size 64 8", (64, 64), 5),
        ("--n_freq 7", (64, 64), 7),
        ("--no-use_pe", (64, 64), None),
        ("--task mesh --path a", (64,) * 3, 5),
    ],
)
def test_frequencies_come_from_the_patch(text, shape, n_freq):
    assert opt.settle(parse(text), shape).n_freq == n_freq


@pytest.mark.parametrize("task", ["image", "mesh", "volume"])
@pytest.mark.parametrize("size", [1, 2, 37, 300])
def test_settled_options_leave_nothing_open_and_settle_to_themselves(task, size):
    shape = (size,) * AXES[task]
    settled = opt.settle(parse(f"--task {task} --path some/file.npy"), shape)
    may_be_none = {"target_psnr", "max_time", "memory", "omega_0"}
    assert {item.name for item in dataclasses.fields(settled) if getattr(settled, item.name) is None} <= may_be_none
    check(settled)
    assert opt.settle(settled, shape) == settled
    assert settled.input_size == shape[::-1] and len(settled.num_epochs) == settled.n_scales
    assert opt.from_json(json.loads(json.dumps(jsonable(dataclasses.asdict(settled))))) == settled


def test_sizes_of_the_command_line_are_x_y_and_arrays_y_x():
    o = opt.settle(parse("--patch_size 32 4"), (40, 320))
    assert (o.patch_size, o.input_size) == ((32, 4), (320, 40))
    assert opt.settle(parse("--patch_size 1 64"), (64, 128)).n_scales == 1
    assert opt.settle(parse("--patch_size 64 1"), (128, 64)).n_scales == 1


def test_a_target_psnr_sets_the_threshold():
    assert opt.settle(parse("--target_psnr 43"), (64, 64)).loss_thr == pytest.approx(10**-4.3)


@pytest.mark.parametrize(
    ("text", "shape", "flag"), [("--n_scales 9", (64, 64), "n_scales"), ("--patch_size 2000", (64, 64), "patch_size")]
)
def test_what_does_not_fit_the_input_is_refused(text, shape, flag):
    with pytest.raises(UserError, match=f"--{flag}"):
        opt.settle(parse(text), shape)


@pytest.mark.parametrize(
    ("path", "name"),
    [(None, "sample"), ("images/pluto.png", "pluto"), ("a b/ü c.tar.gz", "ü_c.tar"), ("x/.hidden", ".hidden")],
)
def test_a_run_is_named_after_its_file(path, name):
    assert opt.default_name(Options(path=path)) == name


@pytest.mark.parametrize("path", ["...png", "..npy", " .png", "-.png", "a'b.png", "%.png"])
def test_a_name_made_from_a_file_is_a_name_that_may_be_given(path):
    name = opt.default_name(Options(path=path))
    assert opt.parse([f"--exp_name={name}"])[0].exp_name == name


def contradictions(resumed, began, shape=(64, 64)):
    stored = opt.from_json(jsonable(dataclasses.asdict(opt.settle(parse(began), shape))))
    o, given = opt.parse(resumed.split())
    return opt.contradictions(o, given, stored)


@pytest.mark.parametrize(
    ("resumed", "began"),
    [
        ("--resume", "--lr 0.1"),
        ("--resume --exp_name x", "--exp_name x"),
        ("--resume --lr 0.1 --path a.png", "--lr 0.1 --path a.png"),
        ("--resume --max_time 5 --memory 1GB --quiet --log_image", "--max_time 7"),
        ("--resume --num_epochs 7", "--num_epochs 7 --n_scales 3"),
        ("--resume --num_epochs 7 7 7", "--num_epochs 7 --n_scales 3"),
        ("--resume --patch_size 16", "--patch_size 16 16"),
        ("--resume --input_size 64 64 --n_freq 4 --n_layers 3 --batch_size 256", ""),
        ("--resume --target_psnr 40", "--loss_thr 1e-4"),
        ("--resume --target_psnr 41", "--target_psnr 41"),
        ("--resume --loss_thr 1e-4", "--target_psnr 40"),
    ],
)
def test_a_resume_may_repeat_the_options_of_its_run_in_any_words(resumed, began):
    assert contradictions(resumed, began) == []


def test_a_resume_may_repeat_one_number_for_every_axis_of_a_volume():
    began = "--task mesh --path a.npy --patch_size 8"
    assert contradictions("--resume --task mesh --path a.npy --patch_size 8", began, (64,) * 3) == []
    assert contradictions("--resume --patch_size 8", began, (64,) * 3) == []


@pytest.mark.parametrize(
    ("resumed", "began", "names"),
    [
        ("--resume --lr 0.2 --seed 4", "--lr 0.1", ["lr", "seed"]),
        ("--resume --num_epochs 7", "--num_epochs 7 8", ["num_epochs"]),
        ("--resume --num_epochs 7 8 9", "--num_epochs 7 8", ["num_epochs"]),
        ("--resume --patch_size 16 8", "--patch_size 8 16", ["patch_size"]),
        ("--resume --path b.png", "--path a.png", ["path"]),
        ("--resume --no-use_pe", "", ["use_pe"]),
        ("--resume --n_freq 4", "--no-use_pe", ["n_freq"]),
        ("--resume --target_psnr 41", "--loss_thr 1e-4", ["target_psnr"]),
        ("--resume --target_psnr 41", "--target_psnr 42", ["target_psnr"]),
        ("--resume --loss_thr 1e-5", "--target_psnr 40", ["loss_thr"]),
        ("--resume --pyr gaussian --optimizer adam", "", ["optimizer", "pyr"]),
    ],
)
def test_a_resume_that_contradicts_its_run_is_named(resumed, began, names):
    assert contradictions(resumed, began) == names


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit) as stop:
        opt.parse(["--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0
    assert all(f"--{item.name}" in text for item in dataclasses.fields(Options))


@pytest.mark.parametrize(
    ("given", "prune_thr"),
    [("", 2.5e-5), ("--loss_thr 1e-3", 1e-3), ("--target_psnr 30", 1e-3), ("--prune_thr 1e-6", 1e-6),
     ("--loss_thr 1e-3 --prune_thr 1e-4", 1e-4)],
)  # fmt: skip
def test_blocks_stop_training_at_the_threshold_given_or_a_quarter_of_the_usual_one(given, prune_thr):
    assert opt.settle(parse(given), (64, 64)).prune_thr == pytest.approx(prune_thr)


def test_a_block_cannot_stop_before_it_is_good_enough():
    with pytest.raises(UserError, match="--prune_thr must be at most loss_thr"):
        opt.settle(parse("--prune_thr 1e-3"), (64, 64))


@pytest.mark.parametrize(("words", "memory"), [("", 2**30), ("--memory 2GiB", 2**31)])
def test_a_resume_keeps_to_the_memory_of_its_run_unless_told_otherwise(words, memory):
    options, given = opt.parse(["--resume", *words.split()])
    assert session.resumed(options, given, parse("--memory 1GiB --quiet")).memory == memory
