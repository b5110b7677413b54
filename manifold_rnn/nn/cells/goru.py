"""The gated orthogonal recurrent unit, real and complex."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn import init

from ...linalg import qr
from ..activations import gate, mod_relu
from .base import Cell, State
from .gated_form import GatedForm
from .reset_steps import GORUSteps, reset_form
from .weights import affine, allocate_empty, fill_uniform


@dataclass(frozen=True, eq=False)
class GORU(Cell):
    r"""The GORU cell: a GRU with modReLU and a matrix Q, usually orthogonal, for the candidate state.

    .. math::
        r_t &= \sigma(W_r h_{t-1} + V_r x_t + b_r), \qquad g_t = \sigma(W_g h_{t-1} + V_g x_t + b_g), \\
        c_t &= \operatorname{modReLU}(r_t \circ (Q h_{t-1}) + V_c x_t;\; b_c), \qquad
        h_t = g_t \circ h_{t-1} + (1 - g_t) \circ c_t.

    Parameters
    ----------
    weights : mapping from str to Tensor
        ``weight_ih`` (3n, m), and ``weight_hh`` (3n, n) with the rows of :math:`W_r, W_g` and Q. The biases are real:
        ``bias_ih`` (2n,) of both gates, and ``bias`` (n,) of modReLU.

    Notes
    -----
    The gates are "r", "g" and "c". Q is the block "c". The cell itself does not constrain it, so pass
    ``constraint={"c": Orthogonal()}`` to the layer. With complex weights, both sigmoids are `manifold_rnn.nn.gate`, and
    the biases stay real.

    Weights are initialized as published. V, W_r and W_g are uniform in ±0.01, b_r is 2, b_g is uniform in
    :math:`\pm\sqrt{3/n}`, and b_c is 0.01. Q is a uniformly random orthogonal or unitary matrix. Learning rate: 1e-2.
    Source: Jing et al. (2019).

    Examples
    --------
    >>> cell = mr.nn.cells.GORU()
    >>> weights = {name: torch.zeros_like(w) for name, w in cell.allocate(1, 2).items()}
    >>> assert cell.bind(weights).step(torch.zeros(1, 6), (torch.ones(1, 2),), torch.zeros(6, 2))[0].eq(0.5).all()
    """

    gates: ClassVar[tuple[str, ...]] = ("r", "g", "c")

    def allocate(
        self,
        input_size: int,
        hidden_size: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> dict[str, Tensor]:
        """Return ``weight_ih``, ``weight_hh`` and the real biases, uninitialized."""
        n, real = hidden_size, dtype and dtype.to_real()
        weights = allocate_empty(
            {"weight_ih": (3 * n, input_size), "weight_hh": (3 * n, n)}, device=device, dtype=dtype
        )
        return weights | allocate_empty({"bias_ih": (2 * n,), "bias": (n,)}, device=device, dtype=real)

    def reset(self, generator: torch.Generator | None = None) -> None:
        """Initialize the weights as published, and Q with a uniformly random orthogonal or unitary matrix."""
        V, W, b, b_c = (self.weights[name] for name in ("weight_ih", "weight_hh", "bias_ih", "bias"))
        n = len(b_c)
        fill_uniform({"V": V, "gates": W[: 2 * n]}, 0.01, generator)
        with torch.no_grad():
            W[2 * n :] = qr(W.new_empty(n, n).normal_(generator=generator))[0]
        init.constant_(b[:n], 2.0)
        init.uniform_(b[n:], -math.sqrt(3 / n), math.sqrt(3 / n), generator=generator)
        init.constant_(b_c, 0.01)

    def project(self, x: Tensor) -> Tensor:
        """Return ``V x`` with the biases of both gates, shape (..., 3n)."""
        return affine(x, self.weights["weight_ih"], self._additive_bias())

    def initial_state(self, batch: int) -> State:
        """Return ``(0,)``, shape (B, n)."""
        V = self.weights["weight_ih"]
        return (V.new_zeros(batch, len(V) // 3),)

    def step(self, u: Tensor, state: State, W: Tensor) -> tuple[Tensor, State]:
        """Return ``h`` of shape (B, n), and the same as the state."""
        (h,) = state
        (u_r, u_g, u_c), (v_r, v_g, v_c) = u.chunk(3, -1), (h @ W.mT).chunk(3, -1)  # (B, n) each
        c = mod_relu(gate(u_r + v_r) * v_c + u_c, self.weights["bias"])
        h = c + gate(u_g + v_g) * (h - c)
        return h, (h,)

    def gated_form(self, W: Tensor) -> GatedForm | None:
        """Return the form of a real cell, or None."""
        V = self.weights["weight_ih"]
        return None if V.is_complex() else reset_form(GORUSteps, V, self._additive_bias(), (W, self.weights["bias"]))

    def _additive_bias(self) -> Tensor:
        """Return the biases of both gates, and zeros for the candidate."""
        b = self.weights["bias_ih"]
        return F.pad(b, (0, len(b) // 2)).to(self.weights["weight_ih"].dtype)
