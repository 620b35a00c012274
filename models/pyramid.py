"""Finished levels, and the only decoder: any region of any level, back to values in [0, 1]."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from datasets.grid import Box, Grid
from models.block_mlp import BlockMLP
from models.encoding import Encoding
from models.engine.contract import Window
from models.frame import Frame
from models.network import COLOUR
from models.points import values_at
from models.recent_blocks import RecentBlocks

# Cells decoded at once by `strips`.
STRIP_CELLS = 2**22
# What was decoded last and is kept on a CPU, where networks cost more than memory: 32 MiB.
RECENT_VALUES = 2**23


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
        self._recent = RecentBlocks(RECENT_VALUES)
        self._held: tuple[int, Tensor] | None = None
        self.register_buffer("inputs", encoding(grid.coordinates()), persistent=False)

    def level(self, level: int) -> BlockMLP | None:
        """The networks of a level; None where it is not trained yet."""
        return self.levels[str(level)] if str(level) in self.levels else None  # noqa: SIM401 (a ModuleDict has no get)

    def add(self, level: int, networks: BlockMLP) -> None:
        """Add a finished level, or replace one."""
        self.levels[str(level)] = networks
        self._recent.forget()
        if self._held and (level == 0 or self._held[0] <= level):
            self._held = None

    @torch.inference_mode(False)
    @torch.no_grad()
    def hold(self, level: int, most_cells: int | None = None) -> None:
        """Hold a level decoded whole, in place of one held before, so that finer ones are decoded from it: until it, a
        coarser one or the finest is added. Its rows and those of coarser levels may not change meanwhile.

        Args:
            most_cells: decoded at once.
        """
        box = self.grid.level_box(level)
        whole = self.inputs.new_empty(*box.shape, self.channels)
        for part in self.strips(level, most_cells=most_cells):
            box.crop(whole, part)[...] = self.decode(part, level)
        self._held = level, whole

    @property
    def n_params(self) -> int:
        return sum(level.n_params for level in self.levels.values())

    @property
    def held_row_bytes(self) -> int:
        """What the rows in memory take."""
        return sum(4 * level.rows.numel() for level in self.levels.values() if isinstance(level.rows, Tensor))

    @property
    def bytes_read(self) -> int:
        """What was read so far of rows that stay in a file."""
        return sum(level.bytes_read for level in self.levels.values())

    # Threads do not inherit that mode, and what is kept outlasts it.
    @torch.inference_mode(False)
    @torch.no_grad()
    def decode(
        self,
        region: Box | None = None,
        level: int = 0,
        size: tuple[int, ...] | None = None,
        part: Box | None = None,
    ) -> Tensor:
        """The values of a region of a level, [*region, c] float32 in [0, 1]; equal to the crop of the whole decode.

        Of a level that is not trained yet: what the coarser levels say of it.

        Args:
            region: cells of that level; all of them if None.
            size: as so many cells along each axis, slow to fast, [*size, c]: the next finer level averaged down, or
                the finest one interpolated (models.frame).
            part: of those only these, [*part, c]; equal to the crop of all of them.

        Raises:
            ValueError: the level, the region, the size or the part is not inside the pyramid.
        """
        whole = self.grid.level_box(level) if 0 <= level < self.grid.n_levels else None
        if whole is None:
            raise ValueError(f"level {level} is not between 0 and {self.grid.n_levels - 1}")
        region = region or whole
        if self.grid.clip(region, level) != region or min(region.shape) < 1:
            raise ValueError(
                f"region {region.start} to {region.stop} is not inside level {level} of shape {whole.stop}"
            )
        if size is not None or part is not None:
            frame = Frame(self.grid, region, level, tuple(size or region.shape))
            part = part or frame.whole
            if not frame.holds(part):
                raise ValueError(f"part {part.start} to {part.stop} is not inside a frame of {frame.size}")
            box = frame.cells(part)
            return frame.resample(self.decode(box, frame.source), part).clamp_(0, 1)
        if self._held and self._held[0] == level:
            return whole.crop(self._held[1], region).clone()
        window = Window(self.grid, level, region)
        coarse = self.decode(window.parent, level + 1) if level < self.grid.n_levels - 1 else None
        networks = self.level(level)
        if networks is None:
            none = self.inputs.new_empty(0, self.channels, self.grid.block_cells)
            return self.engine.compose(window, coarse, none, none.new_empty(0, dtype=torch.int64))
        numbers = self.grid.run(window.blocks, level)
        if self.inputs.is_cuda and numbers is not None:
            hit, found = networks.run(numbers)
            pieces = self.engine.predict(networks.network, self.inputs, *found)
        else:
            hit, places = networks.find(self.grid.ids(window.blocks, level, self.inputs.device).flatten())
            pieces = self._pieces(level, networks, places)
        return self.engine.compose(window, coarse, pieces, hit, networks.network.output == COLOUR)

    def _pieces(self, level: int, networks: BlockMLP, places: Tensor) -> Tensor:
        """What the networks at some places of a level give, [m, c, p]."""

        def evaluate(places: Tensor) -> Tensor:
            return self.engine.predict(networks.network, self.inputs, *networks.take(places))

        parts = [part for part in (networks.rows, networks.amplitude) if isinstance(part, Tensor)]
        if places.is_cuda or any(part.is_inference() for part in parts):
            return evaluate(places)
        # Rows may be trained further; torch counts what is written into a tensor, but for one made in inference mode.
        return self._recent.get((level, *(part._version for part in parts)), places, evaluate)

    def sample(self, points: Tensor) -> Tensor:
        """The values at points between the cells of the finest level, [m, c] float32 in [0, 1].

        A point gets what the finest level's network of its block gives there, on top of the decoded cells of the next
        coarser level, interpolated linearly between their centres. So at the centre of a cell it is what `decode`
        gives, but for rounding, which grows with the highest frequency: 1e-6 with 8 of them, 1e-3 with 20. It is
        continuous inside a block, and differentiable but where it is clipped and on the lines through the centres of
        coarser cells. Gradients reach the points, and those rows of any level that are tensors and ask for them.

        Args:
            points: [m, d], columns x, y[, z], in cells of the finest level: the centre of cell i is at i + 1/2, and
                the image reaches from 0 to its size. In float32 a large image has few digits left between cells.

        Raises:
            ValueError: a point is outside of the image, or no number.
        """
        size = torch.tensor(self.grid.shape[::-1], device=points.device)
        if points.ndim != 2 or points.shape[1] != len(size):
            raise ValueError(f"points of shape {tuple(points.shape)} must be [m, {len(size)}]")
        if not ((points >= 0) & (points <= size)).all():
            raise ValueError(f"points must lie between 0 and the size {' '.join(map(str, size.tolist()))}")
        return values_at(self, points.double().flip(1), 0)

    def strips(
        self,
        level: int = 0,
        region: Box | None = None,
        most_cells: int | None = None,
        size: tuple[int, ...] | None = None,
    ) -> Iterator[Box]:
        """Cut a region of a level, or with a `size` its frame, into boxes of cells small enough to be decoded at once.

        A box is at least a row of blocks, else it has at most `most_cells` cells. The boxes of a frame are what
        `decode` takes as `part`.
        """
        region = region or self.grid.level_box(level)
        if size is not None:
            yield from Frame(self.grid, region, level, tuple(size)).strips(most_cells or STRIP_CELLS)
            return
        for blocks in self.grid.strips(level, most_cells or STRIP_CELLS, region):
            yield self.grid.cells_of(blocks).map(
                lambda a, b, first, last: (max(a, first), min(b, last)), region.start, region.stop
            )
