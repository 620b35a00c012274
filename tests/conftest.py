"""What several test files need: small signals, random pyramids, boxes, networks, and runs and their places."""

import functools
import gc
import itertools
import multiprocessing
import os
import shutil
from multiprocessing import forkserver
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from train_runs import run

import models.level_fit
from datasets.file_array import handed
from datasets.grid import Box, Grid
from datasets.source import ArraySource, Signal
from models.block_mlp import BlockMLP
from models.encoding import Encoding
from models.engine import Blocks, ReferenceEngine
from models.network import Network
from models.precision import rounded
from models.pyramid import Pyramid


def pytest_configure(config):
    """Runs train on the CPU, also where there is a GPU, but in tests of what is particular to one."""
    # Before anything looks for one: once it is seen, a process cannot hide it.
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a GPU, and -m gpu"))


def pytest_collection_finish(session):
    # What is imported stays, and looking through it for garbage takes half a second each time.
    gc.freeze()
    # It imports while the first tests run.
    if any({"apart", "ready"} & set(getattr(item, "fixturenames", ())) for item in session.items):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", str(session.config.rootpath), prepend=os.pathsep)
            multiprocessing.set_forkserver_preload(["pytest", "train", "run.callbacks", "torch.utils.tensorboard"])
            forkserver.ensure_running()


def pytest_unconfigure():
    # Or libraries complain at the end of what is left.
    gc.unfreeze()


@pytest.fixture
def apart(tmp_path_factory):
    """A function that calls another in a new process, in which train.py and all that it needs is imported already.

    It takes a function of a module and its arguments, and what to do with the process while it runs; it gives the exit
    code (less than 0: the signal that killed the process) and what was written to stdout and stderr.
    """
    folder = tmp_path_factory.mktemp("apart")

    def call(work, *args, meanwhile=lambda process: None):
        paths = folder / "stdout", folder / "stderr"
        process = multiprocessing.get_context("forkserver").Process(target=_call, args=(paths, work, args))
        process.start()
        meanwhile(process)
        process.join()
        stdout, stderr = (path.read_text() for path in paths)
        return SimpleNamespace(returncode=process.exitcode, stdout=stdout, stderr=stderr)

    return call


@pytest.fixture(scope="session")
def ready():
    """Stands for multiprocessing where it spawns: the processes that it starts have imported all that a run needs."""
    context = SimpleNamespace(Pipe=multiprocessing.Pipe, Process=_ready_process)
    return SimpleNamespace(get_context=lambda _: context)


def _ready_process(target, args, **options):
    given = (dict(os.environ), target, args)
    return multiprocessing.get_context("forkserver").Process(target=_in_environment, args=given, **options)


def _in_environment(environment, work, args):
    os.environ.update(environment)
    torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    work(*args)


def _call(paths, work, args):
    for number, path in enumerate(paths, start=1):
        with path.open("wb") as file:
            os.dup2(file.fileno(), number)
    work(*args)


@pytest.fixture
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A function of options: the folder of a run of them, straight, that nothing interrupted, and its figures."""

    @functools.cache
    def finish(*argv: str) -> tuple[Path, dict]:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(tmp_path_factory.mktemp("straight"))
            figures = run("--exp_name", "straight", *argv)
            return Path.cwd(), figures

    return finish


@pytest.fixture
def straight(finished, in_folder):
    """A function of options: lays that run here, and gives its figures."""

    def lay(*argv: str) -> dict:
        folder, figures = finished(*argv)
        shutil.copytree(folder, ".", dirs_exist_ok=True)
        return figures

    return lay


@pytest.fixture
def epochs(monkeypatch) -> list[tuple[int, int]]:
    """The (level, first epoch) of every round that is trained."""
    seen, train_round = [], models.level_fit.LevelFit.train

    def note(self, copy, window):
        seen.append((self.level, window.start))
        return train_round(self, copy, window)

    monkeypatch.setattr(models.level_fit.LevelFit, "train", note)
    return seen


# Grids of 2 and 3 axes, degenerate ones first: one cell, one block, a block larger than the level, prime sizes.
GRIDS = [
    Grid((1, 1), (1, 1), 1),
    Grid((1, 1), (4, 3), 3),
    Grid((7, 1), (2, 5), 3),
    Grid((16, 32), (8, 4), 2),
    Grid((13, 37), (5, 7), 4),
    Grid((1, 1, 1), (2, 2, 2), 2),
    Grid((8, 4, 16), (4, 2, 8), 2),
    Grid((5, 11, 7), (2, 3, 4), 3),
]
# In test ids: 13x37_5x7_4 is a level 0 of 13 x 37, blocks of 5 x 7 and 4 levels.
grid_id = lambda grid: "_".join(["x".join(map(str, grid.shape)), "x".join(map(str, grid.patch)), str(grid.n_levels)])  # noqa: E731


def level_cells(shape, channels=1, seed=0):
    """Random float32 cells [*shape, channels] in [0, 1)."""
    return torch.rand(*shape, channels, generator=torch.Generator().manual_seed(seed))


class Counting:
    """A reader of an array that notes what it is asked for."""

    def __init__(self, array):
        self.array, self.asked = array, []

    def read(self, region, out=None):
        self.asked.append(region)
        return handed(Box((0,) * len(region.start), self.array.shape[:-1]).crop(self.array, region), out)


def random_box(generator, shape):
    """A random non-empty box of cells of a level."""
    ends = [np.sort(generator.choice(n + 1, 2, replace=False)) for n in shape]
    return Box(tuple(int(a) for a, _ in ends), tuple(int(b) for _, b in ends))


def all_cells(shape):
    return itertools.product(*map(range, shape))


def make_source(shape, channels=1, seed=0, dtype=np.uint8):
    array = np.random.default_rng(seed).integers(0, 256, (*shape, channels)).astype(dtype)
    return ArraySource(array, Signal.of(array, "grey"))


def smooth_source(shape, channels=1):
    """A source whose left part is black and whose right part is not, so that some blocks need a network."""
    axes = np.meshgrid(*[np.linspace(0, 1, n) for n in shape], indexing="ij")
    values = np.sin(sum((7 + 5 * k) * axis for k, axis in enumerate(axes))) ** 2 * (axes[-1] > 0.4)
    array = np.stack([np.uint8(np.rint(255 * values * (k + 1) / channels)) for k in range(channels)], -1)
    return ArraySource(array, Signal.of(array, "grey"))


def random_blocks(network, n, cells, seed=0, kind=None):
    """Blocks with fresh rows and random targets and amplitudes."""
    generator = torch.Generator().manual_seed(seed)
    rows = network.initial_rows(seed, 0, torch.arange(n), 0.1)
    targets = torch.rand(n, network.n_out, cells, generator=generator)
    amplitude = 0.1 + torch.rand(n, generator=generator)
    return Blocks(rows, targets, amplitude, torch.zeros(n, dtype=torch.int64) if kind is None else kind)


def random_pyramid(
    grid,
    channels=2,
    n_freq=1,
    n_hidden=5,
    n_layers=2,
    seed=0,
    gaussian=False,
    keep=0.6,
    dtype="float32",
    output="sin",
    omega_0=None,
):
    """A pyramid with random networks in a random share of the blocks of every level."""
    generator = torch.Generator().manual_seed(seed)
    encoding = Encoding(grid.ndim, n_freq)
    pyramid = Pyramid(grid, encoding, channels, ReferenceEngine())
    for level in reversed(range(grid.n_levels)):
        end = "sigmoid" if gaussian or level == grid.n_levels - 1 else output
        network = Network(encoding.width, n_hidden, n_layers, channels, end, omega_0)
        blocks = (torch.rand(grid.n_blocks(level), generator=generator) < keep).nonzero()[:, 0]
        rows = rounded(network, dtype, network.initial_rows(seed, level, blocks, 0.3, 0.3) * 3)
        amplitude = torch.rand(len(blocks), generator=generator) * 0.5
        pyramid.add(level, BlockMLP(network, blocks, amplitude, rows, dtype))
    return pyramid


def same(a, b):
    """Whether two structures of tensors, dicts and lists are equal bit for bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b
