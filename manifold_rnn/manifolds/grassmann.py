"""The Grassmann manifold of subspaces, each represented by orthonormal columns that span it."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import retractions
from ..linalg import msign, polish
from ..linalg.checks import require_finite, require_length, require_same
from ..linalg.defect import shift_diagonal
from ..linalg.lu import inverse as inverse_of
from ..linalg.norms import norm, normalized
from ..linalg.precision import double, full_precision, may_read_device, recording
from ..linalg.subspaces import horizontal, principal_angles, subspace_exp, subspace_log, subspace_transport
from ..retractions import Retraction
from .orthonormal import OrthonormalColumns, frobenius
from .steepest import has_closed_form, quarter_tangent

_NOISE = 4.0  # tangent parts below this many roundings of the gradient, times the root of its rows, are zeroed


class Grassmann(OrthonormalColumns):
    r"""The Grassmann manifold Gr(n, p): p-dimensional subspaces of real or complex n-space.

    A point is any n x p matrix with :math:`x^H x = I` whose columns span the subspace: ``x`` and ``x Q`` are the same
    point for every unitary ``Q``. Use it for a weight whose loss depends only on the span, such as
    :math:`\operatorname{tr} x^H A x` or a projection :math:`x x^H`. With the singular value decomposition
    :math:`u = U S V^H`:

    .. math::
        \operatorname{proj}_x(g) = (I - x x^H)\, g, \qquad
        \exp_x(u) = x V \cos(S) V^H + U \sin(S) V^H, \qquad
        d(x, y) = \Bigl(\sum_j \theta_j^2\Bigr)^{1/2}

    The :math:`\theta_j` are the principal angles; their cosines are the singular values of :math:`x^H y`.

    Parameters
    ----------
    retraction : str or Retraction
        The retraction of `retr`: ``"polar"`` (default), ``"qr"``, ``"cayley"``, ``"exp"`` or an object of
        `manifold_rnn.retractions`. ``"exp"`` follows the geodesic. ``"polar"`` and ``"qr"`` reach the same subspace.

    Notes
    -----
    Tensors have shape (..., n, p), n >= p; all axes except the last two are batch axes. Tangent vectors are horizontal:
    :math:`x^H u = 0`. Coordinates are the tangent vector, and adaptive optimizers use one second moment per matrix.
    Transport is parallel along the shortest geodesic, and an isometry. The real dimension is p(n - p), and twice that
    for complex points. For n = p there is only one point, which does not move.

    At a principal angle of 90 degrees (the cut locus) the shortest geodesic is not unique. There `logmap` raises
    `OffManifoldError`, `dist` is still correct, and `transp` follows one of the geodesics. If a loss depends on more
    than the span, only the horizontal part of its gradient is used. Source: Edelman, Arias and Smith (1998); Bjorck and
    Golub (1973) for the angles.

    Examples
    --------
    >>> Gr, x = mr.Grassmann(), torch.eye(4, 2, dtype=torch.float64)
    >>> y = torch.tensor([[0, 0, 1, 0], [0, 1, 0, 0]], dtype=torch.float64).mT  # rotates the first column by 90 degrees
    >>> Gr.principal_angles(x, y)
    tensor([0.0000, 1.5708], dtype=torch.float64)
    >>> assert Gr.dist(x, x @ mr.Orthogonal().random(2, 2, dtype=torch.float64)) < 1e-14
    """

    name = "Grassmann"

    def __init__(self, retraction: str | Retraction = "polar") -> None:
        super().__init__(retraction)

    @property
    def reversible(self) -> bool:
        """Whether a step back along the transported vector ends at the same representative."""
        return self.retraction.reversible

    @property
    def geometry(self) -> str:
        return "grassmann"

    def example_shape(self) -> tuple[int, ...]:
        return (4, 2)

    # --- geometry ---

    @full_precision
    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        self._require_pair(x, u, "proju")
        return horizontal(x, u)

    def egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        return self.proju(x, u)

    @full_precision
    def inner(self, x: Tensor, u: Tensor, v: Tensor | None = None, *, keepdim: bool = False) -> Tensor:
        total = frobenius(u, u if v is None else v)
        return total[..., None, None] if keepdim else total

    @full_precision
    def norm(self, x: Tensor, u: Tensor, *, keepdim: bool = False) -> Tensor:
        return norm(u, keepdim=keepdim)

    @full_precision
    def retr(self, x: Tensor, u: Tensor) -> Tensor:
        self._require_pair(x, u, "retr")
        return self._along(x, horizontal(x, u))

    def _along(self, x: Tensor, u: Tensor) -> Tensor:
        """Return the retraction along a vector that is already horizontal."""
        if x.shape[-2] == x.shape[-1]:
            require_finite(u, "A step on Grassmann")
            return x + horizontal(x, u)
        return self.retraction.retract_tall(x, u)

    @full_precision
    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        self._require_pair(x, u, "expmap")
        u = horizontal(x, u)
        if x.shape[-2] == x.shape[-1] or recording() or not may_read_device():
            return self._along(x, u) if x.shape[-2] == x.shape[-1] else retractions.Exponential().retract_tall(x, u)
        require_length(u, "The exponential map")
        wide = polish(double(x))  # in single precision, rounding rotates the result in proportion to the step
        return polish(subspace_exp(wide, horizontal(wide, double(u)))).to(x.dtype)

    @full_precision
    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the horizontal vector along the shortest geodesic from ``x`` to the span of ``y``.

        Parameters
        ----------
        x, y : Tensor, shape (..., n, p)
            Two points.

        Returns
        -------
        Tensor, shape (..., n, p)
            ``expmap(x, logmap(x, y))`` has the span of ``y``, and is the representative nearest to ``x``.

        Raises
        ------
        OffManifoldError
            If a principal angle is 90 degrees to working precision.
        """
        self._require_pair(x, y, "logmap")
        return horizontal(x, y) if x.shape[-2] == x.shape[-1] else subspace_log(x, y)

    @full_precision
    def principal_angles(self, x: Tensor, y: Tensor) -> Tensor:
        r"""Return the principal angles of two subspaces in ascending order, in :math:`[0, \pi/2]`.

        Parameters
        ----------
        x, y : Tensor, shape (..., n, p)
            Two points.

        Returns
        -------
        Tensor, shape (..., p)
            The real angles.

        Raises
        ------
        ShapeError, DtypeError, DeviceError
            If the shapes, dtypes or devices differ.
        """
        self._require_pair(x, y, "principal_angles")
        return principal_angles(x, y)

    @full_precision
    def dist(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        """Return the norm of the principal angles, which is at most the root of p times 90 degrees."""
        return norm(self.principal_angles(x, y).unsqueeze(-1), keepdim=keepdim)

    @full_precision
    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        self._require_pair(x, y, "transp")
        require_same(x, v, "transp")
        return subspace_transport(x, y, v)[0]

    @full_precision
    def spectral_step(
        self, x: Tensor, g: Tensor, length: float | Tensor, *, geodesic: bool = True, nuclear: bool = False
    ) -> Tensor:
        r"""Return the point at ``length`` along the direction of steepest descent in the spectral norm.

        .. math:: \xi = \operatorname{msign}\bigl((I - x x^H)\, g\bigr), \quad P = \xi^H \xi, \qquad
            x(I - P) + \cos(t)\, x P - \sin(t)\, \xi.

        Here ``length`` is the angle t in radians by which every principal direction of the gradient rotates.

        Parameters
        ----------
        x, g : Tensor, shape (..., n, p)
            A point, and the gradient from autograd.
        length : float or Tensor
            The angle in radians.
        geodesic : bool
            Whether to follow the geodesic instead of the retraction.
        nuclear : bool
            Whether to multiply ``length`` by the mean singular value of the horizontal part of the gradient.

        Returns
        -------
        Tensor, shape (..., n, p)
        """
        self._require_pair(x, g, "spectral_step")
        scaled, scale = normalized(g)
        u = horizontal(x, scaled)
        noise = _NOISE * g.shape[-2] ** 0.5 * torch.finfo(g.dtype).eps * torch.linalg.matrix_norm(scaled, keepdim=True)
        u = torch.where(torch.linalg.matrix_norm(u, keepdim=True) > noise, u, 0)
        direction = horizontal(x, msign(u))
        P = direction.mH @ direction
        if nuclear:
            gain = frobenius(direction, u)[..., None, None] * scale
            length = length * gain / P.diagonal(dim1=-2, dim2=-1).real.sum(-1)[..., None, None].clamp(min=1)
        if not geodesic:
            return self.retr(x, -length * direction)
        t = torch.as_tensor(length, dtype=x.real.dtype, device=x.device)
        require_finite(t, "The angle of a step")
        if has_closed_form(length, direction, P):
            return polish(x - 2 * (0.5 * t).sin().square() * (x @ P) - t.sin() * direction)
        # singular values between 0 and 1 rotate by the squared Cayley transform of `Steepest.at`
        tangent = quarter_tangent(t)
        inverse = inverse_of(shift_diagonal(tangent.square() * P, 1))
        cosine = shift_diagonal(2 * inverse, -1)
        return polish(x @ shift_diagonal(2 * cosine @ cosine, -1) - 4 * tangent * (direction @ inverse @ cosine))

    # --- coordinates ---

    def degrees_of_freedom(self, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> int:
        *batch, n, p = shape
        one = (2 if dtype is not None and dtype.is_complex else 1) * p * (n - p)
        return one * torch.Size(batch).numel()

    @full_precision
    def inverse_retr_coordinates(self, x: Tensor, y: Tensor) -> Tensor:
        self._require_pair(x, y, "inverse_retr_coordinates")
        u = horizontal(x, y) if x.shape[-2] == x.shape[-1] else self.retraction.inverse_subspace(x, y)
        return self.to_coordinates(x, u)

    def retr_coordinates(self, x: Tensor, c: Tensor) -> Tensor:
        return self.retr(x, self._vector(x, c))  # `retr` projects onto horizontal vectors

    @full_precision
    def retr_transp_coordinates(self, x: Tensor, c: Tensor, *carried: Tensor) -> tuple[Tensor, ...]:
        y = self._along(x, self._vector(x, c))
        moved = subspace_transport(x, y, *(self._vector(x, v) for v in carried)) if carried else []
        return y, *(self.to_coordinates(y, v) for v in moved)

    @full_precision
    def retr_gradient(self, x: Tensor, g: Tensor, t: float | Tensor) -> Tensor:
        self._require_pair(x, g, "retr_gradient")
        return self._along(x, horizontal(x, g) * t)

    def square_coordinates(self, x: Tensor, c: Tensor, how: str) -> Tensor:
        axes = (-3, -2, -1) if x.is_complex() else (-2, -1)
        return torch.linalg.vector_norm(c, dim=axes, keepdim=True).square()
