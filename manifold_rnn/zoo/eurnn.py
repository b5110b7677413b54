"""The efficient unitary network: rotations in layers."""

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import init

from ..constraints import Rotations
from ..nn import RNN
from .network import Network, uniform_parts_


def eurnn(
    input_size: int,
    hidden_size: int,
    output_size: int,
    *,
    layout: Literal["tunable", "fft"] = "tunable",
    layers: int | None = None,
    real: bool = False,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Network:
    r"""EURNN: a unitary recurrent matrix that is a product of layers of plane rotations.

    .. math::
        h_t = \operatorname{modReLU}(W h_{t-1} + U x_t;\; b), \quad o_t = V \operatorname{Re} h_t + c, \quad
        W = D\, G_L \cdots G_1,

    with trained angles and phases (`manifold_rnn.Rotations`) and :math:`h_0 = 0`.

    Parameters
    ----------
    input_size, hidden_size, output_size : int
        Number ``m`` of input features, ``n`` of hidden units and ``k`` of outputs. The units are complex unless
        ``real``.
    layout : "tunable" or "fft"
        "tunable" rotates neighboring coordinates. "fft" rotates coordinates at distances 1, 2, 4 and so on, and needs
        a power of 2 as n.
    layers : int, optional
        Number ``L`` of layers for "tunable". Default: 2. With n layers, every unitary matrix can be represented.
    real : bool
        Whether to fix all phases to 0, so that the states are real.
    generator : torch.Generator, optional
        Source of random numbers. Default: torch's global generator.
    device : torch.device, optional
        Device of the weights. Default: torch's default device.
    dtype : torch.dtype, optional
        Real or complex. The weights get the complex dtype of this precision unless ``real``, the readout the real one.

    Returns
    -------
    Network

    Raises
    ------
    OptionError
        If ``layout`` is unknown, ``layers`` is out of range, or n is not a power of 2 for "fft".

    Notes
    -----
    Number of real parameters for even L or odd n: L(n - 1) + n + 2nm + n + nk + k. For "fft", :math:`n \log_2 n`
    replaces L(n - 1). With ``real``, the number is L(n - 1)/2 + nm + n + nk + k.

    Initialization: angles and phases are uniform on the circle. Both parts of U are uniform in ±0.01, V in
    :math:`\pm\sqrt{6/(m + k)}` for every n. c is 0.01 and b is zero.

    All weights have one learning rate. The released code uses RMSprop at 1e-3 with decay 0.9 for the copying problem.
    ``parameter_groups(lr)`` excludes the angles from weight decay. The released code adds 0.01 to the modulus in
    modReLU, also for real states. So with a zero bias, its modReLU is not the identity. Here modReLU is
    `manifold_rnn.nn.mod_relu`. Source: Jing et al. (2017).

    Examples
    --------
    >>> network = mr.zoo.eurnn(1, 128, 10, layers=4)
    >>> assert mr.degrees_of_freedom(network) == 4 * 127 + 128 + 2 * 128 + 128 + 128 * 10 + 10
    """
    layers = 2 if layers is None and layout == "tunable" else layers
    dtype = dtype or torch.get_default_dtype()
    dtype = dtype.to_real() if real else dtype.to_complex()
    options: dict[str, Any] = {"nonlinearity": "modrelu", "batch_first": True, "device": device, "dtype": dtype}
    product: dict[str, Any] = {"constraint": Rotations(layout, layers), "view": "trivialized"}
    layer = RNN(input_size, hidden_size, **options, **product)
    network = Network(layer, output_size)
    if not real:
        network.readout = _RealPart(hidden_size, output_size, device=device, dtype=dtype.to_real())
    entry: Any = layer.get_submodule("constraints.weight_hh_l0")
    entry.reset(generator)
    U = layer.get_parameter("weight_ih_l0")
    uniform_parts_(U, 0.01, generator) if U.is_complex() else init.uniform_(U, -0.01, 0.01, generator=generator)
    init.zeros_(layer.get_parameter("bias_l0"))
    bound = math.sqrt(6 / (input_size + output_size))
    init.uniform_(network.readout.weight, -bound, bound, generator=generator)
    init.constant_(network.readout.bias, 0.01)
    return network


class _RealPart(nn.Linear):
    """A linear map of the first half of [Re, Im]."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input[..., : self.in_features])
