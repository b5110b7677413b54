"""The linear recurrent unit as a network."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import init
from torch.nn.utils.rnn import PackedSequence

from ..constraints import DiagonalDisc
from ..nn import Layer, real_features
from ..nn.cells import LRU
from ..nn.cells.lru import log_gamma_of
from .network import Network

RATES = {"weight_hh": 0.5, "log_gamma": 0.5}


def lru(
    input_size: int,
    hidden_size: int,
    output_size: int,
    *,
    r_min: float = 0.0,
    r_max: float = 1.0,
    max_phase: float = 2 * math.pi,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Network:
    r"""LRU: a linear recurrence with a complex diagonal matrix, whose entries always lie inside the unit circle.

    .. math::
        h_t = \lambda \circ h_{t-1} + e^{g} \circ B x_t, \qquad o_t = \operatorname{Re}(C h_t) + D x_t + c, \qquad
        \lambda_j = e^{-e^{\nu_j} + i \theta_j},

    with complex ``B`` and ``C``. The parameters are :math:`\nu`, :math:`\theta`, g, B, C, D and c.

    Parameters
    ----------
    input_size, hidden_size, output_size : int
        Number ``m`` of input features, ``n`` of complex hidden units and ``k`` of outputs.
    r_min, r_max : float
        Smallest and largest modulus of the initial eigenvalues, which are uniform by area.
    max_phase : float
        The initial phases of the eigenvalues are uniform in [0, max_phase).
    generator : torch.Generator, optional
        Source of random numbers. Default: torch's global generator.
    device : torch.device, optional
        Device of the weights. Default: torch's default device.
    dtype : torch.dtype, optional
        Real or complex. The recurrent weights get the complex dtype of this precision, the readout the real one.

    Returns
    -------
    Network
        Network whose readout is one linear map of :math:`[\operatorname{Re} h, \operatorname{Im} h, x]`. The weight of
        this map is :math:`[\operatorname{Re} C, -\operatorname{Im} C, D]`.

    Raises
    ------
    OptionError
        If ``r_min``, ``r_max`` or ``max_phase`` is out of range.

    Notes
    -----
    Number of real parameters: 3n + 2nm + k(2n + m) + k. Initialization: :math:`g_j = \tfrac12 \log(1 - |\lambda_j|^2)`,
    computed without cancellation. The real and imaginary parts of B are normal with variance 1/(2m), those of C with
    variance 1/n. D is standard normal, c is zero. ``parameter_groups`` gives :math:`\nu`, :math:`\theta` and g half of
    the learning rate and no weight decay.

    A model of the paper is a stack of blocks. Each block has a normalization, this unit, a gated linear unit and a skip
    connection. This builder returns the unit alone. In the paper, inputs and outputs have one size and D is diagonal;
    here D is a matrix. The paper trains the logarithm of the phase; here the phase is trained. Source: Orvieto et al.
    (2023).

    Examples
    --------
    >>> network = mr.zoo.lru(1, 64, 10, r_min=0.9)
    >>> assert network.layer.weight_hh_l0.diagonal().abs().min() > 0.89
    >>> assert mr.degrees_of_freedom(network) == 3 * 64 + 2 * 64 + 10 * 129 + 10
    """
    dtype = (dtype or torch.get_default_dtype()).to_complex()
    cell, disc = LRU(r_min, r_max, max_phase), DiagonalDisc()
    options: dict[str, Any] = {"batch_first": True, "device": device, "dtype": dtype}
    layer = Layer(cell, input_size, hidden_size, **options, constraint=disc, view="trivialized")
    network = _WithInput(layer, output_size, RATES)
    entry = layer.get_submodule("constraints.weight_hh_l0")
    parameters = entry.get_parameter("log_rate"), entry.get_parameter("phase")
    with torch.no_grad():
        for p, start in zip(parameters, cell.ring(parameters[0], generator=generator), strict=True):
            p.copy_(start)
        layer.get_parameter("log_gamma_l0").copy_(log_gamma_of(parameters[0]))
        V, n = network.readout.weight, hidden_size
        init.normal_(layer.get_parameter("weight_ih_l0"), std=input_size**-0.5, generator=generator)
        init.normal_(V[:, : 2 * n], std=n**-0.5, generator=generator)
        init.normal_(V[:, 2 * n :], generator=generator)
    init.zeros_(network.readout.bias)
    return network


class _WithInput(Network):
    """A network whose readout also uses the input of the time step."""

    def __init__(self, layer: Layer, output_size: int, rates: dict[str, float]) -> None:
        super().__init__(layer, output_size, rates)
        old = self.readout
        options: dict[str, Any] = {"device": old.weight.device, "dtype": old.weight.dtype}
        self.readout = nn.Linear(old.in_features + layer.input_size, output_size, **options)

    def _read_out(self, x: Tensor | PackedSequence, h: Tensor | PackedSequence) -> Tensor | PackedSequence:
        if isinstance(h, PackedSequence):
            return PackedSequence(self._read(h.data, x.data), *h[1:])
        return self._read(h, x if isinstance(x, Tensor) and h.dim() == x.dim() else _last(x))

    def _read(self, h: Tensor, x: Any) -> Tensor:
        out: Tensor = self.readout(torch.cat([real_features(h), x], -1))
        return out


def _last(x: Tensor | PackedSequence) -> Tensor:
    """The last input of each sequence."""
    if not isinstance(x, PackedSequence):
        return x[:, -1]
    running = x.batch_sizes
    sequence = torch.arange(int(running[0]))
    length = (running[:, None] > sequence).sum(0)
    last = x.data[(running.cumsum(0) - running)[length - 1] + sequence]
    return last if x.unsorted_indices is None else last[x.unsorted_indices]
