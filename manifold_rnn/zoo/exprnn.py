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
    r"""ExpRNN: the recurrent matrix is a rotation, the exponential of a skew-symmetric matrix.

    .. math::
        h_t = \operatorname{modReLU}(W h_{t-1} + U x_t;\; b), \qquad o_t = V h_t + c, \qquad W = \exp(A),

    with a trained skew-symmetric ``A`` and :math:`h_0 = 0`. The determinant of W is always 1.

    Parameters
    ----------
    input_size, hidden_size, output_size : int
        Number ``m`` of input features, ``n`` of hidden units and ``k`` of outputs.
    angles : callable
        Initializer of ``A`` from `manifold_rnn.nn.init`. The paper uses `cayley_` for pixel-by-pixel images, and
        `henaff_` for the copying problem and speech.
    retraction : str or Retraction
        Retraction that replaces the exponential.
    view : "trivialized" or "update"
        "trivialized" trains ``A``, as the paper does. With "update" a Riemannian optimizer moves ``W`` itself.
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
        If ``retraction`` or ``view`` is unknown.

    Notes
    -----
    Number of parameters: n(n - 1)/2 + nm + n + nk + k. Initialization: U by Kaiming's normal rule for ReLU, b uniform
    in ±0.01, V and c as in ``torch.nn.Linear``.

    The paper trains ``A`` with RMSprop at a tenth of the learning rate of the other weights. The coordinates here are
    the entries of ``A`` times :math:`\sqrt 2`, so ``parameter_groups(lr)`` gives them the rate :math:`0.1\sqrt 2` lr.
    This factor is right for optimizers whose step does not depend on the scale of the gradient. For plain SGD the
    factor :math:`\sqrt 2` would be squared to 2.

    The released code uses row states, so its matrix is the transpose. It stores ``A`` in a square array, half of which
    has no gradient. With `cayley_`, it exponentiates numbers that were designed for a Cayley transform. This builder
    does so too. Source: Lezcano-Casado and Martinez-Rubio (2019).

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
