"""The tables of measurements: every row is a command that train.py takes, and a row that fails loses no other."""

import concurrent.futures
import contextlib
import functools
import json
import re
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import cv2
import pytest
import torch
from PIL import Image

import opt
from datasets.knot import knot
from datasets.occupancy import OccupancyGrid
from datasets.surface import write_mesh
from experiments import tried
from experiments.__main__ import TABLES, main, section
from experiments.claims import PRUNING
from experiments.curve import SHAPES, TARGETS, again, pareto, winners
from experiments.curve import draw as draw_fronts
from experiments.inputs import bunny, crop, random_pixels, stand_in
from experiments.rows import Row, markdown, measure, read, run_rows, states
from experiments.settings import PICTURES
from experiments.times import draw
from experiments.tried import EXACT, HEIRS, SPLIT
from experiments.variants import VARIANTS, SplitNetwork, applied
from models.engine import reference
from models.engine.reference import forward
from models.network import Network
from options import presets
from options.presets import by_target
from utils import Interrupted, UserError, run_command

pytestmark = pytest.mark.usefixtures("in_folder")

TINY = "--input_size 40 24 --patch_size 8 --n_scales 2 --num_epochs 6 --val_freq 3 --n_hidden 10 --engine reference"


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stand_ins")
    for stem, size in PICTURES.items():
        Image.new("1", size).save(folder / f"{stem}.png")
    Image.new("1", (1024, 512)).save(folder / "moon1k.png")
    (folder / "bunny_512.npy").touch()
    return folder


@pytest.fixture
def in_process(monkeypatch):
    """Rows are measured in this process, as a new one takes seconds to start."""
    monkeypatch.setattr(concurrent.futures, "ProcessPoolExecutor", lambda jobs, *_: ThreadPoolExecutor(jobs))


@pytest.mark.parametrize("table", TABLES)
def test_the_docs_count_the_rows_which_have_names_of_their_own_and_options_that_settle(table, tmp_path, stand_ins):
    rows = TABLES[table](tmp_path, stand_ins)
    assert rows and len({row.name for row in rows}) == len(rows)
    docs = (Path(opt.__file__).parent / "docs" / "experiments.md").read_text()
    assert re.search(rf"^\| `{table}` \|.*\| {len(rows)}( and the front)? \|$", docs, re.MULTILINE)
    for row in rows:
        if row.variant == "voxels":
            continue
        options = opt.parse(list(row.argv))[0]
        size = options.input_size or (512,) * (3 if options.task == "mesh" else 2)
        opt.settle(options, size[::-1])
        assert row.table == table and row.variant in VARIANTS


@functools.cache
def of_the_method(argv):
    return measure(Row("t", "g", "none", argv, "none"))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_trains_and_differs_from_the_method(variant):
    argv = (
        *TINY.split(),
        "--weight_sharing",
        "inherit" if variant in HEIRS else "exact" if variant == EXACT else "none",
    )
    usual, changed = of_the_method(argv), measure(Row("t", "g", variant, argv, variant))
    assert "error" not in changed, changed
    assert changed["psnr"] > 10
    # So few steps prune nothing and re-solve nothing that is worse.
    if variant not in ("none", "output solved after every round", "watched"):
        assert changed["psnr"] != usual["psnr"]


def test_hard_cells_are_drawn_alike_whatever_was_drawn_before():
    found = []
    for n in range(2):
        torch.manual_seed(n)
        found.append(measure(Row("t", "g", "a", tuple(TINY.split()), "hard cells"))["psnr"])
    assert found[0] == found[1]


def test_hard_cells_train_as_the_method_does_but_for_the_cells(monkeypatch):
    argv, seen = (*TINY.split(), "--input_size", "41", "23", "--loss_thr", "0.02"), []
    monkeypatch.setattr(reference, "forward", lambda *args: seen.append(args[3].shape[-1]) or forward(*args))
    copied, zeroed = (
        measure(Row("t", "g", way, (*argv, "--pruning", way), "hard cells"))["psnr"] for way in ("none", "zero_grad")
    )
    assert copied != zeroed and {cells % reference.WHOLE_VECTORS for cells in seen} == {0}


def test_a_variant_is_gone_when_it_is_over():
    before = measure(Row("t", "g", "a", tuple(TINY.split())))["psnr"]
    with pytest.raises(ZeroDivisionError), applied("split layer"):
        raise ZeroDivisionError
    assert measure(Row("t", "g", "a", tuple(TINY.split())))["psnr"] == before


@pytest.mark.parametrize("optimizer", ["radam", "adam"])
def test_zeroed_gradients_do_not_stop_a_block_and_the_copy_does(optimizer):
    argv = (*TINY.split(), "--loss_thr", "0.02", "--optimizer", optimizer)
    copied, zeroed = (
        measure(Row("t", "g", way, (*argv, "--pruning", way), "watched")) for way in ("copy", "zero_grad")
    )
    usual = measure(Row("t", "g", "a", argv))
    assert copied["psnr"] == usual["psnr"] != zeroed["psnr"]
    assert int(copied["about"]["done before the end"]) > 0 and int(zeroed["about"]["done before the end"]) > 0
    assert float(copied["about"]["moved since, of their size: most"]) == 0
    assert float(zeroed["about"]["moved since, of their size: median"]) > 0.001


def test_a_variant_that_no_dict_has_is_never_run_as_the_method(tmp_path, stand_ins, monkeypatch):
    monkeypatch.setattr(tried, "CLOSE", ("none", "narower coarser levels"))
    with pytest.raises(KeyError, match="narower coarser levels"):
        TABLES["tried"](tmp_path, stand_ins)


def test_a_split_layer_has_the_parameters_of_the_method():
    usual = Network(16, 20, 3, 3, "sin").row_size
    assert abs(SplitNetwork(16, int(SPLIT[1]), 3, 3, "sin").row_size / usual - 1) < 0.04


def test_a_row_whose_process_is_told_to_end_loses_no_other(tmp_path, monkeypatch):
    def told(*_):
        raise Interrupted("interrupted")

    monkeypatch.setattr("experiments.rows._pool", lambda *_: ThreadPoolExecutor(1))
    monkeypatch.setattr("experiments.rows._train", told)
    rows = [Row("t", "group", name, tuple(TINY.split())) for name in "ab"]
    assert [result["error"] for result in run_rows(rows, tmp_path)] == ["Interrupted: interrupted"] * 2


def test_rows_that_wait_are_not_measured_once_the_command_is_interrupted(tmp_path, monkeypatch):
    begun, halfway = [], threading.Event()

    def measure(row, *_):
        begun.append(row.name)
        halfway.wait()
        return {"table": "claims", "name": row.name}

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("experiments.rows.measure", measure)
    monkeypatch.setattr("experiments.rows._pool", lambda *_: ThreadPoolExecutor(1))
    monkeypatch.setattr("concurrent.futures.as_completed", interrupted)
    worker = mock.Mock()
    monkeypatch.setattr("multiprocessing.active_children", lambda: [worker])
    threading.Timer(0.2, halfway.set).start()
    with pytest.raises(KeyboardInterrupt):
        run_rows([Row("claims", "g", name, []) for name in "abc"], tmp_path)
    assert begun == ["a"]
    worker.kill.assert_called_once_with()


def test_a_row_that_fails_is_written_down_and_loses_no_other(tmp_path):
    good = Row("t", "group", "good", tuple(TINY.split()), about={"settings": "few"})
    bad = Row("t", "group", "bad", ("--path", "missing.png"))
    results = run_rows([bad, good], tmp_path / "out")
    assert [("error" in result, result["name"]) for result in results] == [(True, "bad"), (False, "good")]
    assert read(tmp_path / "out", "t") == results
    text = markdown(results)
    assert "fit (s)" in text and "fit (s)" not in markdown({**result, "alone": False} for result in results)
    assert text.startswith("### group") and "failed: UserError: missing.png" in text and "few" in text
    assert {line.count("|") for line in text.splitlines() if line.startswith("|")} == {text.splitlines()[2].count("|")}


def test_the_memory_of_the_fit_is_a_column_of_results_that_know_it():
    usual = measure(Row("t", "g", "a", tuple(TINY.split()))) | {"peak_device_bytes": 3 * 2**20}
    assert "fit_peak_device_bytes" in usual and "GPU, fit" not in markdown([usual])
    before = {key: value for key, value in usual.items() if key != "fit_peak_device_bytes"}
    lines = markdown([before, usual | {"fit_peak_device_bytes": 2 * 2**20}]).splitlines()
    columns = [word.strip() for word in lines[2].split("|")]
    cells = [
        [line.split("|")[columns.index(name)].strip() for name in ("GPU (MiB)", "GPU, fit (MiB)")] for line in lines[4:]
    ]
    assert cells == [["3", ""], ["3", "2"]]


def test_a_row_says_what_ran(tmp_path):
    found = measure(Row("t", "g", "a", (*TINY.removesuffix(" --engine reference").split(), "--precision", "tf32")))
    assert (found["engine"], found["precision"]) == ("reference", "float32")
    (row,) = [row for row in TABLES["meshes"](tmp_path, None) if row.name == "broken mesh: --T 3"]
    row.argv[0].make()
    found = measure(row, tiny=True)
    settings = {"N": 12, "M": 1, "T": 3, "removed": 0.05, "held_against_M": 729}
    assert found["seed"] == 0 and found["options"].items() >= settings.items() and "cells that differ" in found["about"]


def test_a_tiny_run_has_levels_enough_for_networks_to_begin_with_their_parents():
    none, paper = (
        measure(Row("t", "g", way, ("--patch_size", "8", "--weight_sharing", way)), tiny=True)
        for way in ("none", "paper")
    )
    assert none["psnr"] != paper["psnr"]


def test_a_tiny_run_has_blocks_that_are_done_before_its_end():
    rows = {
        name: Row("t", "g", name, tuple(settings.split()), variant) for name, (settings, variant) in PRUNING.items()
    }
    found = {name: measure(row, tiny=True) for name, row in rows.items() if "fused" not in name and "adam" not in name}
    assert (
        len({found[f"{name}, plain torch"]["psnr"] for name in ("no pruning", "pruned copy", "gradients zeroed")}) == 3
    )
    assert all(int(found[name]["about"]["done before the end"]) for name in found if rows[name].variant == "watched")


def test_past_the_deadline_no_row_begins():
    assert measure(Row("t", "g", "a", tuple(TINY.split())), deadline=0) is None


def test_the_last_result_of_a_row_counts(tmp_path):
    lines = [{"name": "a", "psnr": 1}, {"name": "b", "psnr": 2}, {"name": "a", "psnr": 3}]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [(r["name"], r["psnr"]) for r in read(tmp_path, "t")] == [("a", 3), ("b", 2)]
    assert read(tmp_path, "none") == []


def test_a_row_that_was_cut_short_is_left_out_with_a_word_and_spoils_no_other(
    tmp_path, capsys, in_process, monkeypatch
):
    whole = json.dumps({"name": "a", "psnr": 1}) + "\n"
    for text in (whole[: len(whole) // 2], whole + whole[:9]):
        (tmp_path / "t.jsonl").write_text(text)
        before = text.count("\n")
        assert len(read(tmp_path, "t")) == before
        assert f"t.jsonl: line {before + 1} " in capsys.readouterr().err
    monkeypatch.setattr("experiments.rows.measure", lambda row, *_: vars(row))
    run_rows([Row("t", "g", "b", ())], tmp_path)
    assert [result["name"] for result in read(tmp_path, "t")] == ["a", "b"]
    assert capsys.readouterr().err.count("\n") == 1


def test_a_rerun_beside_others_hides_no_time(tmp_path):
    def shown(*lines):
        usual = {"name": "a", "psnr": 40.0, "versions": {"miner": "1"}, "options": {"lr": 1, "path": "x"}, "about": {}}
        (tmp_path / "t.jsonl").write_text("".join(json.dumps(usual | line) + "\n" for line in lines))
        return [(r.get("fit_s"), r["about"].get("measured", "")) for r in read(tmp_path, "t")]

    alone, beside = {"alone": True, "fit_s": 1.0}, {"alone": False, "fit_s": 2.0, "options": {"lr": 1, "path": "y"}}
    assert shown(alone, beside) == shown(beside, alone) == shown(alone | {"fit_s": 3.0}, alone) == [(1.0, "")]
    assert shown(beside | {"fit_s": 4.0}, beside) == [(2.0, "")]
    both = [(2.0, ""), (1.0, "earlier, alone")]
    assert shown(alone, beside | {"versions": {"miner": "2"}}) == shown(alone, beside | {"psnr": 41.0}) == both
    # Of other options it is no time of this row.
    assert shown(alone, beside | {"options": {"lr": 2}}) == [(2.0, "")]
    failed = {"name": "a", "alone": True, "error": "no memory", "psnr": None, "options": None}
    assert shown(alone, failed) == [(None, ""), (1.0, "earlier, alone")]
    assert shown(failed, beside) == [(2.0, "")]


def test_tiny_runs_are_marked_and_never_shown_beside_whole_ones(tmp_path, capsys):
    row = Row("noise", "g", "a", (*TINY.split(), "--n_hidden", "3"))
    whole, tiny = ({"name": "a", "table": "noise"} | measure(row, tiny=tiny) for tiny in (False, True))
    assert (whole["tiny"], tiny["tiny"]) == (False, True)
    (tmp_path / "noise.jsonl").write_text("".join(json.dumps(result) + "\n" for result in (whole, tiny)))
    assert [r["psnr"] for r in read(tmp_path, "noise")] == [whole["psnr"]]
    assert [r["psnr"] for r in read(tmp_path, "noise", tiny=True)] == [tiny["psnr"]]
    main(["show", "noise", "--folder", str(tmp_path)])
    assert "no measurement" not in capsys.readouterr().out
    main(["show", "noise", "--folder", str(tmp_path), "--tiny"])
    assert "no measurement" in capsys.readouterr().out


def test_the_front_is_what_nothing_beats_and_winners_reach_their_target():
    found = [
        {"n_params": n, "psnr": psnr, "fit_s": s, "alone": name != "b", "about": {"settings": name}}
        for name, n, psnr, s in (("a", 10, 41.0, 3.0), ("b", 20, 40.5, 1.0), ("c", 30, 50.5, 2.0), ("d", 30, 49.0, 2.0))
    ]
    assert "| c | 2.00 | 50.50 |" in winners(found).splitlines()[2]
    assert "none that ran alone" in winners([result | {"alone": False} for result in found])
    assert [r["about"]["settings"] for r in pareto([*found, {"n_params": 1, "psnr": None}], "n_params")] == ["a", "c"]
    lines = dict(line.split("|")[1:3] for line in winners(found).splitlines()[2:])
    assert lines == {" 30 ": " a ", " 35 ": " a ", " 40 ": " a ", " 45 ": " c ", " 50 ": " c "} | dict.fromkeys(
        (" 55 ", " 60 "), " not reached "
    )


def test_the_sweep_holds_every_shape_once_and_targets_every_network():
    assert len(set(SHAPES)) == len(SHAPES) == 63
    assert {str(by_target(target)) for target in TARGETS} == {str(values) for _, values in presets._BY_TARGET}


def test_the_front_is_measured_once_more_a_decibel_apart(tmp_path, stand_ins):
    found = [
        {"n_params": n, "psnr": psnr, "about": {"settings": f"--lr {n}"}}
        for n, psnr in enumerate((40.0, 40.5, 41.2), start=1)
    ]
    assert [row.about["settings"] for row in again(tmp_path, stand_ins, found)] == ["--lr 1", "--lr 3"] * 2


def test_winners_are_shown_picture_by_picture(tmp_path):
    found = [
        {"group": f"stand-in: {what}: sweep", "name": what, "n_params": 10**6, "psnr": 41.0, "fit_s": 1.0, "iou": None,
         "alone": True, "networks": 1, "converged": 1, "engine": "fused", "about": {"settings": what},
         "options": {"input_size": [64, 33], "patch_size": [32, 32], "n_scales": 2}}
        for what in ("moon", "crop")
    ]  # fmt: skip
    text = section("curve", found, tmp_path)
    assert text.count("### Least that reaches a target") == 2 and "not reached" in text
    # Four blocks and one; a second for one network.
    assert "| 1 of 5, 20%; 1 good | 1000000.0 |" in text


def test_results_of_several_states_of_the_program_say_which():
    found = [{"name": n, "device": "cpu", "versions": {"miner": n}, "about": {}} for n in ("1", "2", "1")]
    newer = found[0] | {"device": "Some CPU", "versions": {"miner": "1", "opencv": "5"}}
    assert "a: cpu, miner 1.\n\nb: Some CPU, miner 1, opencv 5." in states([found[0], newer])[0]
    where, marked = states(found)
    assert [result["about"]["by"] for result in marked] == ["a", "b", "a"] and "a: cpu, miner 1." in where
    assert states(found[:1]) == ("cpu, miner 1.", found[:1])


def test_the_command_measures_and_shows(capsys, monkeypatch, in_process):
    monkeypatch.setattr(
        "experiments.rows.measure", lambda row, _, tiny, *__: vars(row) | {"tiny": tiny, "error": "not run"}
    )
    main(["noise", "--only", "the settings found, 512", "--tiny"])
    out = capsys.readouterr().out
    assert "## noise" in out and "| the settings found, 512 | failed: not run |" in out
    assert Path("results/tiny/noise.jsonl").is_file() and not Path("results/noise.jsonl").exists()
    with pytest.raises(UserError, match="holds no rows of noise"):
        main(["show", "noise"])
    main(["show", "noise", "--tiny"])
    assert capsys.readouterr().out.count("| the settings found, 512 |") == 1
    main(["show", "--tiny"])
    assert capsys.readouterr().out.startswith("# Measurements\n\nWhat")


@pytest.mark.parametrize(
    "words",
    [
        "noise --stand_ins nowhere",
        "noise --only nonsense",
        "show noise --only defaults",
        "show --jobs 2",
        "show --folder nowhere",
        "show tried --folder nowhere",
        "noise --jobs 0",
    ],
)
def test_words_of_the_command_that_mean_nothing_are_refused(words, capsys):
    with pytest.raises(SystemExit) as stop:
        run_command(lambda: main(words.split()))
    line = capsys.readouterr().err
    assert stop.value.code == 2 and line.count("\n") == 1 and words.split()[-2] in line


@pytest.mark.parametrize("table", ["times", "targets", "curve", "sharing", "tried"])
def test_a_picture_that_a_table_names_is_never_another_one(table, tmp_path, stand_ins, capsys):
    (tmp_path / "bunny_512.npy").touch()
    assert not any("moon" in row.name or "relief8k" in row.name for row in TABLES[table](tmp_path, tmp_path))
    lines = capsys.readouterr().err.splitlines()
    assert "no rows of moon: " in lines[0] and len(lines) == (1 if table == "curve" else 2)
    (tmp_path / "moon.png").write_bytes((stand_ins / "moon.png").read_bytes())
    rows = TABLES[table](tmp_path, tmp_path)
    assert any("moon" in row.name + row.group for row in rows)
    assert not any("relief8k" in row.name for row in rows)


def test_a_table_without_its_pictures_is_refused(stand_ins, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        run_command(lambda: main(["times", "curve"]))
    assert stop.value.code == 2 and "times: nothing to measure" in capsys.readouterr().err.splitlines()[-1]
    Image.new("1", (400, 200)).save(tmp_path / "moon.png")
    assert TABLES["times"](tmp_path, tmp_path) == []
    assert "no rows of moon: moon.png, 400x200 is not the moon of 4096x2048 pixels" in capsys.readouterr().err


def test_a_picture_too_small_for_a_crop_is_said_first_and_loses_no_other_row(tmp_path, capsys):
    path = tmp_path / "moon.png"
    Image.new("1", (400, 200)).save(path)
    assert crop(tmp_path, str(path), (0, 150), (400, 60)) is None
    assert "moon.png: 400x200 is too small to cut 400x60 from: give one of 400x210 or more" in capsys.readouterr().err
    assert not any("small moon" in row.name for row in TABLES["sharing"](tmp_path, tmp_path))
    assert len(TABLES["curve"](tmp_path, tmp_path)) == 252
    assert "no rows of a crop of moon: " in capsys.readouterr().err
    found = [{"n_params": 1, "psnr": 40.0, "about": {"settings": "--lr 1"}}]
    assert [row.name for row in again(tmp_path, tmp_path, found)] == ["alone: --lr 1"]


def test_an_input_that_cannot_be_made_is_a_failing_row(tmp_path, in_process, monkeypatch):
    monkeypatch.setattr("experiments.rows.measure", lambda row, *_: vars(row) | {"measured": True})
    (tmp_path / "moon.jpg").write_bytes(b"half a picture")
    options, _ = crop(tmp_path / "made", str(tmp_path / "moon.jpg"), (0, 0), (4, 4))
    good, bad = Row("t", "g", "good", tuple(TINY.split())), Row("t", "g", "bad", tuple(options))
    found = {result["name"]: result for result in run_rows([bad, good], tmp_path / "out")}
    assert found["good"]["measured"] and "moon.jpg" in found["bad"]["error"]
    Image.new("1", (3, 3)).save(tmp_path / "moon.jpg", "png")
    assert "3x3 is too small" in run_rows([bad], tmp_path / "out")[0]["error"]


def test_inputs_are_made_of_the_rows_that_are_wanted_only(tmp_path, in_process):
    for words in ("claims --only nonsense", "meshes noise --seconds -1"):
        with contextlib.suppress(UserError):
            main([*words.split(), "--folder", str(tmp_path / "out")])
    assert not list(tmp_path.rglob("*.npy")) and not list(tmp_path.rglob("*.obj"))
    options, _ = random_pixels(tmp_path / "made", 8)
    run_rows([Row("t", "g", "a", (*options, "--n_scales", "nonsense"))], tmp_path / "out")
    assert [path.name for path in tmp_path.rglob("*.npy")] == ["noise_8.npy"]


def test_a_picture_at_its_own_size_is_not_called_resized(stand_ins):
    assert stand_in("moon", PICTURES["moon"], stand_ins)[1] == "stand-in: moon.png at its 4096x2048"
    assert stand_in("moon", (9, 9), stand_ins)[1] == "stand-in: moon.png resized to 9x9"


def test_times_are_drawn(tmp_path, stand_ins):
    rows = [
        {"alone": True, "group": row.group, "argv": row.argv, "psnr": 40.0 + k, "fit_s": 0.1 + k, "n_params": 10**7}
        for k, row in enumerate(TABLES["times"](tmp_path, stand_ins))
    ]
    draw(rows, tmp_path / "both.png")
    draw(rows[:3], tmp_path / "moon.png")
    both, moon = (cv2.imread(str(tmp_path / name)) for name in ("both.png", "moon.png"))
    assert both.std() > 10 and moon.std() > 10 and moon.shape[1] < both.shape[1]
    # Rows beside others, and of before, when the sample was drawn as the Moon.
    draw([row | {"argv": []} for row in rows], tmp_path / "none.png")
    draw([row | {"alone": False} for row in rows], tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_fronts_are_drawn(tmp_path):
    def row(name, alone, k):
        options = {"path": f"{name}.jpg", "input_size": [4096, 2048]}
        return {"options": options, "alone": alone, "psnr": 40.0 + k, "fit_s": 0.1 + k, "n_params": 10**7 + k}

    rows = [row(name, alone, k) for name in ("moon", "other") for alone in (True, False) for k in range(2)]
    contrast = []
    for some in (rows, [row for row in rows if not row["alone"]], [row | {"psnr": None} for row in rows]):
        path = tmp_path / f"{len(contrast)}.png"
        draw_fronts(some, path)
        contrast.append(cv2.imread(str(path)).std() if path.exists() else 0)
    assert contrast[0] > contrast[1] > 10 and not contrast[2]


def test_the_shape_of_the_table_is_made_of_the_mesh_that_is_there(tmp_path, stand_ins, monkeypatch):
    monkeypatch.setattr("experiments.inputs.N", 24)
    options, name, what = bunny(tmp_path / "made", None)
    assert (name, what) == ("knot", "stand-in: the built-in knot at 24^3")
    assert Path(options[-1]) == tmp_path / "made" / "knot_24.npy" and not Path(options[-1]).exists()
    options[-1].make()
    assert 0 < OccupancyGrid(options[-1]).read().mean() < 1
    Path("meshes").mkdir()
    write_mesh("meshes/bunny_zipper.ply", *knot(30, 9))
    options, name, what = bunny(tmp_path / "made", stand_ins)
    assert (name, what) == ("bunny", "bunny_zipper.ply at 24^3") and Path(options[-1]).name == "bunny_zipper_24.npy"
    (tmp_path / "bunny_24.npy").touch()
    assert bunny(tmp_path, tmp_path)[1:] == ("bunny", "bunny_24.npy")


def test_without_trimesh_a_row_of_the_bunny_says_what_to_do(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "datasets.mesh", None)
    assert bunny(tmp_path, None) is None
    assert "occupancy/bunny_512.npy" in capsys.readouterr().err
