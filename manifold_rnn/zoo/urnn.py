"""The unitary network whose recurrent matrix is a product of fast transforms."""

import math
from typing import Any

import torch
from torch.nn import init

from ..constraints import UnitaryProduct
from ..nn import RNN
from .network import Network, uniform_parts_


def urnn(
    input_size: int,
    hidden_size: int,
    output_size: int,
    *,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Network:
    r"""URNN: a unitary recurrent matrix, the product of phases, reflections, a permutation and Fourier transforms.

    .. math::
        h_t = \operatorname{modReLU}(W h_{t-1} + U x_t;\; b), \quad
        o_t = V [\operatorname{Re} h_t, \operatorname{Im} h_t] + c, \quad
        W = D_3 R_2 F^{-1} D_2 P R_1 F D_1,

    The phases in the diagonal matrices :math:`D_j`, the vectors of the reflections :math:`R_j`, and a complex
    :math:`h_0` are trained (`manifold_rnn.UnitaryProduct`).

    Parameters
    ----------
    input_size, hidden_size, output_size : int
        Number ``m`` of input features, ``n`` of complex hidden units and ``k`` of outputs.
    generator : torch.Generator, optional
        Source of random numbers, also for the permutation. Default: torch's global generator.
    device : torch.device, optional
        Device of the weights. Default: torch's default device.
    dtype : torch.dtype, optional
        Real or complex. The weights get the complex dtype of this precision, the readout the real one.

    Returns
    -------
    Network

    Notes
    -----
    Number of real parameters: 7n + 2nm + n + 2nk + k + 2n. Initialization: the phases are uniform on the circle. Both
    parts of the vectors are uniform in :math:`\pm\sqrt{6/(2 + 2n)}`, those of U in :math:`\pm\sqrt{6/(m + 2n)}`, and
    those of :math:`h_0` in :math:`\pm\sqrt{3/(2n)}`. V is uniform in :math:`\pm\sqrt{6/(2n + k)}`, b in ±0.01, and c is
    zero.

    All weights have one learning rate, 1e-3 with RMSprop in the released code. The mean square of that RMSprop starts
    at 1e-3, without an epsilon. ``parameter_groups(lr)`` excludes the recurrent weights from weight decay. In modReLU,
    the released code divides by the modulus plus 1e-5, and a state of exactly zero gives NaN. Here modReLU is
    `manifold_rnn.nn.mod_relu`. Source: Arjovsky, Shah and Bengio (2016).

    Examples
    --------
    >>> network = mr.zoo.urnn(1, 512, 10)
    >>> assert mr.degrees_of_freedom(network) == 32 * 512 + 10
    """
    dtype = (dtype or torch.get_default_dtype()).to_complex()
    options: dict[str, Any] = {"nonlinearity": "modrelu", "batch_first": True, "device": device, "dtype": dtype}
    product: dict[str, Any] = {"constraint": UnitaryProduct(), "view": "trivialized"}
    layer = RNN(input_size, hidden_size, **options, **product, train_initial_state=True)
    network = Network(layer, output_size)
    entry: Any = layer.get_submodule("constraints.weight_hh_l0")
    entry.reset(generator)
    uniform_parts_(layer.get_parameter("weight_ih_l0"), math.sqrt(6 / (input_size + 2 * hidden_size)), generator)
    uniform_parts_(layer.get_parameter("initial_state_l0"), math.sqrt(3 / (2 * hidden_size)), generator)
    init.uniform_(layer.get_parameter("bias_l0"), -0.01, 0.01, generator=generator)
    init.xavier_uniform_(network.readout.weight, generator=generator)
    init.zeros_(network.readout.bias)
    return network
