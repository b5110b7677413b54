"""The non-saturating recurrent unit, real and complex."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ..._options import is_integer
from ...errors import OptionError
from ..activations import split_relu
from .base import Cell, State
from .gated_form import GatedForm
from .nru_heads import memory_changes, split_heads
from .nru_steps import NRUSteps
from .weights import affine, allocate_empty, fill_uniform


@dataclass(frozen=True, eq=False)
class NRU(Cell):
    r"""The NRU cell: a rectified state, and an additive memory.

    .. math::
        h_t &= \operatorname{relu}(W h_{t-1} + V x_t + W_m c_{t-1} + b), \\
        c_t &= c_{t-1} + \frac{1}{k} \sum_{i=1}^k \bigl(\alpha_i d_i - \beta_i e_i\bigr),

    k heads write with strengths :math:`\alpha` along directions :math:`d_i`, and erase with strengths :math:`\beta`
    along :math:`e_i`. With :math:`a = [h_t, c_{t-1}]`, and the identity or relu as ``f``,

    .. math::
        \alpha = f(A a + a_0), \qquad D = f(p q^\top) \text{ read as a } k \times M \text{ matrix}, \qquad
        d_i = D_i / \|D_i\|_5,

    where p and q are affine in ``a``. :math:`\beta` and :math:`e_i` are computed in the same way.

    Parameters
    ----------
    memory_size : int
        Number of entries ``M`` of the memory.
    heads : int
        Number of heads ``k``. k M must be a square number.
    rectify : bool
        Whether ``f`` is relu, as in the equations of the paper, or the identity, as in its released experiments. With
        the identity, a writing head can also erase.
    weights : mapping from str to Tensor
        ``weight_ih`` (n, m), ``weight_hh`` (n, n), ``weight_mh`` (n, M) and ``bias_ih`` (n,). The memory has
        ``weight_hm`` (2k + 4s, n + M) and ``bias_hm`` (2k + 4s,) with :math:`s = \sqrt{k M}`. Their rows are
        :math:`\alpha, \beta`, then p and q of writing, then p and q of erasing.

    Raises
    ------
    OptionError
        If a size is below 1, or k M is not a square.

    Notes
    -----
    The state is ``(h, c)``. No function saturates and the memory is unbounded, so clip the norm of the gradient. The
    released code clips it at 1. The outer product saves weights. Directions computed directly from ``a`` would need k M
    rows, but p and q need only 2s rows. Complex weights use `manifold_rnn.nn.split_relu`, and the norm of a row uses
    moduli.

    The released code has an option that normalizes ``h``. This cell does not have it. In the paper, strengths and
    directions depend on the input too. In its code and here, they depend only on ``a``. Weights are initialized by
    torch's rule for linear maps, with one map of [x, h, c] and one of ``a``. Each is uniform between plus and minus one
    over the square root of the number of inputs. Learning rate: 2e-3. Source: Chandar et al. (2019).

    Examples
    --------
    >>> layer = mr.nn.Layer(mr.nn.cells.NRU(memory_size=9, heads=1), 2, 5)
    >>> y, (h, c) = layer(torch.zeros(4, 1, 2))
    >>> assert c.shape == (1, 1, 9) and torch.equal(y[-1], h[0])
    """

    step_methods: ClassVar[frozenset[str]] = Cell.step_methods | {"heads_of"}

    memory_size: int = 64
    heads: int = 4
    rectify: bool = False

    def __post_init__(self) -> None:
        counts = is_integer(self.heads, 1) and is_integer(self.memory_size, 1)
        if not counts or math.isqrt(self.heads * self.memory_size) ** 2 != self.heads * self.memory_size:
            raise OptionError(
                "The directions of an NRU need to fill a square matrix, the outer product of two vectors.\n"
                "Expected heads * memory_size of integers to be a positive square, got "
                f"{self.heads!r:.40} * {self.memory_size!r:.40}.\n"
                "With 4 heads, choose a square number as memory_size."
            )

    @property
    def _side(self) -> int:
        return math.isqrt(self.heads * self.memory_size)

    def allocate(
        self,
        input_size: int,
        hidden_size: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> dict[str, Tensor]:
        """Return the weights of the state, then those of the memory, uninitialized."""
        n, rows = hidden_size, 2 * self.heads + 4 * self._side
        shapes: dict[str, tuple[int, ...]] = {
            "weight_ih": (n, input_size),
            "weight_hh": (n, n),
            "weight_mh": (n, self.memory_size),
            "bias_ih": (n,),
            "weight_hm": (rows, n + self.memory_size),
            "bias_hm": (rows,),
        }
        return allocate_empty(shapes, device=device, dtype=dtype)

    def reset(self, generator: torch.Generator | None = None) -> None:
        """Initialize the weights by torch's rule for linear maps."""
        a_size, inputs = self.weights["weight_hm"].shape[-1], self.weights["weight_ih"].shape[-1]
        for name, weight in self.weights.items():
            fan_in = a_size if name.endswith("_hm") else a_size + inputs
            fill_uniform({name: weight}, 1 / math.sqrt(fan_in), generator)

    def project(self, x: Tensor) -> Tensor:
        """Return ``V x + b`` of shape (..., n)."""
        return affine(x, self.weights["weight_ih"], self.weights["bias_ih"])

    def initial_state(self, batch: int) -> State:
        """Return ``(0, 0)``, shapes (B, n) and (B, M)."""
        V = self.weights["weight_ih"]
        return V.new_zeros(batch, len(V)), V.new_zeros(batch, self.memory_size)

    def step(self, u: Tensor, state: State, W: Tensor) -> tuple[Tensor, State]:
        """Return ``h`` of shape (B, n), and ``(h, c)``."""
        h, c = state
        h = split_relu(u + h @ W.mT + c @ self.weights["weight_mh"].mT)
        strengths, directions = self.heads_of(torch.cat([h, c], -1))
        written, erased = memory_changes(strengths, directions).unbind(-2)  # (B, M) each
        return h, (h, c + written - erased)

    def heads_of(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """Return strengths (B, 2, k) and directions (B, 2, k, M), of writing and of erasing, for ``a`` (B, n + M)."""
        z = F.linear(a, self.weights["weight_hm"], self.weights["bias_hm"])
        return split_heads(z, self.heads, self.memory_size, rectify=self.rectify)

    def gated_form(self, W: Tensor) -> GatedForm | None:
        """Return the form of a real cell without relu in the directions, so that they are outer products."""
        V, bias, Wm, maps = (self.weights[name] for name in ("weight_ih", "bias_ih", "weight_mh", "weight_hm"))
        if self.rectify or V.is_complex() or self._side % self.heads:
            return None
        rows = len(maps)

        def arrange(u: Tensor) -> Tensor:
            return torch.cat([u, self.weights["bias_hm"].expand(*u.shape[:-1], rows)], -1)

        n, numbers = len(V), (self.heads,)
        return GatedForm(NRUSteps, V, arrange(bias), (W, Wm, maps), numbers, gap=(n, n + rows), arrange=arrange)
