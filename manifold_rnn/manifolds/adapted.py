"""Adds the methods of this package to geoopt manifolds, and finds the manifold of a parameter."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Hashable
from typing import Any

import geoopt
import torch
from torch import Tensor, nn

from ..errors import UnsupportedError
from .base import Manifold


class Adapted(Manifold):
    """A geoopt manifold with the default implementations of the methods of `Manifold`.

    `adapt` creates it. Every geoopt method calls the wrapped manifold.

    Parameters
    ----------
    manifold : geoopt.Manifold
        The manifold to wrap.

    Examples
    --------
    >>> import geoopt
    >>> sphere = mr.manifolds.adapt(geoopt.Sphere())
    >>> assert sphere.defect(torch.tensor([0.6, 0.8])) < 1e-6
    """

    name = "Adapted"

    def __init__(self, manifold: geoopt.Manifold) -> None:
        super().__init__()
        self.manifold = manifold
        self.name, self.ndim, self.reversible = manifold.name, manifold.ndim, manifold.reversible

    @property
    def __scaling__(self) -> dict[str, Any]:
        """How `geoopt.Scaled` scales each method: like those of the wrapped manifold."""
        own = vars(Adapted)
        return {name: info for name, info in self.manifold.__scaling__.items() if name in own}

    @property
    def frame(self) -> Hashable:
        return str(self.manifold)  # with the metric, if the manifold has several

    def key(self) -> Hashable:
        return id(self.manifold)

    @property
    def _wraps_ours(self) -> bool:
        """Whether a manifold of this package is inside, as in geoopt's products: ours never write in place."""
        return any(isinstance(part, Manifold) for part in self.manifold.modules())

    def retr_coordinates(self, x: Tensor, c: Tensor) -> Tensor:
        retr = self.retr
        if torch.is_grad_enabled() and not torch.compiler.is_compiling() and not self._wraps_ours:
            retr = torch.func.functionalize(retr)  # geoopt's QR overwrites tensors that autograd has saved
        y: Tensor = retr(x, self.from_coordinates(x, c))
        return y

    def random(self, *size: int, **kwargs: Any) -> Tensor:
        y: Tensor = self.manifold.random(*size, **kwargs)
        return y.as_subclass(Tensor)

    def origin(self, *size: int, **kwargs: Any) -> Tensor:
        y: Tensor = self.manifold.origin(*size, **kwargs)
        return y.as_subclass(Tensor)


def _delegate(name: str) -> Callable[..., Any]:
    def method(self: Adapted, *args: Any, **kwargs: Any) -> Any:
        return getattr(self.manifold, name)(*args, **kwargs)

    method.__name__ = name
    if (original := getattr(geoopt.Manifold, name, None)) is not None:
        method.__signature__ = inspect.signature(original)  # type: ignore[attr-defined]  # geoopt.Scaled reads it
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
    """Return the manifold itself if it belongs to this package, otherwise `Adapted`.

    Parameters
    ----------
    manifold : geoopt.Manifold
        Any manifold of this package or of geoopt.

    Returns
    -------
    Manifold

    Raises
    ------
    UnsupportedError
        If the argument is not a geoopt manifold.

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
        f"A constraint must be a manifold of manifold_rnn or geoopt.\nGot {type(manifold).__name__}.\n"
        "Pass an object such as Orthogonal(), not a class or a string."
    )


def manifold_of(parameter: Tensor) -> Manifold | None:
    """Return the manifold that a parameter has as an attribute, or None if it is Euclidean.

    Only the attribute counts, not the class of the parameter, because a compiled step loses the class.

    Parameters
    ----------
    parameter : Tensor
        Any parameter.

    Returns
    -------
    Manifold or None

    Examples
    --------
    >>> layer = mr.constrain(torch.nn.Linear(3, 3), "weight", mr.Orthogonal())
    >>> assert mr.manifolds.manifold_of(layer.weight).name == "Orthogonal"
    >>> assert mr.manifolds.manifold_of(layer.bias) is None
    """
    manifold = attached_manifold(parameter)
    return None if manifold is None or isinstance(manifold, geoopt.Euclidean) else adapt(manifold)


def attached_manifold(parameter: Tensor) -> geoopt.Manifold | None:
    """Return the attribute ``manifold`` of a parameter, without adapting it."""
    return getattr(parameter, "manifold", None)


class Point(geoopt.ManifoldParameter):  # type: ignore[misc]
    """The weight of the update view: a parameter with a manifold, which is saved as a plain parameter.

    ``torch.load`` therefore reads the file with its safe default, also in a process without this package. A module
    marks its weights again when it is loaded.

    Examples
    --------
    >>> layer = mr.constrain(torch.nn.Linear(3, 3), "weight", mr.Orthogonal())
    >>> assert isinstance(layer.weight, mr.manifolds.adapted.Point)
    """

    def __reduce_ex__(self, protocol: Any) -> Any:
        return nn.Parameter(self.data, self.requires_grad).__reduce_ex__(protocol)

    def __deepcopy__(self, memo: dict[int, Any]) -> Point:
        if id(self) not in memo:
            copied: Any = nn.Parameter(self.data.clone(memory_format=torch.preserve_format), self.requires_grad)
            memo[id(self)] = copied
            copied.__class__, copied.manifold = Point, copy.deepcopy(self.manifold, memo)
        point: Point = memo[id(self)]
        return point
