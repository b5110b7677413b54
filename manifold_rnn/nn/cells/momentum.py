"""Momentum on the inputs of any cell."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Self, get_args

import torch
from torch import Tensor

from ...errors import OptionError
from .accumulate import accumulate
from .base import Cell, Form, State
from .common import require_number
from .elman import Elman

Kind = Literal["momentum", "adam", "rmsprop", "restart"]


@dataclass(frozen=True, eq=False)
class Momentum(Cell):
    r"""Any cell with momentum on what its inputs contribute: MomentumRNN, and its relatives.

    With :math:`g_t = V x_t + b` the projected inputs of the host cell, all its gates together, it takes instead of
    them

    .. math::
        \text{"momentum"} \quad & v_t = \mu v_{t-1} + s\, g_t, \\
        \text{"adam"} \quad & v_t / \sqrt{m_t + \epsilon}, \qquad m_t = \beta m_{t-1} + (1 - \beta) |g_t|^2, \\
        \text{"rmsprop"} \quad & \text{as "adam", with } \mu = 0, \\
        \text{"restart"} \quad & v_t = \tfrac{k - 1}{k + 2} v_{t-1} + s\, g_t, \qquad k = 1, \dots, F, 1, \dots, F,
        \dots

    Parameters
    ----------
    host : Cell
        Its recurrent matrix, the bias ``bias_hh`` that goes with it, its nonlinearity and its weights stay as they are.
    kind : "momentum", "adam", "rmsprop" or "restart"
        See above.
    momentum, scale : float
        :math:`\mu` and :math:`s`.
    decay : float
        :math:`\beta`, below 1.
    period : int
        F.
    eps : float
        :math:`\epsilon`, positive.
    weights : mapping from str to Tensor
        Those of the host; there are no others.
    offset : Tensor, optional
        Filled by `bind`: what ``bias_hh`` adds to the projected inputs.

    Raises
    ------
    OptionError
        If the kind is unknown or a number out of range.

    Notes
    -----
    State: that of the host, then ``v`` and the mean ``m`` or the number of steps since the last restart, all zero at
    first. With :math:`\mu = 0` and :math:`s = 1` the results are those of the host, bit for bit; so are those of
    "restart" with F = 1 and s = 1.

    For a host of linear steps the spectrum is that of ``W`` and :math:`\mu`: momentum changes no eigenvalue, and a
    constant input is amplified by :math:`s / (1 - \mu)`. The first step of "adam" is about
    :math:`s / \sqrt{1 - \beta}` times the sign of :math:`g`, and where g is 0, as in the margin of an image, its
    derivative is :math:`1/\sqrt\epsilon`; the released code has :math:`\epsilon` = 1e-16 there.

    Learning rate: 1e-2. Source: Nguyen, Baraniuk, Bertozzi, Osher and Wang (2020).

    Examples
    --------
    >>> host = mr.nn.cells.Elman("relu", bias=False)
    >>> cell = mr.nn.cells.Momentum(host, momentum=0.5, scale=1.0).bind({"weight_ih": torch.ones(1, 1)})
    >>> y, _ = mr.nn.scan.loop(cell, torch.ones(3, 1, 1), cell.initial_state(1), torch.zeros(1, 1))
    >>> assert torch.equal(y.flatten(), torch.tensor([1.0, 1.5, 1.75]))
    """

    host: Cell = field(default_factory=Elman)
    kind: Kind = "momentum"
    momentum: float = 0.6
    scale: float = 0.6
    decay: float = 0.9
    period: int = 40
    eps: float = 1e-8
    offset: Tensor | None = field(default=None, kw_only=True, repr=False)

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise OptionError(
                f"kind of Momentum names an update.\nExpected one of {', '.join(map(repr, get_args(Kind)))}, got "
                f"{self.kind!r}.\nCheck the spelling."
            )
        require_number("Momentum", "momentum", self.momentum, zero=True)
        require_number("Momentum", "scale", self.scale)
        require_number("Momentum", "decay", self.decay, below=1, zero=True)
        require_number("Momentum", "eps", self.eps)
        if not isinstance(self.period, int) or self.period < 1:
            raise OptionError(
                f"period of Momentum counts steps.\nExpected at least 1, got {self.period!r}.\nUse 1, 2 …"
            )

    @property
    def gates(self) -> tuple[str, ...]:  # type: ignore[override]
        """Those of the host."""
        return self.host.gates

    def bind(self, weights: Mapping[str, Tensor]) -> Self:
        """Return the same cell with its weights, which are those of the host."""
        host = self.host.bind(weights)
        return dataclasses.replace(self, host=host, weights=weights, offset=_offset(host))

    def allocate(
        self,
        input_size: int,
        hidden_size: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> dict[str, Tensor]:
        """Return the weights of the host."""
        return self.host.allocate(input_size, hidden_size, device=device, dtype=dtype)

    def reset(self) -> None:
        """Fill them as the host does."""
        self.host.reset()

    def project(self, x: Tensor) -> Tensor:
        """Return the projected inputs of the host."""
        return self.host.project(x)

    def initial_state(self, batch: int) -> State:
        """Return that of the host and zeros, of the shape of projected inputs but for the counter (B, 1)."""
        V = self.weights["weight_ih"]
        zero = torch.zeros_like(self.project(V.new_zeros(batch, V.shape[-1])))
        own = {"momentum": (zero,), "adam": (zero, zero), "rmsprop": (zero,), "restart": (zero, zero[:, :1])}
        return *self.host.initial_state(batch), *own[self.kind]

    def step(self, u: Tensor, state: State, W: Tensor) -> tuple[Tensor, State]:
        """Return the output of the host, and the state."""
        parts = 1 if self.kind in ("momentum", "rmsprop") else 2
        g = u if self.offset is None else u - self.offset
        drive, own = self._move(g, state[-parts:])
        y, host = self.host.step(u + (drive - g), state[:-parts], W)  # exactly u where the drive is g
        return y, (*host, *own)

    def form(self) -> Form | None:
        """Return that of the host, for inputs that momentum has moved: it does not depend on the host's states."""
        form = self.host.form()
        own_inputs = self.host.has_own_steps or type(self.host).prepare is not Cell.prepare
        return None if form is None or own_inputs else dataclasses.replace(form, weight_ih=None, bias=None)

    def prepare(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Return the moved inputs of the host for all steps at once, and the last ``v``, ``m`` or count."""
        u = self.project(x)
        g = u if self.offset is None else u - self.offset
        drive, own = self._accumulated(g, state[1:])
        return u + (drive - g), own

    def _move(self, g: Tensor, own: State) -> tuple[Tensor, State]:
        """The drive in the place of ``g``, and the new state of what makes it."""
        if self.kind == "restart":
            v, count = own
            done = count.detach().real  # a trained first state must not train the count
            v = done / (done + 3) * v + self.scale * g
            return v, (v, torch.remainder(done + 1, self.period).to(count.dtype))
        if self.kind == "momentum":
            v = self.momentum * own[0] + self.scale * g
            return v, (v,)
        v = self.scale * g if self.kind == "rmsprop" else self.momentum * own[0] + self.scale * g
        m = self.decay * own[-1].real + (1 - self.decay) * (g * g.conj()).real
        moved = (m.to(g.dtype),) if self.kind == "rmsprop" else (v, m.to(g.dtype))
        return v / torch.sqrt(m + self.eps), moved

    def _accumulated(self, g: Tensor, own: State) -> tuple[Tensor, State]:
        """The same as `_move` for all steps, (T, B, n)."""
        if self.kind == "restart":
            v, count = own
            steps = torch.arange(len(g) + 1, device=g.device).view(-1, 1, 1)
            done = torch.remainder(count.detach().real + steps, self.period).to(g.dtype)
            done[0] = count.detach()
            v = accumulate(self.scale * g, done[:-1] / (done[:-1] + 3), v)
            return v, (v[-1], done[-1])
        v = self.scale * g
        if self.kind != "rmsprop":
            v = accumulate(v, self.momentum, own[0])
        if self.kind == "momentum":
            return v, (v[-1],)
        m = accumulate((1 - self.decay) * (g * g.conj()).real, self.decay, own[-1].real)
        last = m[-1].to(g.dtype)
        return v / torch.sqrt(m + self.eps), ((last,) if self.kind == "rmsprop" else (v[-1], last))


def _offset(host: Cell) -> Tensor | None:
    """What ``bias_hh`` adds to projected inputs, read off the projection of 0 without the other biases."""
    weights = host.weights
    if "bias_hh" not in weights:
        return None
    others = {name: torch.zeros_like(w) for name, w in weights.items() if "bias" in name and name != "bias_hh"}
    V = weights["weight_ih"]
    return host.bind({**weights, **others}).project(V.new_zeros(1, V.shape[-1]))
