"""Spheres: the last axes of a tensor are one vector of fixed length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from ..errors import OptionError
from ..retractions import Retraction
from .fixed_norm import FixedNorm, Radius


class Sphere(FixedNorm):
    r"""The sphere of real or complex tensors with norm ``radius``, over the last axes.

    .. math:: \{x : |x| = r\}, \qquad |x|^2 = \textstyle\sum |x_{i \dots}|^2 \text{ over the axes } dims.

    Use ``Sphere()`` for vectors, such as the gain of a normalization layer, and ``Sphere((-2, -1))`` for whole
    matrices. The latter is the Frobenius sphere, on which the optimizers MuonH and AdamH ("hyperball") keep each weight
    of a transformer. For rows or columns of unit length use `Oblique`.

    Parameters
    ----------
    dims : int or sequence of int
        The axes of one vector: the last ones, counted from the end. All other axes are batch axes.
    radius : float or "init"
        A positive radius. ``"init"`` keeps the present norm of each vector.
    retraction : str or Retraction
        ``"exp"`` (default, the geodesic), ``"polar"`` or ``"qr"`` (the projection of x + u), or ``"cayley"``.

    Raises
    ------
    OptionError
        If ``dims`` are not the last axes, ``radius`` is not a positive number or "init", or the retraction is unknown.

    See Also
    --------
    manifold_rnn.Oblique : matrices with rows or columns of unit length.
    manifold_rnn.optim.RiemannianAdam : ``scale="angle"`` makes the steps of AdamH.

    Notes
    -----
    With ``radius="init"`` the radius is the norm of the weight itself, and is stored nowhere else. Loading a checkpoint
    with another norm therefore changes the radius, and an average of weights has the norm of the average. The norm is
    constant up to rounding errors, which accumulate randomly. Source: Absil, Mahony and Sepulchre (2008).

    Examples
    --------
    >>> S = mr.Sphere()
    >>> x, y = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    >>> assert torch.allclose(S.dist(x, y), torch.tensor(torch.pi / 2))
    >>> layer = mr.constrain(torch.nn.Linear(8, 8), "weight", mr.Sphere((-2, -1), radius="init"))
    """

    name = "Sphere"

    def __init__(
        self, dims: int | Sequence[int] = -1, radius: Radius = 1.0, retraction: str | Retraction = "exp"
    ) -> None:
        super().__init__(radius, retraction)
        axes = (dims,) if isinstance(dims, int) else tuple(dims) if isinstance(dims, Sequence) else ()
        if not axes or isinstance(dims, str) or sorted(axes, key=_number) != list(range(-len(axes), 0)):
            raise OptionError(
                "dims of Sphere must name the last axes of a tensor, counted from the end.\n"
                f"Expected -1, (-2, -1), (-3, -2, -1) or so, got {dims!r:.80}.\n"
                "For the rows or columns of a matrix use Oblique(dim)."
            )
        self._axes = tuple(range(-len(axes), 0))
        self.ndim = len(axes)

    @property
    def axes(self) -> tuple[int, ...]:
        return self._axes

    def _options(self) -> tuple[Any, ...]:
        return self._axes, self.radius

    def with_retraction(self, retraction: str | Retraction) -> Self:
        return type(self)(self._axes, self.radius, retraction)

    def extra_repr(self) -> str:
        return f"dims={self._axes}, radius={self.radius!r}, retraction={self.retraction.name!r}"


def _number(axis: object) -> int:
    return axis if isinstance(axis, int) and not isinstance(axis, bool) else 0
