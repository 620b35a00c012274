"""What the viewer's pages ask for: the pages themselves, facts of the model, tiles, surfaces and boxes of blocks."""

import base64
import hashlib
import json
import re
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

from datasets.source import Signal, Source
from models.pyramid import Pyramid
from pictures.levels import level_colour
from viewer.layers import ERROR_SCALES, FINEST_BLOCK_ZOOM, TILE, Layers, Plane, encode, error_ramp
from viewer.scene import boxes_bytes, surface_bytes

HERE = Path(__file__).parent
# The files that are served, by what is asked for: no path of a request ever reaches the file system.
ASSETS = {
    f"/{path}": HERE / path
    for path in (
        "page/plane.js", "page/shape.js", "page/common.js", "page/style.css",
        "vendor/openseadragon/openseadragon.min.js", "vendor/three/three.core.min.js",
        "vendor/three/three.module.min.js", "vendor/three/OrbitControls.js",
    )
}  # fmt: skip
KINDS = {".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".css": "text/css"}
AXES = "zyx"
# Encoded answers kept in memory.
CACHE_BYTES = 2**26

# Layer, axis (- for an image) and cell of the plane, level, number of the error's scale, zoom, x_y.
TILES = re.compile(
    r"/tiles/(model|source|error|blocks)/([-zyx])/(\d{1,9})/(\d{1,2})/(\d)/(-?\d{1,2})/(\d{1,7})_(\d{1,7})\.png",
    re.ASCII,
)
SCENE = re.compile(r"/(surface|boxes)/(\d{1,2})\.bin", re.ASCII)


class Site:
    """Answers paths. Tiles and surfaces are made one at a time, and the last ones are kept.

    Args:
        name: of the model, for the title.
        about: its facts (models.model_file.load).
        source: what it was fitted to, of the same shape and signal; None if it is not at hand.
        tile: pixels of a tile along both axes.
    """

    def __init__(
        self, name: str, pyramid: Pyramid, about: dict[str, Any], source: Source | None = None, tile: int = TILE
    ):
        self.name, self.pyramid, self.bounds, self.source = name, pyramid, about.get("bounds"), source
        self.signal = Signal(**about["signal"])
        self.layers = Layers(pyramid, self.signal, source, tile)
        self.is_shape = self.signal.mode == "occupancy"
        self._working = threading.Lock()
        self._made: OrderedDict[str, tuple[str, bytes]] = OrderedDict()
        self._made_bytes = 0

    @property
    def policy(self) -> str:
        """The Content-Security-Policy: nothing from elsewhere, and no inline script but the map of modules."""
        modules = re.search(r'<script type="importmap">(.*?)</script>', (HERE / "page/shape.html").read_text(), re.S)
        digest = base64.b64encode(hashlib.sha256(modules[1].encode()).digest()).decode()
        return (
            f"default-src 'self'; script-src 'self' 'sha256-{digest}'; style-src 'self' 'unsafe-inline'; "
            "img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )

    def answer(self, path: str) -> tuple[str, bytes] | None:
        """Media type and body of what lies at a path; None where nothing does."""
        if path in ASSETS:
            return _file(ASSETS[path])
        if path == "/" or (path == "/slices" and self.is_shape):
            return _file(HERE / "page" / ("shape.html" if self.is_shape and path == "/" else "plane.html"))
        if path == "/about.json":
            return "application/json", json.dumps(self.facts()).encode()
        if path in self._made or self._exists(path):
            return self._kept(path)
        return None

    def facts(self) -> dict[str, Any]:
        """What the pages have to know; sizes are X Y (Z)."""
        grid = self.pyramid.grid
        networks = [self.pyramid.level(level) for level in range(grid.n_levels)]
        return {
            "name": self.name,
            "mode": self.signal.mode,
            "dtype": self.signal.dtype,
            "peak": self.signal.high if self.signal.dtype.startswith("uint") else None,
            "size": grid.shape[::-1],
            "params": self.pyramid.n_params,
            "levels": [
                {
                    "size": grid.level_box(level).stop[::-1],
                    "blocks": grid.n_blocks(level),
                    "active": 0 if found is None else len(found),
                    "colour": "#{:02x}{:02x}{:02x}".format(*level_colour(level)),
                }
                for level, found in enumerate(networks)
            ],
            "planes": [
                {
                    "axis": "-" if plane.axis is None else AXES[plane.axis],
                    "cells": 1 if plane.axis is None else grid.shape[plane.axis],
                    "size": plane.of(grid.shape)[::-1],
                    "zooms": self.layers.coarsest_zoom(plane),
                }
                for plane in self.layers.planes
            ],
            "tile": self.layers.tile,
            "block_zoom": FINEST_BLOCK_ZOOM,
            "source": self.source is not None,
            "scales": ERROR_SCALES,
            "ramp": ["#{:02x}{:02x}{:02x}".format(*row) for row in error_ramp()[::15]],
            "bounds": self.bounds if self.is_shape else None,
        }

    def _exists(self, path: str) -> bool:
        """Whether a path names a tile, a surface or boxes that can be made."""
        grid = self.pyramid.grid
        if match := SCENE.fullmatch(path):
            return self.is_shape and int(match[2]) < grid.n_levels
        if not (match := TILES.fullmatch(path)):
            return False
        layer, plane, level, scale, zoom, x, y = _tile(match)
        if (plane.axis is None) != (grid.ndim == 2) or level >= grid.n_levels or scale >= len(ERROR_SCALES):
            return False
        if plane.axis is not None and plane.index >= grid.shape[plane.axis]:
            return False
        if layer in ("source", "error") and self.source is None:
            return False
        finest = FINEST_BLOCK_ZOOM if layer == "blocks" else 0
        if not finest <= zoom <= self.layers.coarsest_zoom(plane):
            return False
        height, width = self.layers.size(plane, zoom)
        return x * self.layers.tile < width and y * self.layers.tile < height

    def _kept(self, path: str) -> tuple[str, bytes]:
        with self._working:
            found = self._made.pop(path, None) or self._make(path)
            self._made[path] = found
            self._made_bytes = sum(len(body) for _, body in self._made.values())
            while self._made_bytes > CACHE_BYTES and len(self._made) > 1:
                self._made_bytes -= len(self._made.popitem(last=False)[1][1])
        return found

    def _make(self, path: str) -> tuple[str, bytes]:
        if match := SCENE.fullmatch(path):
            make = surface_bytes if match[1] == "surface" else boxes_bytes
            return "application/octet-stream", make(self.pyramid, self.bounds, int(match[2]))
        layer, plane, level, scale, *place = _tile(TILES.fullmatch(path))
        if layer == "model":
            picture = self.layers.model(plane, *place, stop=level)
        elif layer == "source":
            picture = self.layers.truth(plane, *place)
        elif layer == "error":
            picture = self.layers.error(plane, *place, stop=level, scale=ERROR_SCALES[scale])
        else:
            picture = self.layers.blocks(plane, *place, level=level)
        return "image/png", encode(picture)


def _tile(match: re.Match) -> tuple[str, Plane, int, int, int, int, int]:
    """Layer, plane, level, scale, zoom, x and y of a tile's path."""
    layer, axis, *numbers = match.groups()
    index, *rest = map(int, numbers)
    return layer, Plane(None if axis == "-" else AXES.index(axis), index), *rest


def _file(path: Path) -> tuple[str, bytes]:
    return KINDS[path.suffix], path.read_bytes()
