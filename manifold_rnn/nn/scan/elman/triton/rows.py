"""One program for each row of the batch and all time steps, with the matrix in registers or streamed."""

import triton
import triton.language as tl

from .functions import activate, differentiate, load, load_matrix, store


@triton.jit(do_not_specialize=["T"])
def forward(
    U, H, M, threshold, T, B, n,
    ACTIVATION: tl.constexpr, COMPLEX: tl.constexpr, KEEPS: tl.constexpr, HELD: tl.constexpr,
    BLOCK: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Compute the states ``H[1:]`` from ``H[0]`` and projected inputs ``U`` (T, B, n). ``M`` is W^T.

    ``U`` may be ``H[1:]``. With KEEPS, the arguments of the nonlinearity are written to it.
    """
    PARTS: tl.constexpr = 2 if COMPLEX else 1
    row, j = tl.program_id(0) * n, tl.arange(0, BLOCK)
    step, inside = B * n * PARTS, j < n
    u, h = U + row * PARTS, H + row * PARTS
    b = tl.load(threshold + j, mask=inside, other=0.0).to(tl.float32) if ACTIVATION == "modrelu" else 0.0
    if HELD:
        w_re, w_im = load_matrix(M, j, j, n, COMPLEX)
        v_re, v_im = load(h, j, inside, COMPLEX)
    u_re, u_im = load(u, j, inside, COMPLEX)
    for t in range(T):
        next_re, next_im = load(u + step, j, inside & (j < (T - 1 - t) * n), COMPLEX)  # prefetched
        if HELD:
            z_re, z_im = _product(w_re, w_im, v_re, v_im, COMPLEX)
        else:
            z_re, z_im = _streamed(M, h, n, COMPLEX, BLOCK, DEPTH)
        z_re += u_re
        z_im += u_im
        if KEEPS:
            store(u, j, z_re, z_im, inside, COMPLEX)
        h += step
        h_re, h_im = activate(z_re, z_im, b, ACTIVATION, COMPLEX)
        store(h, j, h_re, h_im, inside, COMPLEX)
        if HELD:
            v_re = tl.where(inside, h_re, 0.0).to(H.dtype.element_ty).to(tl.float32)  # infinity times 0 is NaN
            v_im = tl.where(inside, h_im, 0.0) if COMPLEX else 0.0
        else:
            tl.debug_barrier()  # the next step reads values that other threads wrote
        u_re, u_im = next_re, next_im
        u += step


@triton.jit(do_not_specialize=["T"])
def backward(
    D, S, G, LAST, SHARES, FIRST, M, threshold, T, B, n, g_step, g_row, g_column,
    ACTIVATION: tl.constexpr, COMPLEX: tl.constexpr, EVERY: tl.constexpr, HELD: tl.constexpr,
    BLOCK: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Write the gradients ``D`` of the arguments, beginning at the last step, where all pointers start.

    ``S`` contains the states or arguments that the derivative needs. With EVERY, ``G`` has the gradients of the states.
    ``LAST`` is another gradient of the last state. The gradients of the threshold are written to ``SHARES`` (B, n), and
    that of the initial state to ``FIRST``. ``M`` is conj(W).
    """
    PARTS: tl.constexpr = 2 if COMPLEX else 1
    row, j = tl.program_id(0) * n, tl.arange(0, BLOCK)
    step, inside = B * n * PARTS, j < n
    d, s, g = D + row * PARTS, S + row * PARTS, G + tl.program_id(0).to(tl.int64) * g_row
    b = tl.load(threshold + j, mask=inside, other=0.0).to(tl.float32) if ACTIVATION == "modrelu" else 0.0
    if HELD:
        w_re, w_im = load_matrix(M, j, j, n, COMPLEX)
    shares = tl.full([BLOCK], 0.0, tl.float32)
    after_re, after_im = load(LAST + row * PARTS, j, inside, COMPLEX)
    for _ in range(T):
        if EVERY:
            more_re, more_im = _strided(g, j * g_column, inside, COMPLEX)
            after_re += more_re
            after_im += more_im
        s_re, s_im = load(s, j, inside, COMPLEX)
        d_re, d_im, share = differentiate(after_re, after_im, s_re, s_im, b, ACTIVATION, COMPLEX)
        shares += share
        store(d, j, d_re, d_im, inside, COMPLEX)
        if HELD:
            d_re = tl.where(inside, d_re, 0.0).to(D.dtype.element_ty).to(tl.float32)
            d_im = tl.where(inside, d_im, 0.0) if COMPLEX else 0.0
            after_re, after_im = _product(w_re, w_im, d_re, d_im, COMPLEX)
        else:
            tl.debug_barrier()
            after_re, after_im = _streamed(M, d, n, COMPLEX, BLOCK, DEPTH)
        d -= step
        s -= step
        g -= g_step
    store(FIRST + row * PARTS, j, after_re, after_im, inside, COMPLEX)
    if ACTIVATION == "modrelu":
        tl.store(SHARES + row + j, shares, mask=inside)


@triton.jit
def _strided(at, offsets, mask, COMPLEX: tl.constexpr):
    """Return both parts of entries whose offsets count real numbers."""
    re = tl.load(at + offsets, mask=mask, other=0.0).to(tl.float32)
    im = tl.load(at + offsets + 1, mask=mask, other=0.0).to(tl.float32) if COMPLEX else 0.0
    return re, im


@triton.jit
def _product(w_re, w_im, v_re, v_im, COMPLEX: tl.constexpr):
    """Return the row ``v`` times the matrix ``w``."""
    if COMPLEX:
        re = tl.sum(w_re * v_re[:, None] - w_im * v_im[:, None], 0)
        im = tl.sum(w_im * v_re[:, None] + w_re * v_im[:, None], 0)
    else:
        re = tl.sum(w_re * v_re[:, None], 0)
        im = 0.0
    return re, im


@triton.jit
def _streamed(M, V, n, COMPLEX: tl.constexpr, BLOCK: tl.constexpr, DEPTH: tl.constexpr):
    """Return the row at ``V`` times the matrix at ``M``, which is read DEPTH rows at a time."""
    j = tl.arange(0, BLOCK)
    re = tl.full([DEPTH, BLOCK], 0.0, tl.float32)
    im = tl.full([DEPTH, BLOCK], 0.0, tl.float32) if COMPLEX else 0.0
    for k in range(0, n, DEPTH):
        i = k + tl.arange(0, DEPTH)
        v_re, v_im = load(V, i, i < n, COMPLEX)
        w_re, w_im = load_matrix(M, i, j, n, COMPLEX)
        re += w_re * v_re[:, None]
        if COMPLEX:
            re -= w_im * v_im[:, None]
            im += w_im * v_re[:, None] + w_re * v_im[:, None]
    return tl.sum(re, 0), tl.sum(im, 0) if COMPLEX else 0.0
