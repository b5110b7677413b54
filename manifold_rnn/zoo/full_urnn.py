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
    r"""Full-capacity uRNN: a recurrent matrix that moves on the whole unitary group.

    .. math::
        h_t = \operatorname{modReLU}(W h_{t-1} + U x_t;\; b), \qquad
        o_t = V [\operatorname{Re} h_t, \operatorname{Im} h_t] + c, \qquad W^H W = I,

    ``W`` itself is the parameter, and a complex :math:`h_0` is trained.

    Parameters
    ----------
    input_size, hidden_size, output_size : int
        ``m``, ``n`` and ``k``; n complex units.
    retraction : str or Retraction
        Another retraction in the place of the Cayley transform.
    view : "update" or "trivialized"
        Let a Riemannian optimizer move ``W`` itself, as the paper does, or train coordinates.
    generator : torch.Generator, optional
        Source of the random numbers.
    device : torch.device, optional
    dtype : torch.dtype, optional
        Real or complex; the weights have its complex form, the readout its real one.

    Returns
    -------
    Network

    Raises
    ------
    OptionError
        If ``retraction`` or ``view`` is unknown.

    Notes
    -----
    Real parameters: :math:`n^2 + 2nm + n + 2nk + k + 2n`. Start: ``W`` is the product of phases, reflections, a
    permutation and Fourier transforms that a restricted uRNN starts with; both parts of U in
    :math:`\pm\sqrt{6/(m + 2n)}`, of :math:`h_0` in :math:`\pm\sqrt{3/(2n)}`, V in :math:`\pm\sqrt{6/(2n + k)}`, b in
    ±0.01, c zero.

    The paper moves ``W`` by plain Cayley steps at the rate of the others, which RMSprop trains. Its step of rate lr is
    `manifold_rnn.optim.RiemannianSGD`'s of rate 2 lr, since it takes the skew part without the half. Adaptive
    optimizers take longer steps: for them ``parameter_groups(lr)`` gives ``W`` a tenth of lr, as for the other networks
    here, which is not the paper's. The released code drops half of the gradient of ``W``; this is the whole.
    Source: Wisdom, Powers, Hershey, Le Roux and Atlas (2016).

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
    """``D_3 R_2 F^-1 D_2 P R_1 F D_1`` of a restricted uRNN's random start, applied to the identity."""
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
