"""A model file in the making: what is in its place is not written again, and nothing is left of what is not saved."""

import errno
import os
import shutil

import pytest
import safetensors.torch
import torch
from conftest import random_pyramid

from datasets.grid import Grid
from models import draft as module
from models.block_mlp import BlockMLP
from models.draft import HEAD_ROOM, Draft
from models.model_file import finish, load, save
from models.precision import DTYPES, pack
from utils import UserError

GRID = Grid((40, 24), (8, 8), 3)
ABOUT = {"signal": {"mode": "grey+alpha", "dtype": "uint8", "channels": 2, "low": 0.0, "high": 255.0}}


@pytest.fixture(autouse=True)
def every_file_is_large(monkeypatch):
    monkeypatch.setattr(module, "LARGE", 0)


def put_early(draft, pyramid, cuts=(0, 2, 5)):
    """Lay out all levels, and put the finest one in, from the last chunk to the first."""
    draft.begin(pyramid.levels)
    finest = pyramid.level(0)
    for name in ("2", "1"):
        draft.put_level(name, pyramid.levels[name])
    draft.put("0", 0, lambda: {"blocks": finest.blocks, "amplitude": finest.amplitude})
    for a, b in reversed(list(zip(cuts, (*cuts[1:], len(finest)), strict=True))):
        draft.put("0", a, lambda a=a, b=b: pack(finest.network, finest.dtype, finest.rows[a:b]))


@pytest.fixture
def writes(monkeypatch):
    """How many bytes are written, one number a write."""
    pwrite, sizes = os.pwrite, []
    monkeypatch.setattr(os, "pwrite", lambda file, view, place: sizes.append(len(view)) or pwrite(file, view, place))
    return sizes


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_file_that_was_put_together_early_holds_what_is_written_at_once(dtype, tmp_path, writes):
    pyramid, path = random_pyramid(GRID, dtype=dtype), tmp_path / "model.safetensors"
    save(tmp_path / "whole.safetensors", pyramid, ABOUT)
    with Draft(path) as draft:
        put_early(draft, pyramid)
        assert not path.exists()
        draft._settle()
        writes.clear()
        finish(draft, pyramid, ABOUT)
    assert writes == [HEAD_ROOM]
    found, want = (safetensors.torch.load_file(file) for file in (path, tmp_path / "whole.safetensors"))
    assert found.keys() == want.keys() and all(torch.equal(found[key], want[key]) for key in want)
    again, about = load(path)
    assert about == ABOUT and torch.equal(again.decode(), pyramid.decode())
    assert path.read_bytes() == (tmp_path / "whole.safetensors").read_bytes()


def test_a_small_file_has_a_head_that_fits_and_is_not_begun_early(tmp_path, monkeypatch):
    pyramid = random_pyramid(GRID)
    save(tmp_path / "large.safetensors", pyramid, ABOUT)
    monkeypatch.setattr(module, "LARGE", 2**30)
    with Draft(tmp_path / "small.safetensors") as draft:
        put_early(draft, pyramid)
        assert not draft.begun and not draft._jobs
        finish(draft, pyramid, ABOUT)
    small, large = ((tmp_path / f"{name}.safetensors").read_bytes() for name in ("small", "large"))
    assert len(small) < len(large) and small.endswith(large[HEAD_ROOM:])


def test_a_disk_without_room_for_it_is_said_when_it_is_begun(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=1000))
    with pytest.raises(UserError, match="1e-06 GB are free"), Draft(tmp_path / "model.safetensors") as draft:
        draft.begin(random_pyramid(GRID).levels)
    assert not list(tmp_path.iterdir())


def test_where_networks_were_left_out_all_is_written_anew(tmp_path):
    pyramid, path = random_pyramid(GRID), tmp_path / "model.safetensors"
    with Draft(path) as draft:
        put_early(draft, pyramid)
        level = pyramid.level(0)
        kept = torch.arange(1, len(level))
        rows, amplitude = level.take(kept)
        pyramid.add(0, BlockMLP(level.network, level.blocks[kept], amplitude, rows))
        finish(draft, pyramid, ABOUT)
    save(tmp_path / "whole.safetensors", pyramid, ABOUT)
    assert path.read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
    assert len(list(tmp_path.iterdir())) == 2


def test_facts_that_are_longer_than_the_room_left_for_them_have_room(tmp_path):
    pyramid, path = random_pyramid(GRID), tmp_path / "model.safetensors"
    about = {**ABOUT, "text": "x" * HEAD_ROOM}
    with Draft(path) as draft:
        put_early(draft, pyramid)
        finish(draft, pyramid, about)
    assert load(path)[1] == about


@pytest.mark.parametrize("begun", [False, True])
def test_nothing_is_left_of_a_draft_that_is_not_saved(begun, tmp_path):
    (tmp_path / "model.safetensors").write_text("an earlier one")
    with pytest.raises(KeyError), Draft(tmp_path / "model.safetensors") as draft:
        if begun:
            put_early(draft, random_pyramid(GRID))
        raise KeyError
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("model.safetensors", "an earlier one")]


def test_a_disk_that_fills_up_is_said_of_the_model_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    pyramid, path = random_pyramid(GRID), tmp_path / "model.safetensors"
    with pytest.raises(OSError, match="No space left") as error, Draft(path) as draft:
        draft.begin(pyramid.levels)
        monkeypatch.setattr(os, "pwrite", full)
        for name, networks in pyramid.levels.items():
            draft.put_level(name, networks)
        finish(draft, pyramid, ABOUT)
    assert error.value.filename == str(path) and error.value.errno == errno.ENOSPC
    assert not list(tmp_path.iterdir())
