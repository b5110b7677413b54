"""The common base of the orthogonal and unitary groups, for real and complex matrices."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import DtypeError
from ..linalg import expm_skew, logm_unitary, pack_skew, polish, qr, unpack_skew
from ..linalg.checks import require_matrix, require_same
from ..linalg.norms import norm, normalized
from ..linalg.polar import with_polar_adjoint
from ..linalg.precision import full_precision
from ..linalg.product import multiply
from .orthonormal import OrthonormalColumns, frobenius


class MatrixGroup(OrthonormalColumns):
    r"""Base of the orthogonal and unitary groups, with the bi-invariant metric and left translation.

    With :math:`A = x^H u`, an element of the Lie algebra of skew-Hermitian matrices:

    .. math::
        \langle u, v\rangle = \operatorname{Re}\operatorname{tr}(u^H v), \quad
        \operatorname{proj}_x(g) = x \operatorname{skew}(x^H g), \quad
        \exp_x(u) = x \exp(A), \quad
        \operatorname{transp}_{x \to y}(v) = y\,x^H v.

    Transport is an isometry, and does not change coordinates. Source: Edelman, Arias and Smith (1998).

    Parameters
    ----------
    retraction : str or Retraction
        The retraction of `retr`: ``"cayley"``, ``"exp"``, ``"qr"``, ``"polar"`` or an object of
        `manifold_rnn.retractions`.

    Examples
    --------
    >>> U, x = mr.Unitary(), torch.eye(2, dtype=torch.complex64)
    >>> assert isinstance(U, mr.manifolds.MatrixGroup) and U.to_coordinates(x, 1j * x).norm() == U.norm(x, 1j * x)
    """

    is_group: ClassVar[bool] = True
    is_complex: ClassVar[bool]

    @property
    def reversible(self) -> bool:
        """Whether a step back along the transported vector ends at the starting point. It does not with QR."""
        return self.retraction.reversible

    @property
    def geometry(self) -> str:
        return "group"

    @property
    def isometric_at_zero(self) -> bool:
        return True

    # --- the Lie algebra and its coordinates: all skew-Hermitian matrices, except for special groups ---

    def _ambient(self, w: Tensor, u: Tensor) -> Tensor:
        """Return a vector whose skew-Hermitian part is in the Lie algebra."""
        return u

    def _pack(self, A: Tensor) -> Tensor:
        return pack_skew(A)

    def _unpack(self, c: Tensor, dtype: torch.dtype) -> Tensor:
        return unpack_skew(c, dtype)

    def _settle(self, w: Tensor) -> Tensor:
        """Move a unitary matrix, computed by a map, back to the group."""
        return w

    # --- checks ---

    def _require_kind(self, x: Tensor, name: str) -> None:
        require_matrix(x, f"{type(self).__name__}: {name}", advice="Use Stiefel() for a tall or wide matrix.")
        if x.is_complex() != self.is_complex or not (x.is_floating_point() or x.is_complex()):
            kind, dtypes = ("complex", "complex64 or complex128") if self.is_complex else ("real", "float32 or float64")
            other = (
                "real matrices use Orthogonal or UnitaryRealForm" if self.is_complex else "complex matrices use Unitary"
            )
            raise DtypeError(
                f"{type(self).__name__} consists of {kind} floating point matrices.\n"
                f"Expected {dtypes}, got {name} of {x.dtype}.\nFor {other}."
            )

    def _check_shape(self, shape: tuple[int, ...], name: str) -> tuple[bool, str | None]:
        if len(shape) < 2 or shape[-1] != shape[-2] or shape[-1] < 1:
            return False, f"`{name}` needs shape (..., n, n), got {tuple(shape)}"
        return True, None

    # --- geometry ---

    @full_precision
    def projx(self, x: Tensor) -> Tensor:
        """Return the nearest matrix of the group, by the singular value decomposition.

        Parameters
        ----------
        x : Tensor, shape (..., n, n)
            Any matrix. If it is singular, the nearest matrix is not unique, and one of them is returned.

        Returns
        -------
        Tensor, shape (..., n, n)

        Raises
        ------
        ShapeError, DtypeError, NonFiniteError
            If ``x`` cannot be projected.
        """
        self.require(x)
        U, _, Vh = torch.linalg.svd(normalized(x.detach())[0])
        W = polish(U @ self._component(Vh, U))  # in single precision the factors have errors of several roundings
        return self._settle(with_polar_adjoint(x, W))

    def _component(self, Vh: Tensor, U: Tensor) -> Tensor:
        """Change the sign of the last singular vector, if necessary, so that U Vh is in the component of the group."""
        return Vh

    @full_precision
    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        self._require_pair(x, u, "proju")
        return x @ self._lie(x.mH @ u)

    def egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        return self.proju(x, u)

    def inner(self, x: Tensor, u: Tensor, v: Tensor | None = None, *, keepdim: bool = False) -> Tensor:
        total = frobenius(u, u if v is None else v)
        return total[..., None, None] if keepdim else total

    @full_precision
    def retr(self, x: Tensor, u: Tensor) -> Tensor:
        self._require_pair(x, u, "retr")
        return self._settle(self.retraction.retract(x, self._ambient(x, u)))

    @full_precision
    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        self._require_pair(x, u, "expmap")
        return self._settle(x @ expm_skew(self._lie(x.mH @ u)))

    @full_precision
    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        self._require_pair(x, y, "logmap")
        return x @ self._log(x.mH @ y)

    def _log(self, Q: Tensor) -> Tensor:
        return logm_unitary(Q)

    def dist(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        return self.norm(x, self.logmap(x, y), keepdim=keepdim)

    def norm(self, x: Tensor, u: Tensor, *, keepdim: bool = False) -> Tensor:
        return norm(u, keepdim=keepdim)

    @full_precision
    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        self._require_pair(x, v, "transp")
        require_same(x, y, "transp")
        return y @ (x.mH @ v)

    # --- coordinates ---

    def coordinate_shape(self, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> tuple[int, ...]:
        n = shape[-1]
        return (*shape[:-2], n * n if self.is_complex else n * (n - 1) // 2)

    @full_precision
    def to_coordinates(self, x: Tensor, u: Tensor) -> Tensor:
        self._require_pair(x, u, "to_coordinates")
        return self._pack(multiply(x.mH, u))

    def egrad2coordinates(self, x: Tensor, g: Tensor) -> Tensor:
        return self.to_coordinates(x, g)  # packing projects, and the metric is that of the ambient space

    @full_precision
    def from_coordinates(self, x: Tensor, c: Tensor) -> Tensor:
        self._require_kind(x, "x")
        return x @ self._algebra(x, c)

    @full_precision
    def retr_coordinates(self, x: Tensor, c: Tensor) -> Tensor:
        self._require_kind(x, "x")
        return self._settle(self._translated(x, c))

    def _translated(self, x: Tensor, c: Tensor) -> Tensor:
        return self.retraction.translate_coordinates(x, c)

    @full_precision
    def inverse_retr_coordinates(self, x: Tensor, y: Tensor) -> Tensor:
        self._require_pair(x, y, "inverse_retr_coordinates")
        return self._pack(self._inverse_map(x.mH @ y))

    def _inverse_map(self, Q: Tensor) -> Tensor:
        return self.retraction.inverse_group_map(Q)

    def retr_transp_coordinates(self, x: Tensor, c: Tensor, *carried: Tensor) -> tuple[Tensor, ...]:
        return self.retr_coordinates(x, c), *carried  # left translation does not change coordinates

    @full_precision
    def retr_gradient(self, x: Tensor, g: Tensor, t: float | Tensor) -> Tensor:
        self._require_pair(x, g, "retr_gradient")
        A = self._lie(multiply(x.mH, g)) * t  # a plain gradient step needs no coordinates
        return self._settle(self.retraction.translate(x, A))

    def square_coordinates(self, x: Tensor, c: Tensor, how: str) -> Tensor:
        return c.square() if how == "elementwise" else c.square().sum(-1, keepdim=True)

    def _algebra(self, x: Tensor, c: Tensor) -> Tensor:
        A = self._unpack(c, x.dtype)
        require_same(x, A, "A point with coordinates")
        return A

    # --- points ---

    @full_precision
    def polish(self, x: Tensor) -> Tensor:
        return self._settle(polish(x))

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
            The shape ``(..., n, n)``.
        dtype : torch.dtype, optional
            Default: torch's default dtype, or the complex one of its precision.
        device : torch.device, optional
        generator : torch.Generator, optional

        Returns
        -------
        Tensor
        """
        shape, dtype = self._new(size, dtype)
        Q = qr(torch.randn(shape, dtype=dtype, device=device, generator=generator))[0]
        return self._settle(self._component(Q, torch.eye(shape[-1], dtype=dtype, device=Q.device)))
