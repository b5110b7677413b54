"""The LSTM cell, real and complex."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..activations import gate, mod_tanh
from .base import State
from .complex_lstm_steps import complex_lstm_form
from .gated import Gated
from .gated_form import GatedForm
from .lstm_steps import LSTMSteps
from .weights import affine


@dataclass(frozen=True, eq=False)
class LSTM(Gated):
    r"""The LSTM cell of ``torch.nn.LSTM``.

    .. math::
        \begin{pmatrix} i \\ f \\ g \\ o \end{pmatrix}_t = \begin{pmatrix} \sigma \\ \sigma \\ \tanh \\ \sigma
        \end{pmatrix} (W h_{t-1} + V x_t + b), \qquad
        c_t = f_t \circ c_{t-1} + i_t \circ g_t, \qquad h_t = o_t \circ \tanh c_t.

    Parameters
    ----------
    bias : bool
        Whether to add the bias ``b``.
    weights : mapping from str to Tensor
        ``weight_ih`` (4n, m), ``weight_hh`` (4n, n), ``bias_ih`` and ``bias_hh`` (4n,), which are added.

    Notes
    -----
    The gates are "i", "f", "g" and "o", and the state is ``(h, c)``. An orthogonal block preserves the norm of the
    state that its gate receives. The path along ``c`` does not pass through any block.

    Complex weights give complex states. Then :math:`\sigma` is `manifold_rnn.nn.gate`, and tanh is
    `manifold_rnn.nn.mod_tanh`. The imaginary parts of the biases of "i", "f" and "o" have no effect. Weights are
    initialized as in ``torch.nn.LSTM``, uniformly in :math:`\pm 1/\sqrt n`. Learning rate: 1e-2. Source: Hochreiter and
    Schmidhuber (1997); with the forget gate of Gers, Schmidhuber and Cummins (2000).

    Examples
    --------
    >>> cell = mr.nn.cells.LSTM(bias=False).bind({"weight_ih": torch.zeros(4, 1)})
    >>> h, (_, c) = cell.step(torch.zeros(1, 4), (torch.ones(1, 1), torch.ones(1, 1)), torch.zeros(4, 1))
    >>> assert c == 0.5 and torch.equal(h, c.tanh() / 2)
    """

    gates: ClassVar[tuple[str, ...]] = ("i", "f", "g", "o")
    torch_kernel: ClassVar[str | None] = "lstm"

    def project(self, x: Tensor) -> Tensor:
        """Return ``V x + b`` of shape (..., 4n)."""
        return affine(x, self.weights["weight_ih"], self._additive_bias())

    def initial_state(self, batch: int) -> State:
        """Return ``(0, 0)``, both of shape (B, n)."""
        return self.zeros(batch), self.zeros(batch)

    def step(self, u: Tensor, state: State, W: Tensor) -> tuple[Tensor, State]:
        """Return ``h`` of shape (B, n), and ``(h, c)``."""
        h, c = state
        a = u + h @ W.mT
        i, f, _, o = gate(a).chunk(4, -1)  # (B, n) each; one call is faster than three
        c = f * c + i * mod_tanh(a.chunk(4, -1)[2])
        h = o * mod_tanh(c)
        return h, (h, c)

    def gated_form(self, W: Tensor) -> GatedForm | None:
        """Return the form of the cell."""
        V, bias = self.weights["weight_ih"], self._additive_bias()
        return complex_lstm_form(V, bias, W) if V.is_complex() else GatedForm(LSTMSteps, V, bias, (W,))

    def separates_units(self) -> bool:
        """Return True."""
        return True

    def _additive_bias(self) -> Tensor | None:
        return self.weights["bias_ih"] + self.weights["bias_hh"] if self.bias else None
