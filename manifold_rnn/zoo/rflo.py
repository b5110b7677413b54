"""The leaky network that was published with random feedback local online learning."""

from numbers import Real

import torch
from torch.nn import init

from ..errors import DtypeError, OptionError
from ..nn import Layer
from ..nn.cells import LeakyElman
from .network import Network


def rflo(
    input_size: int,
    hidden_size: int,
    output_size: int,
    *,
    leak: float | tuple[float, ...] = 0.1,
    gain: float = 1.5,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Network:
    r"""Leaky RNN with a chaotic initialization, published with RFLO.

    .. math:: h_t = (1 - a) h_{t-1} + a \tanh(W h_{t-1} + V x_t), \qquad o_t = U h_t + c.

    Parameters
    ----------
    input_size, hidden_size, output_size : int
        Number ``m`` of input features, ``n`` of hidden units and ``k`` of outputs.
    leak : float or tuple of float
        ``a``, the reciprocal of the time constant, in time steps.
    gain : float
        Gain g of the initial ``W``, a positive number. With a gain above 1, the units are irregularly active even
        without inputs.
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
        If ``leak`` or ``gain`` is out of range.
    DtypeError
        If ``dtype`` is complex or of integers.

    Notes
    -----
    Number of parameters: n² + nm + nk + k. Initialization: W is normal with standard deviation :math:`g/\sqrt n`, V
    uniform in [-0.1, 0], U uniform in :math:`\pm 0.1/\sqrt n`, and c zero. The paper has no c.

    `manifold_rnn.online.RFLO` trains the network by the rule of the paper, as does ``learning: {rule: rflo}`` in a run.
    Otherwise it is trained by backpropagation. In its experiment without inputs, the paper trains W and U by plain
    gradient steps at rate 0.03, and does not train V. Source: Murray (2019), and its released code.

    Examples
    --------
    >>> network = mr.zoo.rflo(1, 50, 1)
    >>> assert mr.degrees_of_freedom(network) == 50**2 + 50 + 50 + 1
    """
    if isinstance(gain, bool) or not isinstance(gain, Real) or not 0 < gain < float("inf"):
        raise OptionError(
            f"The gain of rflo is out of range.\nExpected a positive number, got {gain!r:.80}.\nThe paper uses 1.5."
        )
    if dtype is not None and not dtype.is_floating_point:
        raise DtypeError(
            f"The network rflo is real.\nExpected float32 or float64, got {dtype}.\n"
            "Use a real dtype, because the rule has no derivative of a complex tanh."
        )
    cell = LeakyElman(bias=False, leak=leak)
    layer = Layer(cell, input_size, hidden_size, batch_first=True, device=device, dtype=dtype)
    network = Network(layer, output_size)
    scale = hidden_size**-0.5
    init.normal_(layer.get_parameter("weight_hh_l0"), std=gain * scale, generator=generator)
    init.uniform_(layer.get_parameter("weight_ih_l0"), -0.1, 0.0, generator=generator)
    init.uniform_(network.readout.weight, -0.1 * scale, 0.1 * scale, generator=generator)
    init.zeros_(network.readout.bias)
    return network
