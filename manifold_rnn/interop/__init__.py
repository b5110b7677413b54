"""Use the manifolds and adapters of this package with other libraries.

pymanopt's solvers take a manifold of this package:

>>> manifold = mr.interop.to_pymanopt(mr.Stiefel(), 5, 2)
>>> assert manifold.dim == 7

Groups work as well, and points are NumPy arrays:

>>> manifold = mr.interop.to_pymanopt(mr.Unitary(), 3, 3)
>>> assert manifold.random_point().dtype == "complex128"

`manifold_rnn.interop.peft` reads and writes checkpoints of orthogonal fine-tuning for peft.

geoopt needs no adapter. Its optimizers and manifolds work as they are:

>>> import geoopt
>>> layer = mr.constrain(torch.nn.Linear(3, 3), "weight", mr.Orthogonal("qr"))
>>> optimizer = geoopt.optim.RiemannianSGD(layer.parameters(), lr=0.1)
"""

from __future__ import annotations

from typing import Any

import torch

from ..errors import UnsupportedError
from ..manifolds import Manifold
from . import peft

__all__ = ["peft", "to_pymanopt"]


def to_pymanopt(manifold: Manifold, *size: int, dtype: torch.dtype | None = None) -> Any:
    r"""Return a manifold for pymanopt's solvers, including second-order ones.

    Points are NumPy arrays of one shape. Write the cost with ``@pymanopt.function.pytorch(manifold)`` or another
    backend. For a cost with Euclidean gradient ``g`` and Hessian ``h = D g[u]``, the Riemannian Hessian is

    .. math::
        \operatorname{Hess} f(x)[u] = \operatorname{proj}_x \mathrm D(x \mapsto \operatorname{proj}_x g(x))[u].

    It is computed by forward differentiation of the manifold's own projection.

    Parameters
    ----------
    manifold : Manifold
        A group, or `Stiefel` with its Euclidean metric.
    size : int
        The shape of a point, ``n, n`` or ``n, p``.
    dtype : torch.dtype, optional
        Default: float64, or complex128 on unitary groups.

    Returns
    -------
    pymanopt.manifolds.manifold.Manifold

    Raises
    ------
    UnsupportedError
        If the formula does not hold for the metric of the manifold, or pymanopt is not installed.

    Notes
    -----
    Source: Absil, Mahony and Trumpf (2013) for the Hessian.

    Examples
    --------
    >>> manifold = mr.interop.to_pymanopt(mr.Stiefel(), 5, 2)
    >>> assert manifold.dim == 7 and manifold.random_point().shape == (5, 2)
    """
    try:
        from .pymanopt_adapter import PymanoptManifold
    except ImportError as missing:
        raise UnsupportedError(
            "to_pymanopt needs pymanopt.\nIt is not installed.\nRun pip install pymanopt."
        ) from missing
    return PymanoptManifold(manifold, size, dtype)
