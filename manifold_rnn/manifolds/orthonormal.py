"""What every manifold of matrices with orthonormal columns shares: checks, drift, and points."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable
from typing import Any, Self

import torch
from torch import Tensor

from .. import retractions
from ..linalg import defect, polish, qr
from ..linalg.checks import require_finite, require_same
from ..linalg.precision import full_precision
from ..retractions import Retraction
from .base import Manifold


class OrthonormalColumns(Manifold):
    r"""Matrices with :math:`x^H x = I`, square or tall, and a retraction chosen by the user.

    Parameters
    ----------
    retraction : str or Retraction
        What `retr` does: ``"cayley"``, ``"exp"``, ``"qr"``, ``"polar"`` or an object of `manifold_rnn.retractions`.

    Examples
    --------
    >>> O = mr.Orthogonal("qr")
    >>> assert isinstance(O, mr.manifolds.OrthonormalColumns) and O.retraction == mr.retractions.QR()
    """

    ndim = 2

    def __init__(self, retraction: str | Retraction = "cayley") -> None:
        super().__init__()
        self.retraction = retractions.get(retraction)

    def key(self) -> Hashable:
        return (type(self), self.retraction)

    def with_retraction(self, retraction: str | Retraction) -> Self:
        return type(self)(retraction)

    def extra_repr(self) -> str:
        return f"retraction={self.retraction.name!r}"

    # --- checks ---

    @abstractmethod
    def _require_kind(self, x: Tensor, name: str) -> None:
        """Raise unless ``x`` has a shape and dtype that a point can have."""

    def require(self, x: Tensor, name: str = "x") -> None:
        self._require_kind(x, name)
        require_finite(x, name)

    def _require_pair(self, x: Tensor, u: Tensor, name: str) -> None:
        self._require_kind(x, "x")
        require_same(x, u, name)

    def _check_point_on_manifold(self, x: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5) -> tuple[bool, str | None]:
        self._require_kind(x, "x")
        worst = float(self.defect(x).max()) if x.numel() else 0.0
        ok = worst <= (atol + rtol) * x.shape[-1] ** 0.5  # |I|_F = sqrt(p)
        return ok, None if ok else f"defect {worst:.3g} with atol={atol}, rtol={rtol}"

    def _check_vector_on_tangent(
        self, x: Tensor, u: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5
    ) -> tuple[bool, str | None]:
        ok = torch.allclose(self.proju(x, u), u, atol=atol, rtol=rtol)
        return ok, None if ok else f"not its own projection with atol={atol}, rtol={rtol}"

    # --- drift ---

    @full_precision
    def defect(self, x: Tensor) -> Tensor:
        r"""How far ``x`` is off the manifold: :math:`\|x^H x - I\|_F`, per matrix.

        On `SpecialOrthogonal` the distance of :math:`\det x / |\det x|` from 1 is added, on `UnitaryRealForm` the
        distance from the form.
        """
        return defect(x)

    @full_precision
    def polish(self, x: Tensor) -> Tensor:
        return polish(x)

    @property
    def polish_every(self) -> int:
        return 0 if self.retraction.self_correcting else 1

    # --- points ---

    def random(
        self,
        *size: Any,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Points drawn from the Haar measure, by the sign-fixed QR factorisation of a Gaussian matrix (Mezzadri 2007).

        Parameters
        ----------
        *size : int, or one tuple
            ``(..., n, p)``.
        dtype : torch.dtype, optional
            Default: torch's default dtype, or the complex one of its precision where points are complex.
        device : torch.device, optional
        generator : torch.Generator, optional

        Returns
        -------
        Tensor
        """
        shape, dtype = self._new(size, dtype)
        return qr(torch.randn(shape, dtype=dtype, device=device, generator=generator))[0]

    def origin(
        self,
        *size: Any,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        seed: int | None = 42,
    ) -> Tensor:
        """The identity, or its first columns, of shape ``size``; ``seed`` is ignored."""
        shape, dtype = self._new(size, dtype)
        return torch.eye(*shape[-2:], dtype=dtype, device=device).expand(shape).clone()

    def _default_dtype(self) -> torch.dtype:
        return torch.get_default_dtype()

    def _new(self, size: tuple[Any, ...], dtype: torch.dtype | None) -> tuple[tuple[int, ...], torch.dtype]:
        shape = tuple(size[0]) if len(size) == 1 and not isinstance(size[0], int) else tuple(size)
        dtype = dtype or self._default_dtype()
        self._require_kind(torch.empty(shape, dtype=dtype, device="meta"), "size")
        return shape, dtype


def frobenius(u: Tensor, v: Tensor) -> Tensor:
    """The real inner product of two matrices, per matrix."""
    return (u.conj() * v).real.sum((-2, -1)) if u.is_complex() else (u * v).sum((-2, -1))
