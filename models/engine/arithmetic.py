"""Functions of numbers within a kernel: of a GPU (NATIVE) its own instructions, faster and coarser than Triton's."""

# Names in capitals vary.
# ruff: noqa: SIM300

import triton
import triton.language as tl

_PER_TURN = tl.constexpr(0.15915494309189535)
# 2 pi as a sum whose first part has few bits, so that its product with a number of turns is exact.
_TURN_HIGH = tl.constexpr(6.28125)
_TURN_LOW = tl.constexpr(0.0019353071795864769)
# Adding and subtracting 1.5 * 2^23 rounds to the nearest integer.
_ROUNDER = tl.constexpr(12582912.0)


@triton.jit
def exp2(x, NATIVE: tl.constexpr):
    if NATIVE:
        return tl.inline_asm_elementwise("ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, is_pure=True, pack=1)
    else:
        return tl.exp2(x)


@triton.jit
def sqrt(x, NATIVE: tl.constexpr):
    if NATIVE:
        return tl.inline_asm_elementwise("sqrt.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, is_pure=True, pack=1)
    else:
        return tl.sqrt(x)


@triton.jit
def reciprocal(x, NATIVE: tl.constexpr):
    if NATIVE:
        return tl.inline_asm_elementwise("rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, is_pure=True, pack=1)
    else:
        return 1.0 / x


@triton.jit
def sin_cos(x, REDUCE: tl.constexpr, NATIVE: tl.constexpr):
    """Sine and cosine to 2^-20 within half a turn of zero; REDUCE brings x there."""
    if NATIVE:
        if REDUCE:
            turns = (x * _PER_TURN + _ROUNDER) - _ROUNDER
            x = x - turns * _TURN_HIGH
            x = x - turns * _TURN_LOW
        sin = tl.inline_asm_elementwise("sin.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, is_pure=True, pack=1)
        cos = tl.inline_asm_elementwise("cos.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, is_pure=True, pack=1)
        return sin, cos
    else:
        return tl.sin(x), tl.cos(x)


@triton.jit
def rounded(x, OPERAND: tl.constexpr, NATIVE: tl.constexpr):
    """x as operand. Two at a time: left alone the compiler converts some one by one, at a quarter of the rate."""
    if NATIVE and OPERAND == tl.bfloat16:
        return tl.inline_asm_elementwise(
            "cvt.rn.bf16x2.f32 $0, $2, $1;", "=r,f,f", [x], tl.bfloat16, is_pure=True, pack=2
        )
    else:
        return x.to(OPERAND)


@triton.jit
def times(x, y, OPERAND: tl.constexpr, NATIVE: tl.constexpr):
    """The product of operands, two at a time."""
    if NATIVE and OPERAND == tl.bfloat16:
        return tl.inline_asm_elementwise(
            "{ .reg .b32 zero; mov.b32 zero, 0x80008000; fma.rn.bf16x2 $0, $1, $2, zero; }",
            "=r,r,r",
            [x, y],
            tl.bfloat16,
            is_pure=True,
            pack=2,
        )
    else:
        return x * y
