"""The exponential network."""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import init

from ..constraints import FixedBase
from ..manifolds import SpecialOrthogonal
from ..nn import RNN
from ..nn.init import cayley_
from ..retractions import Retraction
from .network import Network, start_at


def exprnn(
    input_size: int,
    hidden_size: int,
    output_size: int,
    *,
    angles: Callable[..., Tensor] = cayley_,
    retraction: str | Retraction = "exp",
    view: Literal["update", "trivialized"] = "trivialized",
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Network:
    r"""ExpRNN: a rotation as recurrent matrix, as the exponential of a skew-symmetric one.

    .. math::
        h_t = \operatorname{modReLU}(W h_{t-1} + U x_t;\; b), \qquad o_t = V h_t + c, \qquad W = \exp(A),

    ``A`` skew-symmetric and trained, :math:`h_0 = 0`, det W = 1 throughout.

    Parameters
    ----------
    input_size, hidden_size, output_size : int
        ``m``, ``n`` and ``k``.
    angles : callable
        Fills ``A`` at the start: an initialiser of `manifold_rnn.nn.init`. Default `cayley_`, as for pixel-by-pixel
        images; the copying problem and speech have `henaff_`.
    retraction : str or Retraction
        Another map in the place of the exponential.
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
        If ``retraction`` or ``view`` is unknown.

    Notes
    -----
    Parameters: n(n - 1)/2 + nm + n + nk + k. Start: U by Kaiming's normal rule for ReLU, b in ±0.01, V and c as in
    ``torch.nn.Linear``.

    The paper trains ``A`` with RMSprop at a tenth of the rate of the others. Coordinates here are the entries of ``A``
    times :math:`\sqrt 2`, so ``parameter_groups(lr)`` gives them the rate :math:`0.1\sqrt 2` lr. That is for optimizers
    whose step does not depend on the gradient's scale; for plain SGD the factor would be squared, 2.

    The released code works with the transpose (row states) and keeps ``A`` in a square array, half of which has no
    gradient; with `cayley_` it takes as exponent the numbers that were made for a Cayley transform, and so does this
    builder. Source: Lezcano-Casado and Martinez-Rubio (2019).

    Examples
    --------
    >>> network = mr.zoo.exprnn(1, 6, 10, angles=mr.nn.init.henaff_)
    >>> assert torch.isclose(torch.det(network.layer.weight_hh_l0), torch.tensor(1.0))
    """
    layer = RNN(input_size, hidden_size, nonlinearity="modrelu", batch_first=True, device=device, dtype=dtype)
    network = Network(layer, output_size, rates=0.1 * math.sqrt(2))
    A = angles(layer.get_parameter("weight_hh_l0").new_empty(hidden_size, hidden_size), generator=generator)
    start_at(layer, A, FixedBase(SpecialOrthogonal(retraction)), view=view)
    init.kaiming_normal_(layer.get_parameter("weight_ih_l0"), nonlinearity="relu", generator=generator)
    init.uniform_(layer.get_parameter("bias_l0"), -0.01, 0.01, generator=generator)
    bound = 1 / math.sqrt(hidden_size)
    for p in network.readout.parameters():
        init.uniform_(p, -bound, bound, generator=generator)
    return network
