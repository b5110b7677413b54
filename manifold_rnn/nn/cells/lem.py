"""The long expressive memory."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..activations import gate, mod_tanh
from .affine import AffineCell
from .base import State
from .gated_form import GatedForm
from .lem_steps import LEMSteps
from .options import require_number


@dataclass(frozen=True, eq=False)
class LEM(AffineCell):
    r"""Long expressive memory: two states with trained, input-dependent time steps.

    .. math::
        a_t &= \Delta\, \sigma(W_a y_{t-1} + V_a x_t + b_a), \qquad
        c_t = \Delta\, \sigma(W_c y_{t-1} + V_c x_t + b_c), \\
        z_t &= (1 - c_t) \circ z_{t-1} + c_t \circ \tanh(W_z y_{t-1} + V_z x_t + b_z), \\
        y_t &= (1 - a_t) \circ y_{t-1} + a_t \circ \tanh(W_y z_t + V_y x_t + b_y).

    Parameters
    ----------
    time_step : float
        Positive time step :math:`\Delta`. The longest time scale is about :math:`1/\Delta` steps.
    bias : bool, keyword only
        Whether to add biases.
    weights : mapping from str to Tensor
        ``weight_ih`` (4n, m) and ``weight_hh`` (4n, n), with the rows of "a", "c", "z" and "y" in this order. With a
        bias, also ``bias_ih`` and ``bias_hh`` (4n,), which are added.

    Raises
    ------
    OptionError
        If ``time_step`` is not a positive number.

    Notes
    -----
    The state consists of ``y``, which is the output, and ``z``. The last block of ``weight_hh`` acts on the new ``z``.
    With :math:`\Delta \le 1` both states are averages of values of tanh, so they stay in (-1, 1). The published time
    steps range from 1.7e-4 to 0.44. The default is the one for sequential pixels. With complex weights, the gates are
    `manifold_rnn.nn.gate` and tanh is `manifold_rnn.nn.mod_tanh`. Weights start uniform in
    :math:`\pm 1/\sqrt n`. Learning rate: 1e-2. Source: Rusch, Mishra, Erichson and Mahoney (2022).

    Examples
    --------
    >>> layer = mr.nn.Layer(mr.nn.cells.LEM(), 1, 3)
    >>> y, (last, z) = layer(torch.ones(9, 2, 1))
    >>> assert torch.equal(y[-1], last[0]) and y.abs().max() < 1
    """

    gates: ClassVar[tuple[str, ...]] = ("a", "c", "z", "y")
    bias_names: ClassVar[tuple[str, ...]] = ("bias_ih", "bias_hh")

    time_step: float = 0.21

    def __post_init__(self) -> None:
        require_number("LEM", "time_step", self.time_step)

    @property
    def input_blocks(self) -> int:
        """Four, one for each gate."""
        return 4

    def initial_state(self, batch: int) -> State:
        """Return ``(0, 0)``, both of shape (B, n)."""
        return self.zeros(batch), self.zeros(batch)

    def step(self, u: Tensor, state: State, W: Tensor) -> tuple[Tensor, State]:
        """Return ``y`` of shape (B, n), and ``(y, z)``."""
        y, z = state
        n = W.shape[-1]
        a, c, z_argument = (u[..., : 3 * n] + y @ W[: 3 * n].mT).chunk(3, -1)  # (B, n) each
        z = z + self.time_step * gate(c) * (mod_tanh(z_argument) - z)
        y = y + self.time_step * gate(a) * (mod_tanh(u[..., 3 * n :] + z @ W[3 * n :].mT) - y)
        return y, (y, z)

    def gated_form(self, W: Tensor) -> GatedForm | None:
        """Return the form of a real cell, or None."""
        V = self.weights["weight_ih"]
        return None if V.is_complex() else GatedForm(LEMSteps, V, self.additive_bias(), (W,), numbers=(self.time_step,))
