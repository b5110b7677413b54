"""The resolvent of a triangular matrix: its triangular systems and its norm, for many shifts at once."""

import torch
from torch import Tensor

from .norms import largest_part, power_of_two_below

_LEAF = 32  # rows eliminated one by one, between matrix products
_BLOCK = 2**19  # complex numbers in one block of columns, 8 MiB
# The convergence is checked after these sweeps. After the last one, singular values are computed directly.
_CHECKS = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 20, 25, 32, 40, 50, 64, 80, 100, 128, 160, 200, 256, 320)


def smallest_singular_values(T: Tensor, z: Tensor, *, tol: float = 1e-4, direct: bool = True) -> Tensor:
    r"""Smallest singular value of :math:`zI - T`, which is the inverse of the resolvent norm.

    .. math:: s_{\min}(z) = 1 / \|(zI - T)^{-1}\|_2 .

    Parameters
    ----------
    T : Tensor, shape (n, n)
        Upper triangular, complex128: the Schur form of the matrix to study.
    z : Tensor, shape (...)
        The shifts, complex128.
    tol : float
        Relative error at which the iteration for a shift stops.
    direct : bool
        Whether to compute the singular values directly for shifts at which the iteration has not converged. Otherwise
        the last value is returned, which is an upper bound.

    Returns
    -------
    Tensor, shape (...)
        Real. Values below ``eps`` times the Frobenius norm of ``T`` are replaced by that product, because rounding
        errors of this size in ``T`` change them completely.

    Notes
    -----
    It runs the Lanczos iteration for the largest eigenvalue of :math:`(zI - T)^{-1} (zI - T)^{-H}`, with two triangular
    solves per sweep. The residual bounds the distance to an eigenvalue; its square divided by the gap is a closer
    estimate. Source: Trefethen and Embree (2005), chapter 39.
    """
    largest = torch.maximum(largest_part(z.reshape(1, -1)), largest_part(T)).squeeze()
    unit = power_of_two_below(largest)
    T, shifts = T / unit, z.reshape(-1) / unit
    floor = torch.finfo(T.dtype).eps * torch.linalg.matrix_norm(T)
    # the adjoint of an upper triangular matrix is upper triangular after reversing both axes
    adjoint = T.mH.flip(0, 1).contiguous()
    departure = torch.linalg.matrix_norm(T.triu(1))
    width = max(256, _BLOCK // len(T))
    parts = []
    for part in shifts.split(width):
        # by Weyl's inequality, the error is at most the norm of the part above the diagonal
        values = (part[:, None] - T.diagonal()).abs().amin(1)
        rest = (values * tol < departure).nonzero().squeeze(1)
        if len(rest):
            values[rest] = _lanczos(T, adjoint, part[rest], floor, tol, direct)
        parts.append(values)
    return (torch.cat(parts).clamp(min=floor) * unit).reshape(z.shape)


def solve_shifted(T: Tensor, inverse_pivots: Tensor, x: Tensor) -> Tensor:
    r"""Solve :math:`(z_k I - T) x_k = b_k` in place, for an upper triangular matrix and many shifts.

    All shifts have the same entries above the diagonal. Most of the substitution is therefore products of blocks of
    ``T`` with blocks of all solutions.

    Parameters
    ----------
    T : Tensor, shape (n, n)
        Upper triangular, complex.
    inverse_pivots : Tensor, shape (n, K)
        :math:`1 / (z_k - T_{ii})`.
    x : Tensor, shape (n, K)
        The right-hand sides, which are overwritten by the solutions.

    Returns
    -------
    Tensor, shape (n, K)
        The tensor ``x``.
    """
    _eliminate(T, inverse_pivots, x, 0, len(T))
    return x


def inverse_pivots(T: Tensor, z: Tensor, floor: Tensor) -> Tensor:
    """Return ``1 / (z_k - T_ii)``, shape (n, K), with zero pivots replaced by ``floor``."""
    pivots = z - T.diagonal()[:, None]
    least = floor.clamp(min=torch.finfo(T.dtype).tiny)
    return torch.where(pivots.abs() < least, least.to(T.dtype), pivots).reciprocal()


def _eliminate(T: Tensor, inverse: Tensor, x: Tensor, start: int, end: int) -> None:
    if end - start > _LEAF:
        middle = (start + end + 1) // 2
        _eliminate(T, inverse, x, middle, end)
        x[start:middle].addmm_(T[start:middle, middle:end], x[middle:end])
        _eliminate(T, inverse, x, start, middle)
        return
    for i in range(end - 1, start - 1, -1):
        x[i].mul_(inverse[i])
        if i > start:
            x[start:i].addr_(T[start:i, i], x[i])


def _lanczos(T: Tensor, adjoint: Tensor, z: Tensor, floor: Tensor, tol: float, direct: bool) -> Tensor:
    """Return the smallest singular values for one block of shifts."""
    n, count = len(T), len(z)
    values = torch.zeros(count, dtype=torch.float64, device=T.device)
    active = torch.arange(count, device=T.device)
    inverse = inverse_pivots(T, z, floor)
    v = _start(n, T).expand(n, count).clone()
    before, link = torch.zeros_like(v), values.clone()
    diagonal, beside = values.new_zeros(0, count), values.new_zeros(0, count)
    below = torch.zeros_like(values, dtype=torch.bool)
    for sweep in range(1, _CHECKS[-1] + 1):
        u = solve_shifted(adjoint, inverse.flip(0).conj().resolve_conj(), v.flip(0)).flip(0)
        size = _squared_norms(u)
        below |= ~(size * floor.square() < 1)  # also true if a solution overflows
        w = solve_shifted(T, inverse, u)
        diagonal = torch.cat([diagonal, torch.where(below, 0, size)[None]])
        w -= v * diagonal[-1] + before * link
        link = torch.where(below, 0, _squared_norms(w).sqrt())
        beside = torch.cat([beside, link[None]])
        v, before = w / torch.where(link > 0, link, 1), v
        if sweep not in _CHECKS:
            continue
        top, error = _ritz(diagonal, beside)
        values[active] = torch.where(below, 0, top.rsqrt())
        done = below | ((error <= tol * top) & (sweep >= min(3, n)))
        if bool(done.all()):
            return values
        if int(done.sum()) * 4 >= len(done):
            rest = (~done).nonzero().squeeze(1)
            active, link, diagonal, beside = active[rest], link[rest], diagonal[:, rest], beside[:, rest]
            v, before, inverse, below = v[:, rest], before[:, rest], inverse[:, rest], below[rest]
            done = done[rest]
    if direct:
        eye = torch.eye(n, dtype=T.dtype, device=T.device)
        for i in active[~done].tolist():
            values[i] = torch.linalg.svdvals(z[i] * eye - T)[-1]
    return values


def _ritz(diagonal: Tensor, beside: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest eigenvalue of each tridiagonal matrix, and an estimate of its error."""
    scale = diagonal.amax(0)
    scale = torch.where(scale > 0, scale, 1)
    matrix = torch.diag_embed((diagonal / scale).mT)
    if len(diagonal) > 1:
        matrix += torch.diag_embed((beside[:-1] / scale).mT, -1)
    eigenvalues, vectors = torch.linalg.eigh(matrix)
    top, residual = eigenvalues[:, -1], beside[-1] / scale * vectors[:, -1, -1].abs()
    gap = top - eigenvalues[:, -2] if len(diagonal) > 1 else residual
    return top * scale, torch.minimum(residual, residual.square() / gap.clamp(min=1e-300)) * scale


def _squared_norms(x: Tensor) -> Tensor:
    """Return the squared norms of the columns; several times faster than `torch.linalg.vector_norm`."""
    return torch.view_as_real(x).square().sum(0).sum(-1)


def _start(n: int, like: Tensor) -> Tensor:
    """Return the same random unit vector at every call, without using the global random generator."""
    v = torch.randn(n, 1, dtype=like.dtype, generator=torch.Generator().manual_seed(0))
    return (v / torch.linalg.vector_norm(v)).to(like.device)
