"""The chunks of a level: which of them a process takes, and what becomes of them where time is over."""

import collections
import dataclasses
import itertools
from types import SimpleNamespace

import pytest
import safetensors.torch

import models.clock
import opt
from machine import memory
from machine.ranks import Ranks
from models.chunks import Chunks
from train import train


class Counter(Ranks):
    """One of two processes that share a counter."""

    def __init__(self, number, taken):
        super().__init__(number, 2)
        self._taken = taken


def chunks_of(n, ranks, device="cpu"):
    """The chunks, of one block each, of a level of n active blocks."""
    targets = SimpleNamespace(prediction=None)
    fit = SimpleNamespace(level=0, recipe=None, targets=targets, energy=SimpleNamespace(is_cuda=device == "cuda"))
    fit.chunks = lambda known: [range(k, k + 1) for k in range(n)]
    return Chunks(fit, {}, None, None, ranks)


@pytest.mark.parametrize("n", [0, 1, 2, 5])
def test_every_chunk_is_trained_once_though_each_lane_takes_one_ahead(n):
    ranks = Ranks()
    # Two that take from one counter, one of them twice as fast.
    one, other = (chunks_of(n, ranks) for _ in range(2))
    ours, theirs = one._take(), other._take()
    found = [next(numbers, None) for _ in range(n) for numbers in (ours, theirs, ours)]
    assert sorted(number for number, _ in filter(None, found)) == list(range(n))
    assert sorted(one.taken + other.taken) == list(range(n))
    for pairs in (found[1::3], [pair for k, pair in enumerate(found) if k % 3 != 1]):
        told = [pair for pair in pairs if pair]
        assert all(a[1] == b[0] for a, b in itertools.pairwise(told)) and (not told or told[-1][1] is None)


@pytest.mark.parametrize("n", range(7))
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_chunk_is_taken_ahead_where_enough_are_left_for_all(n, device):
    taken = collections.Counter()
    each = [chunks_of(n, Counter(number, taken), device) for number in range(2)]
    turns = [chunks._take() for chunks in each]
    done = [[] for _ in each]
    for _ in range(n):
        for turn, own in zip(turns, done, strict=True):
            own += itertools.islice(turn, 1)
    assert sorted(number for own in done for number, _ in own) == list(range(n))
    assert [chunks.taken for chunks in each] == [[number for number, _ in own] for own in done]
    assert max(map(len, done)) - min(map(len, done)) <= 1
    assert any(following is not None for own in done for _, following in own) == (device == "cuda" and n > 4)
    alone = chunks_of(n, Ranks(), device)
    assert list(alone._take()) == [(k, k + 1 if k + 1 < n else None) for k in range(n)] and alone.taken == [*range(n)]


@pytest.mark.parametrize("rounds", [0, 2])
@pytest.mark.parametrize("held", [True, False])
def test_no_block_of_the_coarsest_level_is_left_black_where_time_is_over_before_its_chunk_is_begun(
    rounds, held, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    if not held:
        limits = memory.Memory.limits
        monkeypatch.setattr(memory.Memory, "limits", lambda *a, **k: dataclasses.replace(limits(*a, **k), row_bytes=0))
    argv = ["--input_size", "64", "48", "--patch_size", "16", "--num_epochs", "4", "--val_freq", "2", "--quiet"]
    run = lambda name, *more: train(*opt.parse([*argv, "--b_chunks", "5", "--exp_name", name, *more]))  # noqa: E731
    whole = run("whole")
    # Time stands still until so many rounds are trained.
    with monkeypatch.context() as patch:
        trained, seen = models.clock.Clock.trained, []
        patch.setattr(models.clock.Clock, "trained", lambda *args: seen.append(args) or trained(*args))
        patch.setattr(models.clock.Clock, "_session", property(lambda _: 1e3 if len(seen) >= rounds else 0.0))
        part = run("part", "--max_time", "10")
    assert len(seen) == rounds and part["stopped_early"] and part["n_params"] == whole["n_params"]
    assert part["psnr_worst_block"] > 10
    train(*opt.parse(["--exp_name", "part", "--resume", "--max_time", "1000", "--quiet"]))
    first, second = (safetensors.torch.load_file(f"ckpts/{name}/model.safetensors") for name in ("whole", "part"))
    assert all((first[key] == second[key]).all() for key in first)
