"""Weights assembled from parts, each with its own constraint, such as gates and blocks of a triangle."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import geoopt
import torch
from torch import Tensor, nn

from ..errors import OffManifoldError, OptionError, UnsupportedError
from ..manifolds import BlockTriangular, Layout, TriangularLayout, adapt
from ..retractions import Retraction
from .constraint import AnyConstraint, Constraint
from .membership import tolerance
from .parametrization import Parametrization, require_shape
from .trivialized import trivialize

Member: TypeAlias = AnyConstraint | None


@dataclass(frozen=True, eq=False)
class Assembled(Constraint):
    """Weights assembled from parts that each have their own constraint: a manifold or a structured constraint.

    If all members are manifolds, use `manifold_rnn.manifolds.Blocks` or `manifold_rnn.BlockTriangular`: they have both
    views.

    Parameters
    ----------
    layout : Layout
        How the weight is cut into parts.
    members : sequence of constraint or None
        The constraint of each part; None leaves it free.
    rebase_every : int, optional
        Optimizer steps between two moves of the bases. Only if all members are manifolds.

    Raises
    ------
    OptionError
        If the number of members differs from the number of parts.
    UnsupportedError
        If ``rebase_every`` is given and a member is a structured constraint.

    Notes
    -----
    The module's ``members`` are the parametrizations of the parts, by the names of the layout. An unconstrained part
    has the parameter ``value``.

    Examples
    --------
    >>> layout = mr.manifolds.TriangularLayout(rows=1)
    >>> assembled = mr.constraints.Assembled(layout, (mr.Orthogonal(), mr.StickyDisc(), None))
    >>> cell = mr.constrain(torch.nn.RNNCell(2, 3), "weight_hh", assembled, view="trivialized")
    >>> assert cell.weight_hh[1:, :1].count_nonzero() == 0
    """

    layout: Layout
    members: Sequence[Member]
    rebase_every: int | None = None

    def __post_init__(self) -> None:
        if len(self.members) != len(self.layout.names):
            raise OptionError(
                "The number of members differs from the number of parts.\n"
                f"Expected {len(self.layout.names)} for the parts {', '.join(self.layout.names)}, "
                f"got {len(self.members)}.\nAdd or remove members."
            )
        structured = [m for m in self.members if isinstance(m, Constraint)]
        if structured and self.rebase_every is not None:
            raise UnsupportedError(
                f"{type(structured[0]).__name__} is a structured constraint, which has no base to move.\n"
                f"Expected rebase_every=None, got {self.rebase_every}.\nLeave it out, or use manifolds only."
            )

    def trivialize(self, like: Tensor) -> AssembledParametrization:
        self.layout.shapes(tuple(like.shape))
        every = self.rebase_every
        parts = [
            FreePart(part) if member is None else trivialize(member, part.contiguous(), rebase_every=every)
            for member, part in zip(self.members, self.layout.split(like), strict=True)
        ]
        return AssembledParametrization(self.layout, parts, tuple(like.shape))

    def random_like(self, like: Tensor) -> Tensor:
        parts = zip(self.members, self.layout.split(like), strict=True)
        drawn = [part if member is None else _random_like(member, part) for member, part in parts]
        return self.layout.join(drawn, tuple(like.shape))


def _random_like(member: AnyConstraint, part: Tensor) -> Tensor:
    source = adapt(member) if isinstance(member, geoopt.Manifold) else member
    return source.random_like(part)


class AssembledParametrization(Parametrization):
    """The parametrizations of the parts of a weight, and the layout that assembles the weight.

    Parameters
    ----------
    layout : Layout
        How the weight is divided into parts.
    parts : sequence of Parametrization
        One for each part of the layout.
    shape : tuple of int
        Shape of the weight.
    """

    takes_complex32 = True

    def __init__(self, layout: Layout, parts: Sequence[Parametrization], shape: tuple[int, ...]) -> None:
        super().__init__()
        self.layout, self.shape = layout, shape
        self.members = nn.ModuleDict(dict(zip(layout.names, parts, strict=True)))

    def forward(self) -> Tensor:
        return self.layout.join([part() for part in self.members.values()], self.shape)

    @torch.no_grad()
    def assign(self, weight: Tensor) -> None:
        """Assign each part of ``weight`` to its member. If a member raises, nothing is changed."""
        require_shape(self(), weight)
        rest = self.layout.remainder(weight)
        if (
            rest is not None
            and rest.numel()
            and (outside := float(rest.max())) > tolerance(weight.dtype, weight.shape[-1])
        ):
            raise OffManifoldError(
                "A weight assembled from parts is zero outside of them.\n"
                f"Expected a norm of 0 there, got {outside:.3g}.\nCheck split, or transpose the weight."
            )
        pairs = list(zip(self.parts().values(), self.layout.split(weight), strict=True))
        for part, value in pairs:
            copy.deepcopy(part).assign(value)  # raises before any part is changed
        for part, value in pairs:
            part.assign(value)

    @torch.no_grad()
    def assign_nearest(self, weight: Tensor) -> None:
        """Assign the nearest possible value to each part."""
        for part, value in zip(self.parts().values(), self.layout.split(weight), strict=True):
            part.assign_nearest(value.contiguous())

    @torch.no_grad()
    def defect(self) -> Tensor | None:
        """The largest defect of the parts that have one."""
        defects = [d for d in (part.defect() for part in self.parts().values()) if d is not None]
        return torch.stack(defects).max() if defects else None

    @property
    def retraction(self) -> Retraction | None:
        """The retraction of the first part that has one."""
        return next((part.retraction for part in self.parts().values() if part.retraction is not None), None)

    def set_retraction(self, retraction: Retraction | str) -> None:
        """Change the retraction of every part that has one."""
        movable = [part for part in self.parts().values() if part.retraction is not None]
        if not movable:
            raise UnsupportedError(
                "No part of this weight has a retraction that can be changed.\n"
                f"Expected a part such as Orthogonal(), got retraction={retraction!r}.\n"
                "Release the weight and constrain it again."
            )
        for part in movable:
            copy.deepcopy(part).set_retraction(retraction)  # raises before any part is changed
        for part in movable:
            part.set_retraction(retraction)


class FreePart(Parametrization):
    """An unconstrained part: the parameter ``value``.

    Parameters
    ----------
    value : Tensor
        The starting value.
    """

    takes_complex32 = True

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = nn.Parameter(value.detach().clone(memory_format=torch.contiguous_format))

    def forward(self) -> Tensor:
        return self.value

    def trained(self) -> list[nn.Parameter]:
        return []

    @torch.no_grad()
    def assign(self, weight: Tensor) -> None:
        """Copy ``weight`` into the parameter."""
        require_shape(self.value, weight)
        self.value.copy_(weight)


def block_triangular(
    top: AnyConstraint, bottom: AnyConstraint, split: int | None = None
) -> BlockTriangular | Assembled:
    r"""Block-triangular weights whose two diagonal blocks have any constraints.

    .. math:: W = \begin{pmatrix} \text{top} & \text{free} \\ 0 & \text{bottom} \end{pmatrix}.

    Parameters
    ----------
    top, bottom : geoopt.Manifold or Constraint
        The constraints of the diagonal blocks.
    split : int, optional
        Rows of the top block. Default: half of all rows, rounded down.

    Returns
    -------
    BlockTriangular or Assembled
        The manifold `BlockTriangular` if both are manifolds. Otherwise a structured constraint, which has only the
        trivialized view.

    Raises
    ------
    OptionError
        If ``split`` is not a positive integer, or a block is not a constraint.

    Notes
    -----
    Source: Helfrich and Ye (2020), with an orthogonal top block and `StickyDisc` as the bottom block.

    Examples
    --------
    >>> enrnn = mr.block_triangular(mr.FixedBase(mr.Orthogonal()), mr.StickyDisc(), split=4)
    >>> cell = mr.constrain(torch.nn.RNNCell(2, 6), "weight_hh", enrnn, view="trivialized")
    >>> assert mr.linalg.defect(cell.weight_hh[:4, :4]) < 1e-5
    """
    if isinstance(top, geoopt.Manifold) and isinstance(bottom, geoopt.Manifold):
        return BlockTriangular(top, bottom, split)
    for place, part in (("top", top), ("bottom", bottom)):
        if not isinstance(part, geoopt.Manifold | Constraint):
            raise OptionError(
                f"The {place} block of a block triangle needs a constraint.\n"
                f"Expected an object such as Orthogonal() or StickyDisc(), got {type(part).__name__}.\n"
                "Pass an object, not a class or a string."
            )
    return Assembled(TriangularLayout(split), (top, bottom, None))
