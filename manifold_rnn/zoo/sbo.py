"""The network whose state descends an energy."""

from typing import Any

import torch
from torch.nn import init

from ..constraints import IdentityPlusLowRank
from ..nn import Layer
from ..nn.cells import SBO
from ..nn.cells.sbo import Method
from .network import Network
from .starts import start_cell, start_linear


def sbo(
    input_size: int,
    hidden_size: int,
    output_size: int,
    *,
    method: Method = "heavy_ball",
    rank: int = 50,
    step_size: float = 1e-3,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Network:
    r"""SBO-RNN: a state that descends the gradient of an energy, which depends on the input.

    .. math::
        h_t = h_{t-1} + z_t, \quad z_t = \mu z_{t-1} - \eta \nabla F_t(h_{t-1}), \quad
        F_t(h) = \tfrac12 \lVert h - \operatorname{relu}(W h + V x_t + b) \rVert^2, \quad W = I + L R,

    ``L`` and ``R`` have low rank. Alternatively, ``W`` is a trained multiple of the identity.

    Parameters
    ----------
    input_size, hidden_size, output_size : int
        Number ``m`` of input features, ``n`` of hidden units and ``k`` of outputs.
    method : "heavy_ball", "nesterov" or "sgd"
        Descent method. The formula above is "heavy_ball". `manifold_rnn.nn.cells.SBO` has the others.
    rank : int
        Number ``r`` of columns of ``L``. At most n columns are used. With 0, ``W`` is a trained number times I.
    step_size : float
        :math:`\eta`.
    generator : torch.Generator, optional
        Source of random numbers. Default: torch's global generator.
    device : torch.device, optional
        Device of the weights. Default: torch's default device.
    dtype : torch.dtype, optional
        Real or complex dtype of the weights. Default: torch's default dtype.

    Returns
    -------
    Network

    Raises
    ------
    OptionError
        If ``method`` is unknown, ``rank`` is negative, or ``step_size`` is not positive.

    Notes
    -----
    Number of parameters: 2nr (1 for rank 0) + nm + n + nk + k, and 1 for :math:`\mu` unless the method is "sgd".
    Initialization: all weights, including L and R or the number, are uniform in :math:`\pm 1/\sqrt n`. :math:`\mu` is
    0.5. With exactly ``W = I`` the state would stay 0. All weights have one learning rate, 1e-2 with Adam in the paper.

    In the released code L and R are not parameters, so ``W`` is never trained. Here ``W`` is trained, and the number of
    parameters is that of the model in the paper. Source: Zhang, Yue, Wu, Li and Zhang (2021).

    Examples
    --------
    >>> network = mr.zoo.sbo(1, 128, 10)
    >>> assert mr.degrees_of_freedom(network) == 14347
    """
    cell, constraint = SBO(method, step_size), IdentityPlusLowRank(rank, train_scale=rank == 0)
    options: dict[str, Any] = {"batch_first": True, "device": device, "dtype": dtype}
    layer = Layer(cell, input_size, hidden_size, **options, constraint=constraint, view="trivialized")
    network = Network(layer, output_size)
    start_cell(layer, generator)
    bound = hidden_size**-0.5
    for p in layer.get_submodule("constraints").parameters():
        init.uniform_(torch.view_as_real(p) if p.is_complex() else p, -bound, bound, generator=generator)
    start_linear(network.readout, generator)
    return network
