"""Decomposes moments: directions and output weights by Jennrich's algorithm, then the recurrent weights."""

from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import OptionError, UnsupportedError

_ABOVE_NOISE = 1.5  # singular values below this multiple of the noise count as noise
_DISTINCT = 2.0  # required distance of the directions of two rows of C, in standard errors


class Moment(NamedTuple):
    """A moment, and the standard error of each entry."""

    value: Tensor
    error: Tensor

    def noise(self) -> float:
        """Return the norm of the standard errors, relative to that of the moment."""
        return float(self.error.norm() / self.value.norm().clamp(min=1e-300))


class Subspace(NamedTuple):
    """The span of the directions."""

    basis: Tensor  # (p, n), orthonormal columns
    singular_values: Tensor
    noise: float


class Parts(NamedTuple):
    """Directions within the subspace, and their output weights."""

    directions: Tensor  # (n, n), unit rows
    C: Tensor  # (n, k)


def subspace(T: Moment, hidden: int | None) -> Subspace:
    """Return the span of the largest singular vectors of T (k, p, p), unfolded to a p x kp matrix.

    Raises
    ------
    OptionError
        If fewer than ``hidden`` singular values are above the noise.
    UnsupportedError
        If no singular value is above the noise, and ``hidden`` is None.
    """
    k, p, _ = T.value.shape
    left, values, _ = torch.linalg.svd(T.value.permute(1, 0, 2).reshape(p, k * p), full_matrices=False)
    noise = float(T.error.square().mean().sqrt()) * (p**0.5 + (k * p) ** 0.5)  # the norm of a random matrix
    above = int((values > max(_ABOVE_NOISE * noise, 1e-12 * float(values[0]))).sum())
    if hidden is None and above == 0:
        raise UnsupportedError(
            "The second moments of y and x1 are not above their noise.\n"
            f"Expected a singular value above {_ABOVE_NOISE * noise:.3g}, got {float(values[0]):.3g}.\n"
            "Pass more sequences, or outputs that depend on squares of the last inputs."
        )
    if hidden is not None and above < hidden:
        raise OptionError(
            f"The second moments of y and x1 have {above} directions above their noise.\n"
            f"Expected at least hidden={hidden} singular values above {_ABOVE_NOISE * noise:.3g}; number {hidden} is "
            f"{float(values[hidden - 1]):.3g}.\nPass more sequences, or a smaller hidden."
        )
    return Subspace(left[:, : above if hidden is None else hidden], values, noise)


def decompose(T: Moment, draws: int, generator: torch.Generator, *, strict: bool = True) -> Parts:
    r"""Return the directions and output weights of :math:`T = 2 \sum_r c_r \otimes a_r \otimes a_r`, (k, n, n).

    Jennrich's algorithm takes two random combinations :math:`M_1, M_2` of the outputs' matrices. The eigenvectors of
    :math:`M_1 M_2^{-1}` are the :math:`a_r`. Among all draws with real eigenvalues, the one with the smallest residual
    is refined by least squares. Refinement matters if rows of ``C`` are nearly parallel.

    Raises
    ------
    UnsupportedError
        If no draw has real eigenvalues. With ``strict``, also if two rows of ``C`` are parallel within their standard
        errors.
    """
    k, n, _ = T.value.shape
    best: tuple[float, Tensor, Tensor] | None = None
    for _ in range(1 if n == 1 else draws):
        v = torch.randn(2, k, generator=generator, dtype=torch.float64)
        first, second = torch.einsum("dk,kij->dij", v / v.norm(dim=1, keepdim=True), T.value)
        quotient, singular = torch.linalg.solve_ex(second, first, left=False)
        if bool(singular) or not bool(quotient.isfinite().all()):
            continue
        values, vectors = torch.linalg.eig(quotient)
        if n > 1 and bool((values.imag != 0).any()):
            continue
        a = vectors.real.mT / vectors.real.norm(dim=0)[:, None]
        C = _pseudo_inverse_of_squares(a).mT @ T.value.flatten(1).mT / 2
        residual = float((T.value - rebuilt(a, C)).norm())
        if best is None or residual < best[0]:
            best = residual, a, C
    if best is None:
        raise _not_identified(f"none of {draws} draws has real eigenvalues")
    a, C = _refined(T.value, *best[1:])
    if strict:
        per_output = T.error.square().mean((1, 2))  # (k,); entries ij and ji are the same random number
        _require_distinct(C, _pseudo_inverse_of_squares(a).square().sum(0)[:, None] * per_output / 2)
    return Parts(a, C)


def smallest_singular_value(T: Moment, parts: Parts) -> tuple[float, float]:
    r"""Return the smallest singular value of the directions, and its standard error to first order.

    An error e of T changes a direction by :math:`e / 2 |c_r|`, divided by the singular value of the other factor a_r.
    """
    values = torch.linalg.svdvals(parts.directions)
    noise = float(T.error.square().mean().sqrt())
    smallest = float(values[-1])
    return smallest, noise / max(2 * float(parts.C.norm(dim=1).min()) * smallest, 1e-300)


def rebuilt(a: Tensor, C: Tensor) -> Tensor:
    """Return T for these directions (n, p) and output weights (n, k)."""
    return 2 * torch.einsum("rk,ri,rj->kij", C, a, a)


def cross_moment(a: Tensor, U: Tensor, C: Tensor) -> Tensor:
    """Return D (k, p, p, p) for these directions (n, p), recurrent weights and output weights."""
    return 4 * torch.einsum("rs,rk,ri,sj,sl->kijl", U, C, a, a, a)


def recurrent_weights(D: Moment, parts: Parts) -> tuple[Tensor, Tensor, Tensor]:
    r"""Return U by linear least squares, its standard errors given A and C, and the D of this U.

    .. math:: D = 4 \sum_{rs} U_{rs}\, c_r \otimes a_r \otimes a_s \otimes a_s.
    """
    a, C = parts
    n, k = C.shape
    left = torch.einsum("rk,ri->kir", C, a).reshape(k * n, n)
    right = torch.einsum("si,sj->ijs", a, a).reshape(n * n, n)
    left_inverse, right_inverse = torch.linalg.pinv(left), torch.linalg.pinv(right)
    flat = D.value.reshape(k * n, n * n)
    U = left_inverse @ flat @ right_inverse.mT / 4
    twice = 2 - torch.eye(n, dtype=U.dtype).flatten()  # entries jl and lj are the same random number
    variance = left_inverse.square() @ (D.error.square().reshape(k * n, n * n) * twice) @ right_inverse.square().mT
    return U, variance.sqrt() / 4, cross_moment(a, U, C)


def _refined(T: Tensor, a: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    """Return directions and output weights that minimize the residual locally."""
    a, C = a.clone(), C.clone()
    optimizer = torch.optim.LBFGS(
        [a, C], max_iter=500, tolerance_grad=1e-13, tolerance_change=1e-15, line_search_fn="strong_wolfe"
    )
    scale = 1 / T.square().sum().clamp(min=1e-300)

    def closure() -> float:  # the gradient is written out, so that it works if gradients are disabled
        rest = T - rebuilt(a, C)
        C.grad = -4 * scale * torch.einsum("kij,ri,rj->rk", rest, a, a)
        a.grad = -8 * scale * torch.einsum("kij,rk,rj->ri", rest, C, a)
        return float(scale * rest.square().sum())

    optimizer.step(closure)
    norms = a.norm(dim=1, keepdim=True)
    return a / norms, C * norms.square()


def _pseudo_inverse_of_squares(a: Tensor) -> Tensor:
    """Return the transposed pseudo-inverse, (n^2, n), of the matrix with columns a_r (x) a_r."""
    columns = torch.einsum("ri,rj->ijr", a, a).reshape(-1, len(a))
    return torch.linalg.pinv(columns).mT


def _require_distinct(C: Tensor, variance: Tensor) -> None:
    """Raise if the directions of two rows of C differ by less than `_DISTINCT` standard errors."""
    units = C / C.norm(dim=1, keepdim=True)
    angle_error = variance.sum(1).sqrt() / C.norm(dim=1)
    for r in range(len(C)):
        for s in range(r):
            sine = float((units[r] - (units[r] @ units[s]) * units[s]).norm())
            error = float(angle_error[r] + angle_error[s])
            if sine <= max(_DISTINCT * error, 1e-7):
                raise _not_identified(f"rows {s} and {r} with a sine of {sine:.2g} and a standard error of {error:.2g}")


def _not_identified(got: str) -> UnsupportedError:
    return UnsupportedError(
        "The rows of C are parallel within their errors, so the directions are not unique.\n"
        f"Expected rows that differ by more than {_DISTINCT:g} standard errors; got {got}.\n"
        "Pass more sequences or outputs, or a smaller hidden."
    )
