"""The GPU engine: one launch trains every block for a whole round, one program a block.

Draft header.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
import triton
import triton.language as tl
from torch import Tensor

from models.engine.contract import Blocks, Round
from models.engine.reference import GAUSS, LN_4
from models.network import Network
from losses import EPSILON, SCALE

_GAUSS = tl.constexpr(GAUSS)
_KAPPA = tl.constexpr(-LN_4)
_SCALE = tl.constexpr(SCALE)
_EPSILON = tl.constexpr(EPSILON)
_MINUS_LOG2_E = tl.constexpr(-1.4426950408889634)
_TWO_PI = tl.constexpr(6.283185307179586)
# Adding and subtracting 1.5 * 2^23 rounds to the nearest integer.
_ROUNDER = tl.constexpr(12582912.0)
_TWO_PI_HIGH = tl.constexpr(6.28125)
_TWO_PI_LOW = tl.constexpr(6.283185307179586 - 6.28125)


@triton.jit
def _exp2(x, NATIVE: tl.constexpr):
    if NATIVE:
        return tl.inline_asm_elementwise("ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, is_pure=True, pack=1)
    else:
        return tl.exp2(x)


@triton.jit
def _round(x, OPERAND: tl.constexpr, NATIVE: tl.constexpr):
    """x as operand; two at a time, as the conversion of single values is slow."""
    if NATIVE and OPERAND == tl.bfloat16:
        return tl.inline_asm_elementwise("cvt.rn.bf16x2.f32 $0, $2, $1;", "=r,f,f", [x], tl.bfloat16, is_pure=True, pack=2)
    else:
        return x.to(OPERAND)


@triton.jit
def _times(x, y, OPERAND: tl.constexpr, NATIVE: tl.constexpr):
    if NATIVE and OPERAND == tl.bfloat16:
        return tl.inline_asm_elementwise("{ .reg .b32 z; mov.b32 z, 0x80008000; fma.rn.bf16x2 $0, $1, $2, z; }", "=r,r,r", [x, y], tl.bfloat16, is_pure=True, pack=2)
    else:
        return x * y


@triton.jit
def _sqrt(x, NATIVE: tl.constexpr):
    if NATIVE:
        return tl.inline_asm_elementwise("sqrt.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, is_pure=True, pack=1)
    else:
        return tl.sqrt(x)


@triton.jit
def _reciprocal(x, NATIVE: tl.constexpr):
    if NATIVE:
        return tl.inline_asm_elementwise("rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, is_pure=True, pack=1)
    else:
        return 1.0 / x


@triton.jit
def _sin_cos(x, REDUCE: tl.constexpr, NATIVE: tl.constexpr):
    # sin.approx is exact to 2^-20.5 within a turn; two constants bring x there.
    if NATIVE:
        if REDUCE:
            turns = (x * (1.0 / _TWO_PI) + _ROUNDER) - _ROUNDER
            x = x - turns * _TWO_PI_HIGH
            x = x - turns * _TWO_PI_LOW
        sin = tl.inline_asm_elementwise("sin.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, is_pure=True, pack=1)
        cos = tl.inline_asm_elementwise("cos.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, is_pure=True, pack=1)
        return sin, cos
    else:
        return tl.sin(x), tl.cos(x)


@triton.jit
def _matrix(base, FIRST: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, K: tl.constexpr, N: tl.constexpr):
    r = tl.arange(0, K)[:, None]
    c = tl.arange(0, N)[None, :]
    return base + FIRST + r * COLS + c, (r < ROWS) & (c < COLS)


@triton.jit
def _vector(base, AT: tl.constexpr, COUNT: tl.constexpr, N: tl.constexpr):
    c = tl.arange(0, N)
    return base + AT + c, c < COUNT


@triton.jit
def _load(base, FIRST: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, KS: tl.constexpr, NS: tl.constexpr):
    found = ()
    for i in tl.static_range(len(FIRST)):
        at, real = _matrix(base, FIRST[i], ROWS[i], COLS[i], KS[i], NS[i])
        found = found + (tl.load(at, mask=real, other=0.0),)
    return found


@triton.jit
def _store(base, values, FIRST: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, KS: tl.constexpr, NS: tl.constexpr):
    for i in tl.static_range(len(FIRST)):
        at, real = _matrix(base, FIRST[i], ROWS[i], COLS[i], KS[i], NS[i])
        tl.store(at, values[i], mask=real)


@triton.jit
def _load_biases(base, BIAS: tl.constexpr, CHUNKS: tl.constexpr, COLS: tl.constexpr, NS: tl.constexpr):
    found = ()
    for j in tl.static_range(len(BIAS)):
        if BIAS[j] >= 0:
            at, real = _vector(base, BIAS[j], COLS[CHUNKS - 1 + j], NS[CHUNKS - 1 + j])
            found = found + (tl.load(at, mask=real, other=0.0),)
        else:
            found = found + (tl.zeros((1,), tl.float32),)
    return found


@triton.jit
def _store_biases(base, values, BIAS: tl.constexpr, CHUNKS: tl.constexpr, COLS: tl.constexpr, NS: tl.constexpr):
    for j in tl.static_range(len(BIAS)):
        if BIAS[j] >= 0:
            at, real = _vector(base, BIAS[j], COLS[CHUNKS - 1 + j], NS[CHUNKS - 1 + j])
            tl.store(at, values[j], mask=real)


@triton.jit
def _load_scalars(base, A: tl.constexpr, other: tl.constexpr):
    found = ()
    for j in tl.static_range(len(A)):
        if A[j] >= 0:
            found = found + (tl.load(base + A[j]),)
        else:
            found = found + (tl.full((), other, tl.float32),)
    return found


@triton.jit
def _store_scalars(base, values, A: tl.constexpr):
    for j in tl.static_range(len(A)):
        if A[j] >= 0:
            tl.store(base + A[j], values[j])


@triton.jit
def _zeros(K: tl.constexpr, N: tl.constexpr):
    return tl.zeros((K, N), tl.float32)


@triton.jit
def _dot(x, y, acc, DOT: tl.constexpr):
    return tl.dot(x, y, acc, input_precision=DOT)


@triton.jit
def _fold(w, b, a, BIAS: tl.constexpr, LAYER: tl.constexpr, OPERAND: tl.constexpr):
    """Scales s_j, and A_i = s W_i as operands, c_j = s b_j."""
    LAYERS: tl.constexpr = len(BIAS)
    s = ()
    c = ()
    for j in tl.static_range(LAYERS):
        if j < LAYERS - 1:
            s = s + (_GAUSS / a[j],)
        else:
            s = s + (a[j],)
        c = c + (b[j] * s[j],)
    A = ()
    for i in tl.static_range(len(w)):
        A = A + ((w[i] * s[LAYER[i]]).to(OPERAND),)
    return s, A, c


@triton.jit
def _encoded(table, cell, k: tl.constexpr, CHUNKS: tl.constexpr, K: tl.constexpr):
    return tl.load(table + cell[:, None] * (CHUNKS * K) + (k * K + tl.arange(0, K))[None, :])


@triton.jit
def _affine(j: tl.constexpr, h, x, table, cell, A, c, BIAS: tl.constexpr, CHUNKS: tl.constexpr, KS: tl.constexpr,
            NS: tl.constexpr, TILE: tl.constexpr, DOT: tl.constexpr):
    """z_j [TILE, N_j]."""
    N: tl.constexpr = NS[CHUNKS - 1 + j]
    if BIAS[j] >= 0:
        z = tl.zeros((TILE, N), tl.float32) + c[j][None, :]
    else:
        z = tl.zeros((TILE, N), tl.float32)
    if j > 0:
        z = _dot(h, A[CHUNKS - 1 + j], z, DOT)
    elif CHUNKS == 1:
        z = _dot(x, A[0], z, DOT)
    else:
        for k in tl.static_range(CHUNKS):
            z = _dot(_encoded(table, cell, k, CHUNKS, KS[0]), A[k], z, DOT)
    return z


@triton.jit
def _update(w, m, v, g, adaptive, plain, eps, BETA_1: tl.constexpr, BETA_2: tl.constexpr, NATIVE: tl.constexpr):
    m = m + (g - m) * (1 - BETA_1)
    v = v * BETA_2 + (1 - BETA_2) * g * g
    return w - m * (adaptive * _reciprocal(_sqrt(v, NATIVE) + eps, NATIVE) + plain), m, v


@triton.jit
def _train(
    rows, first_moments, second_moments, table, targets, amplitudes, kinds, cells, counts, coefficients, steps, most, p,
    ROW: tl.constexpr, FIRST: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, KS: tl.constexpr, NS: tl.constexpr,
    BIAS: tl.constexpr, A_AT: tl.constexpr, LAYER: tl.constexpr, CHUNKS: tl.constexpr, CHANNELS: tl.constexpr, SIN: tl.constexpr,
    TILE: tl.constexpr, OPERAND: tl.constexpr, DOT: tl.constexpr, NATIVE: tl.constexpr,
    BETA_1: tl.constexpr, BETA_2: tl.constexpr,
):  # fmt: skip
    M: tl.constexpr = len(FIRST)
    LAYERS: tl.constexpr = len(BIAS)
    C: tl.constexpr = NS[M - 1]
    block = tl.program_id(0).to(tl.int64)
    rows += block * ROW
    first_moments += block * ROW
    second_moments += block * ROW
    targets += block * CHANNELS * p
    amplitude = tl.load(amplitudes + block)
    kind = tl.load(kinds + block)
    count = tl.load(counts + kind)
    cells += kind * steps * most
    channel = tl.arange(0, C)[None, :]

    w = _load(rows, FIRST, ROWS, COLS, KS, NS)
    wm = _load(first_moments, FIRST, ROWS, COLS, KS, NS)
    wv = _load(second_moments, FIRST, ROWS, COLS, KS, NS)
    b = _load_biases(rows, BIAS, CHUNKS, COLS, NS)
    bm = _load_biases(first_moments, BIAS, CHUNKS, COLS, NS)
    bv = _load_biases(second_moments, BIAS, CHUNKS, COLS, NS)
    a = _load_scalars(rows, A_AT, 1.0)
    am = _load_scalars(first_moments, A_AT, 0.0)
    av = _load_scalars(second_moments, A_AT, 0.0)

    lane = tl.arange(0, TILE)
    cell = tl.load(cells + lane, mask=lane < count, other=0)
    x = _encoded(table, cell, 0, CHUNKS, KS[0])
    target = tl.load(targets + channel * p + cell[:, None], mask=channel < CHANNELS, other=0.0)
    for step in range(steps):
        s, A, c = _fold(w, b, a, BIAS, LAYER, OPERAND)
        dA = ()
        for i in tl.static_range(M):
            dA = dA + (_zeros(KS[i], NS[i]),)
        dc = ()
        for j in tl.static_range(LAYERS):
            if BIAS[j] >= 0:
                dc = dc + (_zeros(16, NS[CHUNKS - 1 + j]),)
            else:
                dc = dc + (_zeros(1, 1),)
        square = tl.zeros((TILE,), tl.float32)

        for start in range(0, count, TILE):
            real = start + lane < count
            following = start + TILE
            left = count - following
            if left <= 0:
                following = most
                left = tl.where(step + 1 < steps, count, 0)
            next_cell = tl.load(cells + following + lane, mask=lane < left, other=0)

            next_x = _encoded(table, next_cell, 0, CHUNKS, KS[0])
            next_target = tl.load(targets + channel * p + next_cell[:, None], mask=channel < CHANNELS, other=0.0)
            h = ()
            d = ()
            last = x
            for j in tl.static_range(LAYERS - 1):
                u = _affine(j, last, x, table, cell, A, c, BIAS, CHUNKS, KS, NS, TILE, DOT)
                g = _exp2(-u * u, NATIVE)
                last = _round(g, OPERAND, NATIVE)
                h = h + (last,)
                d = d + (_times(_round(u, OPERAND, NATIVE), last, OPERAND, NATIVE),)
            z = _affine(LAYERS - 1, last, x, table, cell, A, c, BIAS, CHUNKS, KS, NS, TILE, DOT)

            seen = real[:, None] & (channel < CHANNELS)
            if SIN:
                sin, cos = _sin_cos(z, OPERAND == tl.float32 and DOT == "ieee", NATIVE)
                miss = tl.where(seen, sin * amplitude - target, 0.0)
                e = miss * cos
            else:
                y = _reciprocal(1.0 + _exp2(z * _MINUS_LOG2_E, NATIVE), NATIVE)
                miss = tl.where(seen, y - target, 0.0)
                e = miss * y * (1.0 - y)
            square += tl.sum(miss * miss, axis=1)
            e = _round(e, OPERAND, NATIVE)

            # From the last layer down; the tuples are built from their ends.
            back = ()
            back_c = ()
            for j in tl.static_range(LAYERS - 1, -1, -1):
                if BIAS[j] >= 0:
                    ones = tl.full((16, TILE), 1.0, OPERAND)
                    back_c = (_dot(ones, e, dc[j], DOT),) + back_c
                else:
                    back_c = (dc[j],) + back_c
                if j > 0:
                    back = (_dot(tl.trans(h[j - 1]), e, dA[CHUNKS - 1 + j], DOT),) + back
                    e = tl.dot(e, tl.trans(A[CHUNKS - 1 + j]), input_precision=DOT)
                    e = _times(_round(e, OPERAND, NATIVE), d[j - 1], OPERAND, NATIVE)
                elif CHUNKS == 1:
                    back = (_dot(tl.trans(x), e, dA[0], DOT),) + back
                else:
                    for k in tl.static_range(CHUNKS - 1, -1, -1):
                        xk = _encoded(table, cell, k, CHUNKS, KS[0])
                        back = (_dot(tl.trans(xk), e, dA[k], DOT),) + back
            dA = back
            dc = back_c
            cell, x, target = next_cell, next_x, next_target

        mse = tl.sum(square) / (count * CHANNELS)
        unit = 2.0 * _SCALE / (count * CHANNELS) / (mse + _EPSILON)
        if SIN:
            unit *= amplitude
        adaptive = tl.load(coefficients + step)
        plain = tl.load(coefficients + steps + step)
        eps = tl.load(coefficients + 2 * steps + step)
        new_w, new_wm, new_wv = (), (), ()
        new_b, new_bm, new_bv = (), (), ()
        new_a, new_am, new_av = (), (), ()
        for j in tl.static_range(LAYERS):
            scale = unit
            for depth in tl.static_range(LAYERS - 1 - j):
                scale *= _KAPPA
            along = 0.0
            for i in tl.static_range(M):
                if LAYER[i] == j:
                    g = dA[i]
                    if ROWS[i] < KS[i]:
                        g = tl.where(tl.arange(0, KS[i])[:, None] < ROWS[i], g, 0.0)
                    if A_AT[j] >= 0:
                        along += tl.sum(g * w[i])
                    wi, mi, vi = _update(w[i], wm[i], wv[i], g * (scale * s[j]), adaptive, plain, eps, BETA_1, BETA_2, NATIVE)
                    new_w, new_wm, new_wv = new_w + (wi,), new_wm + (mi,), new_wv + (vi,)
            if BIAS[j] >= 0:
                g = tl.sum(dc[j], axis=0) * (1.0 / 16)
                if A_AT[j] >= 0:
                    along += tl.sum(g * b[j])
                wi, mi, vi = _update(b[j], bm[j], bv[j], g * (scale * s[j]), adaptive, plain, eps, BETA_1, BETA_2, NATIVE)
                new_b, new_bm, new_bv = new_b + (wi,), new_bm + (mi,), new_bv + (vi,)
            else:
                new_b, new_bm, new_bv = new_b + (b[j],), new_bm + (bm[j],), new_bv + (bv[j],)
            if A_AT[j] >= 0:
                if j < LAYERS - 1:
                    g = -along * scale * s[j] / a[j]
                else:
                    g = along * scale
                wi, mi, vi = _update(a[j], am[j], av[j], g, adaptive, plain, eps, BETA_1, BETA_2, NATIVE)
                new_a, new_am, new_av = new_a + (wi,), new_am + (mi,), new_av + (vi,)
            else:
                new_a, new_am, new_av = new_a + (a[j],), new_am + (am[j],), new_av + (av[j],)
        w, wm, wv = new_w, new_wm, new_wv
        b, bm, bv = new_b, new_bm, new_bv
        a, am, av = new_a, new_am, new_av
        cells += most

    _store(rows, w, FIRST, ROWS, COLS, KS, NS)
    _store(first_moments, wm, FIRST, ROWS, COLS, KS, NS)
    _store(second_moments, wv, FIRST, ROWS, COLS, KS, NS)
    _store_biases(rows, b, BIAS, CHUNKS, COLS, NS)
    _store_biases(first_moments, bm, BIAS, CHUNKS, COLS, NS)
    _store_biases(second_moments, bv, BIAS, CHUNKS, COLS, NS)
    _store_scalars(rows, a, A_AT)
    _store_scalars(first_moments, am, A_AT)
    _store_scalars(second_moments, av, A_AT)


@triton.jit
def _evaluate(
    rows, table, targets, amplitudes, kinds, cells, counts, out, most, p,
    ROW: tl.constexpr, FIRST: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, KS: tl.constexpr, NS: tl.constexpr,
    BIAS: tl.constexpr, A_AT: tl.constexpr, LAYER: tl.constexpr, CHUNKS: tl.constexpr, CHANNELS: tl.constexpr, SIN: tl.constexpr,
    TILE: tl.constexpr, OPERAND: tl.constexpr, DOT: tl.constexpr, NATIVE: tl.constexpr, ERRORS: tl.constexpr,
):  # fmt: skip
    M: tl.constexpr = len(FIRST)
    LAYERS: tl.constexpr = len(BIAS)
    C: tl.constexpr = NS[M - 1]
    block = tl.program_id(0).to(tl.int64)
    rows += block * ROW
    amplitude = tl.load(amplitudes + block)
    channel = tl.arange(0, C)[None, :]
    w = _load(rows, FIRST, ROWS, COLS, KS, NS)
    b = _load_biases(rows, BIAS, CHUNKS, COLS, NS)
    a = _load_scalars(rows, A_AT, 1.0)
    s, A, c = _fold(w, b, a, BIAS, LAYER, OPERAND)
    square = tl.zeros((TILE,), tl.float32)
    if ERRORS:
        kind = tl.load(kinds + block)
        count = tl.load(counts + kind)
        cells += kind * most
        targets += block * CHANNELS * p
    else:
        count = p
        out += block * CHANNELS * p
    for start in range(0, count, TILE):
        slot = start + tl.arange(0, TILE)
        real = slot < count
        if ERRORS:
            cell = tl.load(cells + slot, mask=real, other=0)
        else:
            cell = tl.where(real, slot, 0)
        x = _encoded(table, cell, 0, CHUNKS, KS[0])
        last = x
        for j in tl.static_range(LAYERS - 1):
            u = _affine(j, last, x, table, cell, A, c, BIAS, CHUNKS, KS, NS, TILE, DOT)
            last = _exp2(-u * u, NATIVE).to(OPERAND)
        z = _affine(LAYERS - 1, last, x, table, cell, A, c, BIAS, CHUNKS, KS, NS, TILE, DOT)
        if SIN:
            y, _ = _sin_cos(z, True, NATIVE)
            y = y * amplitude
        else:
            y = _reciprocal(1.0 + _exp2(z * _MINUS_LOG2_E, NATIVE), NATIVE)
        seen = real[:, None] & (channel < CHANNELS)
        if ERRORS:
            target = tl.load(targets + channel * p + cell[:, None], mask=seen, other=0.0)
            miss = tl.where(seen, y - target, 0.0)
            square += tl.sum(miss * miss, axis=1)
        else:
            tl.store(out + channel * p + cell[:, None], y, mask=seen)
    if ERRORS:
        tl.store(out + block, tl.sum(square) / (count * CHANNELS))


@dataclass(frozen=True)
class Plan:
    """How a network's row falls into padded matrices [K, N] of the kernel.

    Matrix i < chunks is a part of the first layer's weights along its inputs; then comes one matrix a layer.
    """

    network: Network

    @cached_property
    def chunk(self) -> int:
        n = self.network.n_in
        return 32 if n > 64 else max(16, _power_of_two(n))

    @cached_property
    def chunks(self) -> int:
        return -(-self.network.n_in // self.chunk)

    @cached_property
    def constants(self) -> dict:
        network, K, chunks = self.network, self.chunk, self.chunks
        H, C = max(16, _power_of_two(network.n_hidden)), max(16, _power_of_two(network.n_out))
        found = {name: [] for name in ("FIRST", "ROWS", "COLS", "KS", "NS", "LAYER", "BIAS", "A_AT")}
        at = 0
        for j, (n_in, n_out) in enumerate(network.widths):
            last = j == network.n_layers - 1
            k, parts = (K, chunks) if j == 0 else (H, 1)
            inside = n_in < k * parts
            for part in range(parts):
                found["FIRST"].append(at + part * k * n_out)
                found["ROWS"].append(min(k, n_in + inside - part * k))
                found["COLS"].append(n_out)
                found["LAYER"].append(j)
                found["KS"].append(k)
                found["NS"].append(C if last else H)
            found["BIAS"].append(-1 if inside else at + n_in * n_out)
            at += (n_in + 1) * n_out
            found["A_AT"].append(at if not last or network.output == "sin" else -1)
            at += not last or network.output == "sin"
        return {name: tuple(values) for name, values in found.items()} | {
            "ROW": network.row_size, "CHUNKS": chunks, "CHANNELS": network.n_out, "SIN": network.output == "sin",
        }

    def table(self, inputs: Tensor, dtype: torch.dtype) -> Tensor:
        """[in, p] -> [p, K * chunks], with a feature of ones after the last where there is room."""
        n_in, p = inputs.shape
        found = inputs.new_zeros(p, self.chunk * self.chunks, dtype=dtype)
        found[:, :n_in] = inputs.T
        found[:, n_in : n_in + 1] = 1
        return found


def _power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()


class FusedEngine:
    name = "fused"

    def __init__(self, optimizer: str = "radam", precision: str = "bfloat16"):
        self.optimizer, self.precision = optimizer, precision

    def _arithmetic(self, device) -> dict:
        bf16 = self.precision == "bfloat16"
        return {"OPERAND": tl.bfloat16 if bf16 else tl.float32,
                "DOT": {"bfloat16": "ieee", "tf32": "tf32", "float32": "ieee"}[self.precision],
                "NATIVE": device.type == "cuda"}

    @property
    def _dtype(self):
        return torch.bfloat16 if self.precision == "bfloat16" else torch.float32

    def train(self, network: Network, inputs: Tensor, blocks: Blocks, round_: Round) -> Blocks:
        n = len(blocks)
        if not n or not round_.lr:
            return blocks
        device = blocks.rows.device
        plan = Plan(network)
        cls = {"radam": torch.optim.RAdam, "adam": torch.optim.Adam}[self.optimizer]
        rows = blocks.rows.detach().clone()
        optimizer = cls([rows], lr=round_.start_lr)
        if blocks.moments:
            optimizer.load_state_dict(blocks.moments)
            state = optimizer.state_dict()["state"][0]
            done = int(state["step"])
            avg, square = state["exp_avg"].clone(), state["exp_avg_sq"].clone()
        else:
            done, avg, square = 0, torch.zeros_like(rows), torch.zeros_like(rows)
        optimizer.param_groups[0]["lr"] = round_.lr[-1]
        beta_1, beta_2 = optimizer.param_groups[0]["betas"]
        coefficients = torch.tensor(
            [step_coefficients(self.optimizer, done + i + 1, lr) for i, lr in enumerate(round_.lr)], dtype=torch.float32
        ).T.contiguous().to(device)
        cells, counts = _pad(round_.cells, device)
        self.kernel = _train[(n,)](
            rows, avg, square, plan.table(inputs, self._dtype), blocks.targets.contiguous(), blocks.amplitude.contiguous(),
            blocks.kind.to(torch.int32), cells, counts, coefficients, len(round_.lr), cells.shape[-1],
            blocks.targets.shape[2], **plan.constants, **self._arithmetic(device), BETA_1=beta_1, BETA_2=beta_2, **self.options,
        )
        state = {"step": torch.tensor(float(done + len(round_.lr))), "exp_avg": avg, "exp_avg_sq": square}
        moments = {"state": {0: state}, "param_groups": optimizer.state_dict()["param_groups"]}
        return replace(blocks, rows=rows, moments=moments)

    options = {"TILE": 64, "num_warps": 4, "num_stages": 1, "maxnreg": 128}
    eval_options = {"TILE": 64, "num_warps": 4, "num_stages": 1}

    def errors(self, network, inputs, blocks, real):
        n = len(blocks)
        mse = blocks.rows.new_empty(n)
        if n:
            device = mse.device
            plan = Plan(network)
            cells, counts = _pad([r[None] for r in real], device)
            self.kernel = _evaluate[(n,)](
                blocks.rows, plan.table(inputs, self._dtype), blocks.targets, blocks.amplitude, blocks.kind.to(torch.int32),
                cells, counts, mse, cells.shape[-1], blocks.targets.shape[2], **plan.constants, **self._arithmetic(device),
                ERRORS=True, **self.eval_options)
        return mse

    def predict(self, network, inputs, rows, amplitude):
        n, p = len(rows), inputs.shape[1]
        found = rows.new_empty(n, network.n_out, p)
        if n and p:
            plan = Plan(network)
            self.kernel = _evaluate[(n,)](
                rows, plan.table(inputs, self._dtype), found, amplitude, found, found, found, found, 0, p, **plan.constants,
                **self._arithmetic(rows.device), ERRORS=False, **self.eval_options)
        return found


def _pad(cells: list[Tensor], device) -> tuple[Tensor, Tensor]:
    """[s, b_kind] each -> int32 [kinds, s, most] and their counts int32 [kinds]."""
    most = max(c.shape[1] for c in cells)
    table = torch.zeros(len(cells), cells[0].shape[0], most, dtype=torch.int32, device=device)
    for kind, c in enumerate(cells):
        table[kind, :, : c.shape[1]] = c
    return table, torch.tensor([c.shape[1] for c in cells], dtype=torch.int32, device=device)


def step_coefficients(optimizer: str, step: int, lr: float, betas=(0.9, 0.999), eps=1e-8) -> tuple[float, float, float]:
    """(adaptive, plain, eps) of w -= m (adaptive / (sqrt(v) + eps) + plain)."""
    beta_1, beta_2 = betas
    size, root = lr / (1 - beta_1**step), math.sqrt(1 - beta_2**step)
    if optimizer == "adam":
        return size * root, 0.0, eps * root
    most = 2 / (1 - beta_2) - 1
    rho = most - 2 * step * beta_2**step / (1 - beta_2**step)
    if rho <= 5:
        return 0.0, size, eps
    rectified = math.sqrt((rho - 4) * (rho - 2) * most / ((most - 4) * (most - 2) * rho))
    return size * root * rectified, 0.0, eps
