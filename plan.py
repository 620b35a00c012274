"""What a run would take: blocks, parameters, memory and time, from the signal itself and a moment's timing."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from datasets.grid import Box, Grid, parent, up
from datasets.residual import LevelTargets
from datasets.source import Source
from memory import STRIP_VALUE_BYTES, Limits, chunk_bytes
from metrics import ssim_map
from models.encoding import Encoding
from models.engine import Blocks, Round
from models.engine.contract import cell_order, steps_per_epoch
from models.level_fit import Recipe, level_network
from models.network import Network
from models.precision import row_bytes
from report import SSIM_STRIP_CELLS, SSIM_VALUE_BYTES
from utils import host_bytes

# The source's own coarser level stands for the fitted one, whose error comes on top: a block is counted as active from
# this part of the threshold on. Measured on a 4096x2048 Moon: 7211 blocks above 1.0 of it, 7466 above 0.85, 7590 in
# the fit.
ERROR_SHARE = 0.85
# Blocks left after a pruning, measured: the sample 463, 223, 151, 54; a bunny of 128^3 145, 5, 1.
STILL_TRAINING = 0.5
# What a file keeps of a block beside its row: its number and its amplitude.
BLOCK_BYTES = 12
# What Lightning, and the threads and buffers of a fit, add to a process, measured.
LIGHTNING_BYTES = 340 * 2**20
# Blocks and steps that the timing takes.
TIMED_BLOCKS = {"cpu": 256, "cuda": 8192}
TIMED_STEPS = 6
# Blocks decoded for each that lies in a region, as strips touch those around them, measured.
HALO = 1.5


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


def plan_levels(source: Source, grid: Grid, encoding: Encoding, recipe: Recipe, limits: Limits) -> list[LevelPlan]:
    """Blocks and parameters of every level, coarse to fine, as the fit would find them."""
    plans = []
    for level in reversed(range(grid.n_levels)):
        top = level == grid.n_levels - 1
        prediction = None if top else lambda region, level=level: _upsampled(source, grid, level, region)
        targets = LevelTargets(source, prediction, grid, level, strip_cells=limits.strip_cells, kept_values=0)
        energy, _ = targets.survey()
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
    for n in (2, max(3, min(TIMED_BLOCKS[device.type], recipe.b_chunks, grid.n_blocks(0)))):
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


def describe(
    source: Source, grid: Grid, encoding: Encoding, recipe: Recipe, engine, limits: Limits, devices: int = 1
) -> str:
    """The plan as text: a table of levels, then sums, memory of a process, and time if `devices` share the work."""
    before = host_bytes()
    started = time.perf_counter()
    plans = plan_levels(source, grid, encoding, recipe, limits)
    surveys = time.perf_counter() - started
    inputs = encoding(grid.coordinates()).to(source.device)
    network = level_network(recipe, len(inputs), source.signal.channels, coarsest=False)
    lines = ["level  size                   blocks   networks   parameters  epochs"]
    for plan in plans:
        size = " x ".join(map(str, plan.shape[::-1]))
        lines.append(f"{plan.level:5}  {size:20} {plan.blocks:8} {plan.active:10} {plan.params:12} {plan.epochs:7}")
    params = sum(plan.params for plan in plans)
    host, device = memory(source, grid, network, recipe, limits, plans, before)
    model = sum(plan.bytes for plan in plans)
    lines.append(f"about {params / 1e6:.3f} M parameters, a model of {model / 1e6:.1f} MB")
    lines.append(
        f"about {host / 2**20:.0f} MiB of host memory" + (f", {device / 2**20:.0f} MiB of GPU memory" if device else "")
    )
    training = _training_seconds(recipe, grid, inputs, network, engine, plans) / devices
    other = _other_seconds(grid, recipe, inputs, network, engine, limits, plans, surveys) / devices
    where = f"{devices} devices of this machine" if devices > 1 else "this machine"
    told = f"{_duration(training)} of training and {_duration(other)} of reading, decoding and measuring"
    lines.append(f"about {_duration(training + other)} on {where}, {told}; nothing was trained")
    return "\n".join(lines)


def memory(
    source: Source, grid: Grid, network: Network, recipe: Recipe, limits: Limits, plans: list[LevelPlan], before: int
) -> tuple[int, int]:
    """Bytes of host and of GPU memory at the most, given what the process took before it planned."""
    channels, values = source.signal.channels, source.signal.channels * grid.block_cells
    held = source.level_bytes
    strip = min(limits.strip_cells, grid.level_box(0).size) * channels * STRIP_VALUE_BYTES
    rows, most = 0, 0
    for plan in plans:
        level = plan.blocks * values
        kept = 4 * level if level <= limits.kept_values else 0
        chunk = min(plan.active, recipe.b_chunks)
        added = 4 * plan.params if rows + 4 * plan.params <= limits.row_bytes else 0
        training = chunk_bytes(chunk, values, network.row_size) + (kept if chunk < plan.active else 0)
        if source.device.type == "cuda" and chunk < plan.active and not kept:
            # The targets of the next chunk are made meanwhile.
            training += 4 * chunk * values + strip
        most = max(most, rows + added + max(kept + max(strip, 4 * chunk * values), training))
        rows += added
    # The saved model is measured while the fitted one is still there.
    loaded = 4 * sum(plan.params for plan in plans)
    windows = min(limits.strip_cells, SSIM_STRIP_CELLS, grid.level_box(0).size) * channels * SSIM_VALUE_BYTES
    measured = max(strip, windows) if grid.ndim == 2 else strip
    most = held + max(most, rows + (loaded if loaded <= limits.row_bytes else 0) + measured)
    if source.device.type == "cuda":
        return before + LIGHTNING_BYTES, most + source.held_bytes
    return before + LIGHTNING_BYTES + most, 0


def _training_seconds(
    recipe: Recipe, grid: Grid, inputs: Tensor, network: Network, engine, plans: list[LevelPlan]
) -> float:
    constant, per_block = seconds_per_step(recipe, grid, inputs, network, engine)
    seconds = 0.0
    for plan in plans:
        chunks = -(-plan.active // recipe.b_chunks)
        seconds += sum(constant * chunks + per_block * n for n in _training(plan, recipe))
    return seconds * steps_per_epoch(grid.block_cells, recipe.batch_size)


def _other_seconds(
    grid: Grid,
    recipe: Recipe,
    inputs: Tensor,
    network: Network,
    engine,
    limits: Limits,
    plans: list[LevelPlan],
    surveys: float,
) -> float:
    """Seconds of surveys, of decoding for them and for the report, and of the report."""
    n = TIMED_BLOCKS[inputs.device.type]
    rows = network.initial_rows(0, 0, torch.arange(n, device=inputs.device), 0.1)
    predict = _seconds(lambda: engine.predict(network, inputs, rows, rows.new_ones(n))) / n
    seconds = 0.0
    for plan in plans:
        # Every finer level asks for this one, twice where its targets are not kept, and so does the report.
        asked = 1 + sum(1 + (j.blocks * grid.block_cells * network.n_out > limits.kept_values) for j in plans
                        if j.level < plan.level)  # fmt: skip
        rounds = -(-plan.epochs // recipe.val_freq)
        seconds += predict * plan.active * (asked * HALO + rounds)
    again = sum(plan.blocks * grid.block_cells * network.n_out > limits.kept_values for plan in plans[-1:])
    strip = torch.rand(64, 4096, network.n_out, device=inputs.device)
    measure = _seconds(lambda: ssim_map(strip, strip)) / (64 * 4096) if grid.ndim == 2 else 0.0
    # The levels of the source are made once more, and the other figures take about as long as SSIM.
    return seconds + surveys * (2 + again) + 2 * measure * grid.level_box(0).size


def _seconds(work: Callable[[], Tensor]) -> float:
    """What some work takes once it is warm: the best of three, for a busy machine only ever adds."""
    times = []
    for _ in range(4):
        started = time.perf_counter()
        work().sum().item()
        times.append(time.perf_counter() - started)
    return min(times[1:])


def _training(plan: LevelPlan, recipe: Recipe) -> list[float]:
    """Blocks in training in each epoch of a level: after each pruning a part of them is left."""
    return [plan.active * STILL_TRAINING ** (epoch // recipe.val_freq) for epoch in range(plan.epochs)]


def _duration(seconds: float) -> str:
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
