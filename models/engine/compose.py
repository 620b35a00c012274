"""Putting a region together on the GPU, in one launch: upsampling, the blocks' pieces, clipping.

The specification is ReferenceEngine.compose. A program makes up to ELEMENTS numbers of one line of cells along x, all
channels; a line of a volume is a (z, y). Every number is the same sum of the same neighbours whatever the region.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from models.engine.contract import Window

ELEMENTS = 1024


@triton.jit
def _near_far(i, first, edge):
    """The cell of the coarser level that a cell lies in and its next one, counted from `first`."""
    near = i // 2
    far = tl.minimum(tl.maximum(near + (i % 2) * 2 - 1, 0), edge - 1)
    return near - first, far - first


@triton.jit
def _between(near, far):
    return near * 0.75 + far * 0.25


@triton.jit(
    do_not_specialize=[
        "height", "width", "z0", "y0", "x0", "cz", "cy", "cx", "ez", "ey", "ex", "ch", "cw", "bz", "by", "bx",
        "bh", "bw",
    ],
    do_not_specialize_on_alignment=["coarse", "pieces", "slots", "out"],
)  # fmt: skip
def _compose(
    coarse,  # [cells of the coarser level, c] float32
    pieces,  # [m, c, p] float32
    slots,  # [blocks] int32, the piece of each block, or -1
    out,  # [depth, height, width, c] float32
    height, width,
    z0, y0, x0,  # the region's first cell
    cz, cy, cx, ch, cw,  # the first cell of `coarse`, and its height and width
    ez, ey, ex,  # cells of the coarser level
    bz, by, bx, bh, bw,  # the first block of `slots`, and their height and width
    CHANNELS: tl.constexpr, PZ: tl.constexpr, PY: tl.constexpr, PX: tl.constexpr, VOLUME: tl.constexpr,
    COARSE: tl.constexpr, PIECES: tl.constexpr, REPLACE: tl.constexpr, ELEMENTS: tl.constexpr,
):  # fmt: skip
    line = tl.program_id(0)
    z, y = z0 + line // height, y0 + line % height
    element = tl.program_id(1) * ELEMENTS + tl.arange(0, ELEMENTS)
    inside = element < width * CHANNELS
    x, channel = x0 + element // CHANNELS, element % CHANNELS

    value = tl.zeros((ELEMENTS,), tl.float32)
    if COARSE:
        nz, fz = _near_far(z, cz, ez)
        ny, fy = _near_far(y, cy, ey)
        nx, fx = _near_far(x, cx, ex)
        near, far = nx * CHANNELS + channel, fx * CHANNELS + channel
        line_size = cw * CHANNELS
        near_line = coarse + (nz.to(tl.int64) * ch + ny) * line_size
        far_line = coarse + (nz.to(tl.int64) * ch + fy) * line_size
        if VOLUME:
            # Along z first, as the specification has it.
            step = (fz - nz).to(tl.int64) * ch * line_size
            nn = _between(tl.load(near_line + near, inside, 0.0), tl.load(near_line + step + near, inside, 0.0))
            nf = _between(tl.load(near_line + far, inside, 0.0), tl.load(near_line + step + far, inside, 0.0))
            fn = _between(tl.load(far_line + near, inside, 0.0), tl.load(far_line + step + near, inside, 0.0))
            ff = _between(tl.load(far_line + far, inside, 0.0), tl.load(far_line + step + far, inside, 0.0))
        else:
            nn, nf = tl.load(near_line + near, inside, 0.0), tl.load(near_line + far, inside, 0.0)
            fn, ff = tl.load(far_line + near, inside, 0.0), tl.load(far_line + far, inside, 0.0)
        value = _between(_between(nn, fn), _between(nf, ff))
    if PIECES:
        block = ((z // PZ - bz) * bh + y // PY - by) * bw + x // PX - bx
        slot = tl.load(slots + block, inside, -1)
        cell = ((z % PZ) * PY + y % PY) * PX + x % PX
        at = slot.to(tl.int64) * (CHANNELS * PZ * PY * PX) + channel * (PZ * PY * PX) + cell
        piece = tl.load(pieces + at, inside & (slot >= 0), 0.0)
        if REPLACE:
            value = tl.where(slot >= 0, 0.0, value)
        value = tl.minimum(tl.maximum(value + piece, 0.0), 1.0)
    tl.store(out + (line.to(tl.int64) * width) * CHANNELS + element, value, inside)


def compose(window: Window, coarse: Tensor | None, pieces: Tensor, hit: Tensor, replace: bool) -> Tensor:
    """ReferenceEngine.compose for tensors on a GPU."""
    grid, region, blocks = window.grid, window.region, window.blocks
    channels = pieces.shape[1]
    out = pieces.new_empty(*region.shape, channels)
    slots = torch.full((blocks.size,), -1, dtype=torch.int32, device=pieces.device)
    slots[hit] = torch.arange(len(hit), dtype=torch.int32, device=pieces.device)
    box, edge = window.parent if coarse is not None else region, window.edge.stop
    _, height, width = _three(region.shape)
    elements = min(ELEMENTS, triton.next_power_of_2(width * channels))
    _compose[(region.size // width, triton.cdiv(width * channels, elements))](
        out if coarse is None else coarse.contiguous(),
        pieces.contiguous(),
        slots,
        out,
        height,
        width,
        *_three(region.start, 0),
        *_three(box.start, 0),
        *_three(box.shape)[1:],
        *_three(edge),
        *_three(blocks.start, 0),
        *_three(blocks.shape)[1:],
        CHANNELS=channels,
        **dict(zip(("PZ", "PY", "PX"), _three(grid.patch), strict=True)),
        VOLUME=grid.ndim == 3,
        COARSE=coarse is not None,
        PIECES=len(hit) > 0,
        REPLACE=replace,
        ELEMENTS=elements,
        num_warps=4,
        # The specification rounds every product.
        enable_fp_fusion=False,
    )
    return out


def _three(sizes: tuple[int, ...], missing: int = 1) -> tuple[int, ...]:
    """Sizes along (z, y, x)."""
    return (missing,) * (3 - len(sizes)) + tuple(sizes)
