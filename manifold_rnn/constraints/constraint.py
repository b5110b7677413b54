"""The base class of structured constraints."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, TypeAlias

import geoopt
from torch import Tensor, nn

from ..errors import UnsupportedError
from .parametrization import Parametrization


class Constraint(ABC):
    """A set of weights described by its parameters. It has only the trivialized view.

    A subclass is a frozen dataclass of options that implements `trivialize`. If an optimizer can move the points of a
    set directly, implement it as a `manifold_rnn.manifolds.Manifold` instead, which has both views.

    Attributes
    ----------
    is_complex : bool or None
        Whether the weight is complex; None if it may be either.
    reads_whole_weight : bool
        Whether `trivialize` takes the whole weight with all its axes, instead of the matrices in it.

    Examples
    --------
    >>> assert isinstance(mr.FixedBase(mr.Orthogonal()), mr.constraints.Constraint)
    """

    is_complex: ClassVar[bool | None] = None
    reads_whole_weight: ClassVar[bool] = False

    def fitted(self, module: nn.Module, name: str) -> Constraint:
        """Return the constraint for a weight of this module, with the settings it reads there, such as a stride.

        Parameters
        ----------
        module : nn.Module
            The owner of the weight.
        name : str
            The name of the weight.

        Returns
        -------
        Constraint

        Raises
        ------
        UnsupportedError, OptionError
            If the constraint does not support the way in which the module uses the weight.
        """
        return self

    @abstractmethod
    def trivialize(self, like: Tensor) -> Parametrization:
        """Return the parametrization of a weight that is as near to ``like`` as the structure allows.

        Parameters
        ----------
        like : Tensor
            The present weight. Some constraints use only its shape, dtype and device.

        Returns
        -------
        Parametrization

        Raises
        ------
        ShapeError, DtypeError, NonFiniteError
            If the constraint does not contain weights of this shape or dtype, or ``like`` is not finite.
        """

    def random_like(self, like: Tensor) -> Tensor:
        """Return a random weight of the shape, dtype and device of ``like``.

        Parameters
        ----------
        like : Tensor
            Gives the shape, dtype and device.

        Returns
        -------
        Tensor
            A weight of the constrained set.

        Raises
        ------
        UnsupportedError
            If the constraint has no distribution of random weights.
        """
        raise UnsupportedError(
            f"{type(self).__name__} has no distribution of random weights.\n"
            'Expected init="keep" or a callable, got init="haar".\nUse init="keep".'
        )


AnyConstraint: TypeAlias = geoopt.Manifold | Constraint
