"""The kernels of the fused engine: one launch trains every block for a whole round, one program a block.

The specification is models/engine/reference.py; the mathematics stands in docs/fused.md, with the letters used here.
A program loads its block's weights and moments, runs all the steps of the round, and stores them. A step goes through
its cells in tiles of TILE, adds up gradients and the square error, then updates. No program talks to another and
nothing is added atomically: a block's result does not depend on its neighbours, bit for bit. How a row is loaded and
stored is in `matrices`, what numbers go through in `arithmetic`.

Letters, for one block. Layer j of L has weights W_j [in, out], biases b_j [out] and, but for a sigmoid, a scalar a_j:

    s_j [1]           GAUSS / a_j, or a_j of a sin, or 1 of a sigmoid
    A_j, c_j          s_j W_j and s_j b_j, formed once a step, rounded to the operands' type
    x   [TILE, in]    the encoded cells of a tile
    u_j [TILE, out]   h_{j-1} A_j + c_j, float32
    h_j [TILE, out]   2^(-u_j^2), operand
    d_j [TILE, out]   u_j h_j, operand; the derivative of h_j but for the constant KAPPA = -2 ln 2
    z   [TILE, c]     u of the last layer; the output is sin(z) * amplitude or 1 / (1 + e^-z)
    e_j [TILE, out]   the gradient with respect to u_j without its constant factors, operand

What is kept where:

    W, moments        registers, float32, for the whole round. Of a first layer in chunks (more than 64 inputs): global
                      memory, which the second-level cache holds, as registers would overflow.
    A                 shared memory, once a step.
    x, targets        fetched a tile ahead, as a tile is too short to wait for them: 51.5 against 44.3 ms.
    h, d, e           registers, and h and e through shared memory for dA = h^T e. d is kept and not recomputed.
    dA, square error  registers, float32, over the tiles of a step.

Widths are padded to powers of two of at least 16, what a tensor core takes. A hidden unit of the padding has u = 0,
thus h = 1 and d = 0: it feels no gradient, and what it feeds is a bias for nothing. So where the padding leaves room,
row `in` of a padded W_j is b_j, just as b_j follows W_j in a block's row, and x has a feature of ones. Where there is
no room (16 inputs, or 32 hidden units), b_j is a vector of its own and its gradient a product with ones.

Times in this file: one H200, 200 steps of 8192 blocks with 16 inputs, hidden 20, 3 layers, 3 channels, batch 256, sin
output, RAdam, bfloat16, unless said.
"""

# Inside a kernel a tuple grows only as a + (b,), the branches of an if are compiled apart, and names in capitals vary.
# ruff: noqa: RUF005, SIM108, SIM300

import triton
import triton.language as tl

from losses import EPSILON
from models.engine.arithmetic import exp2, reciprocal, rounded, sin_cos, sqrt, times
from models.engine.matrices import fold, load_matrix, load_row, store_matrix, store_row, zeros
from models.engine.reference import LN_4

_KAPPA = tl.constexpr(-LN_4)
_EPSILON = tl.constexpr(EPSILON)
_MINUS_LOG2_E = tl.constexpr(-1.4426950408889634)


@triton.jit
def _encoded(table, cell, k: tl.constexpr, CHUNKS: tl.constexpr, K: tl.constexpr):
    """Features [TILE, K] of chunk k of the cells."""
    return tl.load(table + cell[:, None] * (CHUNKS * K) + (k * K + tl.arange(0, K))[None, :])


@triton.jit
def _affine(j: tl.constexpr, h, cell, table, A, c, KS: tl.constexpr, NS: tl.constexpr, BIAS: tl.constexpr,
            CHUNKS: tl.constexpr, TILE: tl.constexpr, DOT: tl.constexpr):  # fmt: skip
    """u_j [TILE, out] = h A_j + c_j; of a first layer in chunks, h is fetched chunk by chunk."""
    u = zeros(TILE, NS[CHUNKS - 1 + j])
    if BIAS[j] >= 0:
        u += c[j][None, :]
    if j > 0 or CHUNKS == 1:
        u = tl.dot(h, A[CHUNKS - 1 + j], u, input_precision=DOT)
    else:
        for k in tl.static_range(CHUNKS):
            u = tl.dot(_encoded(table, cell, k, CHUNKS, KS[0]), A[k], u, input_precision=DOT)
    return u


@triton.jit
def _update(w, m, v, g, adaptive, plain, eps, BETA_1: tl.constexpr, BETA_2: tl.constexpr, NATIVE: tl.constexpr):
    """One step of RAdam or Adam on parameters w with moments m, v and gradient g (`step_coefficients`)."""
    m = m + (g - m) * (1 - BETA_1)
    v = v * BETA_2 + (1 - BETA_2) * g * g
    return w - m * (adaptive * reciprocal(sqrt(v, NATIVE) + eps, NATIVE) + plain), m, v


# What varies from run to run but not in the code is no reason to compile again.
@triton.jit(
    do_not_specialize=["steps", "most", "p"],
    do_not_specialize_on_alignment=["rows", "first", "second", "targets", "amplitudes", "kinds"],
)
def train(
    rows,  # [n, row] float32, in place
    first,  # [n, row] float32, first moments, in place
    second,  # [n, row] float32, second moments, in place
    table,  # [p, CHUNKS * K] operand, the encoded cells
    targets,  # [n, c, p] float32
    amplitudes,  # [n] float32
    kinds,  # [n] int32
    cells,  # [kinds, steps, most] int32, those of a kind padded with anything
    counts,  # [kinds] int32, how many cells of a step are real
    coefficients,  # [3, steps] float32, `step_coefficients` of models.optimizers
    steps, most, p,
    ROW: tl.constexpr, FIRST: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, KS: tl.constexpr,
    NS: tl.constexpr, LAYER: tl.constexpr, BIAS: tl.constexpr, A_AT: tl.constexpr, CHUNKS: tl.constexpr,
    APART: tl.constexpr, CHANNELS: tl.constexpr, SIN: tl.constexpr, TILE: tl.constexpr, OPERAND: tl.constexpr,
    DOT: tl.constexpr, NATIVE: tl.constexpr, BETA_1: tl.constexpr, BETA_2: tl.constexpr,
):  # fmt: skip
    L: tl.constexpr = len(BIAS)
    M: tl.constexpr = len(FIRST)
    EXACT: tl.constexpr = OPERAND == tl.float32 and DOT == "ieee"
    block = tl.program_id(0).to(tl.int64)
    rows += block * ROW
    first += block * ROW
    second += block * ROW
    targets += block * CHANNELS * p
    amplitude = tl.load(amplitudes + block)
    kind = tl.load(kinds + block).to(tl.int64)
    count = tl.load(counts + kind)
    cells += kind * steps * most
    channel = tl.arange(0, NS[M - 1])[None, :]
    lane = tl.arange(0, TILE)

    W, b, a = load_row(rows, FIRST, ROWS, COLS, KS, NS, BIAS, A_AT, CHUNKS, APART)
    Wm, bm, am = load_row(first, FIRST, ROWS, COLS, KS, NS, BIAS, A_AT, CHUNKS, APART)
    Wv, bv, av = load_row(second, FIRST, ROWS, COLS, KS, NS, BIAS, A_AT, CHUNKS, APART)

    cell = tl.load(cells + lane, mask=lane < count, other=0)
    x = _encoded(table, cell, 0, CHUNKS, KS[0])
    target = tl.load(targets + channel * p + cell[:, None], mask=channel < CHANNELS, other=0.0)
    for step in range(steps):
        s, A, c = fold(rows, W, b, a, FIRST, ROWS, COLS, KS, NS, LAYER, BIAS, APART, OPERAND)
        dA = ()
        for i in tl.static_range(M):
            dA = dA + (zeros(KS[i], NS[i]),)
        dc = ()
        for j in tl.static_range(L):
            if BIAS[j] >= 0:
                dc = dc + (zeros(16, NS[CHUNKS - 1 + j]),)
            else:
                dc = dc + (zeros(1, 1),)
        square = tl.zeros((TILE,), tl.float32)

        for start in range(0, count, TILE):
            # The next tile's cells, those of the next step after the last.
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
            below = x
            for j in tl.static_range(L - 1):
                u = _affine(j, below, cell, table, A, c, KS, NS, BIAS, CHUNKS, TILE, DOT)
                below = rounded(exp2(-u * u, NATIVE), OPERAND, NATIVE)
                h = h + (below,)
                d = d + (times(rounded(u, OPERAND, NATIVE), below, OPERAND, NATIVE),)
            z = _affine(L - 1, below, cell, table, A, c, KS, NS, BIAS, CHUNKS, TILE, DOT)

            real = (start + lane < count)[:, None] & (channel < CHANNELS)
            if SIN:
                sin, cos = sin_cos(z, EXACT, NATIVE)
                miss = tl.where(real, sin * amplitude - target, 0.0)
                e = miss * cos
            else:
                y = reciprocal(1.0 + exp2(z * _MINUS_LOG2_E, NATIVE), NATIVE)
                miss = tl.where(real, y - target, 0.0)
                e = miss * y * (1.0 - y)
            square += tl.sum(miss * miss, axis=1)
            e = rounded(e, OPERAND, NATIVE)

            # From the last layer down, so these tuples grow at their front.
            more = ()
            more_c = ()
            for j in tl.static_range(L - 1, -1, -1):
                if BIAS[j] >= 0:
                    more_c = (tl.dot(tl.full((16, TILE), 1.0, OPERAND), e, dc[j], input_precision=DOT),) + more_c
                else:
                    more_c = (dc[j],) + more_c
                if j > 0:
                    more = (tl.dot(tl.trans(h[j - 1]), e, dA[CHUNKS - 1 + j], input_precision=DOT),) + more
                    below = tl.dot(e, tl.trans(A[CHUNKS - 1 + j]), input_precision=DOT)
                    e = times(rounded(below, OPERAND, NATIVE), d[j - 1], OPERAND, NATIVE)
                elif CHUNKS == 1:
                    more = (tl.dot(tl.trans(x), e, dA[0], input_precision=DOT),) + more
                else:
                    for k in tl.static_range(CHUNKS - 1, -1, -1):
                        chunk = tl.trans(_encoded(table, cell, k, CHUNKS, KS[0]))
                        more = (tl.dot(chunk, e, dA[k], input_precision=DOT),) + more
            dA = more
            dc = more_c
            cell, x, target = next_cell, next_x, next_target

        mse = tl.sum(square) / (count * CHANNELS)
        unit = 2.0 / (count * CHANNELS) / (mse + _EPSILON)
        if SIN:
            unit *= amplitude
        adaptive = tl.load(coefficients + step)
        plain = tl.load(coefficients + steps + step)
        eps = tl.load(coefficients + 2 * steps + step)
        new_W, new_Wm, new_Wv = (), (), ()
        new_b, new_bm, new_bv = (), (), ()
        new_a, new_am, new_av = (), (), ()
        for j in tl.static_range(L):
            # The factors that e_j has left out.
            scale = unit
            for _ in tl.static_range(L - 1 - j):
                scale *= _KAPPA
            product = zeros(KS[CHUNKS - 1 + j], NS[CHUNKS - 1 + j])
            for i in tl.static_range(M):
                if LAYER[i] == j:
                    g = dA[i]
                    # Rows of padding are fed by h = 1.
                    if ROWS[i] < KS[i]:
                        g = tl.where(tl.arange(0, KS[i])[:, None] < ROWS[i], g, 0.0)
                    if i < APART:
                        w = load_matrix(rows, i, FIRST, ROWS, COLS, KS, NS)
                        m = load_matrix(first, i, FIRST, ROWS, COLS, KS, NS)
                        v = load_matrix(second, i, FIRST, ROWS, COLS, KS, NS)
                    else:
                        w, m, v = W[i], Wm[i], Wv[i]
                    product += g * w
                    w, m, v = _update(w, m, v, g * (scale * s[j]), adaptive, plain, eps, BETA_1, BETA_2, NATIVE)
                    if i < APART:
                        store_matrix(rows, w, i, FIRST, ROWS, COLS, KS, NS)
                        store_matrix(first, m, i, FIRST, ROWS, COLS, KS, NS)
                        store_matrix(second, v, i, FIRST, ROWS, COLS, KS, NS)
                        new_W, new_Wm, new_Wv = new_W + (W[i],), new_Wm + (Wm[i],), new_Wv + (Wv[i],)
                    else:
                        new_W, new_Wm, new_Wv = new_W + (w,), new_Wm + (m,), new_Wv + (v,)
            if A_AT[j] >= 0:
                # The sum of dA * W and dc * b, of which the gradient of a is a multiple.
                along = tl.sum(product)
            if BIAS[j] >= 0:
                # All 16 rows of the product with ones are alike.
                g = tl.sum(dc[j], axis=0) * (1.0 / 16)
                if A_AT[j] >= 0:
                    along += tl.sum(g * b[j])
                g *= scale * s[j]
                w, m, v = _update(b[j], bm[j], bv[j], g, adaptive, plain, eps, BETA_1, BETA_2, NATIVE)
                new_b, new_bm, new_bv = new_b + (w,), new_bm + (m,), new_bv + (v,)
            else:
                new_b, new_bm, new_bv = new_b + (b[j],), new_bm + (bm[j],), new_bv + (bv[j],)
            if A_AT[j] >= 0:
                g = along * scale
                if j < L - 1:
                    g = -g * s[j] / a[j]
                w, m, v = _update(a[j], am[j], av[j], g, adaptive, plain, eps, BETA_1, BETA_2, NATIVE)
                new_a, new_am, new_av = new_a + (w,), new_am + (m,), new_av + (v,)
            else:
                new_a, new_am, new_av = new_a + (a[j],), new_am + (am[j],), new_av + (av[j],)
        W, Wm, Wv = new_W, new_Wm, new_Wv
        b, bm, bv = new_b, new_bm, new_bv
        a, am, av = new_a, new_am, new_av
        cells += most
        if APART > 0:
            # Other threads read what these have stored.
            tl.debug_barrier()

    store_row(rows, W, b, a, FIRST, ROWS, COLS, KS, NS, BIAS, A_AT, CHUNKS, APART)
    store_row(first, Wm, bm, am, FIRST, ROWS, COLS, KS, NS, BIAS, A_AT, CHUNKS, APART)
    store_row(second, Wv, bv, av, FIRST, ROWS, COLS, KS, NS, BIAS, A_AT, CHUNKS, APART)


@triton.jit(
    do_not_specialize=["most", "p"],
    do_not_specialize_on_alignment=["rows", "targets", "amplitudes", "kinds", "out"],
)
def evaluate(
    rows,  # [n, row] float32
    table,  # [p, CHUNKS * K] operand
    targets,  # [n, c, p] float32, for errors only, as are kinds, cells and counts
    amplitudes,  # [n] float32
    kinds,  # [n] int32
    cells,  # [kinds, most] int32
    counts,  # [kinds] int32
    out,  # [n] float32, errors, or [n, c, p] float32, predictions
    most, p,
    ROW: tl.constexpr, FIRST: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, KS: tl.constexpr,
    NS: tl.constexpr, LAYER: tl.constexpr, BIAS: tl.constexpr, A_AT: tl.constexpr, CHUNKS: tl.constexpr,
    CHANNELS: tl.constexpr, SIN: tl.constexpr, TILE: tl.constexpr, OPERAND: tl.constexpr, DOT: tl.constexpr,
    NATIVE: tl.constexpr, ERRORS: tl.constexpr,
):  # fmt: skip
    L: tl.constexpr = len(BIAS)
    block = tl.program_id(0).to(tl.int64)
    rows += block * ROW
    amplitude = tl.load(amplitudes + block)
    channel = tl.arange(0, NS[len(FIRST) - 1])[None, :]
    W, b, a = load_row(rows, FIRST, ROWS, COLS, KS, NS, BIAS, A_AT, CHUNKS, 0)
    _, A, c = fold(rows, W, b, a, FIRST, ROWS, COLS, KS, NS, LAYER, BIAS, 0, OPERAND)
    square = tl.zeros((TILE,), tl.float32)
    count = p
    if ERRORS:
        kind = tl.load(kinds + block).to(tl.int64)
        count = tl.load(counts + kind)
        cells += kind * most
        targets += block * CHANNELS * p
    else:
        out += block * CHANNELS * p
    for start in range(0, count, TILE):
        slot = start + tl.arange(0, TILE)
        if ERRORS:
            cell = tl.load(cells + slot, mask=slot < count, other=0)
        else:
            cell = tl.where(slot < count, slot, 0)
        below = _encoded(table, cell, 0, CHUNKS, KS[0])
        for j in tl.static_range(L - 1):
            u = _affine(j, below, cell, table, A, c, KS, NS, BIAS, CHUNKS, TILE, DOT)
            below = rounded(exp2(-u * u, NATIVE), OPERAND, NATIVE)
        z = _affine(L - 1, below, cell, table, A, c, KS, NS, BIAS, CHUNKS, TILE, DOT)
        if SIN:
            sin, _cos = sin_cos(z, True, NATIVE)
            y = sin * amplitude
        else:
            y = reciprocal(1.0 + exp2(z * _MINUS_LOG2_E, NATIVE), NATIVE)
        real = (slot < count)[:, None] & (channel < CHANNELS)
        if ERRORS:
            miss = y - tl.load(targets + channel * p + cell[:, None], mask=real, other=0.0)
            square += tl.sum(tl.where(real, miss * miss, 0.0), axis=1)
        else:
            tl.store(out + channel * p + cell[:, None], y, mask=real)
    if ERRORS:
        tl.store(out + block, tl.sum(square) / (count * CHANNELS))
