"""What a structured constraint is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, TypeAlias

import geoopt
from torch import Tensor, nn

from ..errors import UnsupportedError
from .parametrization import Parametrization


class Constraint(ABC):
    """A set of weights that is stated by its parameters: it has the trivialized view only.

    A subclass is a frozen dataclass of options, with one method: `trivialize`. Sets whose points an optimizer can move
    are subclasses of `manifold_rnn.manifolds.Manifold` instead, and have both views.

    Attributes
    ----------
    is_complex : bool or None
        Whether the weight is complex; None where it may be either.
    reads_whole_weight : bool
        Whether `trivialize` takes the weight as it is, of any number of axes, and not the matrices in it.

    Examples
    --------
    >>> assert isinstance(mr.FixedBase(mr.Orthogonal()), mr.constraints.Constraint)
    """

    is_complex: ClassVar[bool | None] = None
    reads_whole_weight: ClassVar[bool] = False

    def fitted(self, module: nn.Module, name: str) -> Constraint:
        """Return the constraint for a weight of this module, with what it depends on there, such as a stride.

        Parameters
        ----------
        module : nn.Module
            The owner of the weight.
        name : str

        Returns
        -------
        Constraint

        Raises
        ------
        UnsupportedError, OptionError
            If the module uses the weight in a way that the constraint is not made for.
        """
        return self

    @abstractmethod
    def trivialize(self, like: Tensor) -> Parametrization:
        """Return the parametrization whose ``forward()`` gives the weight, as near to ``like`` as the structure allows.

        Parameters
        ----------
        like : Tensor
            The weight before; some constraints use its shape, dtype and device only.

        Returns
        -------
        Parametrization

        Raises
        ------
        ShapeError, DtypeError, NonFiniteError
            If the constraint has no weight of this kind.
        """

    def random_like(self, like: Tensor) -> Tensor:
        """Return a random weight of the shape, dtype and device of ``like``.

        Parameters
        ----------
        like : Tensor

        Returns
        -------
        Tensor

        Raises
        ------
        UnsupportedError
            If the constraint has no distribution of its own.
        """
        raise UnsupportedError(
            f"{type(self).__name__} has no distribution of random weights.\n"
            'Expected init="keep" or a callable, got init="haar".\nUse init="keep".'
        )


AnyConstraint: TypeAlias = geoopt.Manifold | Constraint
