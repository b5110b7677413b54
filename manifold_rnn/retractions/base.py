"""What a retraction is: a frozen value, equal by content, that serves the update and the trivialized view."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..errors import UnsupportedError
from ..linalg.checks import require_finite, require_length, require_matrix, require_same
from ..linalg.precision import full_precision
from ..linalg.product import multiply, multiply_add
from ..linalg.skew import skew
from ..linalg.subspaces import aligned, require_distinct_geodesic
from ..linalg.translation import Unpack, unpack_at


@dataclass(frozen=True)
class Retraction(ABC):
    r"""A map from tangent vectors to points that agrees with the geodesic to first order or better.

    On a group of orthogonal or unitary matrices every retraction here is left-invariant,

    .. math:: R_x(u) = x\,\phi(A), \qquad A = x^H u, \quad \phi(0) = I, \quad \phi'(0) = \mathrm{id},

    and a subclass defines :math:`\phi`, its inverse, and its orders of agreement. Its methods have these names:

    =========================  ====================================  ========================================
    method                     value                                 for
    =========================  ====================================  ========================================
    ``group_map(A)``           :math:`\phi(A)`                       the trivialized view
    ``translate(x, A)``        :math:`x\,\phi(A)`                    steps on groups, in coordinates
    ``retract_square(x, u)``   :math:`x\,\phi(x^H u)`                square points, in tangent vectors
    ``retract_tall(x, u)``     :math:`R_x(u)`                        points with more rows than columns
    ``retract(x, u)``          either of these two, with its checks  everybody else
    ``inverse_group_map(Q)``,  the inverses of these                 `constrain`, `inverse_retr_coordinates`
    ``inverse_tall(x, y)``,
    ``inverse(x, y)``
    =========================  ====================================  ========================================

    Examples
    --------
    >>> x, u = torch.eye(2), torch.tensor([[0.0, -0.1], [0.1, 0.0]])
    >>> assert mr.linalg.defect(mr.retractions.Cayley().retract(x, u)) < 1e-6
    """

    name: ClassVar[str] = ""  # by default that of the class, in lower case
    self_correcting: ClassVar[bool] = False  # orthonormalises x + u, and so removes the drift of x as well
    projecting: ClassVar[bool] = False  # on tall matrices it takes the tangent part by itself
    reversible: ClassVar[bool] = True  # the inverse of phi(A) is phi(-A), so that a step on a group can be undone
    orders: ClassVar[dict[str, int]] = {"group": 1}  # by the manifold's `geometry`

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.name = cls.name or cls.__name__.lower()

    @abstractmethod
    def group_map(self, A: Tensor) -> Tensor:
        r"""The map :math:`\phi` from the Lie algebra to the group.

        Parameters
        ----------
        A : Tensor, shape (..., n, n)
            Its skew-Hermitian part is used.

        Returns
        -------
        Tensor, shape (..., n, n)
        """

    @abstractmethod
    def inverse_group_map(self, Q: Tensor) -> Tensor:
        r"""The skew-Hermitian ``A`` with :math:`\phi(A) = Q`.

        Parameters
        ----------
        Q : Tensor, shape (..., n, n)
            Orthogonal or unitary.

        Returns
        -------
        Tensor, shape (..., n, n)

        Raises
        ------
        OffManifoldError
            If ``Q`` is outside the range of the map.
        """

    def translate(self, x: Tensor, A: Tensor) -> Tensor:
        r"""The point :math:`x\,\phi(A)`.

        Parameters
        ----------
        x, A : Tensor, shape (..., n, n)
            A point, and a skew-Hermitian matrix.

        Returns
        -------
        Tensor, shape (..., n, n)
        """
        return multiply(x, self.group_map(A))

    def translate_coordinates(self, x: Tensor, c: Tensor, unpack: Unpack = unpack_at) -> Tensor:
        """`translate` by the matrix with the coordinates ``c``.

        Parameters
        ----------
        x : Tensor, shape (..., n, n)
            A point.
        c : Tensor, shape (..., d)
            Coordinates.
        unpack : callable, optional
            ``unpack(x, c)`` returns the skew-Hermitian matrix. Default: `manifold_rnn.linalg.unpack_skew`.

        Returns
        -------
        Tensor, shape (..., n, n)
        """
        return self.translate(x, unpack(x, c))

    def retract_square(self, x: Tensor, u: Tensor) -> Tensor:
        r"""The point :math:`x\,\phi(\operatorname{skew}(x^H u))`.

        Parameters
        ----------
        x, u : Tensor, shape (..., n, n)
            A point, and any vector.

        Returns
        -------
        Tensor, shape (..., n, n)
        """
        return self.translate(x, skew(x.mH @ u))

    @abstractmethod
    def retract_tall(self, x: Tensor, u: Tensor) -> Tensor:
        """The point that the tangent vector ``u`` leads to from ``x``, with more rows than columns.

        Parameters
        ----------
        x, u : Tensor, shape (..., n, p), n > p
            A point with orthonormal columns and a tangent vector.

        Returns
        -------
        Tensor, shape (..., n, p)
        """

    @abstractmethod
    def inverse_tall(self, x: Tensor, y: Tensor) -> Tensor:
        """The inverse of `retract_tall` in its second argument.

        Parameters
        ----------
        x, y : Tensor, shape (..., n, p), n > p
            Points.

        Returns
        -------
        Tensor, shape (..., n, p)

        Raises
        ------
        OffManifoldError
            If ``y`` is out of reach from ``x``.
        UnsupportedError
            If there is no closed form.
        """

    def plane_rotation(self, square: Tensor) -> tuple[Tensor, Tensor]:
        r"""By how much the map rotates a plane: the step on spheres.

        For a skew-symmetric 2 x 2 matrix with entries t and -t, the map is the rotation by an angle
        :math:`\varphi(t)`.

        Parameters
        ----------
        square : Tensor
            :math:`t^2`.

        Returns
        -------
        tuple of Tensor
            :math:`\sin\varphi / t` and :math:`(1 - \cos\varphi) / t^2`, smooth functions of :math:`t^2`.

        Raises
        ------
        UnsupportedError
            If the retraction has no such form.
        """
        raise UnsupportedError(
            f"The {self.name} retraction has no closed form on spheres.\n"
            "Expected one with plane_rotation and plane_length.\nUse 'exp', 'polar', 'qr' or 'cayley'."
        )

    def plane_length(self, angle: Tensor) -> Tensor:
        r"""The length t from which `plane_rotation` makes an angle from 0 to pi.

        Parameters
        ----------
        angle : Tensor

        Returns
        -------
        Tensor

        Raises
        ------
        OffManifoldError
            If the retraction does not reach the angle.
        UnsupportedError
            If the retraction has no such form.
        """
        raise UnsupportedError(
            f"The {self.name} retraction has no closed inverse on spheres.\n"
            "Expected one with plane_rotation and plane_length.\nUse 'exp', 'polar', 'qr' or 'cayley'."
        )

    def inverse_subspace(self, x: Tensor, y: Tensor) -> Tensor:
        r"""The horizontal vector ``u``, :math:`x^H u = 0`, for which :math:`R_x(u)` spans the columns of ``y``.

        Parameters
        ----------
        x, y : Tensor, shape (..., n, p), n > p
            Points.

        Returns
        -------
        Tensor, shape (..., n, p)

        Raises
        ------
        OffManifoldError
            If the span of ``y`` is out of reach from ``x``.
        """
        require_distinct_geodesic(x, y, f"The inverse of the {self.name} retraction")
        return self.inverse_tall(x, aligned(x, y)[0])

    @full_precision
    def retract(self, x: Tensor, u: Tensor) -> Tensor:
        r"""The point :math:`R_x(u)`.

        Parameters
        ----------
        x : Tensor, shape (..., n, p), n >= p
            With orthonormal columns.
        u : Tensor, shape (..., n, p)
            Tangent at ``x``; of any other vector the tangent part is used.

        Returns
        -------
        Tensor, shape (..., n, p)

        Raises
        ------
        ShapeError, DtypeError, DeviceError
            If the two do not fit each other, or have more columns than rows.
        """
        require_matrix(x, "retract", tall=True)
        require_same(x, u, "retract")
        if x.shape[-2] == x.shape[-1]:
            return self.retract_square(x, u)
        return self.retract_tall(x, u if self.projecting else tangent(x, u))

    @full_precision
    def inverse(self, x: Tensor, y: Tensor) -> Tensor:
        r"""The tangent vector ``u`` at ``x`` with :math:`R_x(u) = y`.

        Parameters
        ----------
        x, y : Tensor, shape (..., n, p), n >= p
            Points.

        Returns
        -------
        Tensor, shape (..., n, p)

        Raises
        ------
        OffManifoldError
            If ``y`` is out of reach from ``x``.
        UnsupportedError
            If there is no closed form: `Exponential` with more rows than columns.
        ShapeError, DtypeError, DeviceError
            If the two do not fit each other, or have more columns than rows.
        """
        require_matrix(x, "inverse", tall=True)
        require_same(x, y, "inverse")
        if x.shape[-2] == x.shape[-1]:
            return x @ self.inverse_group_map(x.mH @ y)
        return self.inverse_tall(x, y)

    def order(self, manifold: object) -> int:
        """Order of agreement with the geodesics of ``manifold``: the error at distance t is of order ``t^(order + 1)``.

        Parameters
        ----------
        manifold : Manifold

        Returns
        -------
        int

        Raises
        ------
        UnsupportedError
            If the manifold's geometry is not one that this retraction has an order for.
        """
        geometry = getattr(manifold, "geometry", None)  # geoopt's manifolds have none
        if geometry not in self.orders:
            raise UnsupportedError(
                f"The {self.name} retraction has a known order on geometries {', '.join(self.orders)}.\n"
                f"Got {type(manifold).__name__} with geometry {geometry!r}.\n"
                "Measure it with manifold_rnn.testing.check_retraction."
            )
        return self.orders[geometry]


def require_far_step(x: Tensor, u: Tensor, name: str) -> None:
    """Raise `NonFiniteError` unless a point is finite, and a step from it not too long for double precision."""
    require_finite(x, "The point of a step")
    require_length(u, name)


def tangent(x: Tensor, u: Tensor, scale: float = 1.0) -> Tensor:
    r"""The tangent part :math:`u - x \operatorname{sym}(x^H u)` of a vector at a point with orthonormal columns."""
    xu = x.mH @ u
    return multiply_add(u, x, xu + xu.mH, beta=scale, alpha=-0.5 * scale)
