"""The scaled Cayley unitary network."""

import math
from typing import Literal

import torch
from torch.nn import init

from ..constraints import PhaseScaled, constrain, release
from ..linalg import pack_skew
from ..manifolds import Unitary
from ..nn import RNN
from ..nn.init import cayley_
from ..retractions import Retraction
from .network import Network, uniform_parts_


def scurnn(
    input_size: int,
    hidden_size: int,
    output_size: int,
    *,
    retraction: str | Retraction = "cayley",
    view: Literal["update", "trivialized"] = "trivialized",
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Network:
    r"""ScuRNN: a unitary recurrent matrix that is a Cayley transform, scaled by trained phases.

    .. math::
        h_t = \operatorname{modReLU}(W h_{t-1} + U x_t;\; b), \quad
        o_t = V [\operatorname{Re} h_t, \operatorname{Im} h_t] + c, \quad
        W = (I + A)^{-1} (I - A)\, \operatorname{diag}(e^{i\theta}),

    with a skew-Hermitian ``A``, phases :math:`\theta` and a complex :math:`h_0`, all trained.

    Parameters
    ----------
    input_size, hidden_size, output_size : int
        Number ``m`` of input features, ``n`` of complex hidden units and ``k`` of outputs.
    retraction : str or Retraction
        Retraction that replaces the Cayley transform.
    view : "trivialized" or "update"
        "trivialized" trains ``A`` and the phases, as the paper does. With "update" a Riemannian optimizer moves ``W``
        itself.
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
    Number of real parameters: :math:`n^2 + n + 2nm + n + 2nk + k + 2n`. The update view has n fewer, because it has no
    phases. Initialization: ``A`` is real, by `manifold_rnn.nn.init.cayley_`, and the phases are uniform on the circle.
    The bias b and both parts of :math:`h_0` are uniform in ±0.01. U and V follow Glorot's rule for the real and
    imaginary parts side by side, and c is zero.

    The paper trains ``A`` by RMSprop at a tenth of the learning rate of the other weights, which Adam trains. It trains
    the phases by Adagrad at the full rate. Here :math:`W = \operatorname{cay}(-2A) D`, and the coordinates are the
    off-diagonal entries times :math:`\sqrt 2`. So ``parameter_groups(lr)`` gives them the rate :math:`0.2\sqrt 2` lr,
    and the phases lr. The coordinates of the imaginary diagonal are its entries, so it moves :math:`\sqrt 2` times as
    far as in the paper. These factors are right for optimizers whose step does not depend on the scale of the gradient.

    The modulus in modReLU is smoothed as in `manifold_rnn.nn.mod_relu`. Source: Maduranga, Helfrich and Ye (2019).

    Examples
    --------
    >>> network = mr.zoo.scurnn(1, 116, 10)
    >>> assert mr.degrees_of_freedom(network) == 16482
    """
    dtype = (dtype or torch.get_default_dtype()).to_complex()
    layer = RNN(
        input_size,
        hidden_size,
        nonlinearity="modrelu",
        batch_first=True,
        device=device,
        dtype=dtype,
        train_initial_state=True,
    )
    name = "weight_hh_l0"
    rate = 0.1 * 2 * math.sqrt(2)
    rates = {"coordinates": rate, "phases": 1.0} if view == "trivialized" else {name: rate}
    network = Network(layer, output_size, rates=rates)
    A = cayley_(layer.get_parameter(name).new_empty(hidden_size, hidden_size), generator=generator)
    eye = torch.eye(hidden_size, dtype=dtype, device=device)
    constrain(layer, name, PhaseScaled(Unitary(retraction)), view="trivialized", init=lambda _: eye)
    with torch.no_grad():
        layer.get_parameter(f"constraints.{name}.coordinates").copy_(pack_skew(-2 * A))
    init.uniform_(layer.get_parameter(f"constraints.{name}.phases"), 0, 2 * math.pi, generator=generator)
    if view != "trivialized":
        constrain(release(layer, name), name, Unitary(retraction), view=view)
    uniform_parts_(layer.get_parameter("weight_ih_l0"), math.sqrt(6 / (input_size + 2 * hidden_size)), generator)
    uniform_parts_(layer.get_parameter("initial_state_l0"), 0.01, generator)
    init.uniform_(layer.get_parameter("bias_l0"), -0.01, 0.01, generator=generator)
    init.xavier_uniform_(network.readout.weight, generator=generator)
    init.zeros_(network.readout.bias)
    return network
