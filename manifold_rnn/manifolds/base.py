"""What this package asks of a manifold beyond geoopt's interface, and how any geoopt manifold gets it."""

import math
from abc import abstractmethod
from collections.abc import Hashable
from typing import Any, ClassVar, Self

import geoopt
import torch
from torch import Tensor

from ..errors import UnsupportedError
from ..retractions import Retraction


class Manifold(geoopt.Manifold):  # type: ignore[misc]
    r"""A geoopt manifold whose tangent vectors also have real coordinates.

    The same four maps serve both views of a constrained weight. *Update* view: an optimizer turns a gradient into
    coordinates (`egrad2coordinates`), keeps its moments there, and moves the weight (`retr_coordinates`). *Trivialized*
    view: ``W = retr_coordinates(base, c)`` with the coordinates ``c`` as the free parameter.

    Coordinates have the batch axes of the point, then the axes of `coordinate_shape`; by default they are the ambient
    tangent vector itself (a complex one seen as pairs of reals). On groups they are an orthonormal basis of the Lie
    algebra, so that transport leaves them as they are.

    Examples
    --------
    >>> O, x = mr.Orthogonal(), torch.eye(3)
    >>> assert O.retr_coordinates(x, torch.zeros(O.coordinate_shape(x.shape))).equal(x)
    """

    geometry: ClassVar[str | None] = None  # what retractions know their order on
    is_complex: ClassVar[bool | None] = None  # None where points may be real or complex
    is_choice: ClassVar[bool] = True  # whether settings offer it by name; each base or adapter says so for itself
    retraction: Retraction

    def key(self) -> Hashable:
        """Equal keys mean the same manifold with the same retraction, so that points can be stepped as one batch."""
        return id(self)

    def with_retraction(self, retraction: str | Retraction) -> Self:
        """The same manifold with another retraction; `UnsupportedError` where the retraction is welded to the class."""
        raise UnsupportedError(
            f"{type(self).__name__} has one retraction of its own.\n"
            f"Expected a manifold that takes any, got retraction={retraction!r}.\n"
            "Use a manifold of manifold_rnn, such as Orthogonal(retraction)."
        )

    def defect(self, x: Tensor) -> Tensor:
        """How far ``x`` is off, per matrix; 0 on the manifold. By default the distance to ``projx(x)``."""
        difference = x - self.projx(x)
        return torch.linalg.vector_norm(difference, dim=tuple(range(-self.ndim, 0))) if self.ndim else difference.abs()

    def polish(self, x: Tensor) -> Tensor:
        """Remove rounding drift from a point; by default ``projx``."""
        y: Tensor = self.projx(x)
        return y

    @property
    def polish_every(self) -> int:
        """Number of optimizer steps between two calls of `polish`; 0 where drift does not build up."""
        return 0

    def require(self, x: Tensor, name: str = "x") -> None:
        """Raise unless ``x`` has a shape, dtype and entries that a point can have; its defect is not measured."""
        self.assert_check_point(x)

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

    def egrad2coordinates(self, x: Tensor, g: Tensor) -> Tensor:
        """Coordinates of the Riemannian gradient, from the gradient that autograd gives."""
        return self.to_coordinates(x, self.egrad2rgrad(x, g))

    def retr_coordinates(self, x: Tensor, c: Tensor) -> Tensor:
        """The retraction along the tangent vector with coordinates ``c``, differentiable in ``c``."""
        y: Tensor = self.retr(x, self.from_coordinates(x, c))
        return y

    def inverse_retr_coordinates(self, x: Tensor, y: Tensor) -> Tensor:
        """Coordinates that lead from ``x`` to ``y``; `UnsupportedError` where there is no inverse."""
        raise UnsupportedError(
            f"{type(self).__name__} has no inverse retraction.\nExpected a manifold of matrices such as Orthogonal.\n"
            "Keep the base point at the weight itself: coordinates zero."
        )

    def step_coordinates(self, x: Tensor, c: Tensor, carried: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Where ``c`` leads from ``x``, and the coordinates there of a vector that is carried along."""
        u = self._vector(x, c)
        if carried is None:
            return self.retr(x, u), None
        y, v = self.retr_transp(x, u, self._vector(x, carried))
        return y, self.to_coordinates(y, v)

    def retr_gradient(self, x: Tensor, g: Tensor, t: float | Tensor) -> Tensor:
        """The retraction along ``t`` times the Riemannian gradient, from the gradient ``g`` that autograd gives."""
        return self.step_coordinates(x, self.egrad2coordinates(x, g) * t, None)[0]

    def square_coordinates(self, x: Tensor, c: Tensor, how: str) -> Tensor:
        """Second moment of coordinates, ``"elementwise"`` or of the ``"matrix"`` (its squared norm).

        The entries of an ambient vector are no basis, so by default it is the matrix's whatever is asked for.
        """
        value: Tensor = self.component_inner(x, self._vector(x, c))
        return value.unsqueeze(-1) if x.is_complex() else value

    @staticmethod
    def _vector(x: Tensor, c: Tensor) -> Tensor:
        """The tangent vector as it is: what an optimizer carries is tangent already, and some projections double it."""
        return torch.complex(c[..., 0], c[..., 1]) if x.is_complex() else c

    @abstractmethod
    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """Transport of a tangent vector from ``x`` to ``y``."""


class Adapted(Manifold):
    """Somebody else's geoopt manifold, with the methods of `Manifold` by their defaults.

    Made by `adapt`; every geoopt method is that of the wrapped manifold.

    Parameters
    ----------
    manifold : geoopt.Manifold

    Examples
    --------
    >>> import geoopt
    >>> sphere = mr.manifolds.adapt(geoopt.Sphere())
    >>> assert sphere.defect(torch.tensor([0.6, 0.8])) < 1e-6
    """

    is_choice = False

    def __init__(self, manifold: geoopt.Manifold) -> None:
        super().__init__()
        self.manifold = manifold
        self.name, self.ndim, self.reversible = manifold.name, manifold.ndim, manifold.reversible

    def key(self) -> Hashable:
        return id(self.manifold)

    def retr_coordinates(self, x: Tensor, c: Tensor) -> Tensor:
        retr = self.retr
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            retr = torch.func.functionalize(retr)  # geoopt's QR writes into what autograd has saved
        y: Tensor = retr(x, self.from_coordinates(x, c))
        return y

    def random(self, *size: int, **kwargs: Any) -> Tensor:
        y: Tensor = self.manifold.random(*size, **kwargs)
        return y.as_subclass(Tensor)

    def origin(self, *size: int, **kwargs: Any) -> Tensor:
        y: Tensor = self.manifold.origin(*size, **kwargs)
        return y.as_subclass(Tensor)


def _delegate(name: str) -> Any:
    def method(self: Adapted, *args: Any, **kwargs: Any) -> Any:
        return getattr(self.manifold, name)(*args, **kwargs)

    method.__name__ = name
    return method


_GEOOPT = (
    "_check_point_on_manifold",
    "_check_shape",
    "_check_vector_on_tangent",
    "component_inner",
    "dist",
    "dist2",
    "egrad2rgrad",
    "expmap",
    "expmap_transp",
    "extra_repr",
    "inner",
    "logmap",
    "norm",
    "proju",
    "projx",
    "retr",
    "retr_transp",
    "transp",
    "transp_follow_expmap",
    "transp_follow_retr",
)
for _name in _GEOOPT:
    setattr(Adapted, _name, _delegate(_name))
Adapted.__abstractmethods__ = frozenset()


def adapt(manifold: geoopt.Manifold) -> Manifold:
    """The manifold itself if it is one of this package, else `Adapted`.

    Parameters
    ----------
    manifold : geoopt.Manifold

    Returns
    -------
    Manifold

    Raises
    ------
    UnsupportedError
        If it is not a geoopt manifold.

    Examples
    --------
    >>> O = mr.Orthogonal()
    >>> assert mr.manifolds.adapt(O) is O
    """
    if isinstance(manifold, Manifold):
        return manifold
    if isinstance(manifold, geoopt.Manifold):
        return Adapted(manifold)
    raise UnsupportedError(
        f"A constraint is a manifold of manifold_rnn or geoopt.\nGot {type(manifold).__name__}.\n"
        "Pass an object such as Orthogonal(), not a class or a string."
    )
