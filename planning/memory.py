"""How much memory a run would take."""

import functools

from datasets.grid import Grid
from datasets.source import Source
from machine.memory import CHUNKS, GPU_CHUNKS, STRIP_VALUE_BYTES, Limits, chunk_bytes
from models.draft import WRITTEN_BYTES
from models.engine.reference import GPU_TILE, widest
from models.network import Network
from models.precision import row_bytes
from models.pyramid import RECENT_VALUES
from models.recipe import Recipe
from planning.levels import LevelPlan
from run.report import MOST_SURFACE_CELLS, SSIM_STRIP_CELLS, SSIM_VALUE_BYTES

# What a fit adds to a process that has opened its source, measured with torch 2.13 on a CPU and 2.11 on a GPU:
# Lightning, threads and buffers, and on a GPU what CUDA's libraries and kernels take of the host, by engine.
FIT_BYTES = {"cpu": 300 * 2**20, "fused": 860 * 2**20, "reference": 1150 * 2**20}
# CUDA's solver, where layers are solved.
SOLVER_BYTES = 200 * 2**20
# What a value of a strip takes while it is surveyed: itself, what is said of it and what that is made of. On a CPU all
# else is done in tiles.
SURVEY_VALUE_BYTES = {"cpu": 12, "cuda": 18}
# Strips of a file that are on their way to a GPU, and on a host as many rows of their blocks as are read at once.
STRIPS_IN_FLIGHT, STRIP_ROWS = 6, 8
# What plain torch takes of a GPU, in tiles of the widest activation: for a step, for errors, and to solve a layer.
STEP_TILES, ERROR_TILES, SOLVE_TILES = 8, 4, 3
# A block that waits for another chunk has its targets once, and its rows with moments and what is kept for a resume.
WAITING_ROWS = 4
# What packing rows for a file takes, as a multiple of their bytes.
PACKING = 3
# What measuring a surface takes: of each of its vertices, and of each cell of a slab, of at most so many cells.
VERTEX_BYTES, SLAB_CELL_BYTES, SLAB_CELLS = 144, 30, 2**23


def memory(
    source: Source,
    grid: Grid,
    network: Network,
    recipe: Recipe,
    engine_name: str,
    limits: Limits,
    plans: list[LevelPlan],
    before: int,
    processes: int = 1,
) -> tuple[int, int]:
    """Bytes of host and of GPU memory of each process at the most.

    Args:
        plans: of all levels, coarse to fine.
        before: what this process took once its source was open, and its GPU in use.
    """
    channels, values = source.signal.channels, source.signal.channels * grid.block_cells
    cells, kind = grid.level_box(0).size, source.device.type
    strip_values = min(limits.strip_cells, cells) * channels
    strip, surveyed = strip_values * STRIP_VALUE_BYTES, strip_values * SURVEY_VALUE_BYTES[kind]
    rows, decoded, recent, most = 0, 0, 0, 0
    for plan in plans:
        coarser = grid.level_box(plan.level + 1).size * channels if plan.level + 1 < grid.n_levels else 0
        decoded = 4 * coarser if coarser <= limits.decoded_values else decoded
        level = plan.blocks * values
        kept = 4 * level if processes == 1 and level <= limits.kept_values else 0
        chunk = min(plan.trained, recipe.b_chunks)
        held = 4 * plan.trained * network.row_size
        added = held if rows + held <= limits.row_bytes else 0
        training = _training_bytes(kind, chunk, plan.trained, values, network, kept, surveyed)
        starting = kept + 4 * chunk * values
        if kind == "cuda":
            tiles = functools.partial(_tiles_bytes, network, chunk)
            if recipe.solve_start:
                starting += 4 * chunk * values + tiles(SOLVE_TILES, grid.block_cells)
            if engine_name == "reference":
                step = min(recipe.batch_size, grid.block_cells)
                training += max(tiles(STEP_TILES, step), tiles(ERROR_TILES, grid.block_cells))
        work = max(kept + surveyed, starting, training)
        # Rows that are not held are packed into files.
        packed = 0 if added or kind == "cuda" else PACKING * min(WRITTEN_BYTES["cpu"], held)
        most = max(most, rows + added + decoded + recent + packed + work)
        rows += added
        recent = 0 if kind == "cuda" else min(4 * RECENT_VALUES, recent + 4 * plan.trained * values)
    # The saved model is measured while the fitted one is still there.
    loaded = 4 * sum(plan.params for plan in plans)
    windows = min(limits.strip_cells, SSIM_STRIP_CELLS[kind], cells) * channels * SSIM_VALUE_BYTES
    measured = windows if grid.ndim == 2 else strip + _surface_bytes(source, grid, plans[-1])
    most = source.level_bytes + max(most, rows + (loaded if loaded <= limits.row_bytes else 0) + recent + measured)
    if kind == "cpu":
        return before + FIT_BYTES["cpu"] + most, 0
    host = before + FIT_BYTES[engine_name] + (SOLVER_BYTES if recipe.solve_start else 0)
    return host + _passing_bytes(source, grid, network, recipe, limits, loaded), most + source.held_bytes


def _passing_bytes(source: Source, grid: Grid, network: Network, recipe: Recipe, limits: Limits, loaded: int) -> int:
    """What is on its way from files to a GPU: strips of the source, and rows if `loaded` bytes have no room there."""
    cells, found = grid.level_box(0).size, 0
    if source.streamed:
        found += STRIPS_IN_FLIGHT * min(limits.strip_cells, cells) * source.raw_bytes // cells
    if loaded > limits.row_bytes:
        found += STRIP_ROWS * -(-limits.strip_cells // grid.block_cells) * row_bytes(network, recipe.save_dtype)
    return found


def _training_bytes(
    kind: str, chunk: int, trained: int, values: int, network: Network, kept: int, surveyed: int
) -> int:
    """What the targets and the rows of a level take while its chunks are trained.

    Args:
        kind: of device.
        chunk, trained: blocks of a chunk, and of all of them.
        values: numbers of a block's target.
        kept, surveyed: what the targets take that a survey keeps, and a strip of one that is not kept.
    """
    lanes = min(GPU_CHUNKS if kind == "cuda" else CHUNKS, -(-trained // max(chunk, 1)))
    training = chunk_bytes(chunk, values, network.row_size)
    # Only one at a time makes its copies.
    training += max(0, lanes - 1) * 4 * chunk * (values + WAITING_ROWS * network.row_size)
    if chunk == trained:
        return training
    if kept:
        return training + kept
    # On a GPU the targets of the next chunk are made meanwhile; on a CPU what its strips took stays.
    return training + surveyed + (4 * chunk * values if kind == "cuda" else 0)


def _tiles_bytes(network: Network, blocks: int, count: int, cells: int) -> int:
    """So many tiles of some blocks that are seen at so many cells."""
    return count * 4 * min(GPU_TILE, blocks * widest(network) * cells)


def _surface_bytes(source: Source, grid: Grid, finest: LevelPlan) -> int:
    """What the distance of a surface from its mesh takes: each trained block is taken to have a side of it."""
    if not source.about.get("mesh"):
        return 0
    shrunk = -(-max(grid.shape) // MOST_SURFACE_CELLS)
    vertices = finest.trained * grid.block_cells ** (2 / 3) / shrunk**2
    return int(VERTEX_BYTES * vertices + SLAB_CELL_BYTES * min(SLAB_CELLS, grid.level_box(0).size / shrunk**3))
