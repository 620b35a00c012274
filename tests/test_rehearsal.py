"""The run in small: which blocks it says will be trained and kept, held against the run itself."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_source, smooth_source
from test_level_fit import RECIPE

import opt
from datasets.grid import Grid
from datasets.samples import planet
from datasets.source import ArraySource, Signal
from models.encoding import Encoding
from models.engine import ReferenceEngine
from planning import rehearsal
from planning.plan import plan_levels
from planning.rehearsal import rehearse
from train import train

SMALL = ["--input_size", "256", "160", "--patch_size", "16", "--n_scales", "3", "--val_freq", "4", "--quiet"]


def courses_of(source, grid, **recipe):
    inputs = Encoding(grid.ndim, 1)(grid.coordinates())
    return rehearse(source, grid, inputs, dataclasses.replace(RECIPE, **recipe), ReferenceEngine())


@pytest.mark.parametrize(("epochs", "values"), [(1, 2**24), (2, 256 * 160), (8, 2**24)])
def test_it_finds_about_as_many_networks_as_a_run(epochs, values, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(rehearsal, "SURVEYED_VALUES", values)
    result = train(*opt.parse([*SMALL, "--num_epochs", str(epochs), "--exp_name", "x"]))
    levels = json.loads(Path("logs/x/result.json").read_text())["levels"]
    real = sum(level["active"] for level in levels.values())
    options = opt.from_json(result["options"])
    array = planet(160, 256)
    source, grid = ArraySource(array, Signal.of(array, "RGB")), Grid((160, 256), (16, 16), 3)
    same = {f.name: getattr(options, f.name) for f in dataclasses.fields(RECIPE) if hasattr(options, f.name)}
    recipe = dataclasses.replace(RECIPE, epochs=options.num_epochs[::-1], **same)
    plans = plan_levels(source, grid, Encoding(2, options.n_freq), recipe, ReferenceEngine())
    assert sum(plan.active for plan in plans) == pytest.approx(real, rel=0.25)
    assert sum(plan.params for plan in plans) == pytest.approx(result["n_params"], rel=0.25)
    assert sum(plan.bytes for plan in plans) == pytest.approx(result["model_bytes"], rel=0.25, abs=5000)


def test_fewer_epochs_leave_more_to_the_finer_levels():
    source, grid = smooth_source((64, 96), 2), Grid((64, 96), (8, 8), 3)
    much, little = (courses_of(source, grid, epochs=(4, n, n)) for n in (40, 1))
    assert little[0].active > much[0].active


@pytest.mark.parametrize("epochs", [1, 4, 5, 12, 13])
def test_there_is_a_part_for_each_round_and_they_never_rise(epochs):
    grid = Grid((32, 48), (8, 8), 2)
    for course in courses_of(smooth_source(grid.shape), grid, epochs=(epochs, epochs)):
        assert len(course.training) == -(-epochs // RECIPE.val_freq) and course.training[0] == 1
        assert list(course.training) == sorted(course.training, reverse=True)
        assert 0 <= course.active <= 1 and 0 <= course.kept <= 1


def test_blocks_whose_gradients_are_zeroed_take_time_to_the_end():
    source, grid = smooth_source((32, 32), 2), Grid((32, 32), (8, 4), 2)
    easy = {"epochs": (60, 60), "val_freq": 20, "loss_thr": 3e-2, "prune_thr": 2e-2, "n_hidden": 12}
    assert min(courses_of(source, grid, **easy)[0].training) < 1
    assert set(courses_of(source, grid, **easy, zero_grad=True)[0].training) == {1.0}


def test_where_training_would_take_long_the_rounds_that_were_not_seen_go_on_alike(monkeypatch):
    monkeypatch.setattr(rehearsal, "TRIAL_FLOPS", 1)
    grid = Grid((32, 48), (8, 8), 2)
    assert all(len(course.training) == 50 for course in courses_of(smooth_source(grid.shape), grid, epochs=(200, 200)))


def test_a_black_image_needs_nothing():
    array = np.zeros((37, 23, 3), np.uint8)
    source, grid = ArraySource(array, Signal.of(array, "RGB")), Grid((37, 23), (8, 8), 3)
    assert [course.active for course in courses_of(source, grid)] == [0, 0, 0]
    assert [course.active for course in courses_of(source, Grid((37, 23), (1, 1), 3))] == [0, 0, 0]


@pytest.mark.parametrize("grid", [Grid((64, 16), (8, 8), 2), Grid((32, 16, 16), (4, 4, 4), 3)], ids=str)
def test_the_source_is_as_it_was(grid):
    source = smooth_source(grid.shape)
    read = lambda: [source.read(grid.level_box(level), level).clone() for level in range(grid.n_levels)]  # noqa: E731
    before = read()
    courses_of(source, grid, epochs=(4,) * grid.n_levels)
    assert all(map(torch.equal, before, read()))


@pytest.mark.parametrize("grid", [Grid((1, 1), (1, 1), 1), Grid((1, 1), (4, 3), 3), Grid((5, 11, 7), (2, 3, 4), 3)])
def test_the_smallest_sources_have_a_course_for_every_level(grid):
    assert len(courses_of(make_source(grid.shape), grid, epochs=(1,) * grid.n_levels)) == grid.n_levels


def test_levels_beyond_an_excerpt_are_taken_to_be_active(monkeypatch):
    monkeypatch.setattr(rehearsal, "SURVEYED_VALUES", 64 * 64)
    grid = Grid((256, 256), (8, 8), 5)
    courses = courses_of(make_source(grid.shape), grid, epochs=(1,) * 5, loss_thr=1e-6, prune_thr=1e-7)
    assert [course.active for course in courses] == [1.0] * 5


def test_a_block_stands_for_those_of_like_energy():
    nearest = rehearsal._nearest(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0.0, 1.4, 1.6, 2.9, 3.1, 9.0]))
    assert nearest.tolist() == [0, 0, 1, 1, 2, 2]
