"""The cell of coupled oscillators."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..activations import mod_tanh
from .affine import AffineCell
from .base import State
from .options import require_number
from .weights import fill_uniform


@dataclass(frozen=True, eq=False)
class CoRNN(AffineCell):
    r"""The coupled oscillatory cell: damped oscillators driven by their states and the inputs.

    .. math::
        z_t &= z_{t-1} + \Delta \bigl( \tanh(W_y y_{t-1} + W_z z_{t-1} + V x_t + b)
               - \gamma y_{t-1} - \epsilon z_{t-1} \bigr), \\
        y_t &= y_{t-1} + \Delta z_t.

    Parameters
    ----------
    time_step : float
        :math:`\Delta`, positive.
    stiffness, damping : float
        :math:`\gamma` and :math:`\epsilon`, at least 0.
    bias : bool, keyword only
        Whether to add the bias ``b``.
    weights : mapping from str to Tensor
        ``weight_ih`` (n, m); ``weight_hh`` (2n, n), the rows of :math:`W_y` ("y"), then those of :math:`W_z` ("z");
        ``bias`` (n,).

    Raises
    ------
    OptionError
        If ``time_step`` is not positive, or one of the others is negative.

    Notes
    -----
    The state consists of the positions ``y``, which are the output, and the velocities ``z``. Without the tanh, each
    oscillator is a fixed 2 x 2 matrix with determinant :math:`1 - \Delta\epsilon`. `stable` tests whether its
    eigenvalues are inside the unit circle. The defaults are the published values for permuted pixels. With complex
    weights, tanh is `manifold_rnn.nn.mod_tanh`. Weights are initialized uniformly in :math:`\pm 1/\sqrt{m + 2n}`, as
    one linear map of all inputs of the tanh. Learning rate: 1e-2. Source: Rusch and Mishra (2021).

    Examples
    --------
    >>> assert mr.nn.cells.CoRNN(0.076, 0.4, 8.0).stable and not mr.nn.cells.CoRNN(0.3, 0.4, 8.0).stable
    """

    gates: ClassVar[tuple[str, ...]] = ("y", "z")

    time_step: float = 0.076
    stiffness: float = 0.4
    damping: float = 8.0

    def __post_init__(self) -> None:
        require_number("CoRNN", "time_step", self.time_step)
        require_number("CoRNN", "stiffness", self.stiffness, zero=True)
        require_number("CoRNN", "damping", self.damping, zero=True)

    @property
    def stable(self) -> bool:
        r"""Whether :math:`0 < \Delta\epsilon < 2` and :math:`0 < \Delta^2\gamma < 4 - 2\Delta\epsilon`."""
        damped, stiff = self.time_step * self.damping, self.time_step**2 * self.stiffness
        return 0 < damped < 2 and 0 < stiff < 4 - 2 * damped

    def reset(self, generator: torch.Generator | None = None) -> None:
        """Initialize the weights uniformly."""
        n, m = self.weights["weight_ih"].shape
        fill_uniform(self.weights, (m + 2 * n) ** -0.5, generator)

    def initial_state(self, batch: int) -> State:
        """Return ``(0, 0)``, both of shape (B, n)."""
        return self.zeros(batch), self.zeros(batch)

    def step(self, u: Tensor, state: State, W: Tensor) -> tuple[Tensor, State]:
        """Return ``y`` of shape (B, n), and ``(y, z)``."""
        y, z = state
        W_y, W_z = W.chunk(2)
        force = mod_tanh(u + y @ W_y.mT + z @ W_z.mT)
        z = z + self.time_step * (force - self.stiffness * y - self.damping * z)
        y = y + self.time_step * z
        return y, (y, z)
