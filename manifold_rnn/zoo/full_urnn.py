"""The full-capacity unitary network."""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import init

from ..constraints import constrain
from ..manifolds import Unitary
from ..nn import RNN
from ..retractions import Retraction
from .network import Network, uniform_parts_


def full_urnn(
    input_size: int,
    hidden_size: int,
    output_size: int,
    *,
    retraction: str | Retraction = "cayley",
    view: Literal["update", "trivialized"] = "update",
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Network:
    r"""Full-capacity uRNN: a recurrent matrix that can be any unitary matrix.

    .. math::
        h_t = \operatorname{modReLU}(W h_{t-1} + U x_t;\; b), \qquad
        o_t = V [\operatorname{Re} h_t, \operatorname{Im} h_t] + c, \qquad W^H W = I,

    ``W`` itself is the parameter. A complex :math:`h_0` is trained too.

    Parameters
    ----------
    input_size, hidden_size, output_size : int
        Number ``m`` of input features, ``n`` of complex hidden units and ``k`` of outputs.
    retraction : str or Retraction
        Retraction that replaces the Cayley transform.
    view : "update" or "trivialized"
        With "update" a Riemannian optimizer moves ``W`` itself, as in the paper. "trivialized" trains coordinates of
        ``W``.
    generator : torch.Generator, optional
        Source of random numbers. Default: torch's global generator.
    device : torch.device, optional
        Device of the weights. Default: torch's default device.
    dtype : torch.dtype, optional
        Real or complex. The weights get the complex dtype of this precision, the readout the real one.

    Returns
    -------
    Network

    Raises
    ------
    OptionError
        If ``retraction`` or ``view`` is unknown.

    Notes
    -----
    Number of real parameters: :math:`n^2 + 2nm + n + 2nk + k + 2n`. Initialization: ``W`` is the initial matrix of a
    restricted uRNN, a product of phases, reflections, a permutation and Fourier transforms. Both parts of U are uniform
    in :math:`\pm\sqrt{6/(m + 2n)}`, those of :math:`h_0` in :math:`\pm\sqrt{3/(2n)}`. V is uniform in
    :math:`\pm\sqrt{6/(2n + k)}`, b in ±0.01, and c is zero.

    The paper moves ``W`` by plain Cayley steps. RMSprop trains the other weights at the same learning rate. The paper
    defines the skew part without the factor 1/2. So its step with rate lr is a step of
    `manifold_rnn.optim.RiemannianSGD` with rate 2 lr. Adaptive optimizers take longer steps. Therefore
    ``parameter_groups(lr)`` gives ``W`` a tenth of lr, as in the other networks here, but not in the paper. The
    released code drops half of the gradient of ``W``. Here the whole gradient is used. Source: Wisdom, Powers, Hershey,
    Le Roux and Atlas (2016).

    Examples
    --------
    >>> network = mr.zoo.full_urnn(1, 116, 10)
    >>> assert mr.degrees_of_freedom(network) == 16366
    """
    layer = RNN(
        input_size,
        hidden_size,
        nonlinearity="modrelu",
        batch_first=True,
        device=device,
        dtype=(dtype or torch.get_default_dtype()).to_complex(),
        train_initial_state=True,
    )
    network = Network(layer, output_size, rates=0.1)
    W = _restricted_product(layer.get_parameter("weight_hh_l0").detach(), generator)
    constrain(layer, "weight_hh_l0", Unitary(retraction), view=view, init=lambda _: W)
    uniform_parts_(layer.get_parameter("weight_ih_l0"), math.sqrt(6 / (input_size + 2 * hidden_size)), generator)
    uniform_parts_(layer.get_parameter("initial_state_l0"), math.sqrt(3 / (2 * hidden_size)), generator)
    init.uniform_(layer.get_parameter("bias_l0"), -0.01, 0.01, generator=generator)
    init.xavier_uniform_(network.readout.weight, generator=generator)
    init.zeros_(network.readout.bias)
    return network


def _restricted_product(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """The random initial matrix ``D_3 R_2 F^-1 D_2 P R_1 F D_1`` of a restricted uRNN."""
    n = len(like)

    def phases() -> Tensor:
        theta = like.real.new_empty(n, 1).uniform_(-math.pi, math.pi, generator=generator)
        return torch.polar(torch.ones_like(theta), theta)

    def reflected(x: Tensor) -> Tensor:
        v = uniform_parts_(like.new_empty(n, 1), math.sqrt(6 / (2 + 2 * n)), generator)
        return x - 2 * v @ (v.mH @ x) / v.abs().square().sum()

    x = phases() * torch.eye(n, dtype=like.dtype, device=like.device)
    x = reflected(torch.fft.fft(x, dim=0, norm="ortho"))
    x = phases() * x[torch.randperm(n, generator=generator, device=like.device)]
    return phases() * reflected(torch.fft.ifft(x, dim=0, norm="ortho"))
