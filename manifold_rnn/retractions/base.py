"""The base class of retractions, which serve the update view and the trivialized view."""

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

    On a group of orthogonal or unitary matrices every retraction of this package is left-invariant,

    .. math:: R_x(u) = x\,\phi(A), \qquad A = x^H u, \quad \phi(0) = I, \quad \phi'(0) = \mathrm{id}.

    A subclass defines :math:`\phi`, its inverse, and its orders of agreement. It has these methods:

    =========================  ====================================  ========================================
    method                     value                                 for
    =========================  ====================================  ========================================
    ``group_map(A)``           :math:`\phi(A)`                       the trivialized view
    ``translate(x, A)``        :math:`x\,\phi(A)`                    steps on groups, in coordinates
    ``retract_square(x, u)``   :math:`x\,\phi(x^H u)`                square points, in tangent vectors
    ``retract_tall(x, u)``     :math:`R_x(u)`                        points with more rows than columns
    ``retract(x, u)``          either of these two, with its checks  everything else
    ``inverse_group_map(Q)``,  the inverses of these                 `constrain`, `inverse_retr_coordinates`
    ``inverse_tall(x, y)``,
    ``inverse(x, y)``
    =========================  ====================================  ========================================

    Examples
    --------
    >>> x, u = torch.eye(2), torch.tensor([[0.0, -0.1], [0.1, 0.0]])
    >>> assert mr.linalg.defect(mr.retractions.Cayley().retract(x, u)) < 1e-6
    """

    name: ClassVar[str] = ""  # default: the name of the class in lower case
    self_correcting: ClassVar[bool] = False  # whether it orthonormalizes x + u, which removes the drift of x as well
    projecting: ClassVar[bool] = False  # whether on tall matrices it uses only the tangent part of u by itself
    reversible: ClassVar[bool] = True  # whether the inverse of phi(A) is phi(-A), so that steps on groups can be undone
    orders: ClassVar[dict[str, int]] = {"group": 1}  # order of agreement by the manifold's `geometry`

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.name = cls.name or cls.__name__.lower()

    @abstractmethod
    def group_map(self, A: Tensor) -> Tensor:
        r"""Return :math:`\phi(A)`: map the Lie algebra to the group.

        Parameters
        ----------
        A : Tensor, shape (..., n, n)
            A square matrix; only its skew-Hermitian part is used.

        Returns
        -------
        Tensor, shape (..., n, n)
        """

    @abstractmethod
    def inverse_group_map(self, Q: Tensor) -> Tensor:
        r"""Return the skew-Hermitian ``A`` with :math:`\phi(A) = Q`.

        Parameters
        ----------
        Q : Tensor, shape (..., n, n)
            An orthogonal or unitary matrix.

        Returns
        -------
        Tensor, shape (..., n, n)

        Raises
        ------
        OffManifoldError
            If ``Q`` is outside the range of the map.
        """

    def translate(self, x: Tensor, A: Tensor) -> Tensor:
        r"""Return the point :math:`x\,\phi(A)`.

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
        """Return `translate` for the matrix with the coordinates ``c``.

        Parameters
        ----------
        x : Tensor, shape (..., n, n)
            A point.
        c : Tensor, shape (..., d)
            Coordinates of a skew-Hermitian matrix.
        unpack : callable, optional
            ``unpack(x, c)`` returns the skew-Hermitian matrix. Default: `manifold_rnn.linalg.unpack_skew`.

        Returns
        -------
        Tensor, shape (..., n, n)
        """
        return self.translate(x, unpack(x, c))

    def retract_square(self, x: Tensor, u: Tensor) -> Tensor:
        r"""Return the point :math:`x\,\phi(\operatorname{skew}(x^H u))`.

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
        """Return :math:`R_x(u)` for a point with more rows than columns.

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
        """Return the tangent vector ``u`` with ``retract_tall(x, u) = y``.

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
            If no tangent vector at ``x`` leads to ``y``.
        UnsupportedError
            If there is no closed form.
        """

    def plane_rotation(self, square: Tensor) -> tuple[Tensor, Tensor]:
        r"""Return the rotation of a plane by the map, which defines the step on spheres.

        For a skew-symmetric 2 x 2 matrix with entries t and -t, the map is the rotation by an angle
        :math:`\varphi(t)`.

        Parameters
        ----------
        square : Tensor
            The squares :math:`t^2`.

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
            "Expected a retraction with plane_rotation and plane_length.\nUse 'exp', 'polar', 'qr' or 'cayley'."
        )

    def plane_length(self, angle: Tensor) -> Tensor:
        r"""Return the length t for which `plane_rotation` rotates by an angle between 0 and pi.

        Parameters
        ----------
        angle : Tensor
            Angles in radians.

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
            "Expected a retraction with plane_rotation and plane_length.\nUse 'exp', 'polar', 'qr' or 'cayley'."
        )

    def inverse_subspace(self, x: Tensor, y: Tensor) -> Tensor:
        r"""Return the horizontal vector ``u``, :math:`x^H u = 0`, for which :math:`R_x(u)` has the span of ``y``.

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
            If no horizontal vector at ``x`` leads to the span of ``y``.
        """
        require_distinct_geodesic(x, y, f"The inverse of the {self.name} retraction")
        return self.inverse_tall(x, aligned(x, y)[0])

    @full_precision
    def retract(self, x: Tensor, u: Tensor) -> Tensor:
        r"""Return the point :math:`R_x(u)`.

        Parameters
        ----------
        x : Tensor, shape (..., n, p), n >= p
            A point with orthonormal columns.
        u : Tensor, shape (..., n, p)
            A tangent vector at ``x``; only the tangent part of any other vector is used.

        Returns
        -------
        Tensor, shape (..., n, p)

        Raises
        ------
        ShapeError, DtypeError, DeviceError
            If the two differ in matrix shape, dtype or device, or have more columns than rows.
        """
        require_matrix(x, "retract", tall=True)
        require_same(x, u, "retract")
        if x.shape[-2] == x.shape[-1]:
            return self.retract_square(x, u)
        return self.retract_tall(x, u if self.projecting else tangent(x, u))

    @full_precision
    def inverse(self, x: Tensor, y: Tensor) -> Tensor:
        r"""Return the tangent vector ``u`` at ``x`` with :math:`R_x(u) = y`.

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
            If no tangent vector at ``x`` leads to ``y``.
        UnsupportedError
            If there is no closed form, as for `Exponential` with more rows than columns.
        ShapeError, DtypeError, DeviceError
            If the two differ in matrix shape, dtype or device, or have more columns than rows.
        """
        require_matrix(x, "inverse", tall=True)
        require_same(x, y, "inverse")
        if x.shape[-2] == x.shape[-1]:
            return x @ self.inverse_group_map(x.mH @ y)
        return self.inverse_tall(x, y)

    def order(self, manifold: object) -> int:
        """Return the order k of agreement with geodesics: the error at distance t is of order ``t^(k + 1)``.

        Parameters
        ----------
        manifold : Manifold
            A manifold with a known geometry.

        Returns
        -------
        int

        Raises
        ------
        UnsupportedError
            If the order on this geometry is unknown.
        """
        geometry = getattr(manifold, "geometry", None)  # geoopt's manifolds do not have it
        if geometry not in self.orders:
            raise UnsupportedError(
                f"The order of the {self.name} retraction is unknown on this manifold.\n"
                f"Expected a geometry of {', '.join(self.orders)}; got {geometry!r} of {type(manifold).__name__}.\n"
                "Measure it with manifold_rnn.testing.check_retraction."
            )
        return self.orders[geometry]


def require_far_step(x: Tensor, u: Tensor, name: str) -> None:
    """Raise `NonFiniteError` unless a point is finite, and a step from it short enough for double precision."""
    require_finite(x, "The point of a step")
    require_length(u, name)


def tangent(x: Tensor, u: Tensor, scale: float = 1.0) -> Tensor:
    r"""Return the tangent part :math:`u - x \operatorname{sym}(x^H u)` of a vector at a point."""
    xu = x.mH @ u
    return multiply_add(u, x, xu + xu.mH, beta=scale, alpha=-0.5 * scale)
