"""What train.py takes of a machine whose devices, or whose run, it shares with other processes."""

import contextlib

import pytest
from train_runs import run

from datasets.source import Source
from machine import memory
from machine.ranks import Ranks
from planning import plan

pytestmark = pytest.mark.usefixtures("in_folder")


def test_a_plan_for_several_devices_is_of_what_each_of_them_may_take(monkeypatch):
    asked = []
    monkeypatch.setattr("train._check_devices", lambda devices: None)
    monkeypatch.setattr("run.setup.memory_of", lambda *args: asked.append(args[2]) or memory.memory_of(*args))
    monkeypatch.setattr(plan, "describe", lambda *_: "")
    run("--exp_name", "x", "--plan", "--devices", "2")
    assert asked == [2]


class Two(Ranks):
    """The first of two processes, the other of which says the same."""

    def __init__(self):
        super().__init__(0, 2)

    def gather(self, value):
        return [value, value]


def test_only_a_process_that_is_alone_in_its_run_begins_to_read_for_the_levels(monkeypatch):
    begun = []
    monkeypatch.setattr("train._check_devices", lambda devices: None)
    monkeypatch.setattr(Source, "begin", lambda source, n_levels: begun.append(n_levels))
    monkeypatch.setattr(plan, "describe", lambda *_: "")
    run("--exp_name", "x", "--plan", "--devices", "2")
    assert begun == []
    run("--exp_name", "x", "--plan")
    # Another process, on another machine.
    monkeypatch.setattr("machine.ranks.join", lambda cuda: contextlib.nullcontext(Two()))
    run("--exp_name", "x", "--plan")
    assert begun == [2]


def test_processes_with_a_gpu_each_do_not_share_its_memory(monkeypatch):
    monkeypatch.setattr("train._check_devices", lambda devices: None)
    monkeypatch.setattr("run.setup.memory_of", lambda limit, *_: memory.Memory(limit // 8, limit))
    monkeypatch.setattr(plan, "describe", lambda *_: "")
    run("--exp_name", "x", "--plan", "--devices", "8", "--patch_size", "256", "--memory", "64MiB")
