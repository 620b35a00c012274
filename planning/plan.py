"""What a run would take: blocks, parameters, memory and time, from the signal itself and a moment's timing."""

import math
from dataclasses import dataclass

from datasets.grid import Grid
from datasets.source import Source
from machine.memory import CHUNKS, GPU_CHUNKS, STRIP_VALUE_BYTES, Limits, chunk_bytes
from models.draft import WRITTEN_BYTES
from models.encoding import Encoding
from models.engine.contract import steps_per_epoch
from models.level_fit import level_network
from models.network import Network
from models.precision import row_bytes
from models.pyramid import RECENT_VALUES
from models.recipe import Recipe
from planning.pace import Pace, measure
from planning.rehearsal import rehearse
from run.report import MOST_SURFACE_CELLS, SSIM_STRIP_CELLS, SSIM_VALUE_BYTES
from utils import host_bytes

# What a file keeps of a block beside its row: its number and its amplitude.
BLOCK_BYTES = 12
# What Lightning, and the threads and buffers of a fit, add to a process, measured.
LIGHTNING_BYTES = 300 * 2**20
# What a value of a strip takes on a CPU while it is surveyed: itself, what is said of it and what that is made of. All
# else is done in tiles.
SURVEY_VALUE_BYTES = 12
# What packing rows for a file takes, as a multiple of their bytes.
PACKING = 3
# What measuring a surface takes: of each of its vertices, and of each cell of a slab, of at most so many cells.
VERTEX_BYTES, SLAB_CELL_BYTES, SLAB_CELLS = 144, 30, 2**23


@dataclass(frozen=True)
class LevelPlan:
    """A level of a plan.

    Args:
        shape: its cells along each axis.
        blocks, trained, active: how many blocks it has, how many of them are trained, and how many networks are kept.
        params, bytes: of those networks, and in a file.
        training: how many blocks are in training in each round.
    """

    level: int
    shape: tuple[int, ...]
    blocks: int
    trained: int
    active: int
    params: int
    bytes: int
    epochs: int
    training: tuple[float, ...]


def plan_levels(source: Source, grid: Grid, encoding: Encoding, recipe: Recipe, engine) -> list[LevelPlan]:
    """Blocks and parameters of every level, coarse to fine, as the fit would find them."""
    plans = []
    inputs = encoding(grid.coordinates()).to(source.device)
    courses = rehearse(source, grid, inputs, recipe, engine)
    for level, course in reversed(list(enumerate(courses))):
        network = level_network(recipe, encoding.width, source.signal.channels, level == grid.n_levels - 1)
        blocks = grid.n_blocks(level)
        trained = round(course.active * blocks)
        active = round(course.kept * trained)
        plans.append(
            LevelPlan(
                level=level,
                shape=grid.level_box(level).stop,
                blocks=blocks,
                trained=trained,
                active=active,
                params=active * network.row_size,
                bytes=active * (row_bytes(network, recipe.save_dtype) + BLOCK_BYTES),
                epochs=recipe.epochs[level],
                training=tuple(share * trained for share in course.training),
            )
        )
    return plans


def describe(
    source: Source, grid: Grid, encoding: Encoding, recipe: Recipe, engine, limits: Limits, devices: int = 1
) -> str:
    """The plan as text: a table of levels, then sums, memory of a process, and time if `devices` share the work."""
    before = host_bytes()
    plans = plan_levels(source, grid, encoding, recipe, engine)
    network = level_network(recipe, encoding.width, source.signal.channels, coarsest=False)
    lines = ["level  size                   blocks   networks   parameters  epochs"]
    for plan in plans:
        size = " x ".join(map(str, plan.shape[::-1]))
        lines.append(f"{plan.level:5}  {size:20} {plan.blocks:8} {plan.active:10} {plan.params:12} {plan.epochs:7}")
    params = sum(plan.params for plan in plans)
    host, device = memory(source, grid, network, recipe, limits, plans, before, devices)
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


def memory(
    source: Source,
    grid: Grid,
    network: Network,
    recipe: Recipe,
    limits: Limits,
    plans: list[LevelPlan],
    before: int,
    processes: int = 1,
) -> tuple[int, int]:
    """Bytes of host and of GPU memory of each process at the most, given what this one took before it planned."""
    channels, values = source.signal.channels, source.signal.channels * grid.block_cells
    levels = source.level_bytes
    cells, cuda = grid.level_box(0).size, source.device.type == "cuda"
    strip_values = min(limits.strip_cells, cells) * channels
    strip = strip_values * STRIP_VALUE_BYTES
    surveyed = strip if cuda else strip_values * SURVEY_VALUE_BYTES
    rows, decoded, recent, most = 0, 0, 0, 0
    for plan in plans:
        coarser = grid.level_box(plan.level + 1).size * channels if plan.level + 1 < grid.n_levels else 0
        decoded = 4 * coarser if coarser <= limits.decoded_values else decoded
        level = plan.blocks * values
        kept = 4 * level if processes == 1 and level <= limits.kept_values else 0
        chunk = min(plan.trained, recipe.b_chunks)
        held = 4 * plan.trained * network.row_size
        added = held if rows + held <= limits.row_bytes else 0
        several = min(GPU_CHUNKS if cuda else CHUNKS, -(-plan.trained // max(chunk, 1)))
        training = several * chunk_bytes(chunk, values, network.row_size) + (kept if chunk < plan.trained else 0)
        if chunk < plan.trained and not kept:
            # On a GPU the targets of the next chunk are made meanwhile; on a CPU what its strips took stays.
            training += surveyed + (4 * chunk * values if cuda else 0)
        work = max(kept + surveyed, kept + 4 * chunk * values, training)
        # Rows that are not held are packed into files.
        packed = 0 if added or cuda else PACKING * min(WRITTEN_BYTES["cpu"], held)
        most = max(most, rows + added + decoded + recent + packed + work)
        rows += added
        recent = 0 if cuda else min(4 * RECENT_VALUES, recent + 4 * plan.trained * values)
    # The saved model is measured while the fitted one is still there.
    loaded = 4 * sum(plan.params for plan in plans)
    windows = min(limits.strip_cells, SSIM_STRIP_CELLS[source.device.type], cells) * channels * SSIM_VALUE_BYTES
    measured = windows if grid.ndim == 2 else strip + _surface_bytes(source, grid, plans[-1])
    most = levels + max(most, rows + (loaded if loaded <= limits.row_bytes else 0) + recent + measured)
    if cuda:
        return before + LIGHTNING_BYTES, most + source.held_bytes
    return before + LIGHTNING_BYTES + most, 0


def _surface_bytes(source: Source, grid: Grid, finest: LevelPlan) -> int:
    """What the distance of a surface from its mesh takes: each trained block is taken to have a side of it."""
    if not source.about.get("mesh"):
        return 0
    shrunk = -(-max(grid.shape) // MOST_SURFACE_CELLS)
    vertices = finest.trained * grid.block_cells ** (2 / 3) / shrunk**2
    return int(VERTEX_BYTES * vertices + SLAB_CELL_BYTES * min(SLAB_CELLS, grid.level_box(0).size / shrunk**3))


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
