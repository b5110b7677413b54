"""The antisymmetric network."""

from typing import Any, Literal

import torch
from torch import nn

from ..constraints import DampedSkew
from ..linalg import pack_skew, skew
from ..nn import Layer
from ..nn.cells import Euler
from .network import Network
from .starts import start_cell, start_linear


def antisymmetric(
    input_size: int,
    hidden_size: int,
    output_size: int,
    *,
    step_size: float = 0.1,
    damping: float = 0.15,
    method: Literal["euler", "exp", "cayley"] = "euler",
    gated: bool = False,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Network:
    r"""AntisymmetricRNN: Euler steps of a differential equation with a damped skew-symmetric matrix.

    .. math:: h_t = h_{t-1} + \epsilon \tanh(W h_{t-1} + V x_t + b), \qquad W = K - g I, \quad K^{\mathsf T} = -K,

    With ``gated``, a gate is added that also uses ``W`` (`manifold_rnn.nn.cells.Euler`).

    Parameters
    ----------
    input_size, hidden_size, output_size : int
        Number ``m`` of input features, ``n`` of hidden units and ``k`` of outputs.
    step_size : float
        Step size :math:`\epsilon`.
    damping : float
        Damping ``g``.
    method : "euler", "exp" or "cayley"
        "euler" is the network of the paper. With "exp", :math:`I + \epsilon W` is the exact solution of :math:`\dot h =
        (K - gI)h` after the time :math:`\epsilon`. "cayley" is the Cayley approximation of it. See
        `manifold_rnn.DampedSkew`.
    gated : bool
        Whether to add the gate.
    generator : torch.Generator, optional
        Source of random numbers. Default: torch's global generator.
    device : torch.device, optional
        Device of the weights. Default: torch's default device.
    dtype : torch.dtype, optional
        Dtype of the weights. If it is complex, K is skew-Hermitian.

    Returns
    -------
    Network

    Raises
    ------
    OptionError
        If ``method`` is unknown or a number out of range.

    Notes
    -----
    Number of parameters: n(n - 1)/2 + nm + n + nk + k, and nm + n more with a gate. Initialization: the entries of K
    are normal with variance 1/n; V and b are uniform in :math:`\pm 1/\sqrt n`. All weights have one learning rate.

    Around the origin, the published form is stable only if the largest frequency of ``K`` has :math:`\omega^2 \le
    2g/\epsilon - g^2`. This initialization violates the condition for all but small n.
    ``network.layer.constraints["weight_hh_l0"].stable()`` tests it. The other two methods are stable for every ``K``.
    Source: Chang, Chen, Haber and Chi (2019).

    Examples
    --------
    >>> network = mr.zoo.antisymmetric(1, 128, 10)
    >>> assert mr.degrees_of_freedom(network) == 9674
    """
    cell, constraint = Euler(step_size, gated), DampedSkew(damping, step_size, method, residual=True)
    options: dict[str, Any] = {"batch_first": True, "device": device, "dtype": dtype}
    layer = Layer(cell, input_size, hidden_size, **options, constraint=constraint, view="trivialized")
    network = Network(layer, output_size)
    start_cell(layer, generator)
    coordinates = layer.get_parameter("constraints.weight_hh_l0.coordinates")
    with torch.no_grad():
        noise = layer.get_parameter("weight_ih_l0").new_empty(hidden_size, hidden_size)
        nn.init.normal_(noise, std=(2 / hidden_size) ** 0.5, generator=generator)
        coordinates.copy_(pack_skew(skew(noise)))
    start_linear(network.readout, generator)
    return network
