"""What the viewer draws of a pyramid: tiles of a plane, at any zoom, of the model, its source, their error, the blocks.

A pixel at zoom z is 2^z cells of the finest level wide; zooms below 0 magnify, which only blocks do. A plane is an
image, or a slice of a volume or of a shape: the axis that it is cut along (0 to 2, slow to fast) and the finest cell.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from datasets.grid import Box, parent, up
from datasets.source import ArraySource, Signal, Source
from models.pyramid import Pyramid
from pictures.levels import colour, level_colour, to_uint8

TILE = 256
# Errors, in [0, 1], that the brightest colour may stand for.
ERROR_SCALES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
# Blocks stay outlined by thin lines up to this magnification, 2^4.
FINEST_BLOCK_ZOOM = -4
# Blocks narrower than this in pixels are tinted, not outlined; outlined ones are tinted only so much.
OUTLINED = 6
TINT = 7


@dataclass(frozen=True)
class Plane:
    """An image (axis None), or the slice of a volume through finest cell `index` of `axis`."""

    axis: int | None = None
    index: int = 0

    def of(self, sizes: tuple[int, ...]) -> tuple[int, ...]:
        """The two numbers, of a tuple of one per axis, that belong to the axes of the plane."""
        return tuple(size for axis, size in enumerate(sizes) if axis != self.axis)

    def box(self, rows: tuple[int, int], columns: tuple[int, int], zoom: int) -> Box:
        """Cells of level `zoom`, start to stop along both axes of the plane, as a box of all axes."""
        sides = [rows, columns]
        if self.axis is not None:
            sides.insert(self.axis, (self.index >> zoom, (self.index >> zoom) + 1))
        return Box(*(tuple(corner) for corner in zip(*sides, strict=True)))


class Layers:
    """Tiles of every layer.

    Args:
        source: what the model was fitted to, of the pyramid's shape; None if it is not at hand.
        tile: pixels of a tile along both axes.
    """

    def __init__(self, pyramid: Pyramid, signal: Signal, source: Source | None = None, tile: int = TILE):
        self.pyramid, self.signal, self.source, self.tile = pyramid, signal, source, tile
        self._active: dict[int, np.ndarray] = {}
        self._overview: Source | None = None
        if source is not None:
            # Its means are made now, and not while the first tile is waited for.
            corner = (0,) * pyramid.grid.ndim
            source.read(Box(corner, tuple(n + 1 for n in corner)), max(map(self.coarsest_zoom, self.planes)))

    @property
    def planes(self) -> list[Plane]:
        """The image, or the first slice along each axis of a volume."""
        return [Plane()] if self.pyramid.grid.ndim == 2 else [Plane(axis) for axis in range(3)]

    def coarsest_zoom(self, plane: Plane) -> int:
        """The first zoom at which a plane fits into one tile."""
        return max(0, math.ceil(math.log2(max(plane.of(self.pyramid.grid.shape)) / self.tile)))

    def size(self, plane: Plane, zoom: int) -> tuple[int, int]:
        """Height and width of a plane in pixels of a zoom."""
        height, width = (math.ceil(cells / 2.0**zoom) for cells in plane.of(self.pyramid.grid.shape))
        return height, width

    def model(self, plane: Plane, zoom: int, x: int, y: int, stop: int = 0) -> np.ndarray:
        """Tile (x, y), uint8 [h, w, 3 or 4], of what the levels down to `stop` give; finer zooms are interpolated."""
        return self._picture(plane, self._decode(self._box(plane, zoom, x, y), zoom, stop))

    def truth(self, plane: Plane, zoom: int, x: int, y: int) -> np.ndarray:
        """The same tile of the source."""
        return self._picture(plane, self.source.read(self._box(plane, zoom, x, y), zoom))

    def error(self, plane: Plane, zoom: int, x: int, y: int, stop: int = 0, scale: float = 0.05) -> np.ndarray:
        """The same tile of |truth - model|, the mean over channels, uint8 [h, w, 3] by `error_ramp` up to `scale`."""
        box = self._box(plane, zoom, x, y)
        gap = (self.source.read(box, zoom) - self._decode(box, zoom, stop)).abs().mean(-1)
        index = (gap.reshape(plane.of(box.shape)) * (255 / scale)).clamp(0, 255).round().to(torch.uint8)
        return error_ramp()[index.cpu().numpy()]

    def blocks(self, plane: Plane, zoom: int, x: int, y: int, level: int) -> np.ndarray:
        """The blocks of a level that have a network, uint8 RGBA [h, w, 4], transparent elsewhere."""
        grid = self.pyramid.grid
        active = self.active_blocks(level)
        if plane.axis is not None:
            active = active.take((plane.index >> level) // grid.patch[plane.axis], plane.axis)
        sizes = self.size(plane, zoom)
        spans = self._spans(sizes, x, y)
        sides = [side * 2.0 ** (level - zoom) for side in plane.of(grid.patch)]
        if min(sides) >= OUTLINED:
            alpha = _outlined(active, spans, sides, sizes)
        else:
            # Sampled four times along each axis, so that the tint is the blocks' share of a pixel.
            inside = active[np.ix_(*(_places(a, b, 4, side) for (a, b), side in zip(spans, sides, strict=True)))]
            alpha = 150 * inside.reshape(inside.shape[0] // 4, 4, -1, 4).mean((1, 3))
        rgba = np.empty((*alpha.shape, 4), np.uint8)
        rgba[..., :3], rgba[..., 3] = level_colour(level), alpha
        return rgba

    def active_blocks(self, level: int) -> np.ndarray:
        """Which blocks of a level have a network, bool [*block counts]."""
        if level not in self._active:
            active = np.zeros(self.pyramid.grid.block_counts(level), bool)
            if (networks := self.pyramid.level(level)) is not None:
                active.flat[networks.blocks.cpu().numpy()] = True
            self._active[level] = active
        return self._active[level]

    def _box(self, plane: Plane, zoom: int, x: int, y: int) -> Box:
        """The cells of a tile."""
        return plane.box(*self._spans(self.size(plane, zoom), x, y), zoom)

    def _spans(self, sizes: tuple[int, int], x: int, y: int) -> list[tuple[int, int]]:
        """First and last pixel, rows then columns, of a tile of a plane of these sizes."""
        return [(i * self.tile, min((i + 1) * self.tile, size)) for i, size in zip((y, x), sizes, strict=True)]

    def _decode(self, box: Box, zoom: int, stop: int) -> Tensor:
        """The cells of a box, [*box, c], at a zoom that may be coarser than the pyramid or finer than `stop`."""
        grid = self.pyramid.grid
        if zoom >= grid.n_levels:
            return self._means().read(box, zoom - grid.n_levels + 1)
        if zoom >= stop:
            return self.pyramid.decode(box, zoom)
        coarse = parent(box, grid, zoom)
        return up(self._decode(coarse, zoom + 1, stop), coarse, box, grid.level_box(zoom + 1))

    def _means(self) -> Source:
        """The coarsest level as a source, which gives its means."""
        if self._overview is None:
            top, channels = self.pyramid.grid.n_levels - 1, self.pyramid.channels
            whole = self.pyramid.grid.level_box(top)
            cells = np.empty((*whole.shape, channels), np.float32)
            for strip in self.pyramid.strips(top):
                whole.crop(cells, strip)[...] = self.pyramid.decode(strip, top).cpu().numpy()
            signal = Signal("float32", channels, 0.0, 1.0, self.signal.mode)
            self._overview = ArraySource(cells, signal, self.pyramid.inputs.device)
        return self._overview

    def _picture(self, plane: Plane, cells: Tensor) -> np.ndarray:
        """Cells of a box that is one cell thick, for looking at."""
        cells = cells.reshape(*plane.of(cells.shape[:-1]), -1)
        picture = colour(cells, self.signal.mode)
        if self.signal.mode in ("RGBA", "grey+alpha"):
            picture = torch.cat([picture, cells[..., -1:].clamp(0, 1)], -1)
        return to_uint8(picture)


def error_ramp() -> np.ndarray:
    """The colours of errors from none to the scale, uint8 RGB [256, 3]."""
    return cv2.applyColorMap(np.arange(256, dtype=np.uint8), cv2.COLORMAP_INFERNO).reshape(256, 3)[:, ::-1]


def encode(picture: np.ndarray) -> bytes:
    """A PNG of uint8 RGB or RGBA [h, w, c], packed for speed."""
    order = cv2.COLOR_RGB2BGR if picture.shape[-1] == 3 else cv2.COLOR_RGBA2BGRA
    return cv2.imencode(".png", cv2.cvtColor(picture, order), [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()


def _places(start: int, stop: int, per_pixel: int, side: float) -> np.ndarray:
    """The number of the block, `side` pixels wide, at `per_pixel` points in each of the pixels start to stop."""
    return np.floor((np.arange(start * per_pixel, stop * per_pixel) + 0.5) / per_pixel / side).astype(np.int64)


def _outlined(
    active: np.ndarray, spans: list[tuple[int, int]], sides: list[float], sizes: tuple[int, int]
) -> np.ndarray:
    """Alpha of a tile with lines of one pixel around active blocks, which are tinted a little."""
    # One pixel more in front tells where a block begins; a frame of inactive blocks lies around the plane.
    rows, columns = (_places(a - 1, b, 1, side) for (a, b), side in zip(spans, sides, strict=True))
    inside = np.pad(active, 1)[np.ix_(rows + 1, columns + 1)]
    here, above, left = inside[1:, 1:], inside[:-1, 1:], inside[1:, :-1]
    line = (np.diff(rows) > 0)[:, None] & (here | above) | (np.diff(columns) > 0) & (here | left)
    # The plane has no pixel behind its last one to bear the line of its end.
    line[-1:] |= here[-1:] & (spans[0][1] == sizes[0])
    line[:, -1:] |= here[:, -1:] & (spans[1][1] == sizes[1])
    return np.where(line, 235, here * TINT)
