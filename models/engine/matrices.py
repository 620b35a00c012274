"""A block's row within a kernel: loaded, stored and folded, as padded matrices, biases and scalars.

The letters are those of models/engine/kernels.py. Of each matrix and layer the constants say where it lies in the row
(`Plan.constants` of models/engine/fused.py).
"""

# Inside a kernel a tuple grows only as a + (b,), and the branches of an if are compiled apart.
# ruff: noqa: RUF005, SIM108

import triton
import triton.language as tl

from models.engine.reference import GAUSS

_GAUSS = tl.constexpr(GAUSS)


@triton.jit
def zeros(K: tl.constexpr, N: tl.constexpr):
    return tl.zeros((K, N), tl.float32)


@triton.jit
def _matrix(at, rows: tl.constexpr, cols: tl.constexpr, K: tl.constexpr, N: tl.constexpr):
    """Pointers [K, N] to a matrix [rows, cols] at `at`, and which of them are inside."""
    r = tl.arange(0, K)[:, None]
    c = tl.arange(0, N)[None, :]
    return at + r * cols + c, (r < rows) & (c < cols)


@triton.jit
def load_matrix(base, i: tl.constexpr, FIRST: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
                 KS: tl.constexpr, NS: tl.constexpr):  # fmt: skip
    at, inside = _matrix(base + FIRST[i], ROWS[i], COLS[i], KS[i], NS[i])
    return tl.load(at, mask=inside, other=0.0)


@triton.jit
def store_matrix(base, value, i: tl.constexpr, FIRST: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
                  KS: tl.constexpr, NS: tl.constexpr):  # fmt: skip
    at, inside = _matrix(base + FIRST[i], ROWS[i], COLS[i], KS[i], NS[i])
    tl.store(at, value, mask=inside)


@triton.jit
def load_row(base, FIRST: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, KS: tl.constexpr, NS: tl.constexpr,
          BIAS: tl.constexpr, A_AT: tl.constexpr, CHUNKS: tl.constexpr, APART: tl.constexpr):  # fmt: skip
    """A row of `base` as matrices, biases and scalars; what a network does not have is zero, or one where it scales."""
    matrices = ()
    biases = ()
    scalars = ()
    for i in tl.static_range(len(FIRST)):
        if i < APART:
            matrices = matrices + (tl.zeros((1, 1), tl.float32),)
        else:
            matrices = matrices + (load_matrix(base, i, FIRST, ROWS, COLS, KS, NS),)
    for j in tl.static_range(len(BIAS)):
        if BIAS[j] >= 0:
            c = tl.arange(0, NS[CHUNKS - 1 + j])
            biases = biases + (tl.load(base + BIAS[j] + c, mask=c < COLS[CHUNKS - 1 + j], other=0.0),)
        else:
            biases = biases + (tl.zeros((1,), tl.float32),)
        if A_AT[j] >= 0:
            scalars = scalars + (tl.load(base + A_AT[j]),)
        else:
            scalars = scalars + (tl.full((), 1.0, tl.float32),)
    return matrices, biases, scalars


@triton.jit
def store_row(base, matrices, biases, scalars, FIRST: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
           KS: tl.constexpr, NS: tl.constexpr, BIAS: tl.constexpr, A_AT: tl.constexpr, CHUNKS: tl.constexpr,
           APART: tl.constexpr):  # fmt: skip
    for i in tl.static_range(APART, len(FIRST)):
        store_matrix(base, matrices[i], i, FIRST, ROWS, COLS, KS, NS)
    for j in tl.static_range(len(BIAS)):
        if BIAS[j] >= 0:
            c = tl.arange(0, NS[CHUNKS - 1 + j])
            tl.store(base + BIAS[j] + c, biases[j], mask=c < COLS[CHUNKS - 1 + j])
        if A_AT[j] >= 0:
            tl.store(base + A_AT[j], scalars[j])


@triton.jit
def fold(rows, W, b, a, FIRST: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, KS: tl.constexpr,
          NS: tl.constexpr, LAYER: tl.constexpr, BIAS: tl.constexpr, APART: tl.constexpr,
          OPERAND: tl.constexpr):  # fmt: skip
    """s_j, A_i and c_j of the weights as they stand."""
    s = ()
    A = ()
    c = ()
    for j in tl.static_range(len(BIAS)):
        if j < len(BIAS) - 1:
            s = s + (_GAUSS / a[j],)
        else:
            s = s + (a[j],)
        c = c + (b[j] * s[j],)
    for i in tl.static_range(len(FIRST)):
        if i < APART:
            A = A + ((load_matrix(rows, i, FIRST, ROWS, COLS, KS, NS) * s[LAYER[i]]).to(OPERAND),)
        else:
            A = A + ((W[i] * s[LAYER[i]]).to(OPERAND),)
    return s, A, c
