"""The groups of orthogonal and unitary matrices, from one body."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from .. import retractions
from ..errors import DtypeError, OffManifoldError, ShapeError
from ..linalg import cholesky_qr, defect, expm_skew, logm_unitary, pack_skew, polish, qr, skew, unpack_skew
from ..linalg.orthogonalize import with_polar_adjoint
from ..linalg.precision import full_precision, require_finite, require_matrix, require_same
from ..retractions import Retraction
from .base import Manifold


class MatrixGroup(Manifold):
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
    """

    ndim = 2
    reversible = True
    geometry: ClassVar[str | None] = "group"
    complex_: ClassVar[bool]

    def __init__(self, retraction: str | Retraction = "cayley") -> None:
        super().__init__()
        self.retraction = retractions.get(retraction)

    def key(self) -> Hashable:
        return (type(self), self.retraction)

    def with_retraction(self, retraction: str | Retraction) -> Self:
        return type(self)(retraction)

    def extra_repr(self) -> str:
        return f"retraction={self.retraction.name!r}"

    # --- how a stored tensor is seen as a matrix of the group: the identity, but for real forms ---

    _scale: ClassVar[float] = 1.0  # |stored tensor| / |matrix|

    def _enter(self, x: Tensor) -> Tensor:
        return x

    def _leave(self, w: Tensor) -> Tensor:
        return w

    def _size(self, shape: tuple[int, ...]) -> int:
        return shape[-1]

    # --- checks ---

    def require(self, x: Tensor, name: str = "x") -> None:
        self._require_kind(x, name)
        require_finite(x, name)

    def _require_kind(self, x: Tensor, name: str) -> None:
        require_matrix(x, f"{type(self).__name__}: {name}")
        if x.is_complex() != self.complex_ or not (x.is_floating_point() or x.is_complex()):
            raise DtypeError(
                f"{type(self).__name__} holds {'complex' if self.complex_ else 'real'} floating point matrices.\n"
                f"Expected {'complex64 or complex128' if self.complex_ else 'float32 or float64'}, got {name} of {x.dtype}.\n"
                f"{'For real matrices use Orthogonal or UnitaryRealForm.' if self.complex_ else 'For complex matrices use Unitary.'}"
            )

    def _require_pair(self, x: Tensor, u: Tensor, name: str) -> None:
        self._require_kind(x, "x")
        require_same(x, u, name)

    def _check_shape(self, shape: tuple[int, ...], name: str) -> tuple[bool, str | None]:
        if len(shape) < 2 or shape[-1] != shape[-2] or shape[-1] < 1:
            return False, f"`{name}` needs shape (..., n, n), got {tuple(shape)}"
        return True, None

    def _check_point_on_manifold(self, x: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5) -> tuple[bool, str | None]:
        self._require_kind(x, "x")
        worst = float(self.defect(x).max()) if x.numel() else 0.0
        ok = worst <= (atol + rtol) * x.shape[-1] ** 0.5  # |I|_F = sqrt(n)
        return ok, None if ok else f"defect {worst:.3g} with atol={atol}, rtol={rtol}"

    def _check_vector_on_tangent(
        self, x: Tensor, u: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5
    ) -> tuple[bool, str | None]:
        ok = torch.allclose(self.proju(x, u), u, atol=atol, rtol=rtol)
        return ok, None if ok else f"not its own projection with atol={atol}, rtol={rtol}"

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
        return self._leave(with_polar_adjoint(w, U @ self._component(Vh, U)))

    def _component(self, Vh: Tensor, U: Tensor) -> Tensor:
        """Where only one component of the group is meant, the last singular vector turned so that U Vh lies in it."""
        return Vh

    @full_precision
    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        self._require_pair(x, u, "proju")
        w = self._enter(x)
        return self._leave(w @ skew(w.mH @ self._enter(u)))

    def egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        return self.proju(x, u)

    def inner(self, x: Tensor, u: Tensor, v: Tensor | None = None, *, keepdim: bool = False) -> Tensor:
        v = u if v is None else v
        return (
            (u.conj() * v).real.sum((-2, -1), keepdim=keepdim)
            if u.is_complex()
            else (u * v).sum((-2, -1), keepdim=keepdim)
        )

    @full_precision
    def retr(self, x: Tensor, u: Tensor) -> Tensor:
        self._require_pair(x, u, "retr")
        return self._leave(self.retraction.retract(self._enter(x), self._enter(u)))

    @full_precision
    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        self._require_pair(x, u, "expmap")
        w = self._enter(x)
        return self._leave(w @ expm_skew(w.mH @ self._enter(u)))

    @full_precision
    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        self._require_pair(x, y, "logmap")
        w = self._enter(x)
        return self._leave(w @ logm_unitary(w.mH @ self._enter(y)))

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
        c = pack_skew(self._enter(x).mH @ self._enter(u))
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
        return self._leave(self.retraction.translate(w, self._algebra(w, c)))

    @full_precision
    def inverse_retr_coordinates(self, x: Tensor, y: Tensor) -> Tensor:
        self._require_pair(x, y, "inverse_retr_coordinates")
        A = self.retraction.inverse_group_map(self._enter(x).mH @ self._enter(y))
        return pack_skew(A) * self._scale

    def step_coordinates(self, x: Tensor, c: Tensor, carried: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return self.retr_coordinates(x, c), carried  # left translation leaves coordinates as they are

    def square_coordinates(self, x: Tensor, c: Tensor, how: str) -> Tensor:
        return c.square() if how == "elementwise" else c.square().sum(-1, keepdim=True)

    def _algebra(self, w: Tensor, c: Tensor) -> Tensor:
        A = unpack_skew(c if self._scale == 1 else c / self._scale, w.dtype)
        require_same(w, A, "A point with coordinates")
        return A

    # --- points ---

    @full_precision
    def defect(self, x: Tensor) -> Tensor:
        r"""How far ``x`` is off the group: :math:`\|x^H x - I\|_F`, per matrix.

        On `SpecialOrthogonal` the distance of :math:`\det x / |\det x|` from 1 is added, on `UnitaryRealForm` the
        distance from the form.
        """
        return defect(x)

    @full_precision
    def polish(self, x: Tensor) -> Tensor:
        return self._leave(polish(self._enter(x)))

    @property
    def polish_every(self) -> int:
        return 0 if self.retraction.self_correcting else 1

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
        return self._leave(self._component(Q, torch.eye(n, dtype=wide, device=Q.device)))

    def origin(
        self,
        *size: Any,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        seed: int | None = 42,
    ) -> Tensor:
        """The identity, of shape ``size``; ``seed`` is ignored."""
        shape, dtype = self._new(size, dtype)
        return torch.eye(shape[-1], dtype=dtype, device=device).expand(shape).clone()

    def _new(self, size: tuple[Any, ...], dtype: torch.dtype | None) -> tuple[tuple[int, ...], torch.dtype]:
        shape = tuple(size[0]) if len(size) == 1 and not isinstance(size[0], int) else tuple(size)
        dtype = dtype or (torch.get_default_dtype().to_complex() if self.complex_ else torch.get_default_dtype())
        self._require_kind(torch.empty(shape, dtype=dtype, device="meta"), "size")
        return shape, dtype


class Orthogonal(MatrixGroup):
    r"""The orthogonal group O(n): real matrices with :math:`x^\top x = I`.

    It has two components; every map keeps the determinant, +1 or -1, that a point has.

    Parameters
    ----------
    retraction : str or Retraction
        What `retr` does: ``"cayley"`` (default), ``"exp"``, ``"qr"``, ``"polar"``, or an object of
        `manifold_rnn.retractions`.

    Notes
    -----
    Tensors have shape (..., n, n), all axes but the last two are batch. Geometry and sources: `MatrixGroup`.

    Examples
    --------
    >>> x = mr.Orthogonal().random(4, 4)
    >>> assert mr.Orthogonal().defect(x) < 1e-5
    """

    name = "Orthogonal"
    complex_ = False


class SpecialOrthogonal(MatrixGroup):
    r"""The special orthogonal group SO(n): rotations, :math:`x^\top x = I` and :math:`\det x = 1`.

    Parameters
    ----------
    retraction : str or Retraction
        What `retr` does: ``"cayley"`` (default), ``"exp"``, ``"qr"``, ``"polar"``, or an object of
        `manifold_rnn.retractions`.

    Notes
    -----
    Tensors have shape (..., n, n), all axes but the last two are batch. Geometry and sources: `MatrixGroup`.

    Examples
    --------
    >>> x = mr.SpecialOrthogonal("exp").random(4, 4, dtype=torch.float64)
    >>> assert torch.isclose(torch.linalg.det(x), torch.ones((), dtype=torch.float64))
    """

    name = "SpecialOrthogonal"
    complex_ = False

    def _component(self, Vh: Tensor, U: Tensor) -> Tensor:
        sign = torch.linalg.det(U @ Vh).sign()
        return torch.cat([Vh[..., :-1, :], Vh[..., -1:, :] * sign[..., None, None]], -2)

    @full_precision
    def defect(self, x: Tensor) -> Tensor:
        return defect(x) + (torch.linalg.slogdet(x).sign - 1).abs()


class Unitary(MatrixGroup):
    r"""The unitary group U(n): complex matrices with :math:`x^H x = I`.

    Parameters
    ----------
    retraction : str or Retraction
        What `retr` does: ``"cayley"`` (default), ``"exp"``, ``"qr"``, ``"polar"``, or an object of
        `manifold_rnn.retractions`.

    Notes
    -----
    Tensors have shape (..., n, n), all axes but the last two are batch. Geometry and sources: `MatrixGroup`.

    Examples
    --------
    >>> x = mr.Unitary().random(4, 4)
    >>> assert x.dtype == torch.complex64 and mr.Unitary().defect(x) < 1e-5
    """

    name = "Unitary"
    complex_ = True


class UnitaryRealForm(MatrixGroup):
    r"""The unitary group U(n/2) as real n x n matrices, for cells with a real state.

    .. math:: x = \begin{pmatrix} \operatorname{Re} w & -\operatorname{Im} w \\ \operatorname{Im} w & \operatorname{Re} w \end{pmatrix},
        \qquad w \in U(n/2).

    A subgroup of SO(n) of dimension :math:`n^2/4`; n must be even. All algebra is done on the complex matrix, at a
    quarter of the cost.

    Parameters
    ----------
    retraction : str or Retraction
        What `retr` does: ``"cayley"`` (default), ``"exp"``, ``"qr"``, ``"polar"``, or an object of
        `manifold_rnn.retractions`.

    Notes
    -----
    Tensors have shape (..., n, n), all axes but the last two are batch. Geometry and sources: `MatrixGroup`.

    Examples
    --------
    >>> x = mr.UnitaryRealForm().random(4, 4)
    >>> assert torch.equal(x[:2, :2], x[2:, 2:]) and torch.equal(x[:2, 2:], -x[2:, :2])
    """

    name = "UnitaryRealForm"
    complex_ = False
    _scale = math.sqrt(2)

    @property
    def complex_or_form(self) -> bool:
        return True

    def _size(self, shape: tuple[int, ...]) -> int:
        return shape[-1] // 2

    def _enter(self, x: Tensor) -> Tensor:
        """Complex matrix of the projection onto matrices of the form."""
        m = x.shape[-1] // 2
        a, b, c, d = x[..., :m, :m], x[..., :m, m:], x[..., m:, :m], x[..., m:, m:]
        return torch.complex((a + d) * 0.5, (c - b) * 0.5)

    def _leave(self, w: Tensor) -> Tensor:
        return torch.cat([torch.cat([w.real, -w.imag], -1), torch.cat([w.imag, w.real], -1)], -2)

    def _require_kind(self, x: Tensor, name: str) -> None:
        super()._require_kind(x, name)
        if x.shape[-1] % 2:
            raise ShapeError(
                "UnitaryRealForm holds complex matrices as real ones of twice the size.\n"
                f"Expected an even n, got {name} of shape {tuple(x.shape)}.\nChoose an even size, or Orthogonal."
            )

    def _check_shape(self, shape: tuple[int, ...], name: str) -> tuple[bool, str | None]:
        ok, reason = super()._check_shape(shape, name)
        return (
            (ok, reason) if not ok or shape[-1] % 2 == 0 else (False, f"`{name}` needs an even n, got {tuple(shape)}")
        )

    @full_precision
    def defect(self, x: Tensor) -> Tensor:
        return defect(x) + torch.linalg.matrix_norm(x - self._leave(self._enter(x)))
