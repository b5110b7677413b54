"""What a structured constraint is."""

from typing import Protocol, runtime_checkable

from torch import Tensor, nn


@runtime_checkable
class Constraint(Protocol):
    """Anything that can build a weight from free parameters: one method, and `constrain` accepts it.

    Examples
    --------
    >>> assert isinstance(mr.FixedBase(mr.Orthogonal()), mr.constraints.Constraint)
    """

    def trivialize(self, like: Tensor) -> nn.Module:
        """Return a module whose ``forward()`` gives the dense weight, as near to ``like`` as the structure allows.

        Where an inverse exists it also has ``assign(W)``, which makes ``forward()`` return ``W``.
        """
