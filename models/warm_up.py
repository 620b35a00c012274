"""A GPU's first work takes a second, or minutes: kernels are loaded, and compiled where they never were.

So it is done beside other work: a fit of noise, as small as the blocks allow, takes the way of the real one.
"""

import dataclasses
import sys
import threading
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet

import torch

from datasets.grid import Grid
from datasets.residual import LevelTargets
from datasets.source import ArraySource, Signal
from models.encoding import Encoding
from models.level_fit import LevelFit
from models.pyramid import Pyramid
from models.recipe import Recipe
from utils import hash_uniform

# Seconds after which what has not ended is compiling.
PATIENCE = 1.5


def begin(
    patch: tuple[int, ...], channels: int, encoding: Encoding, recipe: Recipe, engine, device: torch.device
) -> Future | None:
    """Begin to do a little of all that a fit of such blocks does on a GPU.

    Args:
        patch: cells of a block along each axis, slow to fast.

    Returns:
        What `wait` waits for; None where no kernels of our own are used.
    """
    if engine.name != "fused":
        return None
    recipe = dataclasses.replace(recipe, epochs=(1, 1), loss_thr=0.0, prune_thr=0.0, weight_sharing="none", b_chunks=8)
    begun, stream = Future(), torch.cuda.Stream(device)

    def work() -> None:
        try:
            with torch.cuda.stream(stream):
                _fit(patch, channels, encoding, recipe, engine, device)
                stream.synchronize()
            begun.set_result(None)
        except BaseException as error:
            begun.set_exception(error)

    # Nothing waits for it where the run ends before.
    threading.Thread(target=work, name="warm_up", daemon=True).start()
    return begun


def wait(begun: Future | None, quiet: bool = False) -> None:
    """Until it is done, and say what takes so long."""
    if begun is None:
        return
    try:
        begun.result(PATIENCE)
    except NotYet:
        if not quiet:
            print("compiling the GPU kernels for this kind of network; later runs find them on disk", file=sys.stderr)
        begun.result()


def _fit(
    patch: tuple[int, ...], channels: int, encoding: Encoding, recipe: Recipe, engine, device: torch.device
) -> None:
    grid = Grid(tuple(2 * n for n in patch), patch, 2)
    cells = hash_uniform(0, torch.arange(grid.level_box(0).size * channels)).reshape(*grid.shape, channels)
    source = ArraySource(cells.numpy(), Signal("float32", channels, 0.0, 1.0, "volume"), device)
    pyramid = Pyramid(grid, encoding, channels, engine).to(device)
    for level in (1, 0):
        prediction = (lambda region: pyramid.decode(region, 0)) if level == 0 else None
        fit = LevelFit(LevelTargets(source, prediction, grid, level, recipe.residual), recipe, pyramid.inputs, engine)
        copy, mse = fit.train(fit.start(range(len(fit.target))), range(1))
        fit.sync(copy, mse)
        pyramid.add(level, fit.finish()[0])
    pyramid.decode()
