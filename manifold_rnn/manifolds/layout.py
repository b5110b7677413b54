"""How a tensor is cut into parts, and assembled from them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

Shape = tuple[int, ...]


class Layout(ABC):
    """How a tensor is cut into parts, and assembled from them.

    A layout is a frozen dataclass: a value without tensors, equal by content. Axes before the last `ndim` are a batch,
    which every part keeps in front.

    Attributes
    ----------
    advice : str
        What to check where a tensor cannot be cut.

    Examples
    --------
    >>> layout = mr.manifolds.TriangularLayout(rows=1)
    >>> top, bottom, coupling = layout.split(torch.ones(3, 3))
    >>> assert layout.join((top, bottom, coupling), (3, 3))[1:, :1].count_nonzero() == 0
    """

    advice: ClassVar[str] = "Check its size."

    @property
    def ndim(self) -> int:
        """Axes of one point."""
        return 2

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """What the parts are called, in state dicts and messages."""

    @abstractmethod
    def shapes(self, shape: Shape) -> tuple[Shape, ...]:
        """Shapes of the parts of a tensor of that shape; raises `ShapeError` if it cannot be cut."""

    @abstractmethod
    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        """The parts of ``x``: an orthogonal projection onto the tensors that have parts."""

    @abstractmethod
    def join(self, parts: Sequence[Tensor], shape: Shape) -> Tensor:
        """The tensor of that shape that has these parts."""

    def remainder(self, x: Tensor) -> Tensor | None:
        """Norm of what no part of ``x`` holds, per point; None if the parts always hold all of it."""
        return None
