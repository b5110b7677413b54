"""The orthogonal network of Householder reflections."""

import math
from typing import Any

import torch
from torch import nn
from torch.nn import init

from ..constraints import Reflections
from ..nn import RNN
from .network import Network
from .starts import one_bias


def ornn(
    input_size: int,
    hidden_size: int,
    output_size: int,
    *,
    reflections: int | None = None,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Network:
    r"""ORNN: an orthogonal recurrent matrix that is a product of Householder reflections.

    .. math::
        h_t = \operatorname{leakyReLU}(W h_{t-1} + V x_t + b), \qquad o_t = Y h_t + c, \qquad W = H_1 \cdots H_r,

    The vectors of the reflections (`manifold_rnn.Reflections`) and :math:`h_0` are trained. The slope of leakyReLU
    below zero is 0.1.

    Parameters
    ----------
    input_size, hidden_size, output_size : int
        Number ``m`` of input features, ``n`` of hidden units and ``k`` of outputs.
    reflections : int, optional
        Number ``r`` of reflections, from 1 to n. Default: 32, the number in the paper for pixel-by-pixel images, or n
        if n is less.
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
        If ``reflections`` is out of range.

    Notes
    -----
    Number of parameters: nr - r(r - 1)/2 + nm + n + nk + k + n. The lengths of the r vectors have no effect.
    Initialization: the directions are uniform, V in :math:`\pm\sqrt{6/(m + n)}`, Y in :math:`\pm\sqrt{6/(n + k)}`, and
    :math:`h_0` in :math:`\pm\sqrt{3/(2n)}`. b and c are zero. ``bias_hh_l0`` is zero and not trained.

    All weights have one learning rate. ``parameter_groups(lr)`` excludes the vectors from weight decay. The released
    code trains by Adam or RMSprop. It scales the vectors to length 1 after each step, and its gradient assumes this
    length. Source: Mhammedi, Hellicar, Rahman and Bailey (2017).

    Examples
    --------
    >>> network = mr.zoo.ornn(1, 256, 10)
    >>> assert mr.degrees_of_freedom(network) == 11034
    """
    options: dict[str, Any] = {"nonlinearity": nn.LeakyReLU(0.1), "batch_first": True, "device": device, "dtype": dtype}
    count = min(32, hidden_size) if reflections is None else reflections
    product: dict[str, Any] = {"constraint": Reflections(count), "view": "trivialized"}
    layer = RNN(input_size, hidden_size, **options, **product, train_initial_state=True)
    network = Network(layer, output_size)
    entry: Any = layer.get_submodule("constraints.weight_hh_l0")
    entry.reset(generator)
    one_bias(layer)
    init.zeros_(layer.get_parameter("bias_ih_l0"))
    init.xavier_uniform_(layer.get_parameter("weight_ih_l0"), generator=generator)
    bound = math.sqrt(3 / (2 * hidden_size))
    init.uniform_(layer.get_parameter("initial_state_l0"), -bound, bound, generator=generator)
    init.xavier_uniform_(network.readout.weight, generator=generator)
    init.zeros_(network.readout.bias)
    return network
