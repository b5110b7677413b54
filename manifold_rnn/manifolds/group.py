"""What the groups of orthogonal and unitary matrices share, real and complex in one body."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import DtypeError
from ..linalg import expm_skew, logm_unitary, pack_skew, polish, qr, skew, unpack_skew
from ..linalg.checks import require_matrix, require_same
from ..linalg.polar import with_polar_adjoint
from ..linalg.precision import full_precision
from ..linalg.product import multiply
from .orthonormal import OrthonormalColumns, frobenius


class MatrixGroup(OrthonormalColumns):
    r"""What the orthogonal and unitary groups share: the bi-invariant metric and left translation.

    With :math:`A = x^H u` in the Lie algebra of skew-Hermitian matrices:

    .. math::
        \langle u, v\rangle = \operatorname{Re}\operatorname{tr}(u^H v), \quad
        \operatorname{proj}_x(g) = x \operatorname{skew}(x^H g), \quad
        \exp_x(u) = x \exp(A), \quad
        \operatorname{transp}_{x \to y}(v) = y\,x^H v.

    Transport is isometric, and the identity in coordinates. Source: Edelman, Arias and Smith (1998).

    Parameters
    ----------
    retraction : str or Retraction
        What `retr` does: ``"cayley"``, ``"exp"``, ``"qr"``, ``"polar"`` or an object of `manifold_rnn.retractions`.

    Examples
    --------
    >>> U, x = mr.Unitary(), torch.eye(2, dtype=torch.complex64)
    >>> assert isinstance(U, mr.manifolds.MatrixGroup) and U.to_coordinates(x, 1j * x).norm() == U.norm(x, 1j * x)
    """

    ndim = 2
    reversible = True
    geometry: ClassVar[str | None] = "group"
    complex_: ClassVar[bool]
    is_choice = False

    # --- how a stored tensor is seen as a matrix of the group: the identity, but for real forms ---

    _scale: ClassVar[float] = 1.0  # |stored tensor| / |matrix|

    def _enter(self, x: Tensor) -> Tensor:
        return x

    def _leave(self, w: Tensor) -> Tensor:
        return w

    def _size(self, shape: tuple[int, ...]) -> int:
        return shape[-1]

    # --- the Lie algebra and its coordinates: all skew-Hermitian matrices, but for special groups ---

    def _lie(self, A: Tensor) -> Tensor:
        """Orthogonal projection onto the Lie algebra."""
        return skew(A)

    def _ambient(self, w: Tensor, u: Tensor) -> Tensor:
        """A vector whose skew-Hermitian part is in the Lie algebra."""
        return u

    def _pack(self, A: Tensor) -> Tensor:
        return pack_skew(A)

    def _unpack(self, c: Tensor, dtype: torch.dtype) -> Tensor:
        return unpack_skew(c, dtype)

    def _settle(self, w: Tensor) -> Tensor:
        """A unitary matrix that a map has led to, taken back to the group."""
        return w

    # --- checks ---

    def _require_kind(self, x: Tensor, name: str) -> None:
        require_matrix(x, f"{type(self).__name__}: {name}")
        if x.is_complex() != self.complex_ or not (x.is_floating_point() or x.is_complex()):
            kind, dtypes = ("complex", "complex64 or complex128") if self.complex_ else ("real", "float32 or float64")
            other = (
                "real matrices use Orthogonal or UnitaryRealForm" if self.complex_ else "complex matrices use Unitary"
            )
            raise DtypeError(
                f"{type(self).__name__} holds {kind} floating point matrices.\n"
                f"Expected {dtypes}, got {name} of {x.dtype}.\nFor {other}."
            )

    def _check_shape(self, shape: tuple[int, ...], name: str) -> tuple[bool, str | None]:
        if len(shape) < 2 or shape[-1] != shape[-2] or shape[-1] < 1:
            return False, f"`{name}` needs shape (..., n, n), got {tuple(shape)}"
        return True, None

    # --- geometry ---

    @full_precision
    def projx(self, x: Tensor) -> Tensor:
        """Nearest matrix of the group, by the singular value decomposition.

        Parameters
        ----------
        x : Tensor, shape (..., n, n)
            Any matrix; where it is singular the nearest is not unique and one is returned.

        Returns
        -------
        Tensor, shape (..., n, n)

        Raises
        ------
        ShapeError, DtypeError, NonFiniteError
            If ``x`` cannot be projected.
        """
        self.require(x)
        w = self._enter(x)
        U, _, Vh = torch.linalg.svd(w.detach())
        return self._leave(self._settle(with_polar_adjoint(w, U @ self._component(Vh, U))))

    def _component(self, Vh: Tensor, U: Tensor) -> Tensor:
        """Where only one component of the group is meant, the last singular vector turned so that U Vh lies in it."""
        return Vh

    @full_precision
    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        self._require_pair(x, u, "proju")
        w = self._enter(x)
        return self._leave(w @ self._lie(w.mH @ self._enter(u)))

    def egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        return self.proju(x, u)

    def inner(self, x: Tensor, u: Tensor, v: Tensor | None = None, *, keepdim: bool = False) -> Tensor:
        total = frobenius(u, u if v is None else v)
        return total[..., None, None] if keepdim else total

    @full_precision
    def retr(self, x: Tensor, u: Tensor) -> Tensor:
        self._require_pair(x, u, "retr")
        w = self._enter(x)
        return self._leave(self._settle(self.retraction.retract(w, self._ambient(w, self._enter(u)))))

    @full_precision
    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        self._require_pair(x, u, "expmap")
        w = self._enter(x)
        return self._leave(self._settle(w @ expm_skew(self._lie(w.mH @ self._enter(u)))))

    @full_precision
    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        self._require_pair(x, y, "logmap")
        w = self._enter(x)
        return self._leave(w @ self._log(w.mH @ self._enter(y)))

    def _log(self, Q: Tensor) -> Tensor:
        return logm_unitary(Q)

    def dist(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        return self.norm(x, self.logmap(x, y), keepdim=keepdim)

    def norm(self, x: Tensor, u: Tensor, *, keepdim: bool = False) -> Tensor:
        return torch.linalg.vector_norm(u, dim=(-2, -1), keepdim=keepdim)

    @full_precision
    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        self._require_pair(x, v, "transp")
        require_same(x, y, "transp")
        return self._leave(self._enter(y) @ (self._enter(x).mH @ self._enter(v)))

    # --- coordinates ---

    def coordinate_shape(self, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> tuple[int, ...]:
        n = self._size(shape)
        return (*shape[:-2], n * n if self.complex_or_form else n * (n - 1) // 2)

    @property
    def complex_or_form(self) -> bool:
        """Whether the matrices of the group are complex, whatever the dtype they are stored in."""
        return self.complex_

    @full_precision
    def to_coordinates(self, x: Tensor, u: Tensor) -> Tensor:
        self._require_pair(x, u, "to_coordinates")
        c = self._pack(multiply(self._enter(x).mH, self._enter(u)))
        return c if self._scale == 1 else c * self._scale

    def egrad2coordinates(self, x: Tensor, g: Tensor) -> Tensor:
        return self.to_coordinates(x, g)  # packing projects, and the metric is the ambient one

    @full_precision
    def from_coordinates(self, x: Tensor, c: Tensor) -> Tensor:
        self._require_kind(x, "x")
        w = self._enter(x)
        return self._leave(w @ self._algebra(w, c))

    @full_precision
    def retr_coordinates(self, x: Tensor, c: Tensor) -> Tensor:
        self._require_kind(x, "x")
        w = self._enter(x)
        return self._leave(self._settle(self.retraction.translate(w, self._algebra(w, c))))

    @full_precision
    def inverse_retr_coordinates(self, x: Tensor, y: Tensor) -> Tensor:
        self._require_pair(x, y, "inverse_retr_coordinates")
        A = self._inverse_map(self._enter(x).mH @ self._enter(y))
        return self._pack(A) * self._scale

    def _inverse_map(self, Q: Tensor) -> Tensor:
        return self.retraction.inverse_group_map(Q)

    def step_coordinates(self, x: Tensor, c: Tensor, carried: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return self.retr_coordinates(x, c), carried  # left translation leaves coordinates as they are

    @full_precision
    def retr_gradient(self, x: Tensor, g: Tensor, t: float | Tensor) -> Tensor:
        self._require_pair(x, g, "retr_gradient")
        w = self._enter(x)
        A = self._lie(multiply(w.mH, self._enter(g))) * t  # no coordinates, which a plain gradient step has no use for
        return self._leave(self._settle(self.retraction.translate(w, A)))

    def square_coordinates(self, x: Tensor, c: Tensor, how: str) -> Tensor:
        return c.square() if how == "elementwise" else c.square().sum(-1, keepdim=True)

    def _algebra(self, w: Tensor, c: Tensor) -> Tensor:
        A = self._unpack(c if self._scale == 1 else c / self._scale, w.dtype)
        require_same(w, A, "A point with coordinates")
        return A

    # --- points ---

    @full_precision
    def polish(self, x: Tensor) -> Tensor:
        return self._leave(self._settle(polish(self._enter(x))))

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
            ``(..., n, n)``.
        dtype : torch.dtype, optional
            Default: torch's default dtype, or the complex one of its precision.
        device : torch.device, optional
        generator : torch.Generator, optional

        Returns
        -------
        Tensor
        """
        shape, dtype = self._new(size, dtype)
        n = self._size(shape)
        wide = dtype.to_complex() if self.complex_or_form else dtype
        gaussian = torch.randn(*shape[:-2], n, n, dtype=wide, device=device, generator=generator)
        Q = qr(gaussian)[0]
        return self._leave(self._settle(self._component(Q, torch.eye(n, dtype=wide, device=Q.device))))

    def _default_dtype(self) -> torch.dtype:
        default = torch.get_default_dtype()
        return default.to_complex() if self.complex_ else default
