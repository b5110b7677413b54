"""The division of a tensor into parts, and its inverse."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

Shape = tuple[int, ...]


class Layout(ABC):
    """Divides a tensor into parts, and assembles it from them.

    A layout is a frozen dataclass without tensors, and compared by its content. Axes before the last `ndim` are batch
    axes, which every part keeps.

    Attributes
    ----------
    advice : str
        What to check if a tensor cannot be divided, for error messages.

    Examples
    --------
    >>> layout = mr.manifolds.TriangularLayout(rows=1)
    >>> top, bottom, coupling = layout.split(torch.ones(3, 3))
    >>> assert layout.join((top, bottom, coupling), (3, 3))[1:, :1].count_nonzero() == 0
    """

    advice: ClassVar[str] = "Check its size."

    @property
    def ndim(self) -> int:
        """The number of axes of one point."""
        return 2

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """The names of the parts, for state dicts and messages."""

    @abstractmethod
    def shapes(self, shape: Shape) -> tuple[Shape, ...]:
        """Return the shapes of the parts of a tensor of that shape; raises `ShapeError` if it cannot be divided."""

    @abstractmethod
    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the parts of ``x``, which are an orthogonal projection of ``x``."""

    @abstractmethod
    def join(self, parts: Sequence[Tensor], shape: Shape) -> Tensor:
        """Return the tensor of that shape with these parts."""

    def remainder(self, x: Tensor) -> Tensor | None:
        """Return the norm of the entries outside of all parts, per point; None if the parts cover all entries."""
        return None
