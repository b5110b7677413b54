"""Unconstrained networks with a non-normal initial matrix, and the normal ones that they are compared with."""

from typing import Any, Literal

import torch
from torch import nn
from torch.nn import init

from ..errors import OptionError
from ..nn import RNN
from ..nn.init import chain_, feedback_chain_, scaled_identity_, scaled_orthogonal_, source_
from .network import Network
from .starts import one_bias

_GAINS = {"chain": 1.02, "feedback_chain": 0.99, "identity": 1.0, "orthogonal": 1.0}
_ACTIVATIONS = {"elu": nn.ELU, "relu": nn.ReLU}


def nonnormal(
    input_size: int,
    hidden_size: int,
    output_size: int,
    *,
    start: Literal["chain", "feedback_chain", "identity", "orthogonal"] = "chain",
    gain: float | None = None,
    feedback: float = 0.04,
    nonlinearity: Literal["elu", "relu"] = "elu",
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Network:
    r"""Non-normal RNN: an unconstrained recurrent matrix that is initialized as a chain of units.

    .. math:: h_t = f(W h_{t-1} + V x_t + b), \qquad o_t = U h_t + c, \qquad h_0 = 0.

    Parameters
    ----------
    input_size, hidden_size, output_size : int
        Number ``m`` of input features, ``n`` of hidden units and ``k`` of outputs.
    start : "chain", "feedback_chain", "identity" or "orthogonal"
        Initialization of ``W``, such as `manifold_rnn.nn.init.chain_`. The last two are normal matrices.
    gain : float, optional
        Factor of the initial matrix. Default: 1.02 for the chain, 0.99 for the chain with feedback, 1 for the others.
    feedback : float
        Feedback weight of the chain with feedback.
    nonlinearity : "elu" or "relu"
        ``f``. The paper uses "elu" for copying and images, and "relu" for adding.
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
        If ``start`` or ``nonlinearity`` is unknown.

    Notes
    -----
    Number of parameters: n² + nm + n + nk + k. Initialization: V by `manifold_rnn.nn.init.source_` for the chains, and
    normal with standard deviation :math:`0.9/\sqrt n` for the others. U follows Glorot's rule, b and c are zero.
    ``bias_hh_l0`` is zero and not trained.

    No weight is constrained. Only the initialization differs. The paper trains all weights by RMSprop at one learning
    rate, from 3e-6 to 8e-4. It clips the norm of the gradient at 10. Source: Orhan and Pitkow (2020).

    Examples
    --------
    >>> network = mr.zoo.nonnormal(1, 25, 10)
    >>> assert mr.degrees_of_freedom(network) == 25**2 + 25 + 25 + 250 + 10
    """
    _require("start", start, _GAINS)
    _require("nonlinearity", nonlinearity, _ACTIVATIONS)
    options: dict[str, Any] = {"batch_first": True, "device": device, "dtype": dtype}
    layer = RNN(input_size, hidden_size, nonlinearity=_ACTIVATIONS[nonlinearity](), **options)
    network = Network(layer, output_size)
    W, V = layer.get_parameter("weight_hh_l0"), layer.get_parameter("weight_ih_l0")
    gain = _GAINS[start] if gain is None else gain
    if start in ("chain", "feedback_chain"):
        chain_(W, gain) if start == "chain" else feedback_chain_(W, gain, feedback)
        source_(V)
    else:
        scaled_identity_(W, gain) if start == "identity" else scaled_orthogonal_(W, gain, generator=generator)
        init.normal_(V, std=0.9 * hidden_size**-0.5, generator=generator)
    one_bias(layer)
    init.zeros_(layer.get_parameter("bias_ih_l0"))
    init.xavier_uniform_(network.readout.weight, generator=generator)
    init.zeros_(network.readout.bias)
    return network


def _require(option: str, value: object, known: dict[str, Any]) -> None:
    if value not in known:
        raise OptionError(
            f"{option} of nonnormal is unknown.\nExpected one of {', '.join(map(repr, known))}, got {value!r}.\n"
            "Check the spelling."
        )
