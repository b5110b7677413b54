"""The common base of manifolds with orthonormal columns: retraction, rounding drift and points."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Self

import torch
from torch import Tensor

from .. import retractions
from ..linalg import defect, polish, qr, skew
from ..linalg.checks import require_matrix, require_same
from ..linalg.norms import normalized
from ..linalg.polar import with_polar_adjoint
from ..linalg.precision import full_precision
from ..retractions import Retraction
from .matrix import MatrixManifold
from .steepest import steepest

_SOUND = 0.1  # defect above which a result is certainly wrong


class OrthonormalColumns(MatrixManifold):
    r"""Matrices with :math:`x^H x = I`, square or tall, and a retraction that you choose.

    Parameters
    ----------
    retraction : str or Retraction
        The retraction of `retr`: ``"cayley"``, ``"exp"``, ``"qr"``, ``"polar"`` or an object of
        `manifold_rnn.retractions`.

    Examples
    --------
    >>> O = mr.Orthogonal("qr")
    >>> assert isinstance(O, mr.manifolds.OrthonormalColumns) and O.retraction == mr.retractions.QR()
    """

    def __init__(self, retraction: str | Retraction = "cayley") -> None:
        super().__init__()
        self._retraction = retractions.get(retraction)

    @property
    def retraction(self) -> Retraction:
        """The retraction of `retr`."""
        assert self._retraction is not None
        return self._retraction

    def key(self) -> Hashable:
        return (type(self), self.retraction)

    def with_retraction(self, retraction: str | Retraction) -> Self:
        return type(self)(retraction)

    def extra_repr(self) -> str:
        return f"retraction={self.retraction.name!r}"

    @property
    def checks_steps(self) -> bool:
        return True

    def _tolerance(self, x: Tensor, atol: float, rtol: float) -> float:
        return float((atol + rtol) * x.shape[-1] ** 0.5)  # |I|_F = sqrt(p)

    # --- checks and the nearest point ---

    def _require_kind(self, x: Tensor, name: str) -> None:
        require_matrix(x, f"{type(self).__name__}: {name}", tall=True)
        self._require_floating(x, name)

    def _check_shape(self, shape: tuple[int, ...], name: str) -> tuple[bool, str | None]:
        ok = len(shape) >= 2 and shape[-2] >= shape[-1] >= 1
        return ok, None if ok else f"`{name}` needs shape (..., n, p) with n >= p >= 1, got {tuple(shape)}"

    @full_precision
    def projx(self, x: Tensor) -> Tensor:
        """Return the nearest matrix with orthonormal columns, by the singular value decomposition."""
        self.require(x)
        U, _, Vh = torch.linalg.svd(normalized(x.detach())[0], full_matrices=False)
        return with_polar_adjoint(x, polish(U @ Vh))

    # --- steepest descent in the spectral norm ---

    def _lie(self, A: Tensor) -> Tensor:
        """Project orthogonally onto the Lie algebra of square matrices."""
        return skew(A)

    @full_precision
    def spectral_step(
        self, x: Tensor, g: Tensor, length: float | Tensor, *, geodesic: bool = True, nuclear: bool = False
    ) -> Tensor:
        r"""Return the point at ``length`` along the direction of steepest descent in the spectral norm.

        .. math:: \xi = A x, \quad A = \operatorname{msign}(\operatorname{skew}(g x^H)), \qquad
            e^{-tA} x = x - \sin(t)\, A x + (1 - \cos t)\, A^2 x.

        Here ``length`` is the angle t in radians by which every active plane rotates. Each tangent vector of spectral
        norm 1 is ``A x`` for a skew-Hermitian ``A`` of norm 1. Among these, ``xi`` has the largest inner product with
        ``g``, which is the nuclear norm of the skew-Hermitian part.

        Parameters
        ----------
        x, g : Tensor, shape (..., n, p)
            A point, and the gradient from autograd.
        length : float or Tensor
            The angle in radians.
        geodesic : bool
            Whether to follow the geodesic instead of the retraction.
        nuclear : bool
            Whether to multiply ``length`` by the mean singular value of the skew-Hermitian part.

        Returns
        -------
        Tensor, shape (..., n, p)
        """
        self._require_kind(x, "x")
        require_same(x, g, "spectral_step")
        found = steepest(x, g, self._lie)
        if nuclear:
            length = length * found.gain / found.rank.clamp(min=1)
        return self.polish(found.at(x, -length)) if geodesic else self.retr(x, -length * found.direction)

    # --- rounding drift ---

    def is_sound(self, x: Tensor) -> Tensor:
        return self.defect(x) < _SOUND  # NaN excluded

    @full_precision
    def defect(self, x: Tensor) -> Tensor:
        r"""Return the distance from orthonormal columns, :math:`\|x^H x - I\|_F`, per matrix.

        On `SpecialOrthogonal` and `SpecialUnitary` the distance of :math:`\det x / |\det x|` from 1 is added.
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
        """Draw points from the Haar measure, by the sign-fixed QR factorization of a Gaussian matrix (Mezzadri 2007).

        Parameters
        ----------
        *size : int, or one tuple
            The shape ``(..., n, p)``.
        dtype : torch.dtype, optional
            Default: torch's default dtype, or the complex dtype of the same precision if points are complex.
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
        """Return the identity, or its first columns, of shape ``size``; ``seed`` is ignored."""
        shape, dtype = self._new(size, dtype)
        return torch.eye(*shape[-2:], dtype=dtype, device=device).expand(shape).clone()


def frobenius(u: Tensor, v: Tensor) -> Tensor:
    """Return the real inner product of two matrices, per matrix."""
    return (u.conj() * v).real.sum((-2, -1)) if u.is_complex() else (u * v).sum((-2, -1))
