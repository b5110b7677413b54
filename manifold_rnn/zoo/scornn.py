"""The scaled Cayley orthogonal network."""

import math
from typing import Literal

import torch
from torch.nn import init

from ..constraints import FixedBase
from ..manifolds import Orthogonal
from ..nn import RNN
from ..nn.init import cayley_
from ..retractions import Retraction
from .network import Network, signs, start_at


def scornn(
    input_size: int,
    hidden_size: int,
    output_size: int,
    *,
    negatives: int | None = None,
    retraction: str | Retraction = "cayley",
    view: Literal["update", "trivialized"] = "trivialized",
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Network:
    r"""ScoRNN: an orthogonal recurrent matrix as a scaled Cayley transform.

    .. math::
        h_t = \operatorname{modReLU}(W h_{t-1} + U x_t;\; b), \qquad o_t = V h_t + c, \qquad
        W = (I + A)^{-1} (I - A)\, D,

    ``A`` skew-symmetric and trained, ``D`` a fixed diagonal with entries -1 in its last places, :math:`h_0 = 0`.

    Parameters
    ----------
    input_size, hidden_size, output_size : int
        ``m``, ``n`` and ``k``.
    negatives : int, optional
        Entries -1 in ``D``, a hyperparameter; det W = (-1)^negatives throughout. Default ``n // 2``, as for the copying
        and adding problems; the paper's pixel-by-pixel images have ``n // 10``.
    retraction : str or Retraction
        Another map in the place of the Cayley transform.
    view : "trivialized" or "update"
        Train ``A``, as the paper does, or let a Riemannian optimizer move ``W`` itself.
    generator : torch.Generator, optional
        Source of the random numbers.
    device : torch.device, optional
    dtype : torch.dtype, optional
        Real.

    Returns
    -------
    Network

    Raises
    ------
    OptionError
        If ``negatives`` is not between 0 and n, or ``retraction`` or ``view`` unknown.

    Notes
    -----
    Parameters: n(n - 1)/2 + nm + n + nk + k. Start: ``A`` by `manifold_rnn.nn.init.cayley_`, U in ±0.01, b and c zero,
    V by Glorot's rule.

    The paper trains ``A`` with RMSprop at a tenth of the rate of the others. Here
    :math:`W = D\,\operatorname{cay}(-2DAD)`, and coordinates are scaled by :math:`\sqrt 2`, so the same step is
    :math:`2\sqrt 2` times as long in them: ``parameter_groups(lr)`` gives them the rate :math:`0.2\sqrt 2` lr. That is
    for optimizers whose step does not depend on the gradient's scale; for plain SGD the factor would be squared, 8.

    The released code works with the transpose (row states), solves by least squares, and uses an RMSprop whose mean
    square starts at 1. Source: Helfrich, Willmott and Ye (2018).

    Examples
    --------
    >>> network = mr.zoo.scornn(1, 6, 10, negatives=3)
    >>> assert torch.isclose(torch.det(network.layer.weight_hh_l0), torch.tensor(-1.0))
    """
    negatives = hidden_size // 2 if negatives is None else negatives
    layer = RNN(input_size, hidden_size, nonlinearity="modrelu", batch_first=True, device=device, dtype=dtype)
    network = Network(layer, output_size, rates=0.1 * 2 * math.sqrt(2))
    A = cayley_(layer.get_parameter("weight_hh_l0").new_empty(hidden_size, hidden_size), generator=generator)
    d = signs(A, negatives)
    start_at(layer, -2 * d[:, None] * A * d, FixedBase(Orthogonal(retraction), negatives), view=view)
    init.uniform_(layer.get_parameter("weight_ih_l0"), -0.01, 0.01, generator=generator)
    init.zeros_(layer.get_parameter("bias_l0"))
    init.xavier_uniform_(network.readout.weight, generator=generator)
    init.zeros_(network.readout.bias)
    return network
