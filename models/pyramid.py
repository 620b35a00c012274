"""Finished levels, and the only decoder: any region of any level, back to values in [0, 1]."""

import torch
from torch import Tensor, nn

from datasets.grid import Box, Grid
from models.block_mlp import BlockMLP
from models.encoding import Encoding
from models.engine.contract import Window

# Cells decoded at once by `strips`.
STRIP_CELLS = 2**22


class Pyramid(nn.Module):
    """A signal as levels of block networks.

    A level whose networks end in a sin adds its residual to the upsampled coarser level; one whose networks end in a
    sigmoid replaces it, as at the coarsest level and in a Gaussian pyramid. A block without a network leaves the
    upsampled coarser level as it is. Every level's prediction is clipped to [0, 1] before the next one builds on it.

    Args:
        grid: levels and blocks.
        encoding: what the networks are shown of a cell's place in its block.
        channels: numbers of a cell.
        engine: what evaluates the networks (models.engine).
    """

    def __init__(self, grid: Grid, encoding: Encoding, channels: int, engine):
        super().__init__()
        self.grid, self.encoding, self.channels, self.engine = grid, encoding, channels, engine
        self.levels = nn.ModuleDict()
        self.register_buffer("inputs", encoding(grid.coordinates()), persistent=False)

    def level(self, level: int) -> BlockMLP | None:
        """The networks of a level; None where it is not trained yet."""
        return self.levels[str(level)] if str(level) in self.levels else None  # noqa: SIM401 (a ModuleDict has no get)

    def add(self, level: int, networks: BlockMLP) -> None:
        self.levels[str(level)] = networks

    @property
    def n_params(self) -> int:
        return sum(level.n_params for level in self.levels.values())

    @property
    def bytes_read(self) -> int:
        """What was read so far of rows that stay in a file."""
        return sum(level.bytes_read for level in self.levels.values())

    @torch.no_grad()
    def decode(self, region: Box | None = None, level: int = 0) -> Tensor:
        """The values of a region of a level, [*region, c] float32 in [0, 1]; equal to the crop of the whole decode.

        Of a level that is not trained yet: what the coarser levels say of it.

        Args:
            region: cells of that level; all of them if None.

        Raises:
            ValueError: the level or the region is not inside the pyramid.
        """
        whole = self.grid.level_box(level) if 0 <= level < self.grid.n_levels else None
        if whole is None:
            raise ValueError(f"level {level} is not between 0 and {self.grid.n_levels - 1}")
        region = region or whole
        if self.grid.clip(region, level) != region or min(region.shape) < 1:
            raise ValueError(
                f"region {region.start} to {region.stop} is not inside level {level} of shape {whole.stop}"
            )
        window = Window(self.grid, level, region)
        coarse = self.decode(window.parent, level + 1) if level < self.grid.n_levels - 1 else None
        networks = self.level(level)
        if networks is None:
            none = self.inputs.new_empty(0, self.channels, self.grid.block_cells)
            return self.engine.compose(window, coarse, none, none.new_empty(0, dtype=torch.int64))
        if window.blocks.size == self.grid.n_blocks(level):
            hit, found = networks.blocks, networks.take()
        else:
            hit, rows = networks.find(self.grid.ids(window.blocks, level, self.inputs.device).flatten())
            found = networks.take(rows)
        pieces = self.engine.predict(networks.network, self.inputs, *found)
        return self.engine.compose(window, coarse, pieces, hit, networks.network.output == "sigmoid")

    def strips(self, level: int = 0, region: Box | None = None, most_cells: int | None = None):
        """Cut a region of a level into boxes of cells, each small enough to be decoded at once.

        A box is at least a row of blocks, else it has at most `most_cells` cells.
        """
        region = region or self.grid.level_box(level)
        for blocks in self.grid.strips(level, most_cells or STRIP_CELLS, region):
            yield self.grid.cells_of(blocks).map(
                lambda a, b, first, last: (max(a, first), min(b, last)), region.start, region.stop
            )
