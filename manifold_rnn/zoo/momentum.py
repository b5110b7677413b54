"""The networks with momentum."""

import math
from typing import Literal

import torch
from torch.nn import init

from ..constraints import constrain
from ..errors import OptionError
from ..manifolds import SpecialOrthogonal
from ..nn import Layer
from ..nn.cells import LSTM, Elman, Momentum
from ..nn.cells.momentum import Kind
from ..nn.init import cayley_
from .network import Network
from .starts import start_linear


def momentum(
    input_size: int,
    hidden_size: int,
    output_size: int,
    *,
    host: Literal["lstm", "dtriv"] = "lstm",
    kind: Kind = "momentum",
    momentum: float = 0.6,
    scale: float = 0.6,
    decay: float = 0.9,
    period: int = 40,
    forget_bias: float = 1.0,
    rebase_every: int | None = None,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Network:
    r"""MomentumRNN: momentum for the inputs of an LSTM, or of a network with a rotation matrix.

    .. math:: v_t = \mu v_{t-1} + s\,(V x_t + b), \qquad h_t = f(W h_{t-1} + b' + v_t),

    `manifold_rnn.nn.cells.Momentum` has the formulas of the other kinds. In the LSTM all four gates have momentum, and
    :math:`b'` is ``bias_hh``. In `dtriv`, f is modReLU, :math:`b'` is its threshold, and there is no b.

    Parameters
    ----------
    input_size, hidden_size, output_size : int
        Number ``m`` of input features, ``n`` of hidden units and ``k`` of outputs.
    host : "lstm" or "dtriv"
        Network that gets the momentum.
    kind : "momentum", "adam", "rmsprop" or "restart"
        Kind of momentum for the inputs.
    momentum, scale, decay, period : float, float, float, int
        :math:`\mu`, ``s``, :math:`\beta` and F. Published values are below.
    forget_bias : float
        Initial value of both forget gate biases of the LSTM. The paper has -4 for speech.
    rebase_every : int, optional
        For dtriv: number of optimizer steps between two changes of the base point.
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
        If ``host`` or ``kind`` is unknown, or a number is out of range.

    Notes
    -----
    Number of parameters: 4n² + 4nm + 8n + nk + k for the LSTM, and n(n - 1)/2 + nm + n + nk + k for dtriv. Momentum
    adds no parameters.

    Initialization of the LSTM: the input weights are orthogonal. The recurrent block of the input gate is the identity,
    the other blocks are 0. All biases except those of the forget gate are 0. The input bias accumulates momentum. So
    with a constant input, the pre-activation of the forget gate converges to ``forget_bias`` times :math:`1 + s/(1 -
    \mu)`. Initialization of dtriv: the input weights follow Kaiming's rule, and the thresholds are uniform in ±0.01.
    The rotation is the exponential of `manifold_rnn.nn.init.cayley_`.

    Published values for MNIST, and for permuted MNIST if they differ:

    - momentum 0.6, with scale 0.6 (permuted 1.0);
    - "adam" with decay 0.1 (permuted 0.01);
    - "rmsprop" with decay 0.9 (permuted 0.01);
    - "restart" with period 2 and scale 1.0 (permuted 40 and 0.9).

    For speech, the momentum is 0.3 and the scale 0.1. The LSTM has one learning rate, 1e-3. In dtriv, the paper uses
    learning rates with ratios from 3.5 to 14. ``parameter_groups(lr)`` gives the rotation a tenth of lr, converted as
    in `exprnn`.

    The released "Nesterov" LSTM of the image tasks extrapolates the whole pre-activation instead of restarting. The
    released settings for words have :math:`\mu = 0`. Source: Nguyen, Baraniuk, Bertozzi, Osher and Wang (2020).

    Examples
    --------
    >>> assert mr.degrees_of_freedom(mr.zoo.momentum(1, 128, 10)) == 68362
    >>> assert mr.degrees_of_freedom(mr.zoo.momentum(1, 170, 10, host="dtriv")) == 16415
    """
    if host not in ("lstm", "dtriv"):
        raise OptionError(
            f"host of momentum is unknown.\nExpected 'lstm' or 'dtriv', got {host!r}.\n"
            "For any other cell, use manifold_rnn.nn.cells.Momentum."
        )
    inside = LSTM() if host == "lstm" else Elman("modrelu")
    cell = Momentum(inside, kind, momentum, scale, decay, period)
    layer = Layer(cell, input_size, hidden_size, batch_first=True, device=device, dtype=dtype)
    if host == "lstm":
        network = Network(layer, output_size)
        _start_lstm(layer, forget_bias, generator)
    else:
        network = Network(layer, output_size, rates=0.1 * math.sqrt(2))
        _start_rotation(layer, rebase_every, generator)
    start_linear(network.readout, generator)
    return network


def _start_lstm(layer: Layer, forget_bias: float, generator: torch.Generator | None) -> None:
    init.orthogonal_(layer.get_parameter("weight_ih_l0"), generator=generator)
    init.eye_(layer.get_parameter("weight_hh_l0"))
    n = layer.hidden_size
    with torch.no_grad():
        for name in ("bias_ih_l0", "bias_hh_l0"):
            bias = layer.get_parameter(name).zero_()
            bias[n : 2 * n] = forget_bias


def _start_rotation(layer: Layer, rebase_every: int | None, generator: torch.Generator | None) -> None:
    name, manifold = "weight_hh_l0", SpecialOrthogonal("exp")
    A = cayley_(layer.get_parameter(name).new_empty(layer.hidden_size, layer.hidden_size), generator=generator)
    with torch.no_grad():
        Q = manifold.retraction.group_map(A)
    constrain(layer, name, manifold, view="trivialized", rebase_every=rebase_every, init=lambda _: Q)
    init.kaiming_normal_(layer.get_parameter("weight_ih_l0"), nonlinearity="relu", generator=generator)
    init.uniform_(layer.get_parameter("bias_l0"), -0.01, 0.01, generator=generator)
