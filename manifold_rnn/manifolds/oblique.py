"""The oblique manifold: matrices with rows or columns of fixed length."""

from __future__ import annotations

from typing import Any, Self

from ..errors import OptionError
from ..retractions import Retraction
from .fixed_norm import FixedNorm, Radius


class Oblique(FixedNorm):
    r"""The oblique manifold: real or complex n x p matrices whose rows, or columns, have length ``radius``.

    .. math:: \{x : \operatorname{diag}(x x^H) = r^2 I\} \text{ for } dim = -1, \qquad
        \{x : \operatorname{diag}(x^H x) = r^2 I\} \text{ for } dim = -2.

    Each row (or column) is a point on its own sphere. The transformer nGPT constrains all its matrices in this way,
    along the axis of the model dimension. Use ``dim=-1`` for embeddings and for a `torch.nn.Linear` that reads the
    residual stream, and ``dim=-2`` for a `torch.nn.Linear` that writes to it.

    Parameters
    ----------
    dim : int
        The axis of one vector: -1 for rows, -2 for columns.
    radius : float or "init"
        A positive radius. ``"init"`` keeps the present length of each row or column.
    retraction : str or Retraction
        ``"exp"`` (default, the geodesic), ``"polar"`` or ``"qr"`` (the projection of x + u), or ``"cayley"``.

    Raises
    ------
    OptionError
        If ``dim`` is not -1 or -2, ``radius`` is not a positive number or "init", or the retraction is unknown.

    See Also
    --------
    manifold_rnn.Sphere : vectors or whole matrices of fixed norm.

    Notes
    -----
    A constrained weight starts from its projection. A row of zeros has no direction and raises an error, for example
    that of ``padding_idx`` of an embedding. Source: Loshchilov et al. (2024) for nGPT.

    Examples
    --------
    >>> layer = mr.constrain(torch.nn.Linear(4, 3), "weight", mr.Oblique())
    >>> assert torch.allclose(layer.weight.norm(dim=-1), torch.ones(3))
    """

    name = "Oblique"
    ndim = 2

    def __init__(self, dim: int = -1, radius: Radius = 1.0, retraction: str | Retraction = "exp") -> None:
        super().__init__(radius, retraction)
        if isinstance(dim, bool) or dim not in (-1, -2):
            raise OptionError(
                "dim of Oblique must be the axis of vectors of fixed length, counted from the end.\n"
                f"Expected -1 for rows or -2 for columns, got {dim!r:.80}.\n"
                "For whole tensors use Sphere(dims)."
            )
        self.dim = int(dim)

    @property
    def axes(self) -> tuple[int, ...]:
        return (self.dim,)

    def _options(self) -> tuple[Any, ...]:
        return self.dim, self.radius

    def with_retraction(self, retraction: str | Retraction) -> Self:
        return type(self)(self.dim, self.radius, retraction)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, radius={self.radius!r}, retraction={self.retraction.name!r}"
