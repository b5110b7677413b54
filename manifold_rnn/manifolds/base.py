"""The base class of manifolds: geoopt's interface, extended by coordinates and by properties that others use."""

import math
from abc import abstractmethod
from collections.abc import Hashable
from typing import ClassVar, Self

import geoopt
import torch
from torch import Tensor

from ..errors import ShapeError, UnsupportedError
from ..linalg.norms import power_of_two_below
from ..retractions import Retraction
from .layout import Layout


class Manifold(geoopt.Manifold):  # type: ignore[misc]
    r"""A geoopt manifold whose tangent vectors also have real coordinates.

    Every map exists twice: for ambient tangent vectors, under geoopt's name, and for coordinates.

    =============================  ====================================  =========================================
    ambient                        coordinates                           value
    =============================  ====================================  =========================================
    ``egrad2rgrad(x, g)``          ``egrad2coordinates(x, g)``           the Riemannian gradient
    ``retr(x, u)``                 ``retr_coordinates(x, c)``            the point :math:`R_x(u)`, differentiable
    ``retr_transp(x, u, v)``       ``retr_transp_coordinates(x, c, v)``  that point, and transported vectors
    ``retraction.inverse(x, y)``   ``inverse_retr_coordinates(x, y)``    the vector that leads from ``x`` to ``y``
    ``proju(x, u)``                ``from_coordinates(x, c)``            the tangent vector
    \                              ``to_coordinates(x, u)``              its coordinates
    =============================  ====================================  =========================================

    The same maps serve both views of a constrained weight. In the *update* view an optimizer turns a gradient into
    coordinates, keeps its moments in coordinates, and moves the weight by ``retr_transp_coordinates``. In the
    *trivialized* view ``W = retr_free(base, c)``, and the coordinates ``c`` are the free parameter.

    Coordinates have the batch axes of the point, followed by the axes of `coordinate_shape`. By default they are the
    ambient tangent vector itself, with a complex one as pairs of reals. On groups they refer to an orthonormal basis of
    the Lie algebra, so transport does not change them.

    Attributes
    ----------
    is_complex : bool or None
        Whether points are complex; None if they may be either.
    is_group : bool
        Whether points form a matrix group with the identity.
    is_orthonormal : bool
        Whether the set consists of all matrices with orthonormal columns, or of a component of it.
    is_flat : bool
        Whether the set is the whole space, with straight steps.
    is_sphere : bool
        Whether each vector of a point is on a sphere, so that a step is a rotation by an angle.
    metric : str or None
        The name of the metric, if the class has several.

    Examples
    --------
    >>> O, x = mr.Orthogonal(), torch.eye(3)
    >>> assert O.retr_coordinates(x, torch.zeros(O.coordinate_shape(x.shape))).equal(x)
    """

    is_complex: ClassVar[bool | None] = None
    is_group: ClassVar[bool] = False
    is_orthonormal: ClassVar[bool] = False
    is_flat: ClassVar[bool] = False
    is_sphere: ClassVar[bool] = False
    metric: str | None = None
    _retraction: Retraction | None = None

    # --- properties ---

    @property
    @abstractmethod
    def name(self) -> str:
        """The name for messages. Only classes with a name can be instantiated."""

    @property
    def retraction(self) -> Retraction | None:
        """The retraction of `retr`; None if the class has its own, which cannot be changed."""
        return self._retraction

    @property
    def geometry(self) -> str | None:
        """The key by which retractions look up their order on this manifold."""
        return None

    @property
    def layout(self) -> Layout | None:
        """The division of a point into parts, or None."""
        return None

    @property
    def members(self) -> tuple["Manifold", ...]:
        """The manifolds of the parts of a point."""
        return ()

    @property
    def reads_device(self) -> bool:
        """Whether a step reads numbers such as eigenvalues from the device, which CUDA graphs cannot capture."""
        return False

    @property
    def checks_steps(self) -> bool:
        """Whether a step raises `NonFiniteError` instead of returning values that are not finite."""
        return False

    @property
    def isometric_at_zero(self) -> bool:
        """Whether the derivative of `retr_coordinates` at 0 is an isometry onto the tangent space."""
        return False

    @property
    def identity_component(self) -> "Manifold":
        """The connected component of the identity in a group, which contains all retractions from it."""
        return self

    @property
    def polish_every(self) -> int:
        """Number of optimizer steps between two calls of `polish`; 0 if rounding errors do not accumulate."""
        return 0

    @property
    def frame(self) -> Hashable:
        """A key of the metric and the coordinates of tangent vectors, in which optimizers keep their moments.

        It does not depend on the retraction, nor on the size of the set.
        """
        return (self.name, self.metric, self.layout, *(m.frame for m in self.members))

    def key(self) -> Hashable:
        """A key that is equal for the same manifold and retraction, whose points can be stepped as one batch."""
        return id(self)

    def with_retraction(self, retraction: str | Retraction) -> Self:
        """Return the same manifold with another retraction; raises `UnsupportedError` if it cannot be changed."""
        raise UnsupportedError(
            f"{type(self).__name__} has its own retraction, which cannot be changed.\n"
            f"Expected a manifold with exchangeable retractions, got retraction={retraction!r}.\n"
            "Use a manifold such as Orthogonal(retraction)."
        )

    def width(self, shape: tuple[int, ...]) -> int:
        """Return the columns of the largest matrix in a tensor of that shape; rounding errors grow with them."""
        return shape[-1] if shape else 1

    def example_shape(self) -> tuple[int, ...]:
        """Return the shape of a small point, for checks."""
        return (4,) * self.ndim

    # --- points ---

    def require(self, x: Tensor, name: str = "x") -> None:
        """Raise unless ``x`` has the shape, dtype and finite entries of a point; its defect is not measured."""
        ok, reason = self._check_shape(tuple(x.shape), name)
        if not ok:
            raise ShapeError(
                f"{name} cannot be a point of {self.name}: {reason}.\n"
                f"Expected a shape that {self.name} has, got {tuple(x.shape)}.\nReshape it first."
            )

    def defect(self, x: Tensor) -> Tensor:
        """Return the distance of ``x`` from the manifold, per matrix. By default the distance to ``projx(x)``."""
        difference = x - self.projx(x)
        return torch.linalg.vector_norm(difference, dim=tuple(range(-self.ndim, 0))) if self.ndim else difference.abs()

    def sensitivity(self, x: Tensor) -> float:
        """Return the factor by which the defect of a point amplifies rounding errors of its entries."""
        return 0.0

    def is_sound(self, x: Tensor) -> Tensor:
        """Return whether a step ended near the manifold, per matrix, without reading from the device."""
        return torch.isfinite(x).all() if self.ndim == 0 else torch.isfinite(x).flatten(-self.ndim).all(-1)

    def polish(self, x: Tensor) -> Tensor:
        """Remove rounding drift from a point; the default is ``projx``."""
        y: Tensor = self.projx(x)
        return y

    def random_like(self, x: Tensor) -> Tensor:
        """Return a random point with the shape, dtype and device of ``x``; free entries keep their values."""
        y: Tensor = self.random(*x.shape, dtype=x.dtype, device=x.device)
        return y

    # --- coordinates ---

    def degrees_of_freedom(self, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> int:
        """Return the real dimension of the manifold of tensors of that shape, including the batch."""
        return math.prod(self.coordinate_shape(shape, dtype))

    def coordinate_shape(self, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> tuple[int, ...]:
        """Return the shape of the coordinates at a point of that shape and dtype (default: real)."""
        return (*shape, 2) if dtype is not None and dtype.is_complex else tuple(shape)

    def to_coordinates(self, x: Tensor, u: Tensor) -> Tensor:
        """Return the coordinates of a tangent vector."""
        return torch.stack([u.real, u.imag], -1) if u.is_complex() else u  # view_as_real needs an even offset

    def from_coordinates(self, x: Tensor, c: Tensor) -> Tensor:
        """Return the tangent vector with these coordinates; a component that is not tangent is projected away."""
        u: Tensor = self.proju(x, self._vector(x, c))
        return u

    def ambient(self, x: Tensor, c: Tensor) -> Tensor:
        """Return the vector with these entries, if coordinates are entries, without projecting it."""
        return self._vector(x, c)

    def egrad2coordinates(self, x: Tensor, g: Tensor) -> Tensor:
        """Return the coordinates of the Riemannian gradient, given the gradient from autograd."""
        return self.to_coordinates(x, self.egrad2rgrad(x, g))

    def retr_coordinates(self, x: Tensor, c: Tensor) -> Tensor:
        """Return the retraction along the tangent vector with coordinates ``c``, differentiable in ``c``."""
        y: Tensor = self.retr(x, self.from_coordinates(x, c))
        return y

    def retr_free(self, x: Tensor, c: Tensor) -> Tensor:
        """Return the weight of the trivialized view.

        A gradient step in ``c`` from 0 is a step along the Riemannian gradient. This is `retr_coordinates` if the norm
        of coordinates is the metric.
        """
        return self.retr_coordinates(x, c)

    def inverse_retr_coordinates(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the coordinates that lead from ``x`` to ``y``; raises `UnsupportedError` if there is no inverse."""
        raise UnsupportedError(
            f"{type(self).__name__} has no inverse retraction.\nExpected a manifold of matrices such as Orthogonal.\n"
            "Keep the base point at the weight itself, with zero coordinates."
        )

    def retr_transp_coordinates(self, x: Tensor, c: Tensor, *carried: Tensor) -> tuple[Tensor, ...]:
        """Return the retraction along a tangent vector, followed by the coordinates of transported vectors.

        If transport does not change coordinates, as on a group, the same objects are returned.
        """
        u = self._vector(x, c)
        if not carried:
            return (self.retr(x, u),)
        y, first = self.retr_transp(x, u, self._vector(x, carried[0]))
        others = (self.transp_follow_retr(x, u, self._vector(x, v)) for v in carried[1:])
        return y, *(self.to_coordinates(y, v) for v in (first, *others))

    def retr_gradient(self, x: Tensor, g: Tensor, t: float | Tensor) -> Tensor:
        """Return the retraction along ``t`` times the Riemannian gradient, given the gradient ``g`` from autograd."""
        return self.retr_transp_coordinates(x, self.egrad2coordinates(x, g) * t)[0]

    def spectral_step(
        self, x: Tensor, g: Tensor, length: float | Tensor, *, geodesic: bool = True, nuclear: bool = False
    ) -> Tensor:
        """Return the point at distance ``length`` along the direction of steepest descent, given the gradient ``g``.

        The direction is the steepest among tangent vectors of spectral norm 1 if it has a closed form. By default it is
        that of the Riemannian gradient, normalized in the metric of the manifold.

        Parameters
        ----------
        x, g : Tensor
            A point, and the gradient from autograd.
        length : float or Tensor
            The length of the step.
        geodesic : bool
            Whether to follow the geodesic instead of the retraction, if it has a closed form.
        nuclear : bool
            Whether to multiply ``length`` by the mean singular value of the tangent part of the gradient, so that steps
            vanish at a stationary point.

        Returns
        -------
        Tensor, as ``x``
        """
        # any factor of the gradient gives the same direction; at 1 no square underflows or overflows
        u: Tensor = self.egrad2rgrad(x, g if nuclear else g / self._scales(g))
        if not nuclear:
            square: Tensor = self.component_inner(x, u)
            size = (square.abs() if square.is_complex() else square).sqrt()  # geoopt's inner products do not conjugate
            u = u / torch.where(size > 0, size, 1)
        y: Tensor = self.retr(x, -length * u)
        return y

    def _scales(self, x: Tensor) -> Tensor:
        """Return powers of two by which vectors are divided before their entries are squared."""
        axes = tuple(range(-self.ndim, 0))
        x = x.detach()
        return power_of_two_below(torch.linalg.vector_norm(x, math.inf, axes, keepdim=True) if axes else x.abs())

    def square_coordinates(self, x: Tensor, c: Tensor, how: str) -> Tensor:
        """Return the second moment of coordinates, ``"elementwise"`` or of the ``"matrix"`` (its squared norm).

        The entries of an ambient vector are not a basis, so the default is the squared norm in both cases.
        """
        value: Tensor = self.component_inner(x, self._vector(x, c))
        value = value.abs() if value.is_complex() else value  # geoopt's inner products do not conjugate
        return value.unsqueeze(-1) if x.is_complex() else value

    @staticmethod
    def _vector(x: Tensor, c: Tensor) -> Tensor:
        """Return the vector unprojected: optimizers carry tangent vectors, and some projections double them."""
        return torch.complex(c[..., 0], c[..., 1]) if x.is_complex() else c

    @abstractmethod
    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """Transport a tangent vector from ``x`` to ``y``."""
