"""The coupled oscillatory network."""

import torch

from ..nn import Layer
from ..nn.cells import CoRNN
from .network import Network
from .starts import start_cell, start_linear


def cornn(
    input_size: int,
    hidden_size: int,
    output_size: int,
    *,
    time_step: float = 0.076,
    stiffness: float = 0.4,
    damping: float = 8.0,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Network:
    r"""CoRNN: damped oscillators that are coupled by a tanh.

    .. math::
        z_t &= z_{t-1} + \Delta \bigl( \tanh(W_y y_{t-1} + W_z z_{t-1} + V x_t + b)
               - \gamma y_{t-1} - \epsilon z_{t-1} \bigr), \\
        y_t &= y_{t-1} + \Delta z_t, \qquad o_t = U y_t + c.

    Parameters
    ----------
    input_size, hidden_size, output_size : int
        Number ``m`` of input features, ``n`` of hidden units and ``k`` of outputs.
    time_step, stiffness, damping : float
        :math:`\Delta`, :math:`\gamma` and :math:`\epsilon`. Published values are below.
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
        If ``time_step`` is not positive, or one of the other two is negative.

    Notes
    -----
    Number of parameters: 2n² + nm + n + nk + k. No weight is constrained. Initialization: each map is initialized as
    ``torch.nn.Linear``. The map inside tanh counts as one map with m + 2n inputs. All weights have one learning rate.

    =====================  ===  ======  =========  =======  ========
    Task                   n    time    stiffness  damping  rate
    =====================  ===  ======  =========  =======  ========
    pixels in order        256  0.042   2.7        4.7      2.1e-3
    permuted pixels        256  0.076   0.4        8.0      5.4e-3
    noise-padded images    128  0.034   1.3        12.7     7.5e-3
    activities, two kinds  64   0.1     0.2        6.4      1.7e-2
    reviews                128  0.054   4.9        4.8      6e-4
    adding                 128  0.06    66         15       2e-2
    =====================  ===  ======  =========  =======  ========

    With all of these values, the oscillators without tanh are stable (`manifold_rnn.nn.cells.CoRNN.stable`). The
    readout uses positions, not velocities. Source: Rusch and Mishra (2021).

    Examples
    --------
    >>> network = mr.zoo.cornn(1, 256, 10)
    >>> assert mr.degrees_of_freedom(network) == 134154
    """
    cell = CoRNN(time_step, stiffness, damping)
    layer = Layer(cell, input_size, hidden_size, batch_first=True, device=device, dtype=dtype)
    network = Network(layer, output_size)
    start_cell(layer, generator)
    start_linear(network.readout, generator)
    return network
