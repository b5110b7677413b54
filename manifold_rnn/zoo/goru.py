"""The gated orthogonal recurrent unit."""

import math
from typing import Literal

import torch
from torch.nn import init

from ..constraints import Rotations, constrain
from ..nn import Layer, cells
from .network import Network


def goru(
    input_size: int,
    hidden_size: int,
    output_size: int,
    *,
    layout: Literal["fft", "tunable"] = "fft",
    layers: int | None = None,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Network:
    r"""GORU: a gated unit whose candidate rotates the state by a product of plane rotations.

    .. math::
        r_t &= \sigma(W_r h_{t-1} + U_r x_t + b_r), \qquad g_t = \sigma(W_g h_{t-1} + U_g x_t + b_g), \\
        h_t &= g_t \circ h_{t-1} + (1 - g_t) \circ \operatorname{modReLU}(r_t \circ (Q h_{t-1}) + U_c x_t;\; b_c),
        \qquad o_t = V h_t + c,

    Q is the real matrix of `manifold_rnn.Rotations`, whose angles are trained. :math:`h_0 = 0`.

    Parameters
    ----------
    input_size, hidden_size, output_size : int
        Number ``m`` of input features, ``n`` of hidden units and ``k`` of outputs.
    layout : "fft" or "tunable"
        Layout of the rotations. "fft" needs a power of 2 as n.
    layers : int, optional
        Number of layers of rotations for "tunable". The released code has 2. Default: n, which can represent every
        rotation.
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
        If ``layout`` is unknown, or ``layers`` or ``hidden_size`` does not fit it.

    Notes
    -----
    Number of parameters: :math:`3nm + 2n^2 + 3n + \frac n2 \log_2 n + nk + k`. With L tunable layers there are L(n -
    1)/2 angles, for even L or odd n. Initialization: angles are uniform on the circle, and U, W_r and W_g in ±0.01. The
    bias b_r is 2, which opens the reset gate. The bias b_g is uniform in :math:`\pm\sqrt{3/n}`, and V in
    :math:`\pm\sqrt{6/(m + k)}`. Finally, b_c and c are 0.01.

    All weights have one learning rate, 1e-3 with RMSprop in the released code. ``parameter_groups(lr)`` excludes the
    angles from weight decay. The released code adds 0.001 to the modulus in modReLU, and has an "fft" layout for every
    n. The reset gate multiplies the rotated state. Source: Jing et al. (2019).

    Examples
    --------
    >>> network = mr.zoo.goru(1, 64, 10)
    >>> assert mr.degrees_of_freedom(network) == 3 * 64 + 2 * 64**2 + 3 * 64 + 32 * 6 + 64 * 10 + 10
    """
    cell, name = cells.GORU(), "weight_hh_l0"
    layer = Layer(cell, input_size, hidden_size, batch_first=True, device=device, dtype=dtype)
    block = cell.gates.index("c")
    network = Network(layer, output_size, rates={f"members.{block}": 1.0})
    cell.bind({name.removesuffix("_l0"): p for name, p in layer.named_parameters()}).reset(generator)
    constrain(layer, name, {block: Rotations(layout, layers)}, view="trivialized", blocks=len(cell.gates))
    for angles in layer.get_submodule(f"constraints.{name}.members.{block}").parameters():
        init.uniform_(angles, -math.pi, math.pi, generator=generator)
    bound = math.sqrt(6 / (input_size + output_size))
    init.uniform_(network.readout.weight, -bound, bound, generator=generator)
    init.constant_(network.readout.bias, 0.01)
    return network
