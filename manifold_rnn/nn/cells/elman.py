"""The Elman cell, real and complex."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor

from ...errors import OptionError
from ..activations import mod_relu, mod_tanh, split_relu
from .base import Cell, State
from .elman_form import Activation, ElmanForm
from .leaky_form import LeakyForm
from .weights import affine, allocate_empty, fill_uniform

_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {"tanh": mod_tanh, "relu": split_relu}


@dataclass(frozen=True, eq=False)
class Elman(Cell):
    r"""The Elman cell.

    .. math:: h_t = f(W h_{t-1} + V x_t + b),

    With modReLU, the only bias is that of the modulus:

    .. math:: h_t = \operatorname{modReLU}(W h_{t-1} + V x_t;\; b).

    Parameters
    ----------
    nonlinearity : "tanh", "relu", "modrelu" or callable
        ``f``. A callable maps a tensor to one of the same shape and dtype.
    bias : bool
        Whether to add the bias ``b``. Without it modReLU is the identity and the cell is linear.
    weights : mapping from str to Tensor
        ``weight_ih`` (n, m) and ``weight_hh`` (n, n). With a bias, also ``bias_ih`` and ``bias_hh`` (n,), which are
        added as in ``torch.nn.RNN``. modReLU has the real ``bias`` (n,) instead.

    Raises
    ------
    OptionError
        If the nonlinearity is neither a callable nor a known name.

    Notes
    -----
    Complex weights give complex states and outputs. Inputs may be real or complex. An analytic nonlinearity of complex
    numbers has poles or is unbounded. So with complex weights, "tanh" is `manifold_rnn.nn.mod_tanh`, which acts on the
    modulus. "relu" is `manifold_rnn.nn.split_relu`, which rectifies both parts. The usual choice for complex weights is
    modReLU.

    Weights are initialized as in ``torch.nn.RNN``, uniformly in :math:`\pm 1/\sqrt n`. The bias of modReLU is
    initialized uniformly in :math:`\pm 0.01`. Learning rate: 1e-2. Source: Elman (1990).

    Examples
    --------
    >>> cell = mr.nn.cells.Elman(bias=False).bind({"weight_ih": torch.ones(1, 1)})
    >>> assert cell.step(torch.zeros(1, 1), (torch.ones(1, 1),), torch.zeros(1, 1))[0] == 0
    """

    step_methods: ClassVar[frozenset[str]] = Cell.step_methods | {"activate"}

    nonlinearity: str | Callable[[Tensor], Tensor] = "tanh"
    bias: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.nonlinearity, str) and self.nonlinearity not in (*_FUNCTIONS, "modrelu"):
            raise OptionError(
                "The nonlinearity of an Elman cell is unknown.\n"
                f"Expected 'tanh', 'relu', 'modrelu' or a callable, got {self.nonlinearity!r}.\n"
                "Check the spelling, or pass the function itself."
            )

    def allocate(
        self,
        input_size: int,
        hidden_size: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> dict[str, Tensor]:
        """Return ``weight_ih``, ``weight_hh`` and the biases, uninitialized."""
        n, threshold = hidden_size, self.bias and self.nonlinearity == "modrelu"
        shapes: dict[str, tuple[int, ...]] = {"weight_ih": (n, input_size), "weight_hh": (n, n)}
        shapes |= {name: (n,) for name in ("bias_ih", "bias_hh") if self.bias and not threshold}
        weights = allocate_empty(shapes, device=device, dtype=dtype)
        return weights | ({"bias": weights["weight_ih"].real.new_empty(n)} if threshold else {})

    def reset(self, generator: torch.Generator | None = None) -> None:
        """Initialize the weights uniformly, in torch's order, so that equal seeds give equal weights."""
        bound = 1 / math.sqrt(len(self.weights["weight_hh"]))
        for name, weight in self.weights.items():
            fill_uniform({name: weight}, 0.01 if name == "bias" else bound, generator)

    def project(self, x: Tensor) -> Tensor:
        """Return ``V x + b`` of shape (..., n), or ``V x`` for modReLU."""
        return affine(x, self.weights["weight_ih"], self._additive_bias())

    def initial_state(self, batch: int) -> State:
        """Return ``(0,)``, shape (B, n)."""
        weight = self.weights["weight_ih"]
        return (weight.new_zeros(batch, len(weight)),)

    def step(self, u: Tensor, state: State, W: Tensor) -> tuple[Tensor, State]:
        """Return ``f(u + W h)`` of shape (B, n), and the same as the state."""
        h = self.activate(u + state[0] @ W.mT)
        return h, (h,)

    def activate(self, z: Tensor) -> Tensor:
        """Return ``f(z)``."""
        f = self.nonlinearity
        if not isinstance(f, str):
            return f(z)
        if f == "modrelu":
            return mod_relu(z, self.weights["bias"]) if self.bias else z
        return _FUNCTIONS[f](z)

    def elman_form(self) -> ElmanForm | None:
        """Return the form of a named nonlinearity. None for a callable, and for complex weights without modReLU."""
        V, f = self.weights["weight_ih"], self.nonlinearity
        if not isinstance(f, str) or (V.is_complex() and f != "modrelu"):
            return None
        threshold = self.weights.get("bias")
        activation = "linear" if f == "modrelu" and threshold is None else f
        return ElmanForm(cast(Activation, activation), V, self._additive_bias(), threshold)

    def leaky_form(self) -> LeakyForm | None:
        """Return the form with leak 1. None for complex weights, because ``f`` has no complex derivative."""
        if any(weight.is_complex() for weight in self.weights.values()):
            return None
        biases = ("bias_ih", "bias_hh") if self.bias and self.nonlinearity != "modrelu" else ()
        threshold = "bias" if self.bias and self.nonlinearity == "modrelu" else None
        return LeakyForm(1.0, self.activate, self.slopes, biases, threshold)

    def slopes(self, z: Tensor, f: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the derivatives of ``f`` with respect to the real ``z`` and the bias, for each entry.

        The second one is None if the bias is added to ``z``.
        """
        if self.nonlinearity == "tanh":
            return 1 - f * f, None
        if self.nonlinearity == "relu":
            return (f > 0).to(f.dtype), None
        if self.nonlinearity == "modrelu":
            if not self.bias:
                return torch.ones_like(z), None
            sign = z.sgn() * (z.abs() + self.weights["bias"] > 0)
            return sign.abs(), sign
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            return torch.autograd.grad(self.activate(z).sum(), z)[0], None

    def separates_units(self) -> bool:
        """Return whether the nonlinearity is a named one. A callable may mix units."""
        return isinstance(self.nonlinearity, str)

    def _additive_bias(self) -> Tensor | None:
        weights = self.weights
        return weights["bias_ih"] + weights["bias_hh"] if "bias_ih" in weights else None
