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
    r"""Dtriv: a rotation matrix, parametrized around a base point that is updated in training.

    .. math::
        h_t = \operatorname{modReLU}(W h_{t-1} + U x_t;\; b), \qquad o_t = V h_t + c, \qquad W = Q \exp(A),

    with a trained skew-symmetric ``A`` and :math:`h_0 = 0`. After every K optimizer steps, Q is set to W and A to zero.

    Parameters
    ----------
    input_size, hidden_size, output_size : int
        Number ``m`` of input features, ``n`` of hidden units and ``k`` of outputs.
    rebase_every : int, optional
        K. None is the static trivialization, whose base point never changes. 1 is Riemannian optimization.
    angles : callable
        Initializer from `manifold_rnn.nn.init` for a skew-symmetric matrix. The initial Q is its exponential.
    retraction : str or Retraction
        Retraction that replaces the exponential.
    view : "trivialized" or "update"
        "trivialized" trains ``A``, as the paper does. With "update" a Riemannian optimizer moves ``W`` itself, which is
        equivalent to K = 1.
    generator : torch.Generator, optional
        Source of random numbers. Default: torch's global generator.
    device : torch.device, optional
        Device of the weights. Default: torch's default device.
    dtype : torch.dtype, optional
        Real dtype of the weights. Default: torch's default dtype.

    Returns
    -------
    Network

    Raises
    ------
    OptionError
        If ``retraction`` or ``view`` is unknown, or ``rebase_every`` is out of range.

    Notes
    -----
    Number of parameters: n(n - 1)/2 + nm + n + nk + k. The initialization is that of `exprnn`, but with ``A = 0``. So K
    = None differs from expRNN, whose base point is the identity. Optimizers keep their moments when the base point
    changes.

    The paper trains ``A`` with RMSprop at a tenth of the learning rate of the other weights. `exprnn` explains the
    conversion of this rate. The released code changes the base point after it computed the weight from the old one, and
    before it uses the gradient. Here the base point changes after the step. Source: Lezcano-Casado (2019).

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
