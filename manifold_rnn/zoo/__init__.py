"""Published networks, one per file. Each is a cell, a constraint and an initialization.

A builder takes the sizes and returns a recurrent layer with a linear readout:

>>> network = mr.zoo.exprnn(1, 32, 10)
>>> assert network(torch.randn(8, 50, 1)).shape == (8, 10)

The published learning rate of the recurrent weight differs from that of the other weights. `Network.parameter_groups`
returns both groups:

>>> optimizer = torch.optim.RMSprop(network.parameter_groups(1e-3))

Every choice of a publication is an option, so that you can change one at a time:

>>> network = mr.zoo.scornn(1, 32, 10, negatives=8, retraction="exp")
"""

from .antisymmetric import antisymmetric
from .cornn import cornn
from .dtriv import dtriv
from .enrnn import enrnn
from .eurnn import eurnn
from .exprnn import exprnn
from .full_urnn import full_urnn
from .goru import goru
from .lem import lem
from .lipschitz import lipschitz
from .lru import lru
from .momentum import momentum
from .network import Network
from .nnrnn import nnrnn
from .nonnormal import nonnormal
from .nru import nru
from .ornn import ornn
from .rflo import rflo
from .sbo import sbo
from .scornn import scornn
from .scurnn import scurnn
from .urnn import urnn

__all__ = [
    "Network",
    "antisymmetric",
    "available",
    "cornn",
    "dtriv",
    "enrnn",
    "eurnn",
    "exprnn",
    "full_urnn",
    "goru",
    "lem",
    "lipschitz",
    "lru",
    "momentum",
    "nnrnn",
    "nonnormal",
    "nru",
    "ornn",
    "rflo",
    "sbo",
    "scornn",
    "scurnn",
    "urnn",
]


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
