"""Skew-Hermitian matrices and their coordinates in an orthonormal basis."""

import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from .._kernels import coordinates
from .._torch import apply_function, is_forward_mode, is_transformed, is_watched, sees_every_step
from ..errors import DtypeError, ShapeError
from .checks import require_matrix
from .precision import full_precision


@full_precision
def skew(x: Tensor) -> Tensor:
    r"""Skew-Hermitian part of a square matrix.

    .. math:: \operatorname{skew}(X) = \tfrac12 (X - X^H).

    This is the orthogonal projection onto the Lie algebra of the orthogonal (real) or unitary (complex) group.

    Parameters
    ----------
    x : Tensor, shape (..., n, n)
        A real or complex matrix.

    Returns
    -------
    Tensor, shape (..., n, n)
        The skew-Hermitian part ``A``, with :math:`A^H = -A`.

    Raises
    ------
    ShapeError, DtypeError
        If ``x`` is not a batch of square matrices, or is not floating point.

    Examples
    --------
    >>> a = mr.linalg.skew(torch.tensor([[1.0, 2.0], [0.0, 1.0]]))
    >>> assert torch.equal(a, torch.tensor([[0.0, 1.0], [-1.0, 0.0]]))
    """
    require_matrix(x, "skew")
    return torch.sub(x * 0.5, x.mH, alpha=0.5)  # the difference itself may overflow


@full_precision
def pack_skew(A: Tensor) -> Tensor:
    r"""Coordinates of a skew-Hermitian matrix: a real vector with the same norm.

    The coordinates of a real matrix are :math:`\sqrt2\,A_{ij}` for :math:`i > j`. Those of a complex one are
    :math:`\sqrt2\operatorname{Re}A_{ij}`, then :math:`\sqrt2\operatorname{Im}A_{ij}`, then the imaginary diagonal
    :math:`\operatorname{Im}A_{ii}`. Hence :math:`\|c\|_2 = \|A\|_F`, and a gradient step in ``c`` is a gradient step in
    ``A``.

    Parameters
    ----------
    A : Tensor, shape (..., n, n)
        A real or complex matrix; only its skew-Hermitian part is used.

    Returns
    -------
    Tensor, shape (..., n(n-1)/2), or (..., n^2) for complex ``A``
        The real coordinates, infinite where the difference of two entries overflows.

    Raises
    ------
    ShapeError, DtypeError
        If ``A`` is not a batch of square matrices, or is not floating point.

    Examples
    --------
    >>> A = mr.linalg.skew(torch.randn(3, 3, dtype=torch.complex128))
    >>> assert torch.allclose(mr.linalg.unpack_skew(mr.linalg.pack_skew(A), A.dtype), A)
    """
    require_matrix(A, "pack_skew")
    if _is_compiled(A, A.shape[-1]):
        return _compiled(_Pack, A)
    n, twice = A.shape[-1], (A - A.mH).flatten(-2)
    a = _times(twice.index_select(-1, _cached(_lower, n, A.device)), math.sqrt(0.5))
    if not A.is_complex():
        return a
    diagonal = twice.imag.index_select(-1, _cached(_diagonal, n, A.device))
    return torch.cat([a.real, a.imag, diagonal * 0.5], -1)


@full_precision
def unpack_skew(c: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    r"""Skew-Hermitian matrix from its coordinates. This is the inverse of `pack_skew`.

    Parameters
    ----------
    c : Tensor, shape (..., d), real
        The coordinates, with ``d = n(n-1)/2`` for a real matrix or ``d = n^2`` for a complex one.
    dtype : torch.dtype, optional
        Dtype of the matrix; a complex dtype selects the complex layout. Default: the (real) dtype of ``c``.

    Returns
    -------
    Tensor, shape (..., n, n)
        The matrix ``A``, with :math:`A^H = -A` and :math:`\|A\|_F = \|c\|_2`.

    Raises
    ------
    ShapeError, DtypeError
        If no ``n`` has ``d`` coordinates, or ``c`` is not real.

    Examples
    --------
    >>> A = mr.linalg.unpack_skew(torch.ones(3))
    >>> assert torch.equal(A, -A.mT) and torch.isclose(A.norm(), torch.tensor(3.0).sqrt())
    """
    complex_ = dtype is not None and dtype.is_complex
    if c.is_complex():
        raise DtypeError(
            f"Coordinates must be real, also those of a complex matrix.\nExpected float32 or float64, got {c.dtype}.\n"
            "Compute the coordinates with pack_skew."
        )
    n = skew_size(c.shape[-1] if c.ndim else -1, complex_=complex_)
    if not complex_ and _is_compiled(c, n):
        return _compiled(_Unpack, c, n)
    # one gather and one product with a constant are cheaper than two scatters
    below = c.index_select(-1, _cached(_places, n, c.device)) if n > 1 else c.sum(-1, keepdim=True)
    real = below * _cached(_signs, n, c.device, c.dtype)
    if not complex_:
        return real.unflatten(-1, (n, n))
    imag = c.index_select(-1, _cached(_imaginary_places, n, c.device)) * _cached(_scales, n, c.device, c.dtype)
    return torch.complex(real, imag).unflatten(-1, (n, n))


def _is_compiled(x: Tensor, n: int) -> bool:
    """Return whether to use the compiled loops: they give the same result if nothing observes the operations."""
    if n < _RECORDED_FROM and x.requires_grad and torch.is_grad_enabled():
        return False
    return not (sees_every_step() or is_watched(x)) and coordinates.can_be_compiled(x)


def _compiled(function: type[torch.autograd.Function], x: Tensor, *n: int) -> Tensor:
    recorded = x.requires_grad and torch.is_grad_enabled()
    result: Tensor = apply_function(function, x, *n) if recorded else function.forward(None, x, *n)
    return result


class _Pack(torch.autograd.Function):
    """The compiled `pack_skew`, whose adjoint is `unpack_skew`."""

    @staticmethod
    def forward(ctx: Any, A: Tensor) -> Tensor:
        return cast(Tensor, coordinates.pack_skew(A))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return unpack_skew(g)


class _Unpack(torch.autograd.Function):
    """The compiled `unpack_skew`, whose adjoint is `pack_skew`."""

    @staticmethod
    def forward(ctx: Any, c: Tensor, n: int) -> Tensor:
        return cast(Tensor, coordinates.unpack_skew(c, n))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return pack_skew(g), None


def skew_size(d: int, *, complex_: bool = False) -> int:
    """Return the size ``n`` of skew-Hermitian matrices with ``d`` real coordinates; raises `ShapeError` if none."""
    n = math.isqrt(max(d, 0)) if complex_ else (1 + math.isqrt(1 + 8 * max(d, 0))) // 2
    if d != (n * n if complex_ else n * (n - 1) // 2) or n < 1:
        raise ShapeError(
            "A skew-Hermitian n x n matrix has n(n-1)/2 coordinates if real, n^2 if complex.\n"
            f"Expected such a number, got {d} for a {'complex' if complex_ else 'real'} matrix.\n"
            "Compute the coordinates with pack_skew."
        )
    return n


def _times(x: Tensor, factor: float) -> Tensor:
    """Return ``factor x``, in place except in forward mode, whose zero tangents cannot be written."""
    return x * factor if is_forward_mode() else x.mul_(factor)


_RECORDED_FROM = 64  # columns from which a custom function costs less than indexing

_CACHE: dict[tuple[str, int, torch.device, torch.dtype | None], Tensor] = {}


def _cached(
    build: Callable[[int, torch.device], Tensor], n: int, device: torch.device, dtype: torch.dtype | None = None
) -> Tensor:
    if torch.compiler.is_compiling():
        return build(n, device).to(dtype)
    key = (build.__name__, n, device, dtype)
    if key not in _CACHE:
        with torch.inference_mode(False):  # an inference tensor could not be saved for a later backward
            table = build(n, device).to(dtype)
        if type(table) is not Tensor or is_transformed():  # do not cache what a tracer or a transform has wrapped
            return table
        _CACHE[key] = table
    return _CACHE[key]


def _lower(n: int, device: torch.device) -> Tensor:
    i, j = torch.tril_indices(n, n, -1, device=device)
    return i * n + j


def _diagonal(n: int, device: torch.device) -> Tensor:
    return torch.arange(n, device=device) * (n + 1)


def _places(n: int, device: torch.device) -> Tensor:
    """Return the position of each matrix entry among the coordinates, on both sides of the diagonal; any on it."""
    index = torch.zeros((n, n), dtype=torch.long, device=device)
    i, j = torch.tril_indices(n, n, -1, device=device)
    index[i, j] = index[j, i] = torch.arange(len(i), device=device)
    return index.flatten()


def _signs(n: int, device: torch.device) -> Tensor:
    ones = torch.ones(n, n, device=device, dtype=torch.float64)
    return (math.sqrt(0.5) * (ones.tril(-1) - ones.triu(1))).flatten()


def _imaginary_places(n: int, device: torch.device) -> Tensor:
    m = n * (n - 1) // 2
    index = _places(n, device) + m
    index[_diagonal(n, device)] = 2 * m + torch.arange(n, device=device)
    return index


def _scales(n: int, device: torch.device) -> Tensor:
    eye = torch.eye(n, device=device, dtype=torch.float64)
    return (eye + math.sqrt(0.5) * (1 - eye)).flatten()
