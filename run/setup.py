"""What a fit is made of, from the options of a run and its source; and what is said of options on the way."""

import dataclasses
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch

import opt
from datasets import Place, open_source
from datasets.grid import Grid
from datasets.source import Source
from machine import ranks
from machine.memory import Limits, agreed, memory_of
from models import model_file
from models.encoding import Encoding
from models.engine import choose_engine
from models.level_fit import level_network
from models.recipe import Recipe
from options import Options
from options.refusals import idle
from run.session import nearest_folder
from utils import UserError


class Setup(NamedTuple):
    """What a fit is made of.

    Args:
        options: settled on the source.
        limits: what is held at once.
    """

    options: Options
    source: Source
    grid: Grid
    encoding: Encoding
    recipe: Recipe
    engine: Any
    limits: Limits


def set_up(
    options: Options,
    given: frozenset[str],
    facts: dict[str, Any] | None,
    model_path: Path,
    group: ranks.Ranks,
    device: torch.device,
) -> Setup:
    """Open the source of a run and settle all that depends on it. Every process of the run calls this.

    Args:
        given: names of the options that were set by the user.
        facts: of the run that is resumed.

    Raises:
        UserError: an option or a file cannot be used.
    """
    say = _say if group.first else lambda line: None
    with group.together():
        # Those that a plan is for have not been started.
        processes = max(options.devices, ranks.on_this_machine())
        memory = memory_of(options.memory, device, processes)
    # Not within: there a process with something to say would leave the others waiting.
    memory = agreed(memory, group)
    if options.path is None and "exp_name" in given and not facts and not options.quiet:
        say("note: no --path: the built-in sample is fitted")
    with group.together():
        place = Place(device, memory, nearest_folder(model_path))
        source = open_source(options.task, options.path, options.input_size, place)
        for note in source.notes:
            say(f"note: {note}")
        options = opt.settle(options, source.shape)
        for option, where in idle(options, given):
            say(f"--{option} changes nothing here, with {where}")
        if beside := opt.left_by_target(options, given):
            say(f"--target_psnr sets loss_thr alone: with {beside} it chooses no n_hidden and no patch_size")
        grid = Grid(source.shape, options.patch_size[::-1], options.n_scales)
        encoding, recipe = Encoding(grid.ndim, options.n_freq or 0), _recipe(options)
        model_file.check_features(grid, encoding)
        network = level_network(recipe, encoding.width, source.signal.channels, coarsest=False)
        sizes = source.signal.channels, grid.block_cells, network.row_size
        limits = memory.limits(*sizes, options.b_chunks, streamed=source.streamed)
        if options.memory and not memory.fits(*sizes):
            raise UserError("--memory: two blocks do not fit in it: raise it, or take a smaller --patch_size")
        # What has been put in files stays there.
        limits = dataclasses.replace(limits, **(facts["limits"] if facts else {}))
        recipe = dataclasses.replace(recipe, b_chunks=limits.chunk_blocks)
        numerics = options.optimizer, options.beta2, options.precision, recipe.zero_grad
        engine, fallback = choose_engine(options.engine, network, device, *numerics)
        if "precision" in given and engine.name != "fused" and options.precision != "float32":
            say(f"--precision {options.precision} is of the fused engine: plain torch has float32")
        if fallback:
            say(f"--engine auto: plain torch is used, not the fused kernels: {fallback}")
    return Setup(options, source, grid, encoding, recipe, engine, limits)


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _recipe(o: Options) -> Recipe:
    same = {field.name: getattr(o, field.name) for field in dataclasses.fields(Recipe) if hasattr(o, field.name)}
    if o.pruning == "none":
        same["prune_thr"] = 0.0
    return Recipe(epochs=o.num_epochs[::-1], residual=o.pyr == "laplacian", zero_grad=o.pruning == "zero_grad", **same)
