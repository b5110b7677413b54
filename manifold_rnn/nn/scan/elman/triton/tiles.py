"""Programs for tiles of batch and hidden units. Programs for the same rows wait for each other after each step."""

import triton
import triton.language as tl

from .functions import activate, differentiate, load, load_matrix, store


@triton.jit(do_not_specialize=["T", "members"])
def forward(
    U, H, M, threshold, arrived, T, B, n, members,
    ACTIVATION: tl.constexpr, COMPLEX: tl.constexpr, KEEPS: tl.constexpr, SHARED: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    """Do the same as the kernel for one row. ``members`` programs in a row of the grid share the tiles of columns.

    ``arrived`` counts the programs that have finished a step. It is used if rows are SHARED.
    """
    PARTS: tl.constexpr = 2 if COMPLEX else 1
    group, member = tl.program_id(0) // members, tl.program_id(0) % members
    i, j = group * ROWS + tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    step = B * n * PARTS
    u, h = U, H
    for t in range(T):
        for start in range(member * COLUMNS, n, members * COLUMNS):
            c = start + j
            at, inside = i[:, None] * n + c[None, :], (i < B)[:, None] & (c < n)[None, :]
            z_re, z_im = load(u, at, inside, COMPLEX)
            b = tl.load(threshold + c, mask=c < n, other=0.0).to(tl.float32) if ACTIVATION == "modrelu" else 0.0
            z_re, z_im = _add_product(z_re, z_im, h, M, i, c, B, n, n, COMPLEX, DEPTH, PRECISION, HALF)
            if KEEPS:
                store(u, at, z_re, z_im, inside, COMPLEX)
            z_re, z_im = activate(z_re, z_im, b, ACTIVATION, COMPLEX)
            store(h + step, at, z_re, z_im, inside, COMPLEX)
        _meet(arrived + group, (t + 1) * members, SHARED)
        u += step
        h += step


@triton.jit(do_not_specialize=["T", "members"])
def backward(
    D, S, G, LAST, SHARES, M, threshold, arrived, T, B, n, members, g_step, g_row, g_column,
    ACTIVATION: tl.constexpr, COMPLEX: tl.constexpr, EVERY: tl.constexpr, SHARED: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    """Do the same as the kernel for one row, without the gradient of the initial state. ``SHARES`` starts at zero."""
    PARTS: tl.constexpr = 2 if COMPLEX else 1
    group, member = tl.program_id(0) // members, tl.program_id(0) % members
    i, j = group * ROWS + tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    step = B * n * PARTS
    d, s, g = D, S, G
    reach = member * 0  # at the last step there is nothing after it
    for t in range(T):
        for start in range(member * COLUMNS, n, members * COLUMNS):
            c = start + j
            at, inside = i[:, None] * n + c[None, :], (i < B)[:, None] & (c < n)[None, :]
            a_re, a_im = load(LAST, at, inside & (c < n - reach)[None, :], COMPLEX)
            if EVERY:
                far = i[:, None].to(tl.int64) * g_row + c[None, :] * g_column
                a_re, a_im = _add_strided(a_re, a_im, g, far, inside, COMPLEX)
            s_re, s_im = load(s, at, inside, COMPLEX)
            b = tl.load(threshold + c, mask=c < n, other=0.0).to(tl.float32) if ACTIVATION == "modrelu" else 0.0
            d_next = d + step
            a_re, a_im = _add_product(a_re, a_im, d_next, M, i, c, B, n, reach, COMPLEX, DEPTH, PRECISION, HALF)
            a_re, a_im, share = differentiate(a_re, a_im, s_re, s_im, b, ACTIVATION, COMPLEX)
            store(d, at, a_re, a_im, inside, COMPLEX)
            if ACTIVATION == "modrelu":
                share += tl.load(SHARES + at, mask=inside, other=0.0)
                tl.store(SHARES + at, share, mask=inside)
        _meet(arrived + group, (t + 1) * members, SHARED)
        d -= step
        s -= step
        g -= g_step
        reach = member * 0 + n


@triton.jit
def _add_strided(re, im, at, offsets, mask, COMPLEX: tl.constexpr):
    """Add entries whose offsets count real numbers."""
    re += tl.load(at + offsets, mask=mask, other=0.0).to(tl.float32)
    if COMPLEX:
        im += tl.load(at + offsets + 1, mask=mask, other=0.0).to(tl.float32)
    return re, im


@triton.jit
def _add_product(
    re, im, V, M, i, c, B, n, reach,
    COMPLEX: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    """Add the rows ``i`` of the matrix at ``V`` times the columns ``c`` of that at ``M``, over ``reach`` products."""
    for start in range(0, reach, DEPTH):
        k = start + tl.arange(0, DEPTH)
        v_re, v_im = load(V, i[:, None] * n + k[None, :], (i < B)[:, None] & (k < n)[None, :], COMPLEX)
        w_re, w_im = load_matrix(M, k, c, n, COMPLEX)
        if COMPLEX:
            re = tl.dot(v_re, w_re, re, input_precision=PRECISION)
            re = tl.dot(-v_im, w_im, re, input_precision=PRECISION)
            im = tl.dot(v_re, w_im, im, input_precision=PRECISION)
            im = tl.dot(v_im, w_re, im, input_precision=PRECISION)
        else:
            if HALF:  # in the precision of the tensor cores
                v_re, w_re = v_re.to(V.dtype.element_ty), w_re.to(V.dtype.element_ty)
            re = tl.dot(v_re, w_re, re, input_precision=PRECISION)
    return re, im


@triton.jit
def _meet(arrived, target, SHARED: tl.constexpr):
    """Wait until every program of these rows has finished the step."""
    tl.debug_barrier()  # all threads have written
    if SHARED:
        # after this acquire, no stale cache is read
        tl.atomic_add(arrived, 1, sem="release", scope="gpu")
        while tl.atomic_add(arrived, 0, sem="acquire", scope="gpu") < target:
            pass
        tl.debug_barrier()
