"""A diagonal cell whose phases depend on the input."""

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn import init

from ...linalg.checks import read_number
from ...linalg.precision import double, host_max, may_read_device
from .base import AllSteps, State
from .input_dependent import InputDependent
from .options import require_number
from .weights import allocate_empty, fill_uniform

PART_BYTES = 1 << 18  # of the states of the steps that are summed at once, which fit into the CPU cache
_FEWEST = 4  # smallest number of steps that are summed at once
_FEW_TURNS = 1e4  # radians up to which the rounding error of pi is below that of the phases


@dataclass(frozen=True, eq=False)
class Rotating(InputDependent):
    r"""Complex units that are rotated by input-dependent phases. The rotation preserves their moduli.

    .. math:: h_t = e^{i \phi_t} \circ h_{t-1} + V x_t + b, \qquad \phi_t = \Delta_t \circ (\omega + P x_t),

    The time step is :math:`\Delta_t = \operatorname{softplus}(D x_t + d)`, or :math:`\Delta_t = 1` with
    ``time_step=False``. This is the recurrence of `LRU` with eigenvalues on the unit circle, whose phases depend on the
    input.

    Parameters
    ----------
    time_step : bool
        Whether the input also determines the time step :math:`\Delta`.
    max_phase : float
        Bound of the initial :math:`\omega`, which is in [0, max_phase).
    bias : bool, keyword only
        Whether to add the bias ``b``.
    weights : mapping from str to Tensor
        ``weight_ih`` (n, m) and ``bias_ih`` (n,). All others are real: ``phase`` (r,), which is :math:`\omega`, and
        ``weight_phase`` (r, 2m), or (r, m) if ``weight_ih`` is real. With a time step, there are ``weight_step`` of the
        same shape and ``bias_step`` (r,). ``r`` is n, or n // 2 for real weights.

    Raises
    ------
    OptionError
        If ``max_phase`` is not a positive number.

    Notes
    -----
    Real weights give real states, in which the units 2j and 2j + 1 are the real and the imaginary part of a number. If
    n is odd, the last unit is not rotated. The phase depends on the real and the imaginary part of a complex input.

    The steps commute. So the cell can count modulo a number, but it cannot represent products in a group that is not
    commutative. All steps of a part of the sequence are computed at once by :math:`h_t = e^{i\Phi_t} (h_0 + \sum_{s \le
    t} e^{-i\Phi_s} (V x_s + b))`. The :math:`\Phi_t` are the sums of the phases, computed in double precision. On a
    CPU, a part has at least four steps, and its states take 256 kB. On other devices, the whole sequence is one part.
    The cell has no recurrent matrix, so it accepts no constraint. For fixed eigenvalues use `LRU` with
    `manifold_rnn.DiagonalDisc`.

    ``V`` and ``P`` are initialized uniformly in :math:`\pm 1/\sqrt m`, ``D`` and ``b`` to 0, and ``d`` such that the
    time step is 1. Learning rate: 1e-2. Source: Karuvally et al. (2025).

    Examples
    --------
    The phase is the number of ones modulo 3, in thirds of a full turn:

    >>> cell = mr.nn.cells.Rotating(time_step=False, bias=False)
    >>> weights = {"weight_ih": torch.zeros(1, 1, dtype=torch.complex64), "phase": torch.zeros(1)}
    >>> cell = cell.bind({**weights, "weight_phase": torch.tensor([[2 * torch.pi / 3, 0]])})
    >>> state = (torch.ones(1, 1, dtype=torch.complex64),)
    >>> y, _ = mr.nn.scan.run(cell, torch.ones(4, 1, 1), state, cell.weights["weight_hh"])
    >>> assert torch.allclose(y.flatten()[2:].angle(), torch.tensor([0, 2 * torch.pi / 3]), atol=1e-5)
    """

    complex_by_default: ClassVar[bool] = True

    time_step: bool = True
    max_phase: float = 2 * math.pi
    bias: bool = field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        require_number("Rotating", "max_phase", self.max_phase)

    def allocate(
        self,
        input_size: int,
        hidden_size: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> dict[str, Tensor]:
        """Return the weights, uninitialized."""
        shapes: dict[str, tuple[int, ...]] = {"weight_ih": (hidden_size, input_size)}
        if self.bias:
            shapes["bias_ih"] = (hidden_size,)
        weights = allocate_empty(shapes, device=device, dtype=dtype)
        V = weights["weight_ih"]
        rows, features = (hidden_size, 2 * input_size) if V.is_complex() else (hidden_size // 2, input_size)
        weights |= {"phase": V.real.new_empty(rows), "weight_phase": V.real.new_empty(rows, features)}
        if self.time_step:
            weights |= {"weight_step": V.real.new_empty(rows, features), "bias_step": V.real.new_empty(rows)}
        return weights

    def reset(self, generator: torch.Generator | None = None) -> None:
        """Initialize the weights as described in the notes."""
        bound = self.weights["weight_ih"].shape[-1] ** -0.5
        fill_uniform({name: self.weights[name] for name in ("weight_ih", "weight_phase")}, bound, generator)
        init.uniform_(self.weights["phase"], 0, self.max_phase, generator=generator)
        for name in ("bias_ih", "weight_step"):
            if name in self.weights:
                init.zeros_(self.weights[name])
        if self.time_step:
            init.constant_(self.weights["bias_step"], math.log(math.e - 1))

    def project(self, x: Tensor) -> Tensor:
        """Return ``V x + b``, then the phases, of shape (..., n + r)."""
        V = self.weights["weight_ih"]
        drive = self.map_inputs(x, "ih")
        parts = torch.cat([x.real, x.imag if x.is_complex() else torch.zeros_like(x)], -1) if V.is_complex() else x
        phase = self.map_inputs(parts, "phase") + self.weights["phase"]
        if self.time_step:
            phase = F.softplus(self.map_inputs(parts, "step")) * phase
        return torch.cat([drive, phase.to(V.dtype)], -1)

    def initial_state(self, batch: int) -> State:
        """Return ``(0,)``, shape (B, n)."""
        V = self.weights["weight_ih"]
        return (V.new_zeros(batch, len(V)),)

    def step(self, u: Tensor, state: State, W: Tensor) -> tuple[Tensor, State]:
        """Return the rotated state with the input added, of shape (B, n), and the same as the state."""
        drive, phase = self._parts(u)
        h = state[0]
        if h.is_complex():
            h = torch.polar(torch.ones_like(phase), phase) * h + drive
            return h, (h,)
        pairs, rest = h.split([2 * phase.shape[-1], h.shape[-1] - 2 * phase.shape[-1]], -1)
        a, b = pairs.unflatten(-1, (-1, 2)).unbind(-1)
        c, s = phase.cos(), phase.sin()
        h = torch.cat([torch.stack([c * a - s * b, s * a + c * b], -1).flatten(-2), rest], -1) + drive
        return h, (h,)

    def all_steps(self) -> AllSteps:
        """Return the steps of each part of the sequence as two sums over time."""
        return self._rotate_all

    def _rotate_all(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        steps, outputs = _steps_of_part(state[0], len(x)), []
        for part in x.split(steps):
            y, state = self._rotate_part(part, state)
            outputs.append(y)
        return (outputs[0] if len(outputs) == 1 else torch.cat(outputs)), state

    def _rotate_part(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        drive, phase = self._parts(self.project(x))
        if drive.is_complex():
            h = _rotated_sums(drive, phase, state[0])
            return h, (h[-1],)
        size = 2 * phase.shape[-1]
        (pairs, rest), (h, last) = (z.split([size, z.shape[-1] - size], -1) for z in (drive, state[0]))
        h, pairs = (torch.view_as_complex(z.unflatten(-1, (-1, 2)).contiguous()) for z in (h, pairs))
        rotated = torch.view_as_real(_rotated_sums(pairs, phase, h)).flatten(-2)
        h = torch.cat([rotated, last + rest.cumsum(0)], -1)
        return h, (h[-1],)

    def _parts(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``V x + b`` and the phases."""
        n = len(self.weights["weight_ih"])
        return u[..., :n], u[..., n:].real


def _steps_of_part(h: Tensor, T: int) -> int:
    """Return the number of steps that are summed at once, for states of this shape."""
    if h.device.type != "cpu":
        return T
    return min(T, max(_FEWEST, PART_BYTES // max(1, h.numel() * h.element_size())))


def _rotated_sums(drive: Tensor, phase: Tensor, h: Tensor) -> Tensor:
    """Return all states of ``h_t = exp(i phase_t) h_{t-1} + drive_t``."""
    # a sum of large angles would lose small ones, so full turns are removed from both
    sums = _without_turns(_without_turns(double(phase)).cumsum(0)).to(drive.real.dtype)
    rotation = torch.polar(torch.ones_like(sums), sums)
    states: Tensor = rotation * (h + (rotation.conj() * drive).cumsum(0))
    return states


def _without_turns(angle: Tensor) -> Tensor:
    """Return the angle reduced to [-pi, pi]."""
    fixed = angle.detach()
    if may_read_device() and fixed.numel() and read_number(host_max, fixed.abs()) < _FEW_TURNS:
        return angle - 2 * math.pi * (fixed / (2 * math.pi)).round()
    return torch.atan2(fixed.sin(), fixed.cos()) + (angle - fixed)
