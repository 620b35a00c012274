"""How fast this machine does what a run consists of, from doing a little of each."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from datasets.excerpt import excerpt
from datasets.grid import Grid, down
from datasets.residual import LevelTargets
from datasets.source import Source
from models.block_mlp import BlockMLP
from models.encoding import Encoding
from models.engine import Blocks, Round
from models.engine.contract import cell_order, steps_per_epoch
from models.level_fit import level_network
from models.network import Network
from models.precision import pack, rounded
from models.pyramid import Pyramid
from models.recipe import Recipe
from run.report import quality

# Blocks and steps that are timed, and cells of what is decoded.
TIMED_VALUES = 2**25
TIMED_BLOCKS = {"cpu": 256, "cuda": 8192}
FEW_STEPS, TIMED_STEPS = 2, 8
TIMED_CELLS = {"cpu": 2**18, "cuda": 2**22}
# A busy machine only ever adds: the best of so many times counts.
TIMES = 2


@dataclass(frozen=True)
class Pace:
    """Seconds of parts of a run.

    Args:
        step, block_step: of a training step, and of each block in it.
        round, block_round: of a round's beginning, measuring and pruning, and of each block in it.
        block_start: of a block's beginning.
        block_saved: of packing its row.
        read: of reading a cell of the finest level from a file; zero where it is in memory.
        halve: of averaging a cell into the next coarser level.
        survey: of surveying a cell, without what the coarser level says of it.
        decode: of decoding a cell, with all coarser levels.
        report: of measuring a cell of the saved model, decoding it included.
    """

    step: float
    block_step: float
    round: float
    block_round: float
    block_start: float
    block_saved: float
    read: float
    halve: float
    survey: float
    decode: float
    report: float


def measure(
    source: Source, grid: Grid, encoding: Encoding, recipe: Recipe, engine, strip_cells: int, shares: list[float]
) -> Pace:
    """Time the parts of a run.

    Args:
        strip_cells: cells of a level that are handled at once.
        shares: the part of each level's blocks that have a network, finest first.
    """
    inputs = encoding(grid.coordinates()).to(source.device)
    network = level_network(recipe, encoding.width, source.signal.channels, coarsest=False)
    training = _training(recipe, grid, inputs, network, engine)
    cells = _cells(source, grid, encoding, recipe, engine, shares)
    return Pace(*training, *_reading(source, grid, strip_cells), *cells)


def _training(recipe: Recipe, grid: Grid, inputs: Tensor, network: Network, engine) -> tuple[float, ...]:
    device = inputs.device
    cells = torch.arange(grid.block_cells, device=device)
    order = cell_order(0, 0, range(TIMED_STEPS), cells, steps_per_epoch(grid.block_cells, recipe.batch_size))
    rounds = [Round([order[:steps]], [recipe.lr] * steps, recipe.lr) for steps in (FEW_STEPS, TIMED_STEPS)]
    most = TIMED_VALUES // (network.n_out * grid.block_cells)
    few, many = 2, max(3, min(TIMED_BLOCKS[device.type], recipe.b_chunks, most))
    times = []
    for n in (few, many):
        ids = torch.arange(n, device=device)
        targets = torch.rand(n, network.n_out, grid.block_cells, device=device)

        def start(ids=ids, targets=targets) -> Tensor:
            rows = network.initial_rows(0, 0, ids, recipe.a)
            blocks = Blocks(rows, targets, targets[:, 0, 0], ids * 0).select(ids)
            return blocks.rows.sum() + blocks.targets.sum()

        blocks = Blocks(network.initial_rows(0, 0, ids, recipe.a), targets, targets.new_ones(n), ids * 0)

        def end(blocks=blocks, ids=ids) -> Tensor:
            kept = replace(blocks, rows=rounded(network, recipe.save_dtype, blocks.rows))
            errors = engine.errors(network, inputs, kept, [cells])
            return errors.sum() + blocks.select(ids).rows.sum()

        def save(blocks=blocks) -> Tensor:
            return sum(part.float().sum() for part in pack(network, recipe.save_dtype, blocks.rows).values())

        short, long = (
            _seconds(lambda blocks=blocks, r=r: engine.train(network, inputs, blocks, r).rows.sum()) for r in rounds
        )
        # A round copies its blocks before the first step. That takes less than half of it, unless the clock is wrong.
        step = max((long - short) / (TIMED_STEPS - FEW_STEPS), long / TIMED_STEPS / 2)
        begun = max(0.0, long - step * TIMED_STEPS)
        times.append((step, begun + _seconds(end), _seconds(start), _seconds(save)))
    (step, block_step), (round_end, block_round), (_, block_start), (_, block_saved) = (
        _line(few, short, many, long) for short, long in zip(*times, strict=True)
    )
    return step, block_step, round_end, block_round, block_start, block_saved


def _line(few: int, short: float, many: int, long: float) -> tuple[float, float]:
    """A constant and a part for each block, neither below zero, that give two times."""
    part = max(long - short, 0.0) / (many - few)
    return max(short - few * part, 0.0), part


def _reading(source: Source, grid: Grid, strip_cells: int) -> tuple[float, float]:
    """Of a strip amid the source, which is read once: another time its file would be in memory."""
    strips = list(grid.boxes(0, strip_cells))
    strip = grid.clip(grid.cells_of(strips[len(strips) // 2]), 0)
    started = time.perf_counter()
    cells = source.read(strip, 0)
    read = time.perf_counter() - started
    return read / strip.size if source.streamed else 0.0, _seconds(lambda: down(cells).sum()) / strip.size


def _cells(
    source: Source, grid: Grid, encoding: Encoding, recipe: Recipe, engine, shares: list[float]
) -> tuple[float, ...]:
    small = excerpt(source, grid, max(TIMED_CELLS[source.device.type], grid.block_cells))
    own = small.grid
    pyramid = Pyramid(own, encoding, source.signal.channels, engine).to(source.device)
    for level in range(own.n_levels):
        network = level_network(recipe, encoding.width, source.signal.channels, level == grid.n_levels - 1)
        n = own.n_blocks(level)
        blocks = torch.linspace(0, n - 1, round(shares[level] * n), device=source.device).round().long()
        rows = network.initial_rows(0, level, blocks, recipe.a)
        pyramid.add(level, BlockMLP(network, blocks, torch.ones(len(blocks), device=source.device), rows))
    size = own.level_box(0).size
    targets = LevelTargets(
        small.source, lambda region: pyramid.inputs.new_zeros(*region.shape, pyramid.channels), own, 0
    )
    survey = _seconds(lambda: targets.survey()[0].sum()) / size
    decode = _seconds(lambda: sum(pyramid.decode(box).sum() for box in pyramid.strips())) / size
    report = _seconds(lambda: torch.tensor(quality(pyramid, small.source)["psnr"])) / size
    return survey, decode, report


def _seconds(work: Callable[[], Tensor]) -> float:
    """What some work takes once it is warm."""
    times = []
    for _ in range(1 + TIMES):
        started = time.perf_counter()
        work().item()
        times.append(time.perf_counter() - started)
    return min(times[1:])
