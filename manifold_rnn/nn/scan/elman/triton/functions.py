"""Nonlinearities inside a kernel, forward and backward, on real and imaginary parts."""

import triton
import triton.language as tl

from ....activations import EPS

_EPS2 = tl.constexpr(EPS**2)
_LARGE, _SCALE = tl.constexpr(2.0**60), tl.constexpr(2.0**-66)


@triton.jit
def load(at, offsets, mask, COMPLEX: tl.constexpr):
    """Return both parts in single precision, zero where masked. The second part is 0 for real numbers."""
    if COMPLEX:
        re = tl.load(at + 2 * offsets, mask=mask, other=0.0).to(tl.float32)
        im = tl.load(at + 2 * offsets + 1, mask=mask, other=0.0).to(tl.float32)
    else:
        re = tl.load(at + offsets, mask=mask, other=0.0).to(tl.float32)
        im = 0.0
    return re, im


@triton.jit
def load_matrix(M, rows, columns, n, COMPLEX: tl.constexpr):
    """Return both parts of a tile of the matrix at ``M``, (n, n), or (2, n, n) if complex."""
    mask = (rows < n)[:, None] & (columns < n)[None, :]
    at = M + rows[:, None] * n + columns[None, :]
    re = tl.load(at, mask=mask, other=0.0).to(tl.float32)
    im = tl.load(at + n * n, mask=mask, other=0.0).to(tl.float32) if COMPLEX else 0.0
    return re, im


@triton.jit
def store(at, offsets, re, im, mask, COMPLEX: tl.constexpr):
    """Write both parts."""
    if COMPLEX:
        tl.store(at + 2 * offsets, re, mask=mask)
        tl.store(at + 2 * offsets + 1, im, mask=mask)
    else:
        tl.store(at + offsets, re.to(at.dtype.element_ty), mask=mask)


@triton.jit
def activate(re, im, b, ACTIVATION: tl.constexpr, COMPLEX: tl.constexpr):
    """Return the value at an argument. NaN stays NaN, which a maximum would not guarantee."""
    if ACTIVATION == "relu":
        re = tl.where(re < 0, 0.0, re)
    elif ACTIVATION == "tanh":
        re = _tanh(re)
    elif ACTIVATION == "modrelu":
        if COMPLEX:
            scale = 1 + b * _inverse_modulus(re, im)
            scale = tl.where(scale < 0, 0.0, scale)
            re, im = re * scale, im * scale
        else:
            modulus = tl.abs(re) + b
            modulus = tl.where(modulus < 0, 0.0, modulus)
            re = tl.where(re == 0, 0.0, tl.where(re < 0, -modulus, modulus))
    return re, im


@triton.jit
def differentiate(g_re, g_im, s_re, s_im, b, ACTIVATION: tl.constexpr, COMPLEX: tl.constexpr):
    """Return the gradient of the argument, and of the threshold, given that of the value.

    ``s`` is the argument for complex modReLU, and the value for all other functions.
    """
    share = 0.0
    if ACTIVATION == "relu":
        g_re = tl.where(s_re <= 0, 0.0, g_re)
    elif ACTIVATION == "tanh":
        g_re = g_re * (1 - s_re * s_re)
    elif ACTIVATION == "modrelu":
        if COMPLEX:
            inverse = _inverse_modulus(s_re, s_im)
            p_re, p_im = s_re * inverse, s_im * inverse  # of length 1 first, since s * g may overflow
            scale = 1 + b * inverse
            share = (p_re * g_re + p_im * g_im) * tl.where(scale > 0, 1.0, 0.0)
            scale = tl.where(scale < 0, 0.0, scale)
            bend = tl.where(scale > 0, share * b * inverse, 0.0)
            g_re, g_im = g_re * scale - p_re * bend, g_im * scale - p_im * bend
        else:
            sign = tl.where(s_re > 0, 1.0, tl.where(s_re < 0, -1.0, 0.0))  # the sign of NaN is 0, as in torch
            share = tl.where(s_re == 0, 0.0, g_re) * sign
            g_re = share * sign
    return g_re, g_im, share


@triton.jit
def _inverse_modulus(re, im):
    """Return ``1 / r`` with the smoothed modulus r. Numbers whose squares would overflow are scaled first."""
    scale = tl.where((tl.abs(re) > _LARGE) | (tl.abs(im) > _LARGE), _SCALE, 1.0)
    re, im = re * scale, im * scale
    return tl.rsqrt(re * re + im * im + _EPS2 * scale * scale) * scale


@triton.jit
def _tanh(x):
    """Return tanh, by its series near 0, where the exponential would lose digits. Nothing overflows."""
    size = tl.abs(x)
    small = tl.where(size < 0.25, x, 0.0)
    q = small * small
    p = -17 / 315 + q * (62 / 2835 + q * (-1382 / 155925))
    near = small + small * q * (-1 / 3 + q * (2 / 15 + q * p))
    e = tl.exp(-2 * tl.where(size > 50, 50.0, size))
    far = 1 - 2 * e / (1 + e)
    return tl.where(size < 0.25, near, tl.where(x < 0, -far, far))
