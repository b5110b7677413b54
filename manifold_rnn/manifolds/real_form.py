"""Complex matrices as real matrices of twice the size, and the unitary group in this form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from ..errors import DtypeError, ShapeError
from ..linalg.norms import norm
from ..linalg.precision import complex_dtype
from ..retractions import Retraction
from .base import Manifold
from .layout import Layout, Shape
from .matrix import as_shape
from .orthonormal import frobenius
from .parts import Parts
from .unitary import Unitary


@dataclass(frozen=True)
class RealFormLayout(Layout):
    r"""One part: a complex matrix ``w`` of half the size.

    .. math::
        x = \begin{pmatrix} \operatorname{Re} w & -\operatorname{Im} w \\
        \operatorname{Im} w & \operatorname{Re} w \end{pmatrix}.

    Examples
    --------
    >>> x = mr.manifolds.RealFormLayout().join((torch.tensor([[1j]]),), (2, 2))
    >>> assert torch.equal(x, torch.tensor([[0.0, -1.0], [1.0, 0.0]]))
    """

    advice: ClassVar[str] = "Choose an even size, or Orthogonal."

    @property
    def names(self) -> tuple[str, ...]:
        return ("complex",)

    def shapes(self, shape: Shape) -> tuple[Shape, ...]:
        if len(shape) < 2 or shape[-1] != shape[-2] or shape[-1] < 1 or shape[-1] % 2:
            raise ShapeError(
                "The real form of a complex matrix has an even size.\n"
                f"Expected shape (..., n, n) with an even n, got {tuple(shape)}.\nChoose an even size, or Orthogonal."
            )
        return ((*shape[:-2], shape[-1] // 2, shape[-1] // 2),)

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        if not x.is_floating_point():
            raise DtypeError(
                "The real form of a complex matrix must be real.\n"
                f"Expected float32 or float64, got {x.dtype}.\nFor complex matrices use Unitary."
            )
        self.shapes(x.shape)
        m = x.shape[-1] // 2
        a, b, c, d = x[..., :m, :m], x[..., :m, m:], x[..., m:, :m], x[..., m:, m:]
        return (torch.complex(0.5 * a + 0.5 * d, 0.5 * c - 0.5 * b),)  # halved first, since a sum may overflow

    def join(self, parts: Sequence[Tensor], shape: Shape) -> Tensor:
        (w,) = parts
        return torch.cat([torch.cat([w.real, -w.imag], -1), torch.cat([w.imag, w.real], -1)], -2)

    def remainder(self, x: Tensor) -> Tensor:
        """Return the distance from the matrices of this form."""
        return torch.linalg.matrix_norm(x - self.join(self.split(x), tuple(x.shape)))


class UnitaryRealForm(Parts):
    r"""The unitary group U(n/2) as real n x n matrices, for cells with real states.

    .. math::
        x = \begin{pmatrix} \operatorname{Re} w & -\operatorname{Im} w \\
        \operatorname{Im} w & \operatorname{Re} w \end{pmatrix}, \qquad w \in U(n/2).

    This is a subgroup of SO(n) of dimension :math:`n^2/4`; n must be even. All algebra is done on the complex matrix,
    at a quarter of the cost. The metric is that of real matrices, which is twice that of the complex ones.

    Parameters
    ----------
    retraction : str or Retraction
        The retraction of `retr`: ``"cayley"`` (default), ``"exp"``, ``"qr"``, ``"polar"``, or an object of
        `manifold_rnn.retractions`.

    Notes
    -----
    Tensors have shape (..., n, n); all axes except the last two are batch axes. Geometry and sources: `MatrixGroup`.

    Examples
    --------
    >>> x = mr.UnitaryRealForm().random(4, 4)
    >>> assert torch.equal(x[:2, :2], x[2:, 2:]) and torch.equal(x[:2, 2:], -x[2:, :2])
    """

    name = "UnitaryRealForm"
    ndim = 2
    is_complex: ClassVar[bool | None] = False
    is_group: ClassVar[bool] = True
    _stored_norm = math.sqrt(2)

    def __init__(self, retraction: str | Retraction = "cayley") -> None:
        super().__init__()
        self.unitary = Unitary(retraction)

    @property
    def geometry(self) -> str:
        return "group"

    @property
    def layout(self) -> RealFormLayout:
        return RealFormLayout()

    @property
    def members(self) -> tuple[Manifold, ...]:
        return (self.unitary,)

    def with_members(self, members: Sequence[Manifold]) -> Self:
        (unitary,) = members
        assert unitary.retraction is not None
        return type(self)(unitary.retraction)

    def extra_repr(self) -> str:
        return f"retraction={self.unitary.retraction.name!r}"

    def _part_dtype(self, dtype: torch.dtype | None) -> torch.dtype | None:
        return None if dtype is None else complex_dtype(dtype)

    def inner(self, x: Tensor, u: Tensor, v: Tensor | None = None, *, keepdim: bool = False) -> Tensor:
        total = frobenius(u, u if v is None else v)
        return total[..., None, None] if keepdim else total

    def norm(self, x: Tensor, u: Tensor, *, keepdim: bool = False) -> Tensor:
        return norm(u, keepdim=keepdim)

    def random(self, *size: Any, **kwargs: Any) -> Tensor:
        """Draw points of shape ``size`` from the Haar measure of U(n/2)."""
        dtype = kwargs.pop("dtype", None) or torch.get_default_dtype()
        shape = self._require_shape(size, dtype)
        return super().random(*shape, dtype=dtype.to_complex(), **kwargs)

    def origin(
        self,
        *size: Any,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        seed: int | None = 42,
    ) -> Tensor:
        """Return the identity, of shape ``size``; ``seed`` is ignored."""
        shape = self._require_shape(size, dtype or torch.get_default_dtype())
        return torch.eye(shape[-1], dtype=dtype, device=device).expand(shape).clone()

    def _require_shape(self, size: tuple[Any, ...], dtype: torch.dtype) -> Shape:
        shape = as_shape(size)
        self.layout.split(torch.empty(shape, dtype=dtype, device="meta"))
        return shape
