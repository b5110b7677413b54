"""Matrices whose eigenvalues lie in a disc."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any, Literal, NoReturn, Self

import torch
from torch import Tensor

from .. import retractions
from ..errors import DtypeError, OptionError, UnsupportedError
from ..linalg import qr, spectral_radius
from ..linalg.checks import require_matrix
from ..linalg.precision import full_precision
from ..linalg.spectrum import guard, radius_slope
from ..retractions import Retraction
from .region import Region

CHARTS = ("normalized", "schur", "diagonal")
BLOCKS = ("general", "rotation")


class UnitDisc(Region):
    r"""Matrices with spectral radius at most ``radius``, real or complex: the linear map they give is stable.

    Neither convex nor bounded: a matrix that is not normal can stretch a state by any factor before it decays
    (`Contraction` forbids that). The boundary has a kink wherever two moduli tie. Three charts reach it:

    ``"normalized"`` (closed, boundary in), the only one with an update view: step straight, then divide by the radius,

    .. math:: R_x(u) = \frac{x + u}{\max(1, \rho(x + u) / r)};

    ``"schur"`` (open, boundary out), real: an orthogonal ``Q``, which ``retraction`` moves, 2 x 2 blocks ``B_j`` whose
    eigenvalues are inside for all values of their parameters, and a free strictly block-upper ``T``; complex: ``Q``
    unitary and ``B_j`` the eigenvalues themselves,

    .. math:: W = Q\, (\operatorname{diag}(B_1, B_2, \dots) + T)\, Q^H;

    ``"diagonal"`` (open, boundary and 0 out), complex: :math:`W = r \operatorname{diag}(e^{-e^{\nu_j} + i\theta_j})`.

    Parameters
    ----------
    radius : float
        Positive.
    chart : {"normalized", "schur", "diagonal"}
        See above; the last two only with ``constrain(..., view="trivialized")``.
    retraction : str or Retraction
        Of the factor ``Q`` of ``"schur"``; the other charts have none.
    blocks : {"general", "rotation"}
        Of ``"schur"``: the general stable block, which reaches every real spectrum, or :math:`\gamma_j R(\theta_j)`,
        whose real eigenvalues are double.

    Raises
    ------
    OptionError
        If an option is unknown or ``radius`` is not a positive number.

    Notes
    -----
    Tensors have shape (..., n, n). On the boundary `egrad2rgrad` drops the part of the gradient against which a step
    would leave the set, so that a small step goes down wherever the largest modulus is simple; where it ties or is
    nearly defective the subgradient of `manifold_rnn.linalg.spectral_radius` is used and may not. In the trivialized
    view the gradient of ``"normalized"`` is orthogonal to ``base + c`` once that is outside;
    `manifold_rnn.StickyDisc` is the variant of ENRNN.

    What is at most ``radius`` up to rounding is the modulus that the chart computes. The eigenvalues of the rounded
    dense matrix move by about `manifold_rnn.linalg.spectral_condition` times ``|x|`` roundings. A starting point of the
    charts ``"schur"`` and ``"diagonal"`` is brought to at most ``1 - 1e-4`` of the radius, where parameters are finite,
    and a 2 x 2 block nearer than ``1e-2`` of it to a multiple of the identity is moved away by as much.

    Source: Helfrich and Ye (2020) for the normalisation, Kerg et al. (2019) for the Schur form with rotations, Orvieto
    et al. (2023) for the diagonal.

    Examples
    --------
    >>> x = mr.UnitDisc(0.9).projx(torch.randn(4, 4, dtype=torch.float64))
    >>> assert mr.linalg.spectral_radius(x) < 0.9 + 1e-12
    """

    name = "UnitDisc"

    def __init__(
        self,
        radius: float = 1.0,
        chart: Literal["normalized", "schur", "diagonal"] = "normalized",
        retraction: str | Retraction = "cayley",
        *,
        blocks: Literal["general", "rotation"] = "general",
    ) -> None:
        super().__init__()
        if not (isinstance(radius, (int, float)) and 0 < radius < math.inf):
            raise OptionError(f"The radius of UnitDisc is a positive number.\nGot {radius!r}.\nUse e.g. radius=1.0.")
        for option, known, got in (("chart", CHARTS, chart), ("blocks", BLOCKS, blocks)):
            if got not in known:
                expected = ", ".join(map(repr, known))
                raise OptionError(f"{option} of UnitDisc is one of {expected}.\nGot {got!r}.\nCheck the spelling.")
        self.radius, self.chart, self.blocks = float(radius), chart, blocks
        self.retraction = retractions.get(retraction)
        self.is_complex = chart == "diagonal" or None  # type: ignore[misc]  # of this chart

    def key(self) -> Hashable:
        return (type(self), self.radius, self.chart, self.blocks, self.retraction)

    def with_retraction(self, retraction: str | Retraction) -> Self:
        """The same chart with another retraction of its orthogonal factor; refused by charts that have none."""
        if self.chart != "schur":
            return super().with_retraction(retraction)
        return type(self)(self.radius, self.chart, retraction, blocks=self.blocks)

    def extra_repr(self) -> str:
        schur = f", retraction={self.retraction.name!r}, blocks={self.blocks!r}" if self.chart == "schur" else ""
        return f"radius={self.radius}, chart={self.chart!r}{schur}"

    # --- checks ---

    def _require_kind(self, x: Tensor, name: str) -> None:
        require_matrix(x, f"UnitDisc: {name}")
        self._require_floating(x, name)
        if self.chart == "diagonal" and not x.is_complex():
            raise DtypeError(
                "The diagonal chart of UnitDisc holds complex matrices.\n"
                f"Expected complex64 or complex128, got {name} of {x.dtype}.\nFor real matrices use chart='schur'."
            )

    def _check_shape(self, shape: tuple[int, ...], name: str) -> tuple[bool, str | None]:
        ok = len(shape) >= 2 and shape[-1] == shape[-2] >= 1
        return ok, None if ok else f"`{name}` needs shape (..., n, n), got {tuple(shape)}"

    # --- geometry ---

    @full_precision
    def projx(self, x: Tensor) -> Tensor:
        r"""The matrix divided by :math:`\max(1, \rho(x) / r)`; a point of the set, not the nearest.

        Parameters
        ----------
        x : Tensor, shape (..., n, n)
            Of the diagonal chart its diagonal is used, and each entry divided by its own modulus.

        Returns
        -------
        Tensor, shape (..., n, n)

        Raises
        ------
        ShapeError, DtypeError, NonFiniteError
            If ``x`` cannot be brought into the set.
        """
        self.require(x)
        if self.chart == "diagonal":
            entries = x.diagonal(dim1=-2, dim2=-1)
            return torch.diag_embed(entries / (entries.abs() / self.radius).clamp(min=1))
        return x / (spectral_radius(x) / self.radius).clamp(min=1)[..., None, None]

    @full_precision
    def egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        """The gradient; on the boundary without what a step against it would carry out of the set."""
        self._require_update_view()
        self._require_pair(x, u, "egrad2rgrad")
        eps, radius = torch.finfo(x.dtype).eps, spectral_radius(x)
        normal = radius_slope(x, radius, guard(x.dtype))
        size = self.inner(x, normal, keepdim=True)
        along = self.inner(x, normal, u, keepdim=True) / torch.where(size > 0, size, 1)
        outward = (radius[..., None, None] >= self.radius * (1 - eps**0.5)) & (along < 0)
        return u - torch.where(outward, along, 0) * normal

    def retr(self, x: Tensor, u: Tensor) -> Tensor:
        self._require_update_view()
        return super().retr(x, u)

    def dist(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> NoReturn:
        raise UnsupportedError(
            "UnitDisc is not convex, and the length of the shortest path inside has no closed form.\n"
            "Expected a group or Contraction for that.\nUse norm(x, logmap(x, y)), the straight distance."
        )

    def _require_update_view(self) -> None:
        if self.chart != "normalized":
            raise UnsupportedError(
                f"The {self.chart} chart of UnitDisc is a trivialization: its factors are the parameters.\n"
                f"Expected chart='normalized' for a step from a point, got {self.chart!r}.\n"
                "Use constrain(..., view='trivialized')."
            )

    # --- points ---

    @full_precision
    def defect(self, x: Tensor) -> Tensor:
        r"""How far out ``x`` is, relative to the radius: :math:`\max(0, \rho(x) / r - 1)`, per matrix.

        Of the diagonal chart the norm of what is off the diagonal is added.
        """
        if self.chart != "diagonal":
            return (spectral_radius(x) / self.radius - 1).clamp(min=0)
        entries = x.diagonal(dim1=-2, dim2=-1)
        off = torch.linalg.matrix_norm(x - torch.diag_embed(entries))
        return (entries.abs().amax(-1) / self.radius - 1).clamp(min=0) + off

    def degrees_of_freedom(self, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> int:
        entries = math.prod(shape[:-1] if self.chart == "diagonal" else shape)
        if self.chart == "schur" and self.blocks == "rotation" and not (dtype is not None and dtype.is_complex):
            entries -= math.prod(shape[:-2]) * 2 * (shape[-1] // 2)  # a block has 2 numbers of 4
        return entries * (2 if dtype is not None and dtype.is_complex else 1)

    def random(
        self,
        *size: Any,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Random points of the interior; how depends on the chart.

        ``"normalized"``: a Gaussian direction, its dominant eigenvalue as far from 0 as a uniform point of the disc.
        ``"schur"``: eigenvalues uniform on the disc (of real matrices in conjugate pairs, and one uniform on the
        diameter if n is odd), a Haar ``Q``, and ``T`` normal with standard deviation ``radius / sqrt(n)``.
        ``"diagonal"``: eigenvalues uniform on the disc.

        Parameters
        ----------
        *size : int, or one tuple
            ``(..., n, n)``.
        dtype : torch.dtype, optional
            Default: torch's default dtype; of the diagonal chart the complex one of its precision.
        device : torch.device, optional
        generator : torch.Generator, optional

        Returns
        -------
        Tensor
        """
        if dtype is None and self.chart == "diagonal":
            dtype = torch.get_default_dtype().to_complex()
        shape, dtype = self._new(size, dtype)
        options: dict[str, Any] = {"device": device, "generator": generator}
        if self.chart == "diagonal":
            return torch.diag_embed(self._eigenvalues(shape[:-1], dtype, options))
        x = torch.randn(shape, dtype=dtype, **options)
        if self.chart == "schur":
            Q = qr(torch.randn(shape, dtype=dtype, **options))[0]
            return Q @ self._triangular(x, options) @ Q.mH
        modulus = self._eigenvalues(shape[:-2], dtype.to_complex(), options).abs()
        return x * (modulus / spectral_radius(x))[..., None, None]

    def _eigenvalues(self, shape: tuple[int, ...], dtype: torch.dtype, options: dict[str, Any]) -> Tensor:
        area, turn = torch.rand((2, *shape), dtype=dtype.to_real(), **options)
        return torch.polar(self.radius * area.sqrt(), 2 * math.pi * turn)

    def _triangular(self, x: Tensor, options: dict[str, Any]) -> Tensor:
        n = x.shape[-1]
        T = x.triu(1) * (self.radius / n**0.5)
        if x.is_complex():
            return T + torch.diag_embed(self._eigenvalues(x.shape[:-1], x.dtype, options))
        i = torch.arange(0, n - 1, 2, device=x.device)
        pairs = self._eigenvalues((*x.shape[:-2], n // 2), x.dtype.to_complex(), options)
        T[..., i, i] = T[..., i + 1, i + 1] = pairs.real
        T[..., i + 1, i], T[..., i, i + 1] = pairs.imag, -pairs.imag
        if n % 2:
            T[..., -1, -1] = self.radius * (2 * torch.rand(x.shape[:-2], dtype=x.dtype, **options) - 1)
        return T
