"""The Lipschitz network."""

from typing import Any

import torch
from torch.nn import init

from ..constraints import LipschitzMixture
from ..nn import Layer
from ..nn.cells import Lipschitz
from .network import Network
from .starts import start_linear


def lipschitz(
    input_size: int,
    hidden_size: int,
    output_size: int,
    *,
    beta: float = 0.75,
    damping: float = 0.001,
    step_size: float = 0.03,
    gated: bool = False,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Network:
    r"""Lipschitz RNN: a linear and a nonlinear part, whose matrices mix a symmetric and a skew-symmetric matrix.

    .. math::
        h_t = h_{t-1} + \epsilon \bigl( A h_{t-1} + \tanh(W h_{t-1} + V x_t + b) \bigr), \qquad
        A = M(B_A), \quad W = M(B_W),

    .. math:: M(B) = \beta (B - B^{\mathsf T}) + (1 - \beta)(B + B^{\mathsf T}) - g I,

    With ``gated``, a gate is added that also uses ``W`` (`manifold_rnn.nn.cells.Lipschitz`).

    Parameters
    ----------
    input_size, hidden_size, output_size : int
        Number ``m`` of input features, ``n`` of hidden units and ``k`` of outputs.
    beta : float
        Weight :math:`\beta` of the skew part, from 0 to 1, for both matrices.
    damping : float
        ``g``, for both matrices.
    step_size : float
        :math:`\epsilon`.
    gated : bool
        Whether to add the gate.
    generator : torch.Generator, optional
        Source of random numbers. Default: torch's global generator.
    device : torch.device, optional
        Device of the weights. Default: torch's default device.
    dtype : torch.dtype, optional
        Dtype of the weights. If it is complex, adjoints replace transposes.

    Returns
    -------
    Network

    Raises
    ------
    OptionError
        If ``beta`` is outside [0, 1], or another number is out of range.

    Notes
    -----
    Number of parameters: 2n² + nm + n + nk + k, and nm + n more with a gate. Initialization: both B are normal with
    standard deviation 0.1/n. V and b are initialized as in ``torch.nn.Linear``. All weights have one learning rate,
    3e-3 with Adam in the paper.

    If ``beta`` is below 1, the matrices may have eigenvalues with positive real parts, already at the initialization.
    So the form favors slow growth or decay, but it does not enforce either. Source: Erichson, Azencot, Queiruga,
    Hodgkinson and Mahoney (2021).

    Examples
    --------
    >>> network = mr.zoo.lipschitz(1, 128, 10)
    >>> assert mr.degrees_of_freedom(network) == 34314
    """
    constraint = LipschitzMixture(beta, damping)
    options: dict[str, Any] = {"batch_first": True, "device": device, "dtype": dtype}
    cell = Lipschitz(step_size, gated)
    layer = Layer(cell, input_size, hidden_size, **options, constraint=constraint, view="trivialized")
    network = Network(layer, output_size)
    B = layer.get_parameter("constraints.weight_hh_l0.members.0_1.matrix")  # (2, n, n)
    init.normal_(B, std=0.1 / hidden_size, generator=generator)
    bound = input_size**-0.5
    for name in ("weight_ih_l0", "bias_l0"):
        p = layer.get_parameter(name)
        init.uniform_(torch.view_as_real(p) if p.is_complex() else p, -bound, bound, generator=generator)
    start_linear(network.readout, generator)
    return network
