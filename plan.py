"""What a run would take: blocks, parameters, memory and time, from the signal itself and a moment's timing."""

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from datasets.grid import Box, Grid, parent, up
from datasets.residual import KEPT_VALUES, STRIP_CELLS, LevelTargets
from datasets.source import Source
from models.encoding import Encoding
from models.engine import Blocks, Round
from models.engine.contract import cell_order, steps_per_epoch
from models.level_fit import Recipe, level_network
from models.network import Network
from models.precision import row_bytes
from utils import peak_host_bytes

# The source's own coarser level stands for the fitted one, whose error comes on top: a block is counted as active from
# this part of the threshold on. Measured on a 4096x2048 Moon: 7211 blocks above 1.0 of it, 7466 above 0.85, 7590 in
# the fit.
ERROR_SHARE = 0.85
# Blocks left after a pruning, measured: the sample 463, 223, 151, 54; a bunny of 128^3 145, 5, 1.
STILL_TRAINING = 0.5
# What a file keeps of a block beside its row: its number and its amplitude.
BLOCK_BYTES = 12
# What importing Lightning adds to a process, measured.
LIGHTNING_BYTES = 230 * 2**20
# Blocks and steps that the timing takes.
TIMED_BLOCKS = {"cpu": 256, "cuda": 8192}
TIMED_STEPS = 6


@dataclass(frozen=True)
class LevelPlan:
    """A level of a plan: its cells along each axis, its blocks, how many get a network, and their bytes in a file."""

    level: int
    shape: tuple[int, ...]
    blocks: int
    active: int
    params: int
    epochs: int
    bytes: int


def plan_levels(source: Source, grid: Grid, encoding: Encoding, recipe: Recipe) -> list[LevelPlan]:
    """Blocks and parameters of every level, coarse to fine, as the fit would find them."""
    plans = []
    for level in reversed(range(grid.n_levels)):
        top = level == grid.n_levels - 1
        prediction = None if top else lambda region, level=level: _upsampled(source, grid, level, region)
        energy, _ = LevelTargets(source, prediction, grid, level).survey()
        share = (recipe.coarse_share if level else 1.0) * (1.0 if top else ERROR_SHARE)
        active = int((energy > recipe.loss_thr * share).sum())
        network = level_network(recipe, encoding.width, source.signal.channels, top)
        params = active * network.row_size
        size, epochs = grid.level_box(level).stop, recipe.epochs[level]
        bytes_ = active * (row_bytes(network, recipe.save_dtype) + BLOCK_BYTES)
        plans.append(LevelPlan(level, size, len(energy), active, params, epochs, bytes_))
    return plans


def _upsampled(source: Source, grid: Grid, level: int, region: Box) -> Tensor:
    """A region of a level as the source's own coarser level has it."""
    coarse = parent(region, grid, level)
    return up(source.read(coarse, level + 1), coarse, region, grid.level_box(level + 1))


def seconds_per_step(recipe: Recipe, grid: Grid, inputs, network: Network, engine) -> tuple[float, float]:
    """Seconds of a training step, as a constant and a part per block, from timing the engine on made-up blocks."""
    device = inputs.device
    cells = torch.arange(grid.block_cells, device=device)
    order = cell_order(0, 0, range(TIMED_STEPS), cells, steps_per_epoch(grid.block_cells, recipe.batch_size))
    round_ = Round([order[:TIMED_STEPS]], [recipe.lr] * TIMED_STEPS, recipe.lr)
    times = {}
    for n in (2, TIMED_BLOCKS[device.type]):
        ids = torch.arange(n, device=device)
        targets = torch.rand(n, network.n_out, grid.block_cells, device=device)
        blocks = Blocks(network.initial_rows(0, 0, ids, recipe.a), targets, targets.new_ones(n), ids * 0)
        for _ in range(2):
            started = time.perf_counter()
            engine.train(network, inputs, blocks, round_).rows.sum().item()
            times[n] = (time.perf_counter() - started) / TIMED_STEPS
    (few, short), (many, long) = times.items()
    per_block = max(long - short, 0.0) / (many - few)
    return max(short - few * per_block, 0.0), per_block


def describe(source: Source, grid: Grid, encoding: Encoding, recipe: Recipe, engine, devices: int = 1) -> str:
    """The plan as text: a table of levels, then sums, memory of a process, and time if `devices` share the work."""
    plans = plan_levels(source, grid, encoding, recipe)
    inputs = encoding(grid.coordinates()).to(source.device)
    network = level_network(recipe, len(inputs), source.signal.channels, coarsest=False)
    constant, per_block = seconds_per_step(recipe, grid, inputs, network, engine)
    steps = steps_per_epoch(grid.block_cells, recipe.batch_size)
    seconds = sum(steps * sum(constant + per_block * n for n in _training(plan, recipe)) for plan in plans)
    lines = ["level  size                   blocks   networks   parameters  epochs"]
    for plan in plans:
        size = " x ".join(map(str, plan.shape[::-1]))
        lines.append(f"{plan.level:5}  {size:20} {plan.blocks:8} {plan.active:10} {plan.params:12} {plan.epochs:7}")
    params = sum(plan.params for plan in plans)
    host, device = memory(source, grid, network, recipe, max(plan.active for plan in plans))
    model = sum(plan.bytes for plan in plans)
    lines.append(f"about {params / 1e6:.3f} M parameters, a model of {model / 1e6:.1f} MB")
    lines.append(
        f"about {host / 2**20:.0f} MiB of host memory" + (f", {device / 2**20:.0f} MiB of GPU memory" if device else "")
    )
    where = f"{devices} devices of this machine" if devices > 1 else "this machine"
    lines.append(f"about {_duration(seconds / devices)} of training on {where}; nothing was trained")
    return "\n".join(lines)


def memory(source: Source, grid: Grid, network: Network, recipe: Recipe, active: int) -> tuple[int, int]:
    """Bytes of host and of GPU memory at the most: what the process holds now, and what a fit adds to it."""
    cell = 4 * source.signal.channels
    chunk = min(active, recipe.b_chunks)
    level = grid.level_box(0).size
    # Coarser levels of the source in float32; the targets of the finest kept from its survey, and those of a chunk
    # beside them; a strip as truth, prediction, residual and blocks; rows with moments, gradients and copies.
    added = level * cell // (2**grid.ndim - 1)
    added += level * cell if level * source.signal.channels <= KEPT_VALUES else 0
    added += chunk * grid.block_cells * cell + 6 * min(level, STRIP_CELLS) * cell
    added += 6 * chunk * network.row_size * 4 + active * network.row_size * 4
    if source.device.type == "cuda":
        return peak_host_bytes() + LIGHTNING_BYTES, added + source.cells.nbytes
    return peak_host_bytes() + LIGHTNING_BYTES + added, 0


def _training(plan: LevelPlan, recipe: Recipe) -> list[float]:
    """Blocks in training in each epoch of a level: after each pruning a part of them is left."""
    return [plan.active * STILL_TRAINING ** (epoch // recipe.val_freq) for epoch in range(plan.epochs)]


def _duration(seconds: float) -> str:
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
