"""Momentum on the inputs of any cell."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Self, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from ...errors import OptionError
from ...linalg.precision import is_readable
from .accumulate import accumulate
from .base import FILLED_BY_BIND, Cell, State
from .elman import Elman
from .elman_form import ElmanForm
from .gated_form import GatedForm, without_gap
from .options import require_choice, require_count, require_number

Kind = Literal["momentum", "adam", "rmsprop", "restart"]


@dataclass(frozen=True, eq=False)
class Momentum(Cell):
    r"""Any cell with momentum on its projected inputs: MomentumRNN and its relatives.

    Let :math:`g_t = V x_t + b` be the projected inputs of the host cell, for all its gates together. The host receives
    these inputs instead:

    .. math::
        \text{"momentum"} \quad & v_t = \mu v_{t-1} + s\, g_t, \\
        \text{"adam"} \quad & v_t / \sqrt{m_t + \epsilon}, \qquad m_t = \beta m_{t-1} + (1 - \beta) |g_t|^2, \\
        \text{"rmsprop"} \quad & \text{as "adam", with } \mu = 0, \\
        \text{"restart"} \quad & v_t = \tfrac{k - 1}{k + 2} v_{t-1} + s\, g_t, \qquad k = 1, \dots, F, 1, \dots, F,
        \dots

    Parameters
    ----------
    host : Cell
        Cell that receives the momentum. Its weights, nonlinearity and recurrent bias ``bias_hh`` are unchanged.
    kind : "momentum", "adam", "rmsprop" or "restart"
        Kind of update, see above.
    momentum, scale : float
        :math:`\mu` and :math:`s`.
    decay : float
        :math:`\beta`, below 1.
    period : int
        Number of steps F between two restarts.
    eps : float
        :math:`\epsilon`, positive.
    weights : mapping from str to Tensor
        Weights of the host. There are no others.
    offset : Tensor, optional
        Contribution of ``bias_hh`` to the projected inputs, filled by `bind`.

    Raises
    ------
    OptionError
        If the kind is unknown or a number is out of range.

    Notes
    -----
    The state is that of the host, followed by ``v``, and the mean ``m`` or the number of steps since the last restart.
    All of them are initially zero. With :math:`\mu = 0` and :math:`s = 1`, the results equal those of the host bit for
    bit. This also holds for "restart" with F = 1 and s = 1.

    For a host with linear steps, the eigenvalues are those of ``W``, and :math:`\mu`. So momentum does not change the
    eigenvalues of ``W``. A constant input is amplified by :math:`s / (1 - \mu)`. The first step of "adam" is about
    :math:`s / \sqrt{1 - \beta}` times the sign of :math:`g`. If g is 0, as in the margin of an image, its derivative is
    :math:`1/\sqrt\epsilon`. The released code uses :math:`\epsilon` = 1e-16.

    Learning rate: 1e-2. Source: Nguyen, Baraniuk, Bertozzi, Osher and Wang (2020).

    Examples
    --------
    >>> host = mr.nn.cells.Elman("relu", bias=False)
    >>> cell = mr.nn.cells.Momentum(host, momentum=0.5, scale=1.0).bind({"weight_ih": torch.ones(1, 1)})
    >>> y, _ = mr.nn.scan.reference(cell, torch.ones(3, 1, 1), cell.initial_state(1), torch.zeros(1, 1))
    >>> assert torch.equal(y.flatten(), torch.tensor([1.0, 1.5, 1.75]))
    """

    host: Cell = field(default_factory=Elman)
    kind: Kind = "momentum"
    momentum: float = 0.6
    scale: float = 0.6
    decay: float = 0.9
    period: int = 40
    eps: float = 1e-8
    offset: Tensor | None = field(default=None, kw_only=True, repr=False, metadata={FILLED_BY_BIND: True})

    def __post_init__(self) -> None:
        if not isinstance(self.host, Cell):
            raise OptionError(
                f"The host of Momentum needs to be a cell.\nGot {self.host!r:.80}.\nPass a cell, such as Elman()."
            )
        if not self.host.gates:
            raise OptionError(
                "Momentum needs a host with a recurrent matrix, which does not depend on the input.\n"
                f"Got {self.host!r:.80}.\nUse another host, such as Elman()."
            )
        require_choice("Momentum", "kind", self.kind, get_args(Kind))
        require_number("Momentum", "momentum", self.momentum, zero=True)
        require_number("Momentum", "scale", self.scale)
        require_number("Momentum", "decay", self.decay, below=1, zero=True)
        require_number("Momentum", "eps", self.eps)
        require_count("Momentum", "period", self.period)

    @property
    def gates(self) -> tuple[str, ...]:  # type: ignore[override]
        """The gates of the host."""
        return self.host.gates

    @property
    def own_parts(self) -> int:
        """Number of parts of the state that belong to the momentum. They follow those of the host."""
        return 1 if self.kind in ("momentum", "rmsprop") else 2

    def bind(self, weights: Mapping[str, Tensor]) -> Self:
        """Return the same cell with its weights, which are those of the host."""
        host = self.host.bind(weights)
        return dataclasses.replace(self, host=host, weights=weights, offset=_recurrent_bias(host))

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

    def reset(self, generator: torch.Generator | None = None) -> None:
        """Initialize the weights as the host does."""
        self.host.reset(generator)

    def project(self, x: Tensor) -> Tensor:
        """Return the projected inputs of the host."""
        return self.host.project(x)

    def initial_state(self, batch: int) -> State:
        """Return the state of the host, and zeros with the shape of projected inputs, or (B, 1) for a count."""
        V = self.weights["weight_ih"]
        zero = torch.zeros_like(self.project(V.new_zeros(batch, V.shape[-1])))
        own = {"momentum": (zero,), "adam": (zero, zero), "rmsprop": (zero,), "restart": (zero, zero[:, :1])}
        return *self.host.initial_state(batch), *own[self.kind]

    def step(self, u: Tensor, state: State, W: Tensor) -> tuple[Tensor, State]:
        """Return the output of the host, and the state."""
        g = u if self.offset is None else u - self.offset
        moved, own_state = self._advance(g, state[-self.own_parts :])
        y, host_state = self.host.step(u + (moved - g), state[: -self.own_parts], W)  # exactly u if moved equals g
        return y, (*host_state, *own_state)

    def elman_form(self) -> ElmanForm | None:
        """Return the form of the host. `elman_inputs` computes its inputs, which do not depend on its states."""
        form = self.host.elman_form()
        plain_host = self.host.steps_match("elman_form") and type(self.host).elman_inputs is Cell.elman_inputs
        return dataclasses.replace(form, weight_ih=None, bias=None) if form is not None and plain_host else None

    def elman_inputs(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Return the inputs of the host for all steps, (T, B, n), and the last ``v``, and ``m`` or count."""
        u = self.project(x)
        g = u if self.offset is None else u - self.offset
        moved, own_state = self._advance_all(g, state[1:])
        return u + (moved - g), own_state

    def gated_form(self, W: Tensor) -> GatedForm | None:
        """Return the form of a real host. `gated_inputs` computes its inputs."""
        plain_host = self.host.steps_match("gated_form") and type(self.host).gated_inputs is Cell.gated_inputs
        return self.host.gated_form(W) if plain_host and not W.is_complex() else None

    def gated_inputs(self, form: GatedForm, x: Tensor, state: State) -> tuple[GatedForm, Tensor, State, State]:
        """Return the form of the host with the inputs that it receives.

        A momentum that starts at zero is linear in the inputs. So it is computed from the unprojected inputs, unless
        this overflows.
        """
        host_state, (v, *rest) = state[: -self.own_parts], state[-self.own_parts :]
        x = x.to(v.dtype)
        is_linear = self.kind in ("momentum", "restart") and x.shape[-1] < v.shape[-1]
        if is_linear and not v.requires_grad and is_readable(v) and is_readable(x) and not bool(v.any()):
            results = self._gated_inputs_from_zero(form, x, host_state, (v, *rest))
            if bool(results[1].detach().sum().isfinite()):
                return results
        u = self.project(x)
        g = u if self.offset is None else u - self.offset
        moved, own_state = self._advance_all(g, (v, *rest))
        form = dataclasses.replace(form, weight_ih=None, bias=None)
        return form, form.arrange(u + (moved - g)), host_state, own_state

    def _gated_inputs_from_zero(
        self, form: GatedForm, x: Tensor, host_state: State, own_state: State
    ) -> tuple[GatedForm, Tensor, State, State]:
        """Return `gated_inputs` from the momentum of [x, 1], whose projection is the momentum of ``g``."""
        V = self.weights["weight_ih"]
        bias = self.project(torch.zeros_like(x[0, :1])).squeeze(0)
        offset = torch.zeros_like(bias) if self.offset is None else self.offset.squeeze(0)
        inputs = F.pad(x, (0, 1), value=1.0)  # (T, B, m + 1)
        moved, (last, *rest) = self._advance_all(inputs, (torch.zeros_like(inputs[0]), *own_state[1:]))
        zero = form.arrange(torch.zeros_like(bias))
        column = without_gap(form.arrange(bias - offset) - zero, form.gap)
        assert form.weight_ih is not None
        form = dataclasses.replace(
            form, weight_ih=torch.cat([form.weight_ih, column.unsqueeze(1)], 1), bias=form.arrange(offset)
        )
        v = last @ torch.cat([V, (bias - offset).unsqueeze(1)], 1).mT
        return form, moved, host_state, (v, *rest)

    def _advance(self, g: Tensor, own_state: State) -> tuple[Tensor, State]:
        """Return the input of the host that replaces ``g``, (B, n), and the next state of the momentum."""
        if self.kind == "restart":
            v, count = own_state
            done = count.detach().real  # a trained initial state must not train the count
            v = done / (done + 3) * v + self.scale * g
            return v, (v, torch.remainder(done + 1, self.period).to(count.dtype))
        if self.kind == "momentum":
            v = self.momentum * own_state[0] + self.scale * g
            return v, (v,)
        v = self.scale * g if self.kind == "rmsprop" else self.momentum * own_state[0] + self.scale * g
        m = self.decay * own_state[-1].real + (1 - self.decay) * (g * g.conj()).real
        next_state = (m.to(g.dtype),) if self.kind == "rmsprop" else (v, m.to(g.dtype))
        return v / torch.sqrt(m + self.eps), next_state

    def _advance_all(self, g: Tensor, own_state: State) -> tuple[Tensor, State]:
        """Return the results of `_advance` for all steps of ``g``, (T, B, n), and the last state."""
        if self.kind == "restart":
            v, count = own_state
            steps = torch.arange(len(g) + 1, device=g.device).view(-1, 1, 1)
            done = torch.remainder(count.detach().real + steps, self.period).to(g.dtype)  # (T + 1, B, 1)
            done[0] = count.detach()
            v = accumulate(self.scale * g, done[:-1] / (done[:-1] + 3), v)
            return v, (v[-1], done[-1])
        v = self.scale * g
        if self.kind != "rmsprop":
            v = accumulate(v, self.momentum, own_state[0])
        if self.kind == "momentum":
            return v, (v[-1],)
        m = accumulate((1 - self.decay) * (g * g.conj()).real, self.decay, own_state[-1].real)
        last = m[-1].to(g.dtype)
        return v / torch.sqrt(m + self.eps), ((last,) if self.kind == "rmsprop" else (v[-1], last))


def _recurrent_bias(host: Cell) -> Tensor | None:
    """Return the contribution of ``bias_hh``: the projection of 0 with all other biases set to zero."""
    weights = host.weights
    if "bias_hh" not in weights:
        return None
    zeroed = {name: torch.zeros_like(w) for name, w in weights.items() if "bias" in name and name != "bias_hh"}
    V = weights["weight_ih"]
    return host.bind({**weights, **zeroed}).project(V.new_zeros(1, V.shape[-1]))
