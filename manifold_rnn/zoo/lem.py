"""The network of long expressive memory."""

import torch
from torch.nn import init

from ..nn import Layer
from ..nn.cells import LEM
from .network import Network
from .starts import start_cell, start_linear


def lem(
    input_size: int,
    hidden_size: int,
    output_size: int,
    *,
    time_step: float = 0.21,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Network:
    r"""LEM: two states with time steps that depend on the states and inputs.

    .. math::
        a_t &= \Delta\, \sigma(W_a y_{t-1} + V_a x_t + b_a), \qquad
        c_t = \Delta\, \sigma(W_c y_{t-1} + V_c x_t + b_c), \\
        z_t &= (1 - c_t) \circ z_{t-1} + c_t \circ \tanh(W_z y_{t-1} + V_z x_t + b_z), \\
        y_t &= (1 - a_t) \circ y_{t-1} + a_t \circ \tanh(W_y z_t + V_y x_t + b_y), \qquad o_t = U y_t + c.

    Parameters
    ----------
    input_size, hidden_size, output_size : int
        Number ``m`` of input features, ``n`` of hidden units and ``k`` of outputs.
    time_step : float
        :math:`\Delta`. Published values are below.
    generator : torch.Generator, optional
        Source of random numbers. Default: torch's global generator.
    device : torch.device, optional
        Device of the weights. Default: torch's default device.
    dtype : torch.dtype, optional
        Real or complex dtype of the weights. Default: torch's default dtype.

    Returns
    -------
    Network

    Raises
    ------
    OptionError
        If ``time_step`` is not positive.

    Notes
    -----
    Number of parameters: 4n² + 4nm + 8n + nk + k, as in an LSTM. No weight is constrained. Initialization: all weights
    and biases of the cell are uniform in :math:`\pm 1/\sqrt n`. U follows Kaiming's rule, and c is initialized as in
    ``torch.nn.Linear``. The paper uses one learning rate, Adam, and gradients clipped at a norm of 1.

    Published time steps and learning rates:

    - pixels in order (n = 128): 0.21 and 1.8e-3
    - permuted pixels: 0.31 and 7.3e-3
    - noise-padded images: 0.44 and 3.22e-3
    - adding: 0.0242 and 2.6e-3
    - sequences of about 18,000 steps (n = 32): 1.7e-4 and 6.09e-3

    Source: Rusch, Mishra, Erichson and Mahoney (2022).

    Examples
    --------
    >>> network = mr.zoo.lem(1, 128, 10)
    >>> assert mr.degrees_of_freedom(network) == 68362
    """
    layer = Layer(LEM(time_step), input_size, hidden_size, batch_first=True, device=device, dtype=dtype)
    network = Network(layer, output_size)
    start_cell(layer, generator)
    start_linear(network.readout, generator)
    init.kaiming_normal_(network.readout.weight, generator=generator)
    return network
