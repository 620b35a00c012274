"""What a run would make of each level: its blocks, its networks and their parameters."""

from dataclasses import dataclass

from datasets.grid import Grid
from datasets.source import Source
from models.encoding import Encoding
from models.level_fit import level_network
from models.precision import row_bytes
from models.recipe import Recipe
from planning.rehearsal import rehearse

# What a file keeps of a block beside its row: its number and its amplitude.
BLOCK_BYTES = 12


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
