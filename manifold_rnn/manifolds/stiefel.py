"""The Stiefel manifold of matrices with orthonormal columns."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Literal, NoReturn, Self

import torch
from torch import Tensor

from .. import retractions
from ..errors import DtypeError, OptionError, ShapeError, UnsupportedError
from ..linalg import defect, polish, qr
from ..linalg.precision import full_precision, require_finite, require_matrix, require_same
from ..retractions import Retraction
from ..retractions.base import tangent
from .base import Manifold

Metric = Literal["euclidean", "canonical"]


class Stiefel(Manifold):
    r"""The Stiefel manifold St(n, p): real or complex n x p matrices with :math:`x^H x = I`, n >= p.

    Tangent vectors are those with skew-Hermitian :math:`x^H u`. The two usual metrics are

    .. math::
        \langle u, v\rangle_{\text{euclidean}} = \operatorname{Re}\operatorname{tr} u^H v, \qquad
        \langle u, v\rangle_{\text{canonical}} = \operatorname{Re}\operatorname{tr} u^H (I - \tfrac12 x x^H) v,

    with gradients :math:`g - x\operatorname{sym}(x^H g)` and :math:`g - x g^H x`, and geodesics that `expmap` follows.

    Parameters
    ----------
    retraction : str or Retraction
        What `retr` does: ``"qr"`` (default), ``"cayley"``, ``"exp"``, ``"polar"`` or an object of
        `manifold_rnn.retractions`. All of them work with matrices of at most 2p columns.
    metric : {"euclidean", "canonical"}
        See above. They agree with each other, up to a factor 2, only on square matrices.

    Raises
    ------
    OptionError
        If the metric is unknown.

    Notes
    -----
    Tensors have shape (..., n, p), all axes but the last two are batch. Coordinates are the ambient tangent vector, and
    adaptive optimizers use one second moment a matrix. Transport is by projection. ``logmap`` and ``dist`` have no
    closed form and are refused. Source: Edelman, Arias and Smith (1998).

    Examples
    --------
    >>> x = mr.Stiefel("cayley", metric="canonical").random(5, 2)
    >>> assert mr.linalg.defect(x) < 1e-5
    """

    name = "Stiefel"
    ndim = 2
    reversible = False

    def __init__(self, retraction: str | Retraction = "qr", metric: Metric = "euclidean") -> None:
        super().__init__()
        if metric not in ("euclidean", "canonical"):
            raise OptionError(f"The metric of Stiefel is 'euclidean' or 'canonical'.\nGot {metric!r}.\nCheck the spelling.")
        self.retraction, self.metric = retractions.get(retraction), metric

    @property
    def geometry(self) -> str:  # type: ignore[override]
        """The metric's name, on which the order of a retraction depends."""
        return self.metric

    def key(self) -> Hashable:
        return (type(self), self.retraction, self.metric)

    def with_retraction(self, retraction: str | Retraction) -> Self:
        return type(self)(retraction, self.metric)

    def extra_repr(self) -> str:
        return f"retraction={self.retraction.name!r}, metric={self.metric!r}"

    # --- checks ---

    def require(self, x: Tensor, name: str = "x") -> None:
        self._require_kind(x, name)
        require_finite(x, name)

    def _require_kind(self, x: Tensor, name: str) -> None:
        require_matrix(x, f"Stiefel: {name}", tall=True)
        if not (x.is_floating_point() or x.is_complex()):
            raise DtypeError(
                "Stiefel holds real or complex floating point matrices.\n"
                f"Expected float32, float64, complex64 or complex128, got {name} of {x.dtype}.\nConvert it first."
            )

    def _check_shape(self, shape: tuple[int, ...], name: str) -> tuple[bool, str | None]:
        ok = len(shape) >= 2 and shape[-2] >= shape[-1] >= 1
        return ok, None if ok else f"`{name}` needs shape (..., n, p) with n >= p >= 1, got {tuple(shape)}"

    def _check_point_on_manifold(self, x: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5) -> tuple[bool, str | None]:
        self._require_kind(x, "x")
        worst = float(self.defect(x).max()) if x.numel() else 0.0
        ok = worst <= (atol + rtol) * x.shape[-1] ** 0.5  # |I|_F = sqrt(p)
        return ok, None if ok else f"defect {worst:.3g} with atol={atol}, rtol={rtol}"

    def _check_vector_on_tangent(
        self, x: Tensor, u: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5
    ) -> tuple[bool, str | None]:
        ok = torch.allclose(self.proju(x, u), u, atol=atol, rtol=rtol)
        return ok, None if ok else f"not its own projection with atol={atol}, rtol={rtol}"

    # --- geometry ---

    @full_precision
    def projx(self, x: Tensor) -> Tensor:
        """Nearest matrix with orthonormal columns, by the singular value decomposition."""
        self.require(x)
        U, _, Vh = torch.linalg.svd(x, full_matrices=False)
        return U @ Vh

    @full_precision
    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        require_same(x, u, "proju")
        return tangent(x, u)

    @full_precision
    def egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        require_same(x, u, "egrad2rgrad")
        return tangent(x, u) if self.metric == "euclidean" else u - x @ (u.mH @ x)

    @full_precision
    def inner(self, x: Tensor, u: Tensor, v: Tensor | None = None, *, keepdim: bool = False) -> Tensor:
        v = u if v is None else v
        total = _frobenius(u, v)
        if self.metric == "canonical":
            total = total - 0.5 * _frobenius(x.mH @ u, x.mH @ v)
        return total[..., None, None] if keepdim else total

    @full_precision
    def norm(self, x: Tensor, u: Tensor, *, keepdim: bool = False) -> Tensor:
        return self.inner(x, u, keepdim=keepdim).sqrt()

    @full_precision
    def retr(self, x: Tensor, u: Tensor) -> Tensor:
        return self.retraction.retract(x, u)

    @full_precision
    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        require_same(x, u, "expmap")
        u = tangent(x, u)
        if self.metric == "canonical" or x.shape[-2] == x.shape[-1]:
            return retractions.Exponential().retract(x, u)
        A, p = x.mH @ u, x.shape[-1]
        eye = torch.eye(p, dtype=x.dtype, device=x.device).expand_as(A)
        block = torch.cat([torch.cat([A, -(u.mH @ u)], -1), torch.cat([eye, A], -1)], -2)
        E = torch.linalg.matrix_exp(block)[..., :p]
        return (x @ E[..., :p, :] + u @ E[..., p:, :]) @ torch.linalg.matrix_exp(-A)

    def logmap(self, x: Tensor, y: Tensor) -> NoReturn:
        self._refuse("logmap", "retraction.inverse(x, y)")

    def dist(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> NoReturn:
        self._refuse("dist", "norm(x, retraction.inverse(x, y)), which agrees with it to first order")

    def _refuse(self, what: str, instead: str) -> NoReturn:
        raise UnsupportedError(f"Stiefel has no closed form of {what}.\nExpected a group for that.\nUse {instead}.")

    @full_precision
    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        require_same(y, v, "transp")
        return tangent(y, v)

    def inverse_retr_coordinates(self, x: Tensor, y: Tensor) -> Tensor:
        return self.to_coordinates(x, self.retraction.inverse(x, y))

    def degrees_of_freedom(self, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> int:
        *batch, n, p = shape
        one = 2 * n * p - p * p if dtype is not None and dtype.is_complex else n * p - p * (p + 1) // 2
        return one * torch.Size(batch).numel()

    # --- points ---

    @full_precision
    def defect(self, x: Tensor) -> Tensor:
        r"""How far the columns are from orthonormal: :math:`\|x^H x - I\|_F`, per matrix."""
        return defect(x)

    @full_precision
    def polish(self, x: Tensor) -> Tensor:
        return polish(x)

    @property
    def polish_every(self) -> int:
        return 0 if self.retraction.self_correcting else 1

    def random(
        self,
        *size: Any,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Points drawn from the uniform (Haar) measure: the sign-fixed QR factor of a Gaussian matrix.

        Parameters
        ----------
        *size : int, or one tuple
            ``(..., n, p)``.
        dtype : torch.dtype, optional
            Real or complex.
        device : torch.device, optional
        generator : torch.Generator, optional

        Returns
        -------
        Tensor
        """
        return qr(torch.randn(self._size(size), dtype=dtype, device=device, generator=generator))[0]

    def origin(
        self,
        *size: Any,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        seed: int | None = 42,
    ) -> Tensor:
        """The first p columns of the identity, of shape ``size``; ``seed`` is ignored."""
        shape = self._size(size)
        return torch.eye(*shape[-2:], dtype=dtype, device=device).expand(shape).clone()

    def _size(self, size: tuple[Any, ...]) -> tuple[int, ...]:
        shape = tuple(size[0]) if len(size) == 1 and not isinstance(size[0], int) else tuple(size)
        ok, reason = self._check_shape(shape, "size")
        if not ok:
            raise ShapeError(f"{reason}.\nColumns are orthonormal, so there are at most n.\nTranspose a wide weight.")
        return shape


def _frobenius(u: Tensor, v: Tensor) -> Tensor:
    return (u.conj() * v).real.sum((-2, -1)) if u.is_complex() else (u * v).sum((-2, -1))
