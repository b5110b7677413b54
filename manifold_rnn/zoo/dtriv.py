"""The network with a dynamic trivialization."""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import init

from ..constraints import constrain
from ..manifolds import SpecialOrthogonal
from ..nn import RNN
from ..nn.init import cayley_
from ..retractions import Retraction
from .network import Network


def dtriv(
    input_size: int,
    hidden_size: int,
    output_size: int,
    *,
    rebase_every: int | None = 100,
    angles: Callable[..., Tensor] = cayley_,
    retraction: str | Retraction = "exp",
    view: Literal["update", "trivialized"] = "trivialized",
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Network:
    r"""Dtriv: a rotation near a base point that moves along with it.

    .. math::
        h_t = \operatorname{modReLU}(W h_{t-1} + U x_t;\; b), \qquad o_t = V h_t + c, \qquad W = Q \exp(A),

    ``A`` skew-symmetric and trained, :math:`h_0 = 0`; after every K steps of the optimizer Q becomes W, and A zero.

    Parameters
    ----------
    input_size, hidden_size, output_size : int
        ``m``, ``n`` and ``k``.
    rebase_every : int, optional
        K. None is the static trivialization, whose base stays where it starts; 1 is Riemannian optimization.
    angles : callable
        Fills the skew-symmetric matrix whose exponential Q starts as: an initialiser of `manifold_rnn.nn.init`.
    retraction : str or Retraction
        Another map in the place of the exponential.
    view : "trivialized" or "update"
        Train ``A``, as the paper does, or let a Riemannian optimizer move ``W`` itself, which is K = 1.
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
        If ``retraction``, ``view`` or ``rebase_every`` makes no sense.

    Notes
    -----
    Parameters: n(n - 1)/2 + nm + n + nk + k. Start as in `exprnn`, but with ``A = 0``: also for K = None this is not
    expRNN, whose base is the identity. Optimizers keep their moments when the base moves.

    The paper trains ``A`` with RMSprop at a tenth of the rate of the others, as `exprnn` does, with the same
    conversion. The released code moves the base after the weight has been computed from the old one, and before its
    gradient is used; here the base moves after the step. Source: Lezcano-Casado (2019).

    Examples
    --------
    >>> network = mr.zoo.dtriv(1, 6, 10, rebase_every=1)
    >>> assert torch.isclose(torch.det(network.layer.weight_hh_l0), torch.tensor(1.0))
    """
    layer = RNN(input_size, hidden_size, nonlinearity="modrelu", batch_first=True, device=device, dtype=dtype)
    network = Network(layer, output_size, rates=0.1 * math.sqrt(2))
    manifold = SpecialOrthogonal(retraction)
    A = angles(layer.get_parameter("weight_hh_l0").new_empty(hidden_size, hidden_size), generator=generator)
    with torch.no_grad():
        Q = manifold.retraction.group_map(A)
    every = rebase_every if view == "trivialized" else None
    constrain(layer, "weight_hh_l0", manifold, view=view, rebase_every=every, init=lambda _: Q)
    init.kaiming_normal_(layer.get_parameter("weight_ih_l0"), nonlinearity="relu", generator=generator)
    init.uniform_(layer.get_parameter("bias_l0"), -0.01, 0.01, generator=generator)
    bound = 1 / math.sqrt(hidden_size)
    for p in network.readout.parameters():
        init.uniform_(p, -bound, bound, generator=generator)
    return network
