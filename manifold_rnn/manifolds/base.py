"""What this package asks of a manifold beyond geoopt's interface: coordinates, and the facts that others rely on."""

import math
from abc import abstractmethod
from collections.abc import Hashable
from typing import ClassVar, Self

import geoopt
import torch
from torch import Tensor

from ..errors import UnsupportedError
from ..retractions import Retraction
from .layout import Layout


class Manifold(geoopt.Manifold):  # type: ignore[misc]
    r"""A geoopt manifold whose tangent vectors also have real coordinates.

    Every move exists twice: for tangent vectors in the ambient space, under geoopt's name, and for coordinates.

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

    The same maps serve both views of a constrained weight. *Update* view: an optimizer turns a gradient into
    coordinates, keeps its moments there, and moves the weight by ``retr_transp_coordinates``. *Trivialized* view:
    ``W = retr_free(base, c)`` with the coordinates ``c`` as the free parameter.

    Coordinates have the batch axes of the point, then the axes of `coordinate_shape`. By default they are the ambient
    tangent vector itself (a complex one seen as pairs of reals). On groups they are an orthonormal basis of the Lie
    algebra, so that transport leaves them as they are.

    Attributes
    ----------
    is_complex : bool or None
        Whether points are complex; None where they may be either.
    is_group : bool
        Whether points are a matrix group, with the identity among them.
    is_orthonormal : bool
        Whether the set is that of all matrices with orthonormal columns, or a component of it.
    is_flat : bool
        Whether the set is the whole space, with straight steps.
    is_sphere : bool
        Whether each vector of a point is on a sphere, so that a step is an angle.

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
    _retraction: Retraction | None = None

    # --- facts ---

    @property
    @abstractmethod
    def name(self) -> str:
        """What to call it in messages; a class that has a name is one that can be made."""

    @property
    def retraction(self) -> Retraction | None:
        """The retraction of `retr`, None where the class has one of its own that cannot be changed."""
        return self._retraction

    @property
    def geometry(self) -> str | None:
        """The key by which a retraction states its order on this manifold."""
        return None

    @property
    def layout(self) -> Layout | None:
        """How a point is cut into parts, where it is assembled from parts."""
        return None

    @property
    def members(self) -> tuple["Manifold", ...]:
        """The manifolds of the parts, where a point is assembled from parts."""
        return ()

    @property
    def reads_device(self) -> bool:
        """Whether a step needs numbers on the host, such as eigenvalues, and so cannot be captured in a CUDA graph."""
        return False

    @property
    def checks_steps(self) -> bool:
        """Whether a step raises `NonFiniteError` rather than return what is not finite."""
        return False

    @property
    def isometric_at_zero(self) -> bool:
        """Whether the derivative of `retr_coordinates` at 0 is an isometry onto the tangent space."""
        return False

    @property
    def identity_component(self) -> "Manifold":
        """The points of a group that a path joins to the identity, where its retractions end; the set itself if all."""
        return self

    @property
    def polish_every(self) -> int:
        """Number of optimizer steps between two calls of `polish`; 0 where drift does not build up."""
        return 0

    def key(self) -> Hashable:
        """Equal keys mean the same manifold with the same retraction, so that points can be stepped as one batch."""
        return id(self)

    def with_retraction(self, retraction: str | Retraction) -> Self:
        """The same manifold with another retraction; `UnsupportedError` where it cannot be changed."""
        raise UnsupportedError(
            f"{type(self).__name__} has a retraction of its own, which cannot be changed.\n"
            f"Expected a manifold that takes any, got retraction={retraction!r}.\n"
            "Use a manifold such as Orthogonal(retraction)."
        )

    def width(self, shape: tuple[int, ...]) -> int:
        """Columns of the largest matrix in a tensor of that shape, with which rounding errors grow."""
        return shape[-1] if shape else 1

    def example_shape(self) -> tuple[int, ...]:
        """The shape of a small point, for checks."""
        return (4,) * self.ndim

    # --- points ---

    def require(self, x: Tensor, name: str = "x") -> None:
        """Raise unless ``x`` has a shape, dtype and entries that a point can have; its defect is not measured."""
        self.assert_check_point(x)

    def defect(self, x: Tensor) -> Tensor:
        """Distance of ``x`` from the manifold, per matrix. By default the distance to ``projx(x)``."""
        difference = x - self.projx(x)
        return torch.linalg.vector_norm(difference, dim=tuple(range(-self.ndim, 0))) if self.ndim else difference.abs()

    def sensitivity(self, x: Tensor) -> float:
        """How many rounding errors of its entries the defect of a point may have, where that is not about one."""
        return 0.0

    def is_sound(self, x: Tensor) -> Tensor:
        """Whether a step has led near the manifold, per matrix; reads nothing from the device."""
        return torch.isfinite(x).all() if self.ndim == 0 else torch.isfinite(x).flatten(-self.ndim).all(-1)

    def polish(self, x: Tensor) -> Tensor:
        """Remove rounding drift from a point; by default ``projx``."""
        y: Tensor = self.projx(x)
        return y

    def random_like(self, x: Tensor) -> Tensor:
        """A random point of the shape, dtype and device of ``x``; entries that are free keep their values."""
        y: Tensor = self.random(*x.shape, dtype=x.dtype, device=x.device)
        return y

    # --- coordinates ---

    def degrees_of_freedom(self, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> int:
        """Real dimension of the manifold of tensors of that shape, batch included."""
        return math.prod(self.coordinate_shape(shape, dtype))

    def coordinate_shape(self, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> tuple[int, ...]:
        """Shape of the coordinates of a tangent vector at a point of that shape and dtype (default: real)."""
        return (*shape, 2) if dtype is not None and dtype.is_complex else tuple(shape)

    def to_coordinates(self, x: Tensor, u: Tensor) -> Tensor:
        """Coordinates of a tangent vector."""
        return torch.stack([u.real, u.imag], -1) if u.is_complex() else u  # view_as_real needs an even offset

    def from_coordinates(self, x: Tensor, c: Tensor) -> Tensor:
        """Tangent vector with these coordinates; what is not tangent is projected away."""
        u: Tensor = self.proju(x, self._vector(x, c))
        return u

    def ambient(self, x: Tensor, c: Tensor) -> Tensor:
        """The vector with these entries, where coordinates are entries; nothing is projected away."""
        return self._vector(x, c)

    def egrad2coordinates(self, x: Tensor, g: Tensor) -> Tensor:
        """Coordinates of the Riemannian gradient, from the gradient that autograd gives."""
        return self.to_coordinates(x, self.egrad2rgrad(x, g))

    def retr_coordinates(self, x: Tensor, c: Tensor) -> Tensor:
        """The retraction along the tangent vector with any coordinates ``c``, differentiable in ``c``."""
        y: Tensor = self.retr(x, self.from_coordinates(x, c))
        return y

    def retr_free(self, x: Tensor, c: Tensor) -> Tensor:
        """The weight of the trivialized view: a gradient step in ``c`` from 0 is one along the Riemannian gradient.

        It is `retr_coordinates` wherever coordinates are as long as the tangent vector in the metric.
        """
        return self.retr_coordinates(x, c)

    def inverse_retr_coordinates(self, x: Tensor, y: Tensor) -> Tensor:
        """Coordinates that lead from ``x`` to ``y``; `UnsupportedError` where there is no inverse."""
        raise UnsupportedError(
            f"{type(self).__name__} has no inverse retraction.\nExpected a manifold of matrices such as Orthogonal.\n"
            "Keep the base point at the weight itself: coordinates zero."
        )

    def retr_transp_coordinates(self, x: Tensor, c: Tensor, *carried: Tensor) -> tuple[Tensor, ...]:
        """The retraction along a vector that is tangent already, then the coordinates of transported vectors.

        What a transport leaves as it is, such as coordinates on a group, is returned as the same object.
        """
        u = self._vector(x, c)
        if not carried:
            return (self.retr(x, u),)
        y, first = self.retr_transp(x, u, self._vector(x, carried[0]))
        others = (self.transp_follow_retr(x, u, self._vector(x, v)) for v in carried[1:])
        return y, *(self.to_coordinates(y, v) for v in (first, *others))

    def retr_gradient(self, x: Tensor, g: Tensor, t: float | Tensor) -> Tensor:
        """The retraction along ``t`` times the Riemannian gradient, from the gradient ``g`` that autograd gives."""
        return self.retr_transp_coordinates(x, self.egrad2coordinates(x, g) * t)[0]

    def spectral_step(
        self, x: Tensor, g: Tensor, length: float | Tensor, *, geodesic: bool = True, nuclear: bool = False
    ) -> Tensor:
        """The point at ``length`` along the direction in which a loss falls fastest, given its gradient ``g``.

        Fastest among tangent vectors of spectral norm 1, where the direction has a closed form. By default, the
        direction is that of the Riemannian gradient, of norm 1 in the metric of the manifold.

        Parameters
        ----------
        x, g : Tensor
            A point, and the gradient that autograd gives.
        length : float or Tensor
        geodesic : bool
            Whether to follow the geodesic instead of the retraction, where it has a closed form.
        nuclear : bool
            Whether ``length`` is multiplied by the mean singular value of the gradient's tangent part, so that steps
            vanish at a stationary point.

        Returns
        -------
        Tensor, as ``x``
        """
        u: Tensor = self.egrad2rgrad(x, g)
        if not nuclear:
            square: Tensor = self.component_inner(x, u)
            size = (square.abs() if square.is_complex() else square).sqrt()  # geoopt's do not conjugate
            u = u / torch.where(size > 0, size, 1)
        y: Tensor = self.retr(x, -length * u)
        return y

    def square_coordinates(self, x: Tensor, c: Tensor, how: str) -> Tensor:
        """Second moment of coordinates, ``"elementwise"`` or of the ``"matrix"`` (its squared norm).

        The entries of an ambient vector are no basis, so by default it is the matrix's whatever is asked for.
        """
        value: Tensor = self.component_inner(x, self._vector(x, c))
        value = value.abs() if value.is_complex() else value  # geoopt's do not conjugate
        return value.unsqueeze(-1) if x.is_complex() else value

    @staticmethod
    def _vector(x: Tensor, c: Tensor) -> Tensor:
        """The tangent vector as it is: what an optimizer carries is tangent already, and some projections double it."""
        return torch.complex(c[..., 0], c[..., 1]) if x.is_complex() else c

    @abstractmethod
    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """Transport of a tangent vector from ``x`` to ``y``."""
