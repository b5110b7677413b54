"""The Euler cell: one explicit step of a differential equation."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...linalg import spectral_radius
from ..activations import gate, mod_tanh
from .affine import AffineCell
from .base import State
from .options import require_number


@dataclass(frozen=True, eq=False)
class Euler(AffineCell):
    r"""The Euler step of :math:`\dot h = \tanh(W h + V x + b)`. With a damped skew ``W``, it is AntisymmetricRNN.

    .. math:: h_t = h_{t-1} + \epsilon \tanh(W h_{t-1} + V x_t + b),

    With a gate that shares the recurrent matrix, it is

    .. math::
        h_t = h_{t-1} + \epsilon\, \sigma(W h_{t-1} + V_z x_t + b_z) \circ \tanh(W h_{t-1} + V x_t + b).

    Parameters
    ----------
    step_size : float
        Positive step size :math:`\epsilon`.
    gated : bool
        Whether to use the gate.
    bias : bool, keyword only
        Whether to add the bias ``b``.
    weights : mapping from str to Tensor
        ``weight_ih`` (n, m), ``bias`` (n,) and ``weight_hh`` (n, n). With a gate, ``weight_ih`` and ``bias`` have twice
        as many rows, and the second half belongs to the gate.

    Raises
    ------
    OptionError
        If ``step_size`` is not a positive number.

    Notes
    -----
    At the origin, a step without inputs multiplies the state by :math:`I + \epsilon W`. A skew ``W`` with damping ``g``
    has the eigenvalues :math:`i\omega - g`, and the state grows unless :math:`\omega^2 \le 2g/\epsilon - g^2`. So an
    antisymmetric matrix alone does not make the step stable. `growth` measures the growth. With complex weights, the
    gate is `manifold_rnn.nn.gate` and tanh is `manifold_rnn.nn.mod_tanh`. Weights are initialized uniformly in
    :math:`\pm 1/\sqrt n`. Learning rate: 1e-2. Source: Chang, Chen, Haber and Chi (2019).

    Examples
    --------
    >>> cell = mr.nn.cells.Euler(0.1)
    >>> assert cell.growth(torch.tensor([[0.0, 5.0], [-5.0, 0.0]])) > 1.1
    """

    step_size: float = 0.1
    gated: bool = False

    def __post_init__(self) -> None:
        require_number("Euler", "step_size", self.step_size)

    @property
    def input_blocks(self) -> int:
        """Two with a gate, else one."""
        return 2 if self.gated else 1

    def step(self, u: Tensor, state: State, W: Tensor) -> tuple[Tensor, State]:
        """Return the next ``h`` of shape (B, n), and the same as the state."""
        (h,) = state
        recurrent = h @ W.mT  # (B, n)
        if self.gated:
            u_tanh, u_gate = u.chunk(2, -1)
            slope = gate(recurrent + u_gate) * mod_tanh(recurrent + u_tanh)
        else:
            slope = mod_tanh(recurrent + u)
        h = h + self.step_size * slope
        return h, (h,)

    def growth(self, W: Tensor) -> Tensor:
        r"""Return the spectral radius of :math:`I + \epsilon W`. Above 1, small states grow without any input.

        Parameters
        ----------
        W : Tensor, shape (..., n, n)
            Recurrent matrix.

        Returns
        -------
        Tensor, shape (...), real
        """
        return spectral_radius(torch.eye(W.shape[-1], dtype=W.dtype, device=W.device) + self.step_size * W)
