"""The GRU cell, real and complex."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from ..activations import gate, mod_tanh
from .base import State
from .gated import Gated
from .gated_form import GatedForm
from .reset_steps import GRUSteps, reset_form
from .weights import affine


@dataclass(frozen=True, eq=False)
class GRU(Gated):
    r"""The GRU cell of ``torch.nn.GRU``.

    .. math::
        r_t &= \sigma(W_r h_{t-1} + V_r x_t + b_r), \qquad z_t = \sigma(W_z h_{t-1} + V_z x_t + b_z), \\
        n_t &= \tanh(r_t \circ (W_n h_{t-1} + b'_n) + V_n x_t + b_n), \qquad
        h_t = (1 - z_t) \circ n_t + z_t \circ h_{t-1}.

    Parameters
    ----------
    bias : bool
        Whether to add biases.
    weights : mapping from str to Tensor
        ``weight_ih`` (3n, m), ``weight_hh`` (3n, n), ``bias_ih`` and ``bias_hh`` (3n,). The last blocks of the biases
        are :math:`b_n` and :math:`b'_n`. The other blocks are added.

    Notes
    -----
    The gates are "r", "z" and "n", and the state is ``(h,)``. The reset gate acts after :math:`W_n`, as in torch and in
    `GORU`. So an orthogonal :math:`W_n` acts on the whole state.

    Complex weights give complex states. Then :math:`\sigma` is `manifold_rnn.nn.gate`, and tanh is
    `manifold_rnn.nn.mod_tanh`. The imaginary parts of the biases of "r" and "z" have no effect. Weights are initialized
    as in ``torch.nn.GRU``, uniformly in :math:`\pm 1/\sqrt n`. Learning rate: 1e-2. Source: Cho et al. (2014).

    Examples
    --------
    >>> cell = mr.nn.cells.GRU(bias=False).bind({"weight_ih": torch.zeros(3, 1)})
    >>> assert cell.step(torch.zeros(1, 3), (torch.ones(1, 1),), torch.zeros(3, 1))[0] == 0.5
    """

    gates: ClassVar[tuple[str, ...]] = ("r", "z", "n")
    torch_kernel: ClassVar[str | None] = "gru"

    def project(self, x: Tensor) -> Tensor:
        """Return ``V x`` with the biases of ``bias_ih``, shape (..., 3n)."""
        return affine(x, self.weights["weight_ih"], self.weights.get("bias_ih"))

    def initial_state(self, batch: int) -> State:
        """Return ``(0,)``, shape (B, n)."""
        return (self.zeros(batch),)

    def step(self, u: Tensor, state: State, W: Tensor) -> tuple[Tensor, State]:
        """Return ``h`` of shape (B, n), and the same as the state."""
        (h,) = state
        (u_r, u_z, u_n), (v_r, v_z, v_n) = (t.chunk(3, -1) for t in (u, F.linear(h, W, self.weights.get("bias_hh"))))
        n = mod_tanh(u_n + gate(u_r + v_r) * v_n)
        h = n + gate(u_z + v_z) * (h - n)
        return h, (h,)

    def gated_form(self, W: Tensor) -> GatedForm | None:
        """Return the form of a real cell, or None."""
        weights = self.weights
        V = weights["weight_ih"]
        if V.is_complex():
            return None
        return reset_form(GRUSteps, V, weights.get("bias_ih"), (W,), weights.get("bias_hh"))

    def separates_units(self) -> bool:
        """Return True."""
        return True
