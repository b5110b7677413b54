"""Published networks, one a file: cell x constraint x initialisation."""

from .dtriv import dtriv
from .enrnn import enrnn
from .exprnn import exprnn
from .full_urnn import full_urnn
from .network import Network
from .scornn import scornn
from .scurnn import scurnn

__all__ = ["Network", "available", "dtriv", "enrnn", "exprnn", "full_urnn", "scornn", "scurnn"]


def available() -> list[str]:
    """Return the names of the builders, in alphabetical order.

    Every builder is called as ``build(input_size, hidden_size, output_size)`` and returns a `Network`.

    Returns
    -------
    list of str

    Examples
    --------
    >>> networks = [getattr(mr.zoo, name)(1, 8, 10) for name in mr.zoo.available()]
    >>> assert all(network(torch.zeros(2, 5, 1)).shape == (2, 10) for network in networks)
    """
    return [name for name in __all__ if name not in ("Network", "available")]
