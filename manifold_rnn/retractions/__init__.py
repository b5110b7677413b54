"""Retractions: maps from tangent vectors to points. Each is an immutable object, compared by its content.

A manifold takes a retraction by name or as an object:

>>> assert mr.Orthogonal("cayley").retraction == mr.Orthogonal(mr.retractions.Cayley()).retraction
>>> assert mr.retractions.names() == ["cayley", "exp", "polar", "qr"]

On a group, `Retraction.group_map` maps a skew-symmetric matrix to the group:

>>> A = mr.linalg.skew(torch.randn(4, 4, dtype=torch.float64))
>>> assert torch.allclose(mr.retractions.get("exp").group_map(A), torch.linalg.matrix_exp(A))

`Retraction.retract` moves a point with orthonormal columns along a tangent vector. `Retraction.inverse` returns that
vector:

>>> x = mr.Stiefel().random(5, 2, dtype=torch.float64)
>>> u = mr.Stiefel().proju(x, torch.randn(5, 2, dtype=torch.float64))
>>> qr = mr.retractions.QR()
>>> assert torch.allclose(qr.inverse(x, qr.retract(x, u)), u)
"""

import functools
import inspect

from ..errors import OptionError
from .base import Retraction
from .cayley import Cayley
from .exponential import Exponential
from .polar import Polar
from .qr import QR

__all__ = ["QR", "Cayley", "Exponential", "Polar", "Retraction", "get", "names"]


@functools.cache
def _by_name() -> dict[str, Retraction]:
    """Return every retraction that this package exports, by name."""
    exported: list[object] = [globals()[name] for name in __all__]
    kinds = [kind for kind in exported if isinstance(kind, type) and issubclass(kind, Retraction)]
    kinds = [kind for kind in kinds if not inspect.isabstract(kind)]
    return {kind.name: kind() for kind in sorted(kinds, key=lambda kind: kind.name)}


def names() -> list[str]:
    """Return the names of the retractions, which `get` and every ``retraction=`` option accept.

    Returns
    -------
    list of str

    Examples
    --------
    >>> assert mr.retractions.names() == ["cayley", "exp", "polar", "qr"]
    """
    return list(_by_name())


def get(retraction: str | Retraction) -> Retraction:
    """Return the retraction of that name; a `Retraction` object is returned unchanged.

    Parameters
    ----------
    retraction : str or Retraction
        One of `names`, or an object.

    Returns
    -------
    Retraction

    Raises
    ------
    OptionError
        If no retraction has that name.

    Examples
    --------
    >>> assert mr.retractions.get("cayley") == mr.retractions.Cayley()
    """
    if isinstance(retraction, Retraction):
        return retraction
    if isinstance(retraction, str) and retraction in _by_name():
        return _by_name()[retraction]
    raise OptionError(
        f"A retraction must be one of {', '.join(_by_name())}, or a Retraction object.\nGot {retraction!r}.\n"
        "Check the spelling."
    )
