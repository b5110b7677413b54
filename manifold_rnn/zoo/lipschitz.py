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
    r"""Lipschitz RNN: a linear and a nonlinear part, both matrices mixtures of a symmetric and a skew one.

    .. math::
        h_t = h_{t-1} + \epsilon \bigl( A h_{t-1} + \tanh(W h_{t-1} + V x_t + b) \bigr), \qquad
        A = M(B_A), \quad W = M(B_W),

    .. math:: M(B) = \beta (B - B^{\mathsf T}) + (1 - \beta)(B + B^{\mathsf T}) - g I,

    with a gate, if asked for, that shares ``W`` (`manifold_rnn.nn.cells.Lipschitz`).

    Parameters
    ----------
    input_size, hidden_size, output_size : int
        ``m``, ``n`` and ``k``.
    beta : float
        Weight of the skew part, from 0 to 1, the same for both matrices.
    damping : float
        ``g``, the same for both.
    step_size : float
        :math:`\epsilon`.
    gated : bool
        Whether there is the gate.
    generator : torch.Generator, optional
        Source of the random numbers.
    device : torch.device, optional
    dtype : torch.dtype, optional
        Real, or complex with adjoints in the place of transposes.

    Returns
    -------
    Network

    Raises
    ------
    OptionError
        If ``beta`` is outside [0, 1] or another number out of range.

    Notes
    -----
    Parameters: 2n² + nm + n + nk + k, with a gate nm + n more. Start: B normal with standard deviation 0.1/n; V and b
    as in ``torch.nn.Linear``. One learning rate: 3e-3 in the paper, with Adam.

    The matrices need not have eigenvalues with negative real parts, not even at the start, unless ``beta`` is 1: the
    form favours slow growth or decay, it does not enforce any. Source: Erichson, Azencot, Queiruga, Hodgkinson and
    Mahoney (2021).

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
