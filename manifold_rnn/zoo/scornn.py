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
    r"""ScoRNN: an orthogonal recurrent matrix that is a scaled Cayley transform.

    .. math::
        h_t = \operatorname{modReLU}(W h_{t-1} + U x_t;\; b), \qquad o_t = V h_t + c, \qquad
        W = (I + A)^{-1} (I - A)\, D,

    with a trained skew-symmetric ``A`` and :math:`h_0 = 0`. ``D`` is a fixed diagonal matrix of ones, followed by
    entries -1.

    Parameters
    ----------
    input_size, hidden_size, output_size : int
        Number ``m`` of input features, ``n`` of hidden units and ``k`` of outputs.
    negatives : int, optional
        Number of entries -1 in ``D``, a hyperparameter. det W is always (-1)^negatives. The default is ``n // 2``, as
        in the paper for the copying and adding problems. The paper uses ``n // 10`` for pixel-by-pixel images.
    retraction : str or Retraction
        Retraction that replaces the Cayley transform.
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
        If ``negatives`` is not between 0 and n, or ``retraction`` or ``view`` is unknown.

    Notes
    -----
    Number of parameters: n(n - 1)/2 + nm + n + nk + k. Initialization: ``A`` by `manifold_rnn.nn.init.cayley_`, U
    uniform in ±0.01, V by Glorot's rule, b and c zero.

    The paper trains ``A`` with RMSprop at a tenth of the learning rate of the other weights. Here :math:`W =
    D\,\operatorname{cay}(-2DAD)`, and the coordinates are scaled by :math:`\sqrt 2`. So the same step is :math:`2\sqrt
    2` times as long in coordinates, and ``parameter_groups(lr)`` gives them the rate :math:`0.2\sqrt 2` lr. This factor
    is right for optimizers whose step does not depend on the scale of the gradient. For plain SGD the factor
    :math:`2\sqrt 2` would be squared to 8.

    The released code uses row states, so its matrix is the transpose. It solves by least squares, and the mean square
    of its RMSprop starts at 1. Source: Helfrich, Willmott and Ye (2018).

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
