"""What train.py takes of a machine whose devices, or whose run, it shares with other processes."""

import pytest
from train_runs import run

from datasets.source import Source
from machine import memory
from planning import plan

pytestmark = pytest.mark.usefixtures("in_folder")


def test_a_plan_for_several_devices_is_of_what_each_of_them_may_take(monkeypatch):
    asked = []
    monkeypatch.setattr("train._check_devices", lambda devices: None)
    monkeypatch.setattr("run.setup.memory_of", lambda *args: asked.append(args[2]) or memory.memory_of(*args))
    monkeypatch.setattr(plan, "describe", lambda *_: "")
    run("--exp_name", "x", "--plan", "--devices", "2")
    assert asked == [2]


def test_a_run_begins_to_make_the_levels_and_a_plan_does_not(monkeypatch):
    begun = []
    monkeypatch.setattr(Source, "begin", lambda source, n_levels: begun.append(n_levels))
    run("--exp_name", "x", "--plan")
    assert begun == []
    run("--exp_name", "x")
    assert begun == [2]


def test_what_was_begun_of_the_levels_is_given_up_where_the_run_ends_before_they_are_needed(monkeypatch):
    said = []

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Source, "begin", lambda *_: said.append("begun"))
    monkeypatch.setattr(Source, "give_up", lambda _: said.append("given up"))
    monkeypatch.setattr("models.warm_up.begin", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run("--exp_name", "x")
    assert said == ["begun", "given up"]


def test_processes_with_a_gpu_each_do_not_share_its_memory(monkeypatch):
    monkeypatch.setattr("train._check_devices", lambda devices: None)
    monkeypatch.setattr("run.setup.memory_of", lambda limit, *_: memory.Memory(limit // 8, limit))
    monkeypatch.setattr(plan, "describe", lambda *_: "")
    run("--exp_name", "x", "--plan", "--devices", "8", "--patch_size", "256", "--memory", "64MiB")
