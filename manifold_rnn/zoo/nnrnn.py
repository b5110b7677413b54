"""The non-normal network with a Schur form."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import init

from ..constraints import SchurForm
from ..linalg import pack_skew
from ..nn import RNN
from ..nn.init import cayley_
from ..retractions import Retraction
from .network import Network


def nnrnn(
    input_size: int,
    hidden_size: int,
    output_size: int,
    *,
    angles: Callable[..., Tensor] = cayley_,
    legacy_mask: bool = False,
    retraction: str | Retraction = "exp",
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Network:
    r"""NnRNN: a recurrent matrix in Schur form, with a non-normal part and a penalty on the moduli of eigenvalues.

    .. math::
        h_t = \operatorname{modReLU}(W h_{t-1} + U x_t;\; b), \qquad o_t = V h_t + c, \qquad
        W = P (\Lambda + T) P^{\mathsf T}, \quad P = e^A,

    :math:`\Lambda` has blocks :math:`\gamma_j R(\theta_j)`, ``T`` is strictly above the blocks, and ``A`` is
    skew-symmetric. All of them are trained (`manifold_rnn.SchurForm`). :math:`h_0 = 0`.

    Parameters
    ----------
    input_size, hidden_size, output_size : int
        Number ``m`` of input features, ``n`` of hidden units and ``k`` of outputs.
    angles : callable
        Initializer of ``A`` from `manifold_rnn.nn.init`. The paper uses `cayley_`, and `henaff_` for copying.
    legacy_mask : bool
        Whether ``T`` overlaps the blocks, as in the released code. Then ``T`` changes the eigenvalues.
    retraction : str or Retraction
        Retraction that replaces the exponential.
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
        If ``retraction`` is unknown.

    Notes
    -----
    Number of parameters for even n: n(n - 1)/2 + n + n(n - 2)/2 + nm + n + nk + k, and n/2 more with ``legacy_mask``.
    Initialization: :math:`\theta` is uniform on the circle, :math:`\gamma` is 1, T and c are zero. U and V follow
    Glorot's normal rule, b is uniform in ±0.01. ``A`` has the block structure of :math:`\Lambda`, so the initial W
    equals :math:`\Lambda`.

    The paper adds :math:`\delta \sum_j (\gamma_j - 1)^2` to the loss, which is :math:`\delta` times
    ``network.layer.constraints["weight_hh_l0"].penalty()``. Depending on the task, :math:`\delta` is from 1e-4 to 1. It
    trains ``A`` at about a tenth of the learning rate of the other weights. Only ``T`` has weight decay, from 1e-6 to
    1e-4.

    The coordinates of ``A`` are its entries times :math:`\sqrt 2`. ``parameter_groups(lr)`` puts them into the first
    group, with the rate :math:`0.1\sqrt 2` lr. The second group is ``T``. Its ``"weight_decay"`` is 0, and you can set
    it. The paper updates ``A`` before the other weights, with a separate optimizer. Source: Kerg et al. (2019).

    Examples
    --------
    >>> network = mr.zoo.nnrnn(1, 128, 9, legacy_mask=True)
    >>> assert mr.degrees_of_freedom(network) == 17801
    """
    options: dict[str, Any] = {"nonlinearity": "modrelu", "batch_first": True, "device": device, "dtype": dtype}
    form: dict[str, Any] = {"constraint": SchurForm(retraction, legacy_mask), "view": "trivialized"}
    layer = RNN(input_size, hidden_size, **options, **form)
    network = Network(layer, output_size, rates={"frame.coordinates": 0.1 * math.sqrt(2), "triangle": 1.0})
    entry: Any = layer.get_submodule("constraints.weight_hh_l0")
    entry.reset(generator)
    A = angles(layer.get_parameter("weight_ih_l0").new_empty(hidden_size, hidden_size), generator=generator)
    with torch.no_grad():
        entry.frame.coordinates.copy_(pack_skew(A))
    init.xavier_normal_(layer.get_parameter("weight_ih_l0"), generator=generator)
    init.uniform_(layer.get_parameter("bias_l0"), -0.01, 0.01, generator=generator)
    init.xavier_normal_(network.readout.weight, generator=generator)
    init.zeros_(network.readout.bias)
    return network
