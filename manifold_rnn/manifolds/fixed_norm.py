"""Tensors whose vectors along chosen axes have a fixed length: spheres."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Hashable
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from .. import retractions
from ..errors import DtypeError, NonFiniteError, OffManifoldError, OptionError
from ..linalg.checks import LONGEST, read_number
from ..linalg.precision import full_precision, host_max, may_read_device
from ..retractions import Retraction
from .matrix import as_shape
from .vectors import VectorManifold

Radius = float | Literal["init"]
_NEAR_OPPOSITE = 4.0  # an angle this many square roots of eps from pi does not determine the direction of the arc


class FixedNorm(VectorManifold):
    r"""Real or complex tensors whose vectors along `axes` have length ``radius``.

    Each vector is a point on a sphere of real dimension N - 1, with the metric :math:`\operatorname{Re} u^H v`. A step
    rotates it in the plane of the vector x and the tangent vector u:

    .. math:: R_x(u) = \cos\varphi\; x + r \sin\varphi\; \frac{u}{|u|}, \qquad
        P_x u = u - \frac{\operatorname{Re} x^H u}{r^2}\, x.

    The angle is :math:`\varphi = |u| / r` with ``"exp"``, :math:`\arctan(|u| / r)` with ``"polar"`` and ``"qr"``, and
    :math:`2 \arctan(|u| / 2r)` with ``"cayley"``. Transport is parallel along the shortest arc, and an isometry.

    Parameters
    ----------
    radius : float or "init"
        A positive radius. ``"init"`` keeps the present length of each vector, without storing it anywhere else.
    retraction : str or Retraction
        ``"exp"`` (the geodesic), ``"polar"`` or ``"qr"`` (both project x + u), ``"cayley"``, or an object.

    Raises
    ------
    OptionError, UnsupportedError
        If ``radius`` is neither a positive number nor "init", or the retraction is unknown or lacks `plane_rotation`.

    Notes
    -----
    Coordinates are the ambient tangent vector. Adaptive optimizers use one second moment per vector.

    Examples
    --------
    >>> assert isinstance(mr.Sphere(), mr.manifolds.FixedNorm) and mr.Oblique().axes == (-1,)
    """

    reversible = True
    is_sphere: ClassVar[bool] = True

    def __init__(self, radius: Radius = 1.0, retraction: str | Retraction = "exp") -> None:
        super().__init__()
        number = isinstance(radius, (int, float)) and not isinstance(radius, bool)
        if radius != "init" and not (number and 0 < radius < math.inf):
            raise OptionError(
                f"The radius of {type(self).__name__} is out of range.\n"
                f"Expected a positive number or 'init', got {radius!r:.80}.\n"
                "Pass radius='init' to keep the present length of each vector."
            )
        self.radius: Radius = "init" if isinstance(radius, str) else float(radius)
        self._retraction: Retraction = retractions.get(retraction)
        self._retraction.plane_rotation(torch.zeros(()))  # raises here, since a step in place cannot be undone
        if self.radius == "init":
            self._zero_advice = "Fill the weight, or pass a number as the radius."

    @abstractmethod
    def _options(self) -> tuple[Any, ...]:
        """The arguments before the retraction."""

    @abstractmethod
    def with_retraction(self, retraction: str | Retraction) -> Self: ...

    # --- facts ---

    @property
    def retraction(self) -> Retraction:
        """The retraction of `retr`."""
        return self._retraction

    @property
    def geometry(self) -> str:
        return "sphere"

    @property
    def isometric_at_zero(self) -> bool:
        return True

    @property
    def polish_every(self) -> int:
        return 0 if self.retraction.self_correcting else 1

    def key(self) -> Hashable:
        return (type(self), *self._options(), self.retraction)

    def width(self, shape: tuple[int, ...]) -> int:
        return 1  # the defect is relative, and a length is accurate to a few roundings for any size

    def _require_kind(self, x: Tensor, name: str) -> None:
        super()._require_kind(x, name)
        info = torch.finfo(x.dtype)
        if not isinstance(self.radius, str) and not info.tiny / info.eps <= self.radius <= info.max * info.eps:
            raise DtypeError(
                f"The radius of {type(self).__name__} must be well inside the range of the weight's dtype.\n"
                f"Expected {info.tiny / info.eps:.1e} to {info.max * info.eps:.1e} for {x.dtype}, got {self.radius:.3g}"
                ".\nChoose another radius, or convert the weight."
            )

    # --- geometry ---

    def radii(self, x: Tensor) -> Tensor | float:
        """Return the radius of the sphere of each vector, (..., 1), or the number that applies to all."""
        return self._lengths(x) if isinstance(self.radius, str) else self.radius

    @full_precision
    def projx(self, x: Tensor) -> Tensor:
        r"""Return the nearest point, :math:`r\, x / |x|` for each vector; ``x`` itself with ``radius="init"``.

        Parameters
        ----------
        x : Tensor
            A tensor of nonzero vectors.

        Returns
        -------
        Tensor

        Raises
        ------
        OffManifoldError
            If a vector is zero, so that it has no direction.
        ShapeError, DtypeError, NonFiniteError
            If ``x`` is not a tensor of vectors.
        """
        self.require(x)
        return self.polish(x)

    @full_precision
    def polish(self, x: Tensor) -> Tensor:
        """``projx`` without its checks."""
        if isinstance(self.radius, str):
            return x
        scaled = x / self._scales(x)
        size = torch.linalg.vector_norm(scaled, dim=self.axes, keepdim=True)
        return scaled * (self.radius / torch.where(size > 0, size, 1))

    @full_precision
    def defect(self, x: Tensor) -> Tensor:
        r"""Return the largest :math:`\bigl||x| / r - 1\bigr|` of a vector, per point.

        With ``radius="init"`` every tensor without a zero vector is a point, so the defect is 0, or 1 at a zero vector.
        """
        size = self._lengths(x)
        off = (size == 0).to(size.dtype) if isinstance(self.radius, str) else (size / self.radius - 1).abs()
        axes = tuple(range(-self.ndim, 0))
        return off.amax(axes) if off.numel() else off.sum(axes)

    @full_precision
    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        self._require_pair(x, u, "proju")
        return self._tangent(x / self.radii(x), u)

    def _tangent(self, unit: Tensor, u: Tensor) -> Tensor:
        """Return the tangent part of a vector at a point that was divided by its radius."""
        return u - unit * self._dots(unit, u)

    def egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        return self.proju(x, u)

    @full_precision
    def retr(self, x: Tensor, u: Tensor) -> Tensor:
        self._require_pair(x, u, "retr")
        return self._moved(self.retraction, x, self._tangent(x / self.radii(x), u))[0]

    @full_precision
    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        self._require_pair(x, u, "expmap")
        return self._moved(retractions.Exponential(), x, self._tangent(x / self.radii(x), u))[0]

    def _moved(self, retraction: Retraction, x: Tensor, u: Tensor, *vectors: Tensor) -> tuple[Tensor, ...]:
        """Return the end point of a step along a tangent vector, and vectors transported along its arc."""
        r = self.radii(x)
        v = u / r
        square = self._dots(v, v)
        self._require_length(x, square)
        sine, half = retraction.plane_rotation(square)  # sin(phi) / t and (1 - cos(phi)) / t^2, with t^2 = square
        y = x - square * half * x + sine * u
        if retraction.self_correcting:
            y = self.polish(y)
        carried = []
        for w in vectors:
            along = self._dots(v, w)
            carried.append(w - (along * half) * v - (along * sine / r) * x)
        return y, *carried

    def _require_length(self, x: Tensor, square: Tensor) -> None:
        if not may_read_device() or square.is_meta:
            return
        angle = read_number(host_max, square)
        if not angle <= LONGEST**2:  # NaN included
            self._require_direction(x, "x")
            raise NonFiniteError(
                f"A step on {type(self).__name__} needs finite tangent vectors of at most {LONGEST:.1e} radii.\n"
                f"Got {angle**0.5:.3g} radii; beyond this bound, rounding errors leave no correct digit.\n"
                "Lower the learning rate or clip the gradient."
            )

    @full_precision
    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the tangent vector of the shortest arc; raises `OffManifoldError` for opposite vectors."""
        return self._towards(x, y, None)

    def _towards(self, x: Tensor, y: Tensor, retraction: Retraction | None) -> Tensor:
        self._require_pair(x, y, "logmap")
        r = self.radii(x)
        a, b = x / r, y / r
        angle, across = self._angle(a, b), self._tangent(a, b)  # across has length sin(angle)
        opposite = read_number(host_max, angle) if may_read_device() and not angle.is_meta else 0.0
        if opposite > math.pi - _NEAR_OPPOSITE * torch.finfo(a.dtype).eps ** 0.5:
            raise OffManifoldError(
                f"The shortest arc of {type(self).__name__} between opposite vectors is not unique.\n"
                f"Expected an angle below pi, got {opposite:.9g}.\nStart from a point in between."
            )
        length = angle if retraction is None else retraction.plane_length(angle)
        sine = torch.linalg.vector_norm(across, dim=self.axes, keepdim=True)
        return across * r * torch.where(sine > 0, length / torch.where(sine > 0, sine, 1), 1)

    def _angle(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the angle between unit vectors, to full precision at 0 and at pi."""
        apart, together = (torch.linalg.vector_norm(z, dim=self.axes, keepdim=True) for z in (a - b, a + b))
        return 2 * torch.atan2(apart, together)

    @full_precision
    def dist(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        self._require_pair(x, y, "dist")
        r = self.radii(x)
        arcs = self._angle(x / r, y / r) * r
        total = torch.linalg.vector_norm(arcs, dim=tuple(range(-self.ndim, 0)), keepdim=True)
        return total if keepdim else total.reshape(total.shape[: total.ndim - self.ndim])

    @full_precision
    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """Transport in parallel along the shortest arc; between opposite vectors, ``v`` is returned unchanged."""
        self._require_pair(y, v, "transp")
        r = self.radii(x)
        a, b = x / r, y / r
        cosine = 1 + self._dots(a, b)
        near = cosine > 1e2 * torch.finfo(a.dtype).eps
        return v - torch.where(near, self._dots(b, v) / torch.where(near, cosine, 1), 0) * (a + b)

    # --- coordinates ---

    def retr_coordinates(self, x: Tensor, c: Tensor) -> Tensor:
        return self.retr(x, self._vector(x, c))  # `retr` projects onto the tangent space

    @full_precision
    def retr_transp_coordinates(self, x: Tensor, c: Tensor, *carried: Tensor) -> tuple[Tensor, ...]:
        vectors = (self._vector(x, v) for v in carried)
        y, *moved = self._moved(self.retraction, x, self._vector(x, c), *vectors)
        return y, *(self.to_coordinates(y, v) for v in moved)

    def inverse_retr_coordinates(self, x: Tensor, y: Tensor) -> Tensor:
        return self.to_coordinates(x, self._towards(x, y, self.retraction))

    @full_precision
    def spectral_step(
        self, x: Tensor, g: Tensor, length: float | Tensor, *, geodesic: bool = True, nuclear: bool = False
    ) -> Tensor:
        r"""Return the point at the angle ``length`` against the gradient, on each sphere.

        .. math:: x \cos\ell - r \sin\ell\; \hat g, \qquad \hat g = P_x g / |P_x g|.

        Parameters
        ----------
        x, g : Tensor
            A point, and the gradient from autograd.
        length : float or Tensor
            The angle in radians.
        geodesic : bool
            Whether to follow the geodesic instead of the retraction.
        nuclear : bool
            Whether to multiply ``length`` by the length of the tangent part of the gradient.

        Returns
        -------
        Tensor, as ``x``
        """
        self._require_pair(x, g, "spectral_step")
        r = self.radii(x)
        unit, scale = x / r, self._scales(g)
        size = torch.linalg.vector_norm(g / scale, dim=self.axes, keepdim=True)
        g = g / scale / torch.where(size > 0, size, 1)
        u = self._tangent(unit, g)
        inside = torch.linalg.vector_norm(u, dim=self.axes, keepdim=True)
        none = inside <= 8 * torch.finfo(u.dtype).eps  # the tangent part of a gradient along x is rounding error
        if nuclear:
            length = length * size * scale
        else:
            u = self._tangent(unit, u / torch.where(none, 1, inside))
        u = torch.where(none, 0, u) * (-length * r)
        return self.polish(self._moved(retractions.Exponential() if geodesic else self.retraction, x, u)[0])

    def degrees_of_freedom(self, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> int:
        entries, size = math.prod(shape), math.prod([shape[k] for k in self.axes])
        reals = 2 if dtype is not None and dtype.is_complex else 1
        return reals * entries - entries // size

    # --- points ---

    def random(
        self,
        *size: Any,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return vectors with uniform directions, of shape ``size``; of length 1 with ``radius="init"``."""
        shape, dtype = as_shape(size), dtype or torch.get_default_dtype()
        self._require_kind(torch.empty(shape, dtype=dtype, device="meta"), "size")
        x = torch.randn(shape, dtype=dtype, device=device, generator=generator)
        return x * ((1.0 if isinstance(self.radius, str) else self.radius) / self._lengths(x))

    def random_like(self, x: Tensor) -> Tensor:
        """Return a random point with the shape, dtype and device of ``x``, with its lengths if ``radius="init"``."""
        y = self.random(*x.shape, dtype=x.dtype, device=x.device)
        if isinstance(self.radius, str):
            self._require_direction(x, "the weight")
            y = y * self._lengths(x)
        return y

    def origin(
        self,
        *size: Any,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        seed: int | None = 42,
    ) -> Tensor:
        """Return vectors with equal entries, of shape ``size``; ``seed`` is ignored."""
        shape, dtype = as_shape(size), dtype or torch.get_default_dtype()
        self._require_kind(torch.empty(shape, dtype=dtype, device="meta"), "size")
        return self.polish(torch.ones(shape, dtype=dtype, device=device))
