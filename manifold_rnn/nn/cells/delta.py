"""A cell with a matrix as its state. Each step applies several delta rules to it."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn import init

from ..._options import is_integer
from ...errors import OptionError, ShapeError
from ...linalg.precision import without_autocast
from .base import AllSteps, State
from .chunks import block_steps, in_blocks, real_steps
from .delta_blocks import Rules, delta_in_blocks
from .options import require_count
from .reflecting import Reflecting, Strength
from .weights import allocate_empty


class Parts(NamedTuple):
    """The projected input of a step, for each head."""

    q: Tensor  # (..., h, d)
    K: Tensor  # (..., h, k, d)
    V: Tensor  # (..., h, k, e)
    beta: Tensor  # (..., h, k)
    log_decay: Tensor | None  # (..., h)


@dataclass(frozen=True, eq=False)
class DeltaProduct(Reflecting):
    r"""DeltaProduct: an associative memory for each head, updated by several delta rules in each step.

    .. math::
        H \leftarrow e^{g_t} H, \qquad
        H \leftarrow (I - \beta_{tj} k_{tj} k_{tj}^{\mathsf H})\, H + \beta_{tj} k_{tj} v_{tj}^\top
        \quad (j = 1, \dots, k), \qquad y_t = q_t^{\mathsf H} H_t,

    The keys :math:`k_{tj} = (K_j x_t + c_j) / \|\cdot\|` and the query :math:`q_t = Q x_t / \|\cdot\|` are unit
    vectors. The values are :math:`v_{tj} = V_j x_t + b_j`. A rule replaces the fraction :math:`\beta` of the content of
    ``H`` at the key by the value.

    Parameters
    ----------
    reflections : int
        Number ``k`` of rules in each step.
    beta : "up to 2", "up to 1" or "reflection"
        :math:`2 \sigma(w_j^\top x + d_j)`, :math:`\sigma(w_j^\top x + d_j)`, or 2 exactly.
    heads : int
        Number of memories, a divisor of the hidden size n.
    key_size : int, optional
        Size ``d`` of the keys of a head. Default: n / heads, which is also the size ``e`` of the values.
    decay : bool
        Whether the memories decay, with :math:`g_t = -e^a \operatorname{softplus}(w^\top x_t + d) \le 0` for each head.
    bias : bool, keyword only
        Whether to add the biases of keys and values.
    weights : mapping from str to Tensor
        ``weight_ih`` (k n, m) has the values of the first rule of all heads, then of the second. ``weight_key`` (k
        heads d, m) has the same order. The others are ``weight_query`` (heads d, m), ``bias_ih`` and ``bias_key``.
        Unless ``beta`` is "reflection", there are ``weight_beta`` (k heads, m) and ``bias_beta``. With a decay, there
        are ``weight_decay`` (heads, m), ``bias_decay`` (heads,) and ``log_rate`` (heads,), which is ``a``.

    Raises
    ------
    OptionError
        If a number is below 1, or ``beta`` is unknown.
    ShapeError
        If the hidden size of a layer is not a multiple of ``heads``.

    Notes
    -----
    The state is ``(y, H)`` with ``H`` of shape (B, heads, d, e). The output has no effect on the next step. With
    ``beta="reflection"``, each rule is an orthogonal map of ``H`` and never forgets. The eigenvalue of a rule along its
    key is :math:`1 - \beta`. With "up to 1", no product of rules can change a sign, so the cell cannot represent a
    parity.

    The cell is linear in ``H``, and runs in blocks of time. It has no recurrent matrix, so it accepts no constraint.
    The published block has a convolution before this cell, and a norm, a gate and a projection after it. They are not
    part of the cell.

    Weights are initialized uniformly in :math:`\pm 1/\sqrt m`, and biases to 0. :math:`e^a` is initialized uniformly in
    (0, 16). The bias of the decay is initialized such that softplus is log-uniform in (0.001, 0.1). Learning rate:
    1e-2. Source: Siems et al. (2025).

    Examples
    --------
    >>> layer = mr.nn.Layer(mr.nn.cells.DeltaProduct(heads=2), 3, 8)
    >>> y, (last, H) = layer(torch.randn(5, 1, 3))
    >>> assert H.shape == (1, 1, 2, 4, 4) and torch.equal(last[0], y[-1])
    """

    beta: Strength = "up to 2"
    heads: int = 1
    key_size: int | None = None
    decay: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count("DeltaProduct", "heads", self.heads, unit="heads")
        if self.key_size is not None and not is_integer(self.key_size, 1):
            raise OptionError(
                "The key_size of DeltaProduct is out of range.\n"
                f"Expected an integer of at least 1, or None, got {self.key_size!r:.40}.\nChoose a positive integer."
            )

    def allocate(
        self,
        input_size: int,
        hidden_size: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> dict[str, Tensor]:
        """Return the weights, uninitialized."""
        h, k = self.heads, self.reflections
        if hidden_size % h:
            raise ShapeError(
                "The heads of DeltaProduct do not divide its outputs evenly.\n"
                f"Expected a hidden size that is a multiple of {h}, got {hidden_size}.\nChoose another number of heads."
            )
        d = self.key_size or hidden_size // h
        shapes: dict[str, tuple[int, ...]] = {"weight_ih": (k * hidden_size, input_size)}
        if self.bias:
            shapes["bias_ih"] = (k * hidden_size,)
        shapes |= self.shapes_of_reflections(input_size, k * h * d, k * h)
        shapes["weight_query"] = (h * d, input_size)
        if self.decay:
            shapes |= {"weight_decay": (h, input_size), "bias_decay": (h,)}
        weights = allocate_empty(shapes, device=device, dtype=dtype)
        return weights | ({"log_rate": weights["weight_ih"].real.new_empty(h)} if self.decay else {})

    def reset(self, generator: torch.Generator | None = None) -> None:
        """Initialize the weights as described in the notes."""
        super().reset(generator)
        if not self.decay:
            return
        log_rate, bias = self.weights["log_rate"], self.weights["bias_decay"]
        with torch.no_grad():
            log_rate.copy_(init.uniform_(log_rate, 1e-3, 16, generator=generator).log())
            start = init.uniform_(torch.empty_like(log_rate), math.log(1e-3), math.log(0.1), generator=generator).exp()
            bias.copy_(start.expm1().log())  # the inverse of softplus

    def project(self, x: Tensor) -> Tensor:
        """Return values, keys, queries, strengths and decays, concatenated on the last axis."""
        keys, queries = (self.vectors(x, name, self._key_size).flatten(-2) for name in ("key", "query"))
        values = self.map_inputs(x, "ih")
        parts = self.with_strengths([values, keys, queries], x, self.reflections * self.heads)
        return torch.cat([*parts, self._log_decay(x).to(values.dtype)] if self.decay else parts, -1)

    def initial_state(self, batch: int) -> State:
        """Return ``(0, 0)``, shapes (B, n) and (B, heads, d, e)."""
        V, d = self.weights["weight_ih"], self._key_size
        n = len(V) // self.reflections
        return V.new_zeros(batch, n), V.new_zeros(batch, self.heads, d, n // self.heads)

    def step(self, u: Tensor, state: State, W: Tensor) -> tuple[Tensor, State]:
        """Return ``y`` of shape (B, n), and ``(y, H)``."""
        q, K, V, beta, log_decay = self._parts(u)
        H = state[1]
        with without_autocast(u):
            if log_decay is not None:
                H = H * log_decay.exp()[..., None, None]
            for k, v, strength in zip(K.unbind(-2), V.unbind(-2), beta.unbind(-1), strict=True):
                held = (k.conj().unsqueeze(-2) @ H).squeeze(-2)  # (B, h, e): the stored value of the key
                H = H + (strength.unsqueeze(-1) * k).unsqueeze(-1) * (v - held).unsqueeze(-2)
            y = (q.conj().unsqueeze(-2) @ H).flatten(1)
        return y, (y, H)

    def all_steps(self) -> AllSteps:
        """Return the steps in blocks of time."""
        return self._write_all

    def _write_all(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        h, k, d, T = self.heads, self.reflections, self._key_size, len(x)
        x = in_blocks(x, block_steps(d, k, *x.shape[:2]))  # (N, B, steps, m)
        q = self.map_inputs(x, "query").unflatten(-1, (h, d))
        K, V = (self.map_inputs(x, name).unflatten(-1, (k, h, -1)) for name in ("key", "ih"))
        beta = self.strengths(x, k * h).unflatten(-1, (k, h))
        log_decay = self._log_decay(x) if self.decay else None
        if (real := real_steps(x, T)) is not None:
            beta = beta * real[..., None, None]
            log_decay = None if log_decay is None else log_decay * real[..., None]
        y, H = delta_in_blocks(Rules(q, K, V, beta, log_decay), state[1])
        y = y[:T].flatten(2)
        return y, (y[-1], H)

    @property
    def _key_size(self) -> int:
        return len(self.weights["weight_query"]) // self.heads

    def _log_decay(self, x: Tensor) -> Tensor:
        return -(self.weights["log_rate"].exp() * F.softplus(self.map_inputs(x, "decay").real))

    def _parts(self, u: Tensor) -> Parts:
        h, k, d, n = self.heads, self.reflections, self._key_size, len(self.weights["weight_ih"])
        sizes = [n, k * h * d, h * d, 0 if self.beta == "reflection" else k * h, h if self.decay else 0]
        V, K, q, beta, log_decay = u.split(sizes, -1)
        K, V = (z.unflatten(-1, (k, h, -1)).transpose(-3, -2) for z in (K, V))
        if self.beta == "reflection":
            strengths = u.real.new_full((*u.shape[:-1], h, k), 2.0)
        else:
            strengths = beta.real.unflatten(-1, (k, h)).mT
        return Parts(q.unflatten(-1, (h, d)), K, V, strengths, log_decay.real if self.decay else None)
