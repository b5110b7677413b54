"""The quadratic cell, whose weights can be computed from moments of its data."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from .affine import AffineCell
from .base import State
from .weights import fill_uniform


@dataclass(frozen=True, eq=False)
class Quadratic(AffineCell):
    r"""The Elman cell with the square as its nonlinearity.

    .. math:: h_t = (W h_{t-1} + V x_t + b)^2, \qquad \text{entry by entry.}

    Parameters
    ----------
    bias : bool, keyword only
        Whether to add the bias ``b``.
    weights : mapping from str to Tensor
        ``weight_ih`` (n, m), ``weight_hh`` (n, n), and with a bias ``bias`` (n,).

    Warnings
    --------
    The states are bounded only for small inputs. From the state 0, their norm is at most :math:`1 / (4 \|W\|^2)` for
    any number of steps, if

    .. math:: \|V x_t + b\| \le \frac{1}{4 \|W\|} \quad\text{for all } t,

    :math:`\|W\|` is the spectral norm of ``W``. When an entry exceeds about :math:`1 / \|W\|^2`, each step squares it,
    and it overflows after a few steps. An orthogonal ``W`` does not prevent this. Then a layer raises `NonFiniteError`.
    Scale the inputs, and the outputs of a level before they enter the next one, or use short sequences.

    Notes
    -----
    `manifold_rnn.moments` computes the weights from Gaussian inputs and the outputs after them, without gradients.
    `manifold_rnn.nn.init.moments_` initializes a layer with these weights. Weights are initialized uniformly in
    :math:`\pm 1/\sqrt n`, and those of ``W`` in a tenth of this range. Learning rate: 1e-3. Source: Sedghi and
    Anandkumar (2016).

    Examples
    --------
    >>> layer = mr.nn.Layer(mr.nn.cells.Quadratic(), 2, 3)
    >>> x = torch.randn(1, 4, 2)
    >>> assert torch.equal(layer(x)[0], (x @ layer.weight_ih_l0.T).square())
    """

    largest_input: ClassVar[float] = 0.25
    bias: bool = field(default=False, kw_only=True)

    def reset(self, generator: torch.Generator | None = None) -> None:
        """Initialize the weights uniformly, ``W`` with small numbers."""
        bound = self.weights["weight_hh"].shape[-1] ** -0.5
        for name, weight in self.weights.items():
            fill_uniform({name: weight}, bound * (0.1 if name == "weight_hh" else 1), generator)

    def step(self, u: Tensor, state: State, W: Tensor) -> tuple[Tensor, State]:
        """Return ``(u + W h)^2`` of shape (B, n), and the same as the state."""
        h = (u + state[0] @ W.mT).square()
        return h, (h,)
