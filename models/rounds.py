"""The steps of rounds, the same for all chunks of a level: made once, and before a GPU would have to wait for them."""

from torch import Tensor, device

from datasets.grid import Grid
from models.engine import Round
from models.engine.contract import cell_order, cosine_lr, steps_per_epoch
from models.lanes import Made
from models.recipe import Recipe

# Cells of steps that are kept for other chunks, and rounds that are whatever they take: two that go on, and the next of
# each.
KEPT_CELLS, KEPT_ROUNDS = 2**21, 4


class Rounds:
    """The rounds of all levels.

    Args:
        grid: levels and blocks.
        device: where blocks train.
    """

    def __init__(self, grid: Grid, device: device):
        self.grid, self._device = grid, device
        self._real: dict[int, list[Tensor]] = {}
        self._made: dict[tuple[Recipe, int, range], Made] = {}

    def real(self, level: int) -> list[Tensor]:
        """For each kind of block of a level its real cells, int64 [n_real]; none of a kind that the level has not."""
        if level not in self._real:
            kinds, there = range(self.grid.n_kinds), self.grid.kinds(level)
            cells = [self.grid.real_cells(kind, level)[: None if kind in there else 0] for kind in kinds]
            self._real[level] = [part.to(self._device) for part in cells]
        return self._real[level]

    def take(self, recipe: Recipe, level: int, window: range) -> Round:
        """The round of some epochs of a level."""
        key = recipe, level, window
        if key not in self._made:
            steps = steps_per_epoch(self.grid.block_cells, recipe.batch_size)
            cells = [cell_order(recipe.seed, level, window, real, steps) for real in self.real(level)]
            start = recipe.start_lr(level)
            rates = [cosine_lr(start, epoch, recipe.epochs[level]) for epoch in window]
            round_ = Round(cells, [lr for lr in rates for _ in range(steps)], start)
            # What the engine of a GPU wants of it is made here too, before another lane takes it.
            table = round_.table if self._device.type == "cuda" else ()
            self._made[key] = Made(round_, [*cells, *table])
            while len(self._made) > KEPT_ROUNDS and sum(map(_size, self._made.values())) > KEPT_CELLS:
                del self._made[next(iter(self._made))]
        return self._made[key].take()

    def make_next(self, recipe: Recipe, level: int, window: range) -> None:
        """Make the round that follows one of a level, or begins the next finer level, while a GPU is busy."""
        first = window.stop
        if first == recipe.epochs[level]:
            first, level = 0, level - 1
        if level >= 0 and self._device.type == "cuda":
            self.take(recipe, level, recipe.round(level, first))


def _size(made: Made) -> int:
    return sum(cells.numel() for cells in made.value.cells)
