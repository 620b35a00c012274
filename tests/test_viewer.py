"""The viewer's tiles, scenes and paths, without a server and without a browser."""

import json
import struct

import cv2
import numpy as np
import pytest
import torch
from conftest import random_pyramid

from datasets.grid import Box, Grid, up
from datasets.source import ArraySource, Signal
from pictures.levels import level_colour, to_uint8
from viewer.layers import ERROR_SCALES, TINT, Layers, Plane, error_ramp
from viewer.scene import boxes_bytes
from viewer.site import ASSETS, CACHE_BYTES, Site

GRID = Grid((75, 130), (8, 16), 3)
VOLUME = Grid((9, 20, 33), (4, 8, 8), 2)
BOUNDS = ((0.0, 0.0, 0.0), (33.0, 20.0, 9.0))


def make(grid=GRID, channels=3, mode="RGB"):
    """A random pyramid, its facts, and an unrelated source of the same signal."""
    signal = Signal("uint8", channels, 0.0, 255.0, mode)
    array = np.random.default_rng(1).integers(0, 256, (*grid.shape, channels)).astype(np.uint8)
    about = {"signal": vars(signal), "bounds": BOUNDS}
    return random_pyramid(grid, channels), about, ArraySource(array, signal)


def site(grid=GRID, channels=3, mode="RGB", with_source=True):
    pyramid, about, source = make(grid, channels, mode)
    return Site("m", pyramid, about, source if with_source else None, tile=32)


def picture(answer):
    kind, body = answer
    assert kind == "image/png"
    found = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_UNCHANGED)
    return cv2.cvtColor(found, cv2.COLOR_BGR2RGB if found.shape[2] == 3 else cv2.COLOR_BGRA2RGBA)


def whole(found, layer, zoom, level=0, scale=0, plane="-/0", grid=GRID):
    """All tiles of a zoom, put together."""
    height, width = (-(-n // 2**zoom) for n in grid.shape[-2:])
    rows = []
    for y in range(-(-height // 32)):
        row = [
            picture(found.answer(f"/tiles/{layer}/{plane}/{level}/{scale}/{zoom}/{x}_{y}.png"))
            for x in range(-(-width // 32))
        ]
        rows.append(np.concatenate(row, 1))
    return np.concatenate(rows)


@pytest.mark.parametrize("zoom", [0, 1, 2])
def test_tiles_put_together_are_the_decode(zoom):
    found = site()
    assert np.array_equal(whole(found, "model", zoom), to_uint8(found.pyramid.decode(level=zoom)))


def test_beyond_the_coarsest_level_tiles_are_its_means():
    found = site()
    mean = ArraySource(found.pyramid.decode(level=2).numpy(), Signal("float32", 3, 0.0, 1.0, "RGB")).read(
        Box((0, 0), (10, 17)), 1
    )
    assert np.array_equal(whole(found, "model", 3), to_uint8(mean))


def test_a_coarser_level_is_shown_in_the_size_of_the_finest():
    found = site()
    values = found.pyramid.decode(level=2)
    for level in (1, 0):
        box, edge = GRID.level_box(level), GRID.level_box(level + 1)
        values = up(values, edge, box, edge)
    assert np.array_equal(whole(found, "model", 0, level=2), to_uint8(values))
    assert np.array_equal(whole(found, "model", 2, level=0), whole(found, "model", 2, level=2))


def test_errors_are_the_mean_over_channels_in_the_colours_of_the_ramp():
    found = site()
    gap = (found.source.read(GRID.level_box(1), 1) - found.pyramid.decode(level=1)).abs().mean(-1)
    index = (gap / ERROR_SCALES[6] * 255).clamp(0, 255).round().to(torch.uint8)
    assert np.array_equal(whole(found, "error", 1, scale=6), error_ramp()[index.numpy()])


def test_no_error_is_the_first_colour():
    pyramid, about, _ = make()
    truth = ArraySource(pyramid.decode().numpy(), Signal("float32", 3, 0.0, 1.0, "RGB"))
    assert (whole(Site("m", pyramid, about, truth, tile=32), "error", 0) == error_ramp()[0]).all()


def test_the_source_is_shown_as_it_is():
    found = site()
    assert np.array_equal(whole(found, "source", 0), found.source.cells.numpy())


@pytest.mark.parametrize(
    ("mode", "channels", "shown"), [("grey", 1, 3), ("grey+alpha", 2, 4), ("RGBA", 4, 4), ("CMYK", 4, 3)]
)
def test_every_mode_has_a_picture_and_alpha_stays_alpha(mode, channels, shown):
    found = site(channels=channels, mode=mode)
    tiles = whole(found, "source", 0)
    assert tiles.shape == (*GRID.shape, shown)
    if shown == 4:
        assert np.array_equal(tiles[..., 3], found.source.cells.numpy()[..., -1])


@pytest.mark.parametrize("level", range(3))
def test_blocks_are_outlined_where_they_have_a_network(level):
    found = site()
    tiles = whole(found, "blocks", 0, level=level)
    height, width = (side * 2**level for side in GRID.patch)
    active = found.layers.active_blocks(level)
    assert 0 < active.sum() < active.size
    for (row, column), has in np.ndenumerate(active):
        block = tiles[row * height : (row + 1) * height, column * width : (column + 1) * width]
        # The middle is tinted, and the first row and column are lines; a block cut at the edge may have no middle.
        middle = block[1:-1, 1:-1, 3]
        assert not middle.size or (middle.max() > 0) == has
        assert not has or (block[0, :, 3].min() > 200 and block[:, 0, 3].min() > 200)
        assert (block[..., :3] == level_colour(level)).all()


def test_small_blocks_are_tinted_by_their_share():
    found = site()
    alpha = whole(found, "blocks", 3, level=0)[..., 3].astype(float)
    active = found.layers.active_blocks(0)
    # At zoom 3 a block of 8 x 16 cells is 1 x 2 pixels.
    assert np.array_equal(alpha > 0, np.repeat(active, 2, 1)[:10, :17])


def test_magnified_blocks_have_thin_lines():
    found = site()
    tile = picture(found.answer("/tiles/blocks/-/0/0/0/-4/0_0.png"))
    assert tile.shape == (32, 32, 4) and set(np.unique(tile[1:, 1:, 3])) <= {0, TINT}


@pytest.mark.parametrize(("axis", "name"), [(0, "z"), (1, "y"), (2, "x")])
def test_slices_of_a_volume_are_slices_of_the_decode(axis, name):
    found = site(VOLUME, 1, "volume")
    values = to_uint8(found.pyramid.decode())[..., 0]
    tile = picture(found.answer(f"/tiles/model/{name}/7/0/0/0/0_0.png"))
    assert np.array_equal(tile[..., 0], values.take(7, axis)[:32, :32])
    coarse = picture(found.answer(f"/tiles/model/{name}/7/1/0/0/0_0.png"))
    assert coarse.shape == tile.shape and not np.array_equal(coarse, tile)
    active = found.layers.active_blocks(0).take(7 // VOLUME.patch[axis], axis)
    blocks = picture(found.answer(f"/tiles/blocks/{name}/7/0/0/0/0_0.png"))
    assert (blocks[..., 3] > 0).any() == active.any()


def test_boxes_lie_around_their_blocks_and_end_at_the_grid():
    pyramid, *_ = make(VOLUME, 1)
    for level in range(2):
        boxes = np.frombuffer(boxes_bytes(pyramid, BOUNDS, level), "<f4").reshape(-1, 2, 3)
        ids = pyramid.level(level).blocks.numpy()
        index = np.stack(np.unravel_index(ids, VOLUME.block_counts(level)), -1)[:, ::-1]
        side = np.array(VOLUME.patch[::-1]) * 2**level
        assert np.array_equal(boxes[:, 0], index * side)
        assert np.array_equal(boxes[:, 1], np.minimum((index + 1) * side, VOLUME.shape[::-1]))


def test_a_surface_comes_with_its_counts():
    found = site(VOLUME, 1, "occupancy")
    kind, body = found.answer("/surface/1.bin")
    vertices, faces = struct.unpack("<II", body[:8])
    assert kind == "application/octet-stream" and len(body) == 8 + 12 * (vertices + faces)
    indices = np.frombuffer(body[8 + 12 * vertices :], "<u4")
    assert vertices and indices.max() == vertices - 1


def test_an_empty_shape_has_neither_surface_nor_boxes():
    pyramid, about, _ = make(VOLUME, 1, "occupancy")
    pyramid.levels.clear()
    found = Site("m", pyramid, about)
    assert found.answer("/surface/0.bin")[1] == bytes(8)
    assert found.answer("/boxes/0.bin")[1] == b""


def test_facts_are_json_and_name_every_level():
    kind, body = site().answer("/about.json")
    facts = json.loads(body)
    assert kind == "application/json" and facts["size"] == [130, 75] and facts["source"] is True
    assert [level["size"] for level in facts["levels"]] == [[130, 75], [65, 38], [33, 19]]
    assert all(0 < level["active"] < level["blocks"] for level in facts["levels"])


def test_every_asset_is_there():
    found = site()
    assert all(found.answer(path)[1] for path in ASSETS)
    assert b"plane.js" in found.answer("/")[1] and found.answer("/slices") is None
    shape = site(VOLUME, 1, "occupancy")
    assert b"shape.js" in shape.answer("/")[1] and b"plane.js" in shape.answer("/slices")[1]


HOSTILE = [
    "", "x", "//", "/.", "/..", "/../utils.py", "/page/../site.py", "/page/", "/page/..%2f..%2futils.py", "/site.py",
    "/vendor/README.md", "/page/plane.js/", "/page/plane.js\0", "/etc/passwd", "http://127.0.0.1/",
    "/tiles/model/-/0/0/0/0/0_0.png\n", "/tiles/model/-/0/0/0/0/0_0.pngx", "/tiles/model/-/0/0/0/-1/0_0.png",
    "/tiles/model/-/0/0/0/0/5_0.png", "/tiles/model/-/0/0/0/0/0_3.png", "/tiles/model/-/0/0/0/4/0_0.png",
    "/tiles/model/-/0/3/0/0/0_0.png", "/tiles/model/z/0/0/0/0/0_0.png", "/tiles/error/-/0/0/8/0/0_0.png",
    "/tiles/model/-/0/0/0/0/\uff10_0.png", "/tiles/model/-/0/0/0/0/00000000000000000001_0.png",
    "/tiles/blocks/-/0/0/0/-5/0_0.png", "/tiles/blocks/-/0/0/0/-99/0_0.png", "/surface/0.bin", "/boxes/0.bin",
]  # fmt: skip


@pytest.mark.parametrize("path", HOSTILE)
def test_nothing_else_is_answered(path):
    assert site().answer(path) is None


@pytest.mark.parametrize(
    "path", ["/tiles/model/-/0/0/0/0/0_0.png", "/tiles/model/z/9/0/0/0/0_0.png", "/surface/2.bin", "/boxes/99.bin"]
)
def test_a_volume_has_slices_and_its_own_levels_only(path):
    assert site(VOLUME, 1, "occupancy").answer(path) is None


@pytest.mark.parametrize("layer", ["source", "error"])
def test_without_a_source_there_is_none(layer):
    assert site(with_source=False).answer(f"/tiles/{layer}/-/0/0/0/0/0_0.png") is None


def test_the_same_tile_is_made_once_and_the_cache_is_bounded(monkeypatch):
    found = site()
    made = []
    monkeypatch.setattr(found, "_make", lambda path: made.append(path) or ("image/png", bytes(CACHE_BYTES // 4)))
    paths = [f"/tiles/model/-/0/0/0/0/{x}_{y}.png" for x in range(4) for y in range(2)]
    for path in (paths[0], paths[0], *paths, paths[-1]):
        found.answer(path)
    assert made == paths
    found.answer(paths[0])
    assert made == [*paths, paths[0]]


def test_planes_are_found_by_the_axes_that_are_left():
    assert Plane(1, 8).of((3, 4, 5)) == (3, 5)
    assert Plane(1, 9).box((0, 2), (3, 5), 2) == Box((0, 2, 3), (2, 3, 5))
    assert Layers(*make(VOLUME, 1, "volume")[:1], Signal("uint8", 1, 0.0, 255.0, "volume")).size(Plane(0), 1) == (
        10,
        17,
    )
