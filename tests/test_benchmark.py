"""benchmark.py: medians of runs that leave the user's own alone."""

from pathlib import Path

import pytest

import benchmark
from benchmark import main
from utils import UserError


@pytest.mark.parametrize("option", ["--plan", "--resume"])
def test_it_refuses_what_is_no_run_to_be_timed(tmp_path, monkeypatch, option):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"{option} is no whole run"):
        main(["--runs", "1", "--warmup", "0", "--", "--input_size", "8", "--num_epochs", "1", option])
    assert not list(tmp_path.iterdir())


def test_it_prints_medians_and_leaves_the_run_of_the_same_options_as_it_is(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = "--input_size 24 16 --patch_size 8 --n_scales 1 --num_epochs 2"
    main(["--runs", "2", "--warmup", "0", "--", *options.split()])
    head, _, runs, _, names, _, values = capsys.readouterr().out.splitlines()
    assert head == f"train.py {options}"
    assert runs.startswith("2 runs after 0") and names.count("|") == values.count("|") and "PSNR (dB)" in names
    assert [path.name for path in Path("ckpts").iterdir()] == ["benchmark"]


def test_only_the_process_that_has_the_figures_prints_them(monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "train", lambda *_: {})
    main(["--runs", "1", "--warmup", "0", "--", "--input_size", "8"])
    assert capsys.readouterr().out == ""
