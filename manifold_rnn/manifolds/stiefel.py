"""The Stiefel manifold of matrices with orthonormal columns."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Literal, NoReturn, Self

import torch
from torch import Tensor

from .. import retractions
from ..errors import OptionError, UnsupportedError
from ..linalg import expm_skew
from ..linalg.action import moved_by_group
from ..linalg.checks import read_number, require_length, require_same
from ..linalg.expm import expm
from ..linalg.norms import scale_of
from ..linalg.precision import double, full_precision, host_max, may_read_device
from ..linalg.product import multiply_add
from ..retractions import Retraction
from ..retractions.base import tangent
from .orthonormal import OrthonormalColumns, frobenius

_LONG_ABOVE = 4.0  # entries of a tangent vector above which its square loses digits of the exponential map
Metric = Literal["euclidean", "canonical"]


class Stiefel(OrthonormalColumns):
    r"""The Stiefel manifold St(n, p): real or complex n x p matrices with :math:`x^H x = I`, n >= p.

    Tangent vectors are the ``u`` with skew-Hermitian :math:`x^H u`. The two usual metrics are

    .. math::
        \langle u, v\rangle_{\text{euclidean}} = \operatorname{Re}\operatorname{tr} u^H v, \qquad
        \langle u, v\rangle_{\text{canonical}} = \operatorname{Re}\operatorname{tr} u^H (I - \tfrac12 x x^H) v.

    The gradients are :math:`g - x\operatorname{sym}(x^H g)` and :math:`g - x g^H x`. `expmap` follows the geodesics.

    Parameters
    ----------
    retraction : str or Retraction
        The retraction of `retr`: ``"qr"`` (default), ``"cayley"``, ``"exp"``, ``"polar"`` or an object of
        `manifold_rnn.retractions`. All of them compute with matrices of at most 2p columns.
    metric : {"euclidean", "canonical"}
        See above. The two agree, up to a factor 2, only on square matrices.

    Raises
    ------
    OptionError
        If the metric is unknown.

    Notes
    -----
    Tensors have shape (..., n, p); all axes except the last two are batch axes. Coordinates are the ambient tangent
    vector, and adaptive optimizers use one second moment per matrix. Transport is by projection. ``logmap`` and
    ``dist`` have no closed form, and raise `UnsupportedError`. Source: Edelman, Arias and Smith (1998).

    Examples
    --------
    >>> x = mr.Stiefel("cayley", metric="canonical").random(5, 2)
    >>> assert mr.linalg.defect(x) < 1e-5
    """

    name = "Stiefel"
    is_orthonormal = True
    reversible = False
    metric: Metric

    def __init__(self, retraction: str | Retraction = "qr", metric: Metric = "euclidean") -> None:
        super().__init__(retraction)
        if metric not in ("euclidean", "canonical"):
            raise OptionError(
                f"The metric of Stiefel must be 'euclidean' or 'canonical'.\nGot {metric!r}.\nCheck the spelling."
            )
        self.metric = metric

    @property
    def geometry(self) -> str:
        """The name of the metric, on which the order of a retraction depends."""
        return self.metric

    def key(self) -> Hashable:
        return (type(self), self.retraction, self.metric)

    def with_retraction(self, retraction: str | Retraction) -> Self:
        return type(self)(retraction, self.metric)

    def extra_repr(self) -> str:
        return f"retraction={self.retraction.name!r}, metric={self.metric!r}"

    # --- geometry ---

    @full_precision
    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        require_same(x, u, "proju")
        return tangent(x, u)

    @full_precision
    def egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        require_same(x, u, "egrad2rgrad")
        return self._gradient(x, u)

    def _gradient(self, x: Tensor, g: Tensor, scale: float = 1.0) -> Tensor:
        if self.metric == "euclidean":
            return tangent(x, g, scale)
        return multiply_add(g, x, g.mH @ x, beta=scale, alpha=-scale)

    @full_precision
    def inner(self, x: Tensor, u: Tensor, v: Tensor | None = None, *, keepdim: bool = False) -> Tensor:
        v = u if v is None else v
        total = frobenius(u, v)
        if self.metric == "canonical":
            total = total - 0.5 * frobenius(x.mH @ u, x.mH @ v)
        return total[..., None, None] if keepdim else total

    @full_precision
    def norm(self, x: Tensor, u: Tensor, *, keepdim: bool = False) -> Tensor:
        scale = scale_of(u)
        return self.inner(x, u / scale, keepdim=True).sqrt().mul(scale).sum((-2, -1), keepdim=keepdim)

    @full_precision
    def retr(self, x: Tensor, u: Tensor) -> Tensor:
        return self.retraction.retract(x, u)

    @full_precision
    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        require_same(x, u, "expmap")
        u = tangent(x, u)
        if self.metric == "canonical" or x.shape[-2] == x.shape[-1]:
            return retractions.Exponential().retract(x, u)
        dtype, x, u = x.dtype, double(x), double(u)  # single precision leaves a defect of about 1e-5
        A, p = x.mH @ u, x.shape[-1]
        if may_read_device() and not read_number(host_max, u.abs()) <= _LONG_ABOVE:  # NaN included
            require_length(u, "The exponential map")
            return (moved_by_group(expm_skew, x, u, 0.0) @ expm_skew(-A)).to(dtype)
        eye = torch.eye(p, dtype=x.dtype, device=x.device).expand_as(A)
        block = torch.cat([torch.cat([A, -(u.mH @ u)], -1), torch.cat([eye, A], -1)], -2)
        E = expm(block)[..., :p]
        return ((x @ E[..., :p, :] + u @ E[..., p:, :]) @ expm(-A)).to(dtype)

    def retr_coordinates(self, x: Tensor, c: Tensor) -> Tensor:
        return self.retr(x, self._vector(x, c))  # `retr` projects onto the tangent space

    def retr_free(self, x: Tensor, c: Tensor) -> Tensor:
        if self.metric == "euclidean":
            return self.retr_coordinates(x, c)
        # the canonical metric halves the square of x^H u, so free coordinates there are scaled by the root of 2
        u = self.proju(x, self._vector(x, c))
        return self.retr(x, u + (2**0.5 - 1) * (x @ (x.mH @ u)))

    @full_precision
    def retr_transp_coordinates(self, x: Tensor, c: Tensor, *carried: Tensor) -> tuple[Tensor, ...]:
        y = self._along(x, self._vector(x, c))
        return y, *(self.to_coordinates(y, tangent(y, self._vector(x, v))) for v in carried)

    @full_precision
    def retr_gradient(self, x: Tensor, g: Tensor, t: float | Tensor) -> Tensor:
        require_same(x, g, "retr_gradient")
        u = self._gradient(x, g) * t if isinstance(t, Tensor) else self._gradient(x, g, t)
        return self._along(x, u)

    def square_coordinates(self, x: Tensor, c: Tensor, how: str) -> Tensor:
        if self.metric == "canonical":
            return super().square_coordinates(x, c, how)
        axes = (-3, -2, -1) if x.is_complex() else (-2, -1)
        return torch.linalg.vector_norm(c, dim=axes, keepdim=True).square()  # one pass, without storing a product

    def _along(self, x: Tensor, u: Tensor) -> Tensor:
        """Return the retraction along a vector that is already tangent."""
        if x.shape[-2] == x.shape[-1]:
            return self.retraction.retract(x, u)
        return self.retraction.retract_tall(x, u)

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
