"""The manifold of symmetric or Hermitian positive definite matrices."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import OptionError
from ..linalg.checks import require_finite, require_matrix, require_same
from ..linalg.expm import expm
from ..linalg.hermitian import hermitian
from ..linalg.norms import norm, unit_of
from ..linalg.precision import double, full_precision
from .matrix import MatrixManifold
from .spd_mean import karcher_mean, require_weights
from .spd_metrics import METRICS, Affine
from .spd_points import as_time, cholesky, end_of, is_definite, raised_to_positive, rounded_once

_NOT_MEMBER = 1.0  # added to the defect of a matrix that is not positive definite


class SPD(MatrixManifold):
    r"""Symmetric positive definite matrices, or Hermitian positive definite ones in the complex case.

    The metric is affine-invariant or log-Cholesky. With the Cholesky factor ``L`` of :math:`x = L L^H`:

    .. math::
        \langle u, v\rangle_{\text{affine}} = \operatorname{Re}\operatorname{tr} x^{-1} u\, x^{-1} v, \qquad
        \exp_x(u) = L \exp(L^{-1} u L^{-H}) L^H, \qquad d(x, y) = \|\log(L^{-1} y L^{-H})\|_F.

    The log-Cholesky metric is flat: distances are those of vectors, which contain the entries of ``L`` below the
    diagonal and the logarithms of its diagonal. Its steps need no eigenvalues and no matrix exponential, but its
    distances depend on the order of the rows.

    Parameters
    ----------
    metric : "affine" or "log-cholesky"

    Raises
    ------
    OptionError
        If the metric is unknown.

    Notes
    -----
    Tensors have shape (..., n, n); all axes except the last two are batch axes. The dimension is n(n+1)/2, and n^2 for
    complex points. `retr` is the exponential map of the metric. It reaches every point from every other, so the
    coordinates of the trivialized view are a global chart. Coordinates are orthonormal, and transport is parallel. In
    the affine-invariant metric, transport mixes coordinates, and adaptive optimizers use one second moment per matrix.
    In the log-Cholesky metric it does not change them.

    Everything is computed in double precision, and results have the dtype of the point. A float32 point can have a
    condition number up to about 1e7; beyond it, rounding the entries makes a matrix indefinite. If a step leads to such
    a matrix, a multiple of I of the size of the rounding errors is added. The entries are then accurate, but the
    smallest eigenvalues are too large. A step whose entries overflow or underflow raises `NonFiniteError`. The set is
    open: the defect of a matrix that is not positive definite is above 1.

    First and second derivatives exist at all pairs of points, with two exceptions. `dist` has none at equal points, and
    its second derivatives need distinct eigenvalues of :math:`x^{-1} y`. Differentiate the squared distance
    ``inner(x, v)`` with ``v = logmap(x, y)`` instead. Sources: Bhatia (2007) for the affine-invariant metric, Lin
    (2019) for the log-Cholesky metric.

    Examples
    --------
    >>> spd, x, y = mr.SPD(), torch.eye(2), torch.diag(torch.tensor([4.0, 1.0]))
    >>> spd.geodesic(x, y, 0.5)
    tensor([[2., 0.],
            [0., 1.]])
    >>> assert torch.allclose(spd.mean(torch.stack([x, y])), spd.geodesic(x, y, 0.5))
    """

    name = "SPD"
    reversible = True

    def __init__(self, metric: Literal["affine", "log-cholesky"] = "affine") -> None:
        super().__init__()
        if not isinstance(metric, str) or metric not in METRICS:
            raise OptionError(
                f"The metric of SPD must be {' or '.join(map(repr, METRICS))}.\nGot {metric!r}.\nCheck the spelling."
            )
        self.metric = metric
        self._metric = METRICS[metric]

    @property
    def reads_device(self) -> bool:
        return True  # checks whether a matrix is positive definite

    @property
    def checks_steps(self) -> bool:
        return True

    @property
    def isometric_at_zero(self) -> bool:
        return True

    def key(self) -> Hashable:
        return (type(self), self.metric)

    def extra_repr(self) -> str:
        return f"metric={self.metric!r}"

    # --- checks ---

    def _require_kind(self, x: Tensor, name: str) -> None:
        require_matrix(x, f"SPD: {name}")
        self._require_floating(x, name)

    def _check_shape(self, shape: tuple[int, ...], name: str) -> tuple[bool, str | None]:
        ok = len(shape) >= 2 and shape[-1] == shape[-2] >= 1
        return ok, None if ok else f"`{name}` needs shape (..., n, n), got {tuple(shape)}"

    def _tolerance(self, x: Tensor, atol: float, rtol: float) -> float:
        return atol + rtol

    def _cholesky(self, x: Tensor, name: str = "x") -> Tensor:
        """Return the Cholesky factor in double precision, or raise."""
        self._require_kind(x, name)
        require_finite(x, name)
        return cholesky(x, name)

    # --- points ---

    @rounded_once
    def projx(self, x: Tensor) -> Tensor:
        r"""Return the Hermitian part, with small eigenvalues raised if it is not positive definite to rounding.

        Eigenvalues below :math:`\sqrt\varepsilon` times the largest modulus become that number, where
        :math:`\varepsilon` is the rounding unit of the dtype. The set is open, so an indefinite matrix has no nearest
        point.

        Raises
        ------
        ShapeError, DtypeError, NonFiniteError, OffManifoldError
            If ``x`` cannot be a point, its Hermitian part is 0, or its projection overflows or underflows.
        """
        self.require(x)
        return raised_to_positive(x)

    @full_precision
    def polish(self, x: Tensor) -> Tensor:
        return hermitian(x)

    @full_precision
    def defect(self, x: Tensor) -> Tensor:
        """Return the relative norm of the skew-Hermitian part; above 1 unless the matrix is positive definite."""
        self._require_kind(x, "x")
        wide = double(x / unit_of(x))
        size = torch.linalg.matrix_norm(wide)
        off = torch.linalg.matrix_norm(wide - wide.mH) / (2 * torch.where(size > 0, size, 1))
        return (off + torch.where(is_definite(x.detach()), 0.0, _NOT_MEMBER)).to(x.real.dtype)

    def is_sound(self, x: Tensor) -> Tensor:
        return is_definite(x)

    # --- geometry ---

    @full_precision
    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        self._require_pair(x, u, "proju")
        return hermitian(u).expand(torch.broadcast_shapes(x.shape, u.shape))

    def egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        return self.from_coordinates(x, self.egrad2coordinates(x, u))

    def inner(self, x: Tensor, u: Tensor, v: Tensor | None = None, *, keepdim: bool = False) -> Tensor:
        c = self.to_coordinates(x, u)
        total = (c * (c if v is None else self.to_coordinates(x, v))).sum(-1)
        return total[..., None, None] if keepdim else total

    def norm(self, x: Tensor, u: Tensor, *, keepdim: bool = False) -> Tensor:
        size = norm(self.to_coordinates(x, u).unsqueeze(-1), keepdim=True)
        return size if keepdim else size[..., 0, 0]

    def retr(self, x: Tensor, u: Tensor) -> Tensor:
        return self.retr_coordinates(x, self.to_coordinates(x, u))

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        return self.retr(x, u)

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        return self.from_coordinates(x, self.inverse_retr_coordinates(x, y))

    @full_precision
    def dist(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        require_same(x, y, "dist")
        total = self._metric.length(self._cholesky(x), self._cholesky(y, "y")).to(x.real.dtype)
        return total[..., None, None] if keepdim else total

    @full_precision
    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        self._require_pair(x, v, "transp")
        require_same(x, y, "transp")
        L, M = self._cholesky(x), self._cholesky(y, "y")
        (c,) = self._metric.transport(L, M, self._metric.coordinates(L, hermitian(double(v))))
        return self._metric.vector(M, c).to(x.dtype)

    @rounded_once
    def geodesic(self, x: Tensor, y: Tensor, t: float | Tensor) -> Tensor:
        r"""Return the point at ``t`` on the geodesic from ``x`` (t = 0) to ``y`` (t = 1).

        .. math:: L (L^{-1} y L^{-H})^t L^H \quad\text{for the affine-invariant metric.}

        Parameters
        ----------
        x, y : Tensor, shape (..., n, n)
        t : float, or Tensor that broadcasts with the batch
            Any number; outside of [0, 1] the geodesic is extended.

        Returns
        -------
        Tensor, shape (..., n, n)

        Raises
        ------
        ShapeError, DtypeError
            If the operands have different shapes or dtypes, or ``t`` is complex.
        OffManifoldError
            If ``x`` or ``y`` is not positive definite.
        NonFiniteError
            If the point at ``t`` cannot be represented in the dtype.
        """
        require_same(x, y, "geodesic")
        L = self._cholesky(x)
        c = self._metric.between(L, self._cholesky(y, "y"))
        return end_of(self._metric.factor(L, c * as_time(t, c.shape[:-1])), x)

    @rounded_once
    def mean(self, points: Tensor, weights: Tensor | None = None) -> Tensor:
        r"""Return the Karcher mean: the point with the smallest sum of squared distances.

        .. math:: \operatorname*{arg\,min}_x \sum_k w_k\, d(x, p_k)^2

        Parameters
        ----------
        points : Tensor, shape (..., k, n, n)
            The points to average.
        weights : Tensor, shape (..., k), optional
            Real nonnegative numbers, not all 0; they are divided by their sum. Default: equal weights.

        Returns
        -------
        Tensor, shape (..., n, n)
            With the affine-invariant metric it has no gradient, because it is the limit of an iteration.

        Raises
        ------
        ShapeError, OptionError
            If ``points`` has no axis to average, or the shape of ``weights`` does not match.
        OffManifoldError
            If a point is not positive definite.

        Notes
        -----
        The log-Cholesky mean is that of the coordinates. The affine-invariant mean takes Riemannian gradient descent
        with the step size of Bini and Iannazzo (2013), until the gradient is at rounding error.
        """
        shares = require_weights(points, weights)
        factors = self._cholesky(points, "points")
        if isinstance(self._metric, Affine):
            return end_of(karcher_mean(self._metric, factors.detach(), shares), points)
        eye = torch.eye(points.shape[-1], dtype=factors.dtype, device=factors.device)
        c = (shares.unsqueeze(-1) * self._metric.between(eye, factors)).sum(-2)
        return end_of(self._metric.factor(eye, c), points)

    # --- coordinates ---

    def coordinate_shape(self, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> tuple[int, ...]:
        n = shape[-1]
        return (*shape[:-2], n * n if dtype is not None and dtype.is_complex else n * (n + 1) // 2)

    @full_precision
    def to_coordinates(self, x: Tensor, u: Tensor) -> Tensor:
        self._require_pair(x, u, "to_coordinates")
        return self._metric.coordinates(self._cholesky(x), hermitian(double(u))).to(x.real.dtype)

    @full_precision
    def egrad2coordinates(self, x: Tensor, g: Tensor) -> Tensor:
        self._require_pair(x, g, "egrad2coordinates")
        return self._metric.gradient(self._cholesky(x), hermitian(double(g))).to(x.real.dtype)

    @full_precision
    def from_coordinates(self, x: Tensor, c: Tensor) -> Tensor:
        return self._metric.vector(self._cholesky(x), double(c)).to(x.dtype)

    @rounded_once
    def retr_coordinates(self, x: Tensor, c: Tensor) -> Tensor:
        return end_of(self._metric.factor(self._cholesky(x), double(c)), x)

    @full_precision
    def inverse_retr_coordinates(self, x: Tensor, y: Tensor) -> Tensor:
        require_same(x, y, "inverse_retr_coordinates")
        return self._metric.between(self._cholesky(x), self._cholesky(y, "y")).to(x.real.dtype)

    @rounded_once
    def retr_transp_coordinates(self, x: Tensor, c: Tensor, *carried: Tensor) -> tuple[Tensor, ...]:
        L = self._cholesky(x)
        y = end_of(self._metric.factor(L, double(c)), x)
        if not carried or self._metric.keeps_coordinates:
            return y, *carried
        moved = self._metric.transport(L, self._cholesky(y, "y"), *map(double, carried))
        return y, *(v.to(x.real.dtype) for v in moved)

    def square_coordinates(self, x: Tensor, c: Tensor, how: str) -> Tensor:
        alone = how == "elementwise" and self._metric.keeps_coordinates
        return c.square() if alone else c.square().sum(-1, keepdim=True)

    # --- making points ---

    def random(
        self,
        *size: Any,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        r"""Return exponentials of Gaussian Hermitian matrices with eigenvalues in about [-1, 1].

        The distribution is invariant under :math:`x \mapsto U x U^H`. Condition numbers are about :math:`e^2`.

        Parameters
        ----------
        *size : int, or one tuple
            The shape ``(..., n, n)``.
        dtype : torch.dtype, optional
            A real or complex dtype.
        device : torch.device, optional
        generator : torch.Generator, optional

        Returns
        -------
        Tensor
        """
        shape, dtype = self._new(size, dtype)
        g = torch.randn(shape, dtype=dtype, device=device, generator=generator)
        half = expm(hermitian(double(g)) * (0.5 / (2 * shape[-1]) ** 0.5))
        return hermitian(half @ half.mH).to(dtype)

    def origin(
        self,
        *size: Any,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        seed: int | None = 42,
    ) -> Tensor:
        """Return the identity, of shape ``size``; ``seed`` is ignored."""
        shape, dtype = self._new(size, dtype)
        return torch.eye(shape[-1], dtype=dtype, device=device).expand(shape).clone()
