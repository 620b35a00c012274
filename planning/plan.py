"""What a run would take: blocks, parameters, memory and time, from the signal itself and a moment's timing."""

import math

import torch

from datasets.grid import Grid
from datasets.source import Source
from machine.memory import Limits
from models.encoding import Encoding
from models.engine.contract import steps_per_epoch
from models.level_fit import level_network
from models.recipe import Recipe
from planning.levels import LevelPlan, plan_levels
from planning.memory import memory
from planning.pace import Pace, measure
from utils import host_bytes


def describe(
    source: Source, grid: Grid, encoding: Encoding, recipe: Recipe, engine, limits: Limits, devices: int = 1
) -> str:
    """The plan as text: a table of levels, then sums, memory of a process, and time if `devices` share the work."""
    if source.device.type == "cuda":
        # Where nothing of the source is there yet, CUDA is not either.
        torch.cuda.synchronize(source.device)
    before = host_bytes()
    plans = plan_levels(source, grid, encoding, recipe, engine)
    network = level_network(recipe, encoding.width, source.signal.channels, coarsest=False)
    lines = ["level  size                   blocks   networks   parameters  epochs"]
    for plan in plans:
        size = " x ".join(map(str, plan.shape[::-1]))
        lines.append(f"{plan.level:5}  {size:20} {plan.blocks:8} {plan.active:10} {plan.params:12} {plan.epochs:7}")
    params = sum(plan.params for plan in plans)
    host, device = memory(source, grid, network, recipe, engine.name, limits, plans, before, devices)
    model = sum(plan.bytes for plan in plans)
    lines.append(f"about {params / 1e6:.3f} M parameters, a model of {model / 1e6:.1f} MB")
    lines.append(
        f"about {host / 2**20:.0f} MiB of host memory" + (f", {device / 2**20:.0f} MiB of GPU memory" if device else "")
    )
    shares = [plan.active / plan.blocks for plan in reversed(plans)]
    pace = measure(source, grid, encoding, recipe, engine, limits.strip_cells, shares)
    training = training_seconds(pace, grid, recipe, plans) / devices
    other = other_seconds(pace, grid, limits, plans, network.n_out, devices) / devices
    where = f"{devices} devices of this machine" if devices > 1 else "this machine"
    told = f"{_duration(training)} of training and {_duration(other)} of reading, decoding and measuring"
    lines.append(f"about {_duration(training + other)} on {where} once it has started, {told}; nothing was saved")
    return "\n".join(lines)


def training_seconds(pace: Pace, grid: Grid, recipe: Recipe, plans: list[LevelPlan]) -> float:
    """Seconds that one device trains."""
    steps, seconds = steps_per_epoch(grid.block_cells, recipe.batch_size), 0.0
    for plan in plans:
        seconds += plan.trained * pace.block_start
        for number, blocks in enumerate(plan.training):
            epochs = min(recipe.val_freq, plan.epochs - number * recipe.val_freq)
            chunks = min(-(-plan.trained // recipe.b_chunks), math.ceil(blocks))
            seconds += epochs * steps * (chunks * pace.step + blocks * pace.block_step)
            seconds += chunks * pace.round + blocks * pace.block_round
    return seconds


def other_seconds(
    pace: Pace, grid: Grid, limits: Limits, plans: list[LevelPlan], channels: int, processes: int = 1
) -> float:
    """Seconds that one device reads, surveys, decodes, saves and measures."""
    cells = [grid.level_box(level).size for level in range(grid.n_levels)]
    # The levels are made of the source, one after another; it is surveyed below, and its model is measured.
    seconds = pace.halve * sum(cells[:-1]) + (pace.read + pace.read + pace.report) * cells[0]
    for plan in plans:
        coarser = cells[plan.level + 1] if plan.level + 1 < grid.n_levels else 0
        survey = pace.survey * cells[plan.level] + pace.decode * coarser + (0 if plan.level else pace.read * cells[0])
        # Targets that are not kept are made again.
        kept = processes == 1 and plan.blocks * grid.block_cells * channels <= limits.kept_values
        seconds += survey * (1 if kept or not plan.trained else 2)
    return seconds + pace.block_saved * sum(plan.active for plan in plans)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
