"""What a plan adds up: steps, rounds, surveys and memory, with a machine whose every act takes a known time."""

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import smooth_source
from test_level_fit import RECIPE

from datasets import samples
from datasets.grid import Grid
from machine.memory import Limits
from models.encoding import Encoding
from models.engine import ReferenceEngine
from models.level_fit import level_network
from planning import pace
from planning.levels import LevelPlan
from planning.memory import FIT_BYTES, SOLVER_BYTES, memory
from planning.pace import Pace
from planning.plan import describe, other_seconds, training_seconds

ROOT = Path(__file__).parents[1]
GRID = Grid((64, 96), (8, 8), 2)
NOTHING = Pace(*[0.0] * len(dataclasses.fields(Pace)))
LIMITS = Limits()


def level(number, trained, training, epochs):
    blocks = GRID.n_blocks(number)
    return LevelPlan(number, GRID.level_box(number).stop, blocks, trained, trained, trained * 10, 1, epochs, training)


PLANS = [level(1, 24, (24, 12), 8), level(0, 96, (96, 48, 0), 12)]


def test_training_is_steps_of_blocks_and_what_a_round_costs():
    recipe = dataclasses.replace(RECIPE, epochs=(12, 8), val_freq=4, batch_size=16)
    seconds = lambda **costs: training_seconds(dataclasses.replace(NOTHING, **costs), GRID, recipe, PLANS)  # noqa: E731
    assert seconds(block_step=1.0) == 4 * 4 * (24 + 12 + 96 + 48)
    # Four rounds in which blocks are left, of one chunk each.
    assert seconds(step=1.0) == 4 * 4 * 4
    assert (seconds(round=1.0), seconds(block_round=1.0)) == (4, 24 + 12 + 96 + 48)
    assert seconds(block_start=1.0) == 24 + 96
    in_chunks = dataclasses.replace(recipe, b_chunks=10)
    assert training_seconds(dataclasses.replace(NOTHING, round=1.0), GRID, in_chunks, PLANS) == 3 + 3 + 10 + 10


def test_all_else_counts_each_cell_as_often_as_it_is_touched():
    cells, coarse = 64 * 96, 32 * 48
    seconds = lambda limits=LIMITS, processes=1, **costs: other_seconds(  # noqa: E731
        dataclasses.replace(NOTHING, **costs), GRID, limits, PLANS, 3, processes
    )
    assert seconds(survey=1.0) == cells + coarse
    assert seconds(decode=1.0) == coarse
    assert seconds(halve=1.0) == seconds(report=1.0) == cells
    assert seconds(read=1.0) == 3 * cells
    assert seconds(block_saved=1.0) == 120
    # What is not kept from the survey is made again.
    for again in ({"limits": Limits(kept_values=0)}, {"processes": 2}):
        assert seconds(**again, survey=1.0) == 2 * (cells + coarse)
        assert seconds(**again, read=1.0) == 4 * cells


def test_memory_holds_what_the_fit_holds_and_more_of_it_is_never_less():
    source, network = smooth_source(GRID.shape, 3), level_network(RECIPE, 6, 3, False)
    host = lambda limits, plans=PLANS: memory(source, GRID, network, RECIPE, "reference", limits, plans, 1000)[0]  # noqa: E731
    small = Limits(strip_cells=64, kept_values=0, row_bytes=0)
    assert host(small) < host(LIMITS)
    assert host(small) >= 1000 + FIT_BYTES["cpu"]
    many = [dataclasses.replace(plan, trained=2 * plan.trained) for plan in PLANS]
    assert host(LIMITS, many) >= host(LIMITS)


def test_several_processes_keep_no_targets_of_a_survey():
    source, network = smooth_source(GRID.shape, 3), level_network(RECIPE, 6, 3, False)
    recipe, kept, made_again = dataclasses.replace(RECIPE, b_chunks=8), Limits(64), Limits(64, kept_values=0)
    host = lambda limits, processes: memory(source, GRID, network, recipe, "reference", limits, PLANS, 0, processes)[0]  # noqa: E731
    assert host(kept, 2) == host(made_again, 1) < host(kept, 1)


def on_a_gpu(recipe=RECIPE, engine_name="fused", limits=LIMITS, streamed=False):
    """Bytes of host and of GPU memory."""
    source, network = smooth_source(GRID.shape, 3), level_network(RECIPE, 6, 3, False)
    source.device = torch.device("cuda")
    if streamed:
        source.__class__ = type("Streamed", (type(source),), {"streamed": True})
    return memory(source, GRID, network, recipe, engine_name, limits, PLANS, 1000)


def test_on_a_gpu_the_host_has_what_cuda_takes_and_the_gpu_the_rest():
    assert on_a_gpu()[0] == 1000 + FIT_BYTES["fused"]
    assert on_a_gpu(engine_name="reference")[0] == 1000 + FIT_BYTES["reference"]
    assert on_a_gpu(engine_name="reference")[1] > on_a_gpu()[1]
    solved = dataclasses.replace(RECIPE, solve_start=True)
    assert on_a_gpu(solved)[0] == 1000 + FIT_BYTES["fused"] + SOLVER_BYTES
    assert on_a_gpu(solved, limits=Limits(64))[1] > on_a_gpu(limits=Limits(64))[1]


def test_strips_of_a_file_and_rows_in_files_pass_through_the_host():
    small = Limits(strip_cells=640)
    strips = 6 * 640 * 3
    assert on_a_gpu(limits=small, streamed=True)[0] == on_a_gpu(limits=small)[0] + strips
    in_files = dataclasses.replace(small, row_bytes=0)
    row = level_network(RECIPE, 6, 3, False).row_size * 4
    assert on_a_gpu(limits=in_files)[0] == on_a_gpu(limits=small)[0] + 8 * (640 // 64) * row


def test_a_chunk_that_waits_for_another_takes_less_than_one_that_trains():
    whole, halves = (on_a_gpu(dataclasses.replace(RECIPE, b_chunks=n), limits=Limits(64))[1] for n in (96, 48))
    thirds = on_a_gpu(dataclasses.replace(RECIPE, b_chunks=32), limits=Limits(64))[1]
    assert thirds < halves < whole


@pytest.mark.gpu
@pytest.mark.parametrize("options", [(), ("--memory", "150MiB"), ("--engine", "reference")], ids=str)
def test_the_gpu_memory_of_a_plan_is_that_of_the_run(tmp_path, options):
    np.save(tmp_path / "sample.npy", samples.planet(2048, 4096))

    def train(*more: str) -> str:
        # Each in a process of its own: what a plan leaves on the GPU is none of the run's.
        asked = ["--path", "sample.npy", "--num_epochs", "50", *options, "--exp_name", "x", "--quiet", *more]
        command = [sys.executable, ROOT / "train.py", *asked]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    planned = int(re.search(r"(\d+) MiB of GPU memory", train("--plan"))[1])
    train()
    taken = json.loads((tmp_path / "logs" / "x" / "result.json").read_text())["peak_device_bytes"] / 2**20
    assert taken == pytest.approx(planned, rel=0.15)


@pytest.mark.parametrize(
    "grid", [Grid((1, 1), (1, 1), 1), Grid((1, 1), (4, 3), 3), GRID, Grid((5, 11, 7), (2, 3, 4), 2)]
)
def test_any_source_has_a_plan(grid, monkeypatch):
    monkeypatch.setattr(pace, "TIMED_BLOCKS", {"cpu": 4})
    recipe = dataclasses.replace(RECIPE, epochs=(2,) * grid.n_levels)
    text = describe(smooth_source(grid.shape), grid, Encoding(grid.ndim, 1), recipe, ReferenceEngine(), LIMITS)
    lines = text.splitlines()
    assert len(lines) == 1 + grid.n_levels + 3
    assert [int(line.split()[0]) for line in lines[1 : 1 + grid.n_levels]] == [*reversed(range(grid.n_levels))]


def test_a_pace_is_of_all_that_a_run_does(monkeypatch):
    monkeypatch.setattr(pace, "TIMED_BLOCKS", {"cpu": 4})
    source, encoding = smooth_source(GRID.shape, 3), Encoding(2, 1)
    found = pace.measure(source, GRID, encoding, RECIPE, ReferenceEngine(), 1000, [0.5, 1.0])
    assert all(value >= 0 for value in dataclasses.astuple(found))
    assert found.read == 0 and min(found.halve, found.survey, found.decode, found.report) > 0


def test_two_times_make_a_line_that_never_falls():
    assert pace._line(2, 5.0, 10, 13.0) == (3.0, 1.0)
    assert pace._line(2, 1.0, 10, 10.0) == (0.0, 1.125)
    assert pace._line(2, 5.0, 10, 4.0) == (5.0, 0.0)
