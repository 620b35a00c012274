"""A procedurally generated sample picture: the surface of a cold planet, at any size up to gigapixels.

Every pixel is a pure function of its position and of the picture's size, so that any region can be rendered alone.
Lengths are in units of the side of a square with the picture's area; the origin is the centre of the picture.
The relief is built in two layers: a coarse one, sampled every `STEP` pixels, that can afford domain warping and
eroded noise, and a fine one, sampled at every pixel, made of separable splines and small craters. Only additions,
multiplications, divisions, roots and integer hashes are used: these round alike wherever an array begins or ends.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from operator import index

import numpy as np

MAX_SIZE = 65536
# Pixels between the samples of the coarse layer, and side in pixels of the squares that are rendered one at a time.
STEP = 4
TILE = 384
MAX_THREADS = 8
# Each crater scale has cells this much smaller than the one before, from the largest one on.
LARGEST_CELL, CELL_RATIO = 0.6, 0.62
# Position offsets that choose the landscape: everything else follows from them.
ORIGIN = (31.5, 18.6)


def _hash(x, y, seed):
    """Mix integer lattice coordinates and a seed into 32 random bits."""
    bits = x.astype(np.uint32) * np.uint32(0x8DA6B343) ^ y.astype(np.uint32) * np.uint32(0xD8163841)
    bits = bits ^ np.uint32(seed * 0xCB1AB31F & 0xFFFFFFFF)
    bits = (bits ^ (bits >> np.uint32(15))) * np.uint32(0x2C1B3C6D)
    bits = (bits ^ (bits >> np.uint32(12))) * np.uint32(0x297A2D39)
    return bits ^ (bits >> np.uint32(15))


def _uniform(bits, shift=0):
    """Take 12 of the random bits as a number in [0, 1)."""
    return ((bits >> np.uint32(shift)) & np.uint32(0xFFF)).astype(np.float32) * np.float32(1 / 4096)


def _smoothstep(low, high, value):
    t = np.clip((value - low) * (1 / (high - low)), 0, 1)
    return t * t * (3 - 2 * t)


def _mix(first, second, weight):
    return first + (second - first) * weight


def _gradient_noise(x, y, seed):
    """Return Perlin gradient noise, about within [-1, 1], and its two derivatives."""
    x0, y0 = np.floor(x), np.floor(y)
    x, y, i, j = x - x0, y - y0, x0.astype(np.int32), y0.astype(np.int32)
    a, b, c, d = ((_hash(i + di, j + dj, seed), di, dj) for dj in (0, 1) for di in (0, 1))
    gradients = []
    for bits, di, dj in (a, b, c, d):
        gx = (bits & np.uint32(0xFFFF)).astype(np.float32) * np.float32(1 / 16384) - 2
        gy = (bits >> np.uint32(16)).astype(np.float32) * np.float32(1 / 16384) - 2
        gradients.append((gx * (x - di) + gy * (y - dj), gx, gy))
    ux, uy = x * x * x * (x * (x * 6 - 15) + 10), y * y * y * (y * (y * 6 - 15) + 10)
    bilinear = []
    for va, vb, vc, vd in zip(*gradients, strict=True):
        bilinear.append((va, vb - va, vc - va, va - vb - vc + vd))
    value, gx, gy = (va + ux * vb + uy * (vc + ux * vd) for va, vb, vc, vd in bilinear)
    _, vb, vc, vd = bilinear[0]
    dux, duy = 30 * x * x * (x * (x - 2) + 1), 30 * y * y * (y * (y - 2) + 1)
    return value, gx + dux * (vb + uy * vd), gy + duy * (vc + ux * vd)


def _octaves(x, y, seed, frequency, pixel):
    """Yield amplitude and gradient noise of the octaves from `frequency` up to what the coarse layer resolves."""
    x, y, amplitude = x * np.float32(frequency), y * np.float32(frequency), 1
    while amplitude == 1 or frequency * pixel * 2 * STEP < 1:
        yield np.float32(amplitude), *_gradient_noise(x, y, seed)
        # A rotation between octaves hides the lattice.
        x, y = x * np.float32(1.6) - y * np.float32(1.2), x * np.float32(1.2) + y * np.float32(1.6)
        frequency, amplitude, seed = frequency * 2, amplitude * 0.48, seed + 1


def _fbm(x, y, seed, frequency, pixel, octaves=16):
    """Sum octaves of gradient noise, amplitudes halving."""
    return sum(amplitude * noise for amplitude, noise, _, _ in islice(_octaves(x, y, seed, frequency, pixel), octaves))


def _eroded(x, y, seed, frequency, pixel):
    """Sum octaves of gradient noise damped where the slopes are steep already: crests and smooth valleys."""
    total, slope_x, slope_y = 0, 0, 0
    for amplitude, noise, gx, gy in _octaves(x, y, seed, frequency, pixel):
        # The fold of the noise at zero becomes a crest, a little rounded.
        fold = np.sqrt(noise * noise + np.float32(0.004))
        slope_x = np.float32(0.7) * slope_x + gx * noise / fold
        slope_y = np.float32(0.7) * slope_y + gy * noise / fold
        steepness = slope_x * slope_x + slope_y * slope_y
        total = total + (1 - 2 * fold) * amplitude / (1 + 0.3 * steepness)
    return total


def _spline(position):
    """Return the first of four neighbours and the cubic B-spline weights [4, n] of each position [n]."""
    base = np.floor(position)
    t = position - base
    weights = [(1 - t) * (1 - t) * (1 - t), (3 * t - 6) * t * t + 4, ((3 - 3 * t) * t + 3) * t + 1, t * t * t]
    return base.astype(np.int64) - 1, (np.stack(weights) / 6).astype(np.float32)


def _interpolate(lattice, rows, columns):
    """Evaluate the cubic B-spline with coefficients [m, n] at the product of two `_spline` results."""
    (i, wi), (j, wj) = rows, columns
    across = sum(lattice[:, j + k] * wj[k] for k in range(4))
    return sum(across[i + k] * wi[k][:, None] for k in range(4))


def _spline_noise(y, x, seed):
    """Return smooth value noise, about within [-1, 1], at the product of lattice positions y and x."""
    (i, wi), (j, wj) = _spline(y), _spline(x)
    lattice = _hash(np.arange(j[0], j[-1] + 4)[None, :], np.arange(i[0], i[-1] + 4)[:, None], seed)
    return _interpolate(_uniform(lattice) * 4 - 2, (i - i[0], wi), (j - j[0], wj))


def _craters(x, y, cell, seed):
    """Return height and freshness of ejecta of craters, at most one in each square of side `cell`."""
    x, y = x * np.float32(1 / cell), y * np.float32(1 / cell)
    i, j = np.floor(x), np.floor(y)
    bits = _hash(i.astype(np.int32), j.astype(np.int32), seed)
    radius = 0.08 + 0.14 * _uniform(bits)
    other = _hash(i.astype(np.int32), j.astype(np.int32), seed + 1)
    room = 1 - 4.4 * radius
    dx = x - i - 2.2 * radius - room * _uniform(bits, 12)
    dy = y - j - 2.2 * radius - room * _uniform(other)
    t = np.sqrt(dx * dx + dy * dy) / radius
    age = _uniform(other, 12)
    freshness = np.square(np.maximum(0, 1 - 1.5 * age))
    bowl = np.maximum(t * t * 1.3 - 1.05, -0.75 + 0.2 * age)
    apron = np.clip((2.2 - t) * (1 / 1.2), 0, 1)
    rim = 0.25 * apron * apron * apron
    height = np.where(t < 1, bowl, rim) * radius * (0.02 + 0.65 * freshness)
    return height * np.float32(cell), apron * apron * freshness


def _crater_scales(smallest, largest):
    """Yield cell side and seed of the crater scales with smallest < cell <= largest."""
    cell, seed = LARGEST_CELL, 300
    while cell > smallest:
        if cell <= largest:
            yield cell, seed
        cell, seed = cell * CELL_RATIO, seed + 2


def _coarse(y, x, pixel):
    """Return the fields [5, m, n] of the coarse layer at positions y [m] and x [n].

    They are height, roughness, depth of the sea, dust (dark to red) and brightness (ejecta; less the sea's cracks).
    """
    x, y = np.meshgrid((x + ORIGIN[0]).astype(np.float32), (y + ORIGIN[1]).astype(np.float32))
    warp_x, warp_y = (_fbm(x, y, seed, 2.3, pixel, 5) for seed in (100, 120))
    wx, wy = x + 0.11 * warp_x, y + 0.11 * warp_y
    continent = _fbm(wx, wy, 140, 1.7, pixel) + 0.33
    depth = -continent
    land = _smoothstep(-0.02, 0.08, continent)
    highland = _smoothstep(0.1, 0.7, continent + 0.4 * warp_y)
    mountains = _eroded(x + 0.05 * warp_x, y + 0.05 * warp_y, 160, 4.1, pixel)
    height = 0.02 * _smoothstep(-0.03, 0.2, continent) + 0.02 * highland
    height = height + (0.005 + 0.025 * highland) * land * (mountains + 0.2)
    # Canyons follow the zero line of a warped noise, down from a plateau's edge to a flat floor.
    line = np.abs(_fbm(wx, wy, 180, 1.9, pixel, 9))
    canyon = land * (1 - _smoothstep(0.02, 0.075, line))
    height = height - 0.016 * canyon
    dust = _fbm(wx, wy, 200, 2.9, pixel, 9)
    # Young plains have lost their craters.
    old = land * _smoothstep(-0.5, 0.3, dust + warp_x)
    ejecta = 0
    jitter_x, jitter_y = x + 0.006 * warp_x, y + 0.006 * warp_y
    for cell, seed in _crater_scales(24 * STEP * pixel, np.inf):
        bowl, apron = _craters(jitter_x + np.float32(0.37 * cell), jitter_y, cell, seed)
        height, ejecta = height + bowl * old, ejecta + apron * old
    # Cracks in the sea's ice are the zero lines of noises, never thinner than what this layer resolves.
    cracks = 0
    for seed, frequency, width in ((400, 2.5, 0.004), (420, 6.0, 0.002)):
        resolved = max(width, 1.6 * STEP * pixel)
        line = _fbm(wx, wy, seed, frequency, pixel, 7) * np.float32(1 / (frequency * resolved))
        cracks = cracks + np.float32(width / resolved) / (1 + line * line)
    rough = land * (0.6 + 0.4 * _smoothstep(-0.3, 0.6, dust + mountains * highland))
    return np.stack([height, rough, depth, dust, ejecta - cracks * (1 - land)])


def _fine(rough, y, x, pixel):
    """Return the height [m, n] that the coarse layer cannot resolve: rock texture and small craters."""
    # Larger pictures need more texture, since their slopes at many more scales dim what the finest ones add.
    contrast = 0.59 * pixel * (0.002 / pixel) ** 0.18
    height = 0
    for spacing, seed in ((5.7 * pixel, 500), (2.8 * pixel, 501)):
        height = height + np.float32(contrast) * rough * _spline_noise(y / spacing, x / spacing, seed)
    x, y = np.meshgrid((x + ORIGIN[0]).astype(np.float32), (y + ORIGIN[1]).astype(np.float32))
    for cell, seed in _crater_scales(14 * pixel, 24 * STEP * pixel):
        bowl, _ = _craters(x + np.float32(0.37 * cell), y, cell, seed)
        height = height + bowl * np.minimum(1, 2 * rough)
    return height


def _colour(height, relief, depth, dust, ejecta, pixel):
    """Paint fields [m + 2, n + 2] as light in [0, 1], [m, n, 3]."""
    gx = (height[1:-1, 2:] - height[1:-1, :-2]) * np.float32(0.5 / pixel)
    gy = (height[2:, 1:-1] - height[:-2, 1:-1]) * np.float32(0.5 / pixel)
    height, relief, depth, dust, ejecta = (f[1:-1, 1:-1] for f in (height, relief, depth, dust, ejecta))
    # The sun stands in the upper left, its shadows are soft, and the sky lights them from the other side.
    norm = 1 / np.sqrt(1 + 0.8 * (gx * gx + gy * gy))
    slope = 0.6 * gx + 0.5 * gy
    light = (0.6 + slope) * norm
    light = 0.5 * (light + np.sqrt(light * light + np.float32(0.03)))
    fill = (1 - 0.45 * slope) * norm
    # Small hollows are darker, small rises brighter.
    cavity = 1 + np.clip(relief * np.float32(0.09 / pixel), -0.3, 0.3)
    sea = _smoothstep(-0.012, 0.012, depth)
    red = _smoothstep(-0.6, 0.7, dust)
    pale = _smoothstep(0.02, 0.075, height)
    snow = _smoothstep(0.058, 0.072, height + 0.014 * dust)
    deep = _smoothstep(0, 0.42, depth)
    bright, cracks = np.clip(ejecta, 0, 1), np.clip(-ejecta, 0, 1) * 0.5
    image = np.empty((*light.shape, 3), np.float32)
    palette = zip(
        (0.36, 0.30, 0.31),
        (0.64, 0.36, 0.22),
        (0.82, 0.66, 0.48),
        (0.90, 0.94, 0.98),
        (0.66, 0.84, 0.84),
        (0.04, 0.17, 0.27),
        (0.85, 0.94, 0.95),
        (0.25, 0.29, 0.38),
        (1.08, 1.00, 0.87),
        strict=True,
    )
    for channel, (umber, rust, cream, white, shore, abyss, crack, sky, sun) in enumerate(palette):
        ground = _mix(umber, rust, red)
        ground = _mix(ground, cream, pale * 0.8)
        ground = _mix(ground, cream, bright * 0.5)
        ground = _mix(ground, white, snow)
        ground = _mix(ground, _mix(_mix(shore, abyss, deep), crack, cracks), sea)
        ground = ground * cavity * (sky * fill + sun * light)
        # A soft shoulder keeps the snow from clipping.
        image[..., channel] = ground * (1.14 - 0.25 * ground)
    return image


def _tile(height, width, y0, y1, x0, x1):
    """Render rows y0 to y1 and columns x0 to x1 as uint8 [y1 - y0, x1 - x0, 3]."""
    pixel = (height * width) ** -0.5
    rows, columns = np.arange(y0 - 1, y1 + 1), np.arange(x0 - 1, x1 + 1)
    (i, wi), (j, wj) = _spline(rows / STEP), _spline(columns / STEP)
    y = (np.arange(i[0], i[-1] + 4) * STEP + 0.5 - height / 2) * pixel
    x = (np.arange(j[0], j[-1] + 4) * STEP + 0.5 - width / 2) * pixel
    fields = [_interpolate(field, (i - i[0], wi), (j - j[0], wj)) for field in _coarse(y, x, pixel)]
    y, x = (rows + 0.5 - height / 2) * pixel, (columns + 0.5 - width / 2) * pixel
    relief = _fine(fields[1], y, x, pixel)
    return (np.clip(_colour(fields[0] + relief, relief, *fields[2:], pixel), 0, 1) * 255 + 0.5).astype(np.uint8)


def _interval(name, interval, size):
    """Check a half-open interval of rows or columns; None means all of them."""
    start, stop = (0, size) if interval is None else (index(end) for end in interval)
    if not 0 <= start < stop <= size:
        raise ValueError(f"{name} must satisfy 0 <= start < stop <= {size}, got ({start}, {stop})")
    return start, stop


def planet(
    height: int, width: int, rows: tuple[int, int] | None = None, columns: tuple[int, int] | None = None
) -> np.ndarray:
    """Render the sample picture, or a region of it: frozen seas, canyons, craters and snow under a low sun.

    Every size shows the same landscape, placed relative to the centre of the picture, with detail down to the pixel.

    Args:
        height, width: size of the whole picture in pixels, 1 to 65536 each.
        rows, columns: half-open intervals (start, stop) of the pixels to render; None renders all of them.

    Returns:
        uint8 [rows, columns, 3], RGB. A region equals the crop of the whole picture bit for bit. Beyond the result
        itself, rendering needs some 50 MB per thread, whatever the size.

    Raises:
        ValueError: the size is out of range, or an interval is empty or leaves the picture.
    """
    height, width = index(height), index(width)
    if not (1 <= height <= MAX_SIZE and 1 <= width <= MAX_SIZE):
        raise ValueError(f"height and width must be 1 to {MAX_SIZE} pixels, got {height} and {width}")
    y0, y1 = _interval("rows", rows, height)
    x0, x1 = _interval("columns", columns, width)
    out = np.empty((y1 - y0, x1 - x0, 3), np.uint8)

    def render(corner):
        top, left = corner
        bottom, right = min(top + TILE, y1), min(left + TILE, x1)
        out[top - y0 : bottom - y0, left - x0 : right - x0] = _tile(height, width, top, bottom, left, right)

    # Threads do help, since numpy releases the interpreter's lock.
    with ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1)) as pool:
        for _ in pool.map(render, [(top, left) for top in range(y0, y1, TILE) for left in range(x0, x1, TILE)]):
            pass
    return out


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A picture of random pixels, uint8 [height, width, 3]: every channel of every pixel is drawn by itself."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
