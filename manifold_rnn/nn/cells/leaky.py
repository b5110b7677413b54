"""The leaky Elman cell."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Self

import torch
from torch import Tensor

from ..._torch import has_dispatch_mode, sees_every_step
from ...errors import OptionError, ShapeError
from .base import FILLED_BY_BIND, State
from .elman import Elman
from .elman_form import ElmanForm
from .leaky_form import LeakyForm


@dataclass(frozen=True, eq=False)
class LeakyElman(Elman):
    r"""The leaky Elman cell, whose units forget at fixed rates.

    .. math:: h_t = (1 - a) h_{t-1} + a f(W h_{t-1} + V x_t + b).

    Parameters
    ----------
    nonlinearity : "tanh", "relu", "modrelu" or callable
        ``f``, as for `Elman`.
    bias : bool
        Whether to add the bias ``b``. Without it modReLU is the identity and the cell is linear.
    leak : float or tuple of float, keyword only
        ``a``, above 0 and at most 1. Pass one number for all units, or one for each unit. It is not trained. The time
        constant of a unit is :math:`\tau = 1/a` time steps.
    weights : mapping from str to Tensor
        As for `Elman`.
    rates : Tensor, shape (n,), optional
        Leaks of the units, filled by `bind`.

    Raises
    ------
    OptionError
        If the nonlinearity is unknown, or a leak is outside (0, 1].
    ShapeError
        If there are several leaks, but not one for each unit.

    Notes
    -----
    With ``leak=1`` this is `Elman`. Weights are initialized as in `Elman`. There is no fast scan for a leak below 1, so
    the layer runs the plain loop, or ``backend="compiled"``. `manifold_rnn.online.RFLO` trains this cell without
    backpropagation through time. Learning rate: 1e-2. Source: Jaeger, Lukosevicius, Popovici and Siewert (2007).

    Examples
    --------
    >>> cell = mr.nn.cells.LeakyElman(leak=0.1, bias=False).bind({"weight_ih": torch.ones(1, 1)})
    >>> h, _ = cell.step(torch.zeros(1, 1), (torch.ones(1, 1),), torch.zeros(1, 1))
    >>> assert abs(h.item() - 0.9) < 1e-6
    """

    leak: float | tuple[float, ...] = field(default=0.1, kw_only=True)
    rates: Tensor | None = field(default=None, kw_only=True, repr=False, metadata={FILLED_BY_BIND: True})

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.leak, list):  # from a YAML file
            object.__setattr__(self, "leak", tuple(self.leak))
        leaks = self.leak if isinstance(self.leak, tuple) else (self.leak,)
        wrong = [a for a in leaks if isinstance(a, bool) or not isinstance(a, (int, float)) or not 0 < a <= 1]
        if wrong or not leaks:
            raise OptionError(
                "The leak of LeakyElman is out of range.\n"
                f"Expected a number above 0 and at most 1, or a tuple of them; got {wrong[0] if wrong else ()!r:.80}.\n"
                "Pass 1/tau for a time constant of tau steps."
            )

    def allocate(
        self,
        input_size: int,
        hidden_size: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> dict[str, Tensor]:
        """Return the weights of `Elman`, uninitialized."""
        if isinstance(self.leak, tuple) and len(self.leak) != hidden_size:
            raise ShapeError(
                "LeakyElman needs one leak for each unit.\n"
                f"Expected {hidden_size} numbers, the hidden size; got {len(self.leak)}.\n"
                "Pass one number for all units, or as many as there are units."
            )
        return super().allocate(input_size, hidden_size, device=device, dtype=dtype)

    def bind(self, weights: Mapping[str, Tensor]) -> Self:
        """Return the same cell with its weights, and with the leaks of its units on their device."""
        rates = None
        if isinstance(self.leak, tuple) and weights:
            weight = next(iter(weights.values()))
            is_watched = sees_every_step() or has_dispatch_mode()  # then a tensor may be fake or temporarily wrapped
            make = _rates if is_watched else _kept_rates
            rates = make(self.leak, weight.real.dtype, weight.device)
        return replace(self, weights=weights, rates=rates)

    def step(self, u: Tensor, state: State, W: Tensor) -> tuple[Tensor, State]:
        """Return the next ``h`` of shape (B, n), and the same as the state."""
        (h,), a = state, self._leak()
        h = (1 - a) * h + a * self.activate(u + h @ W.mT)
        return h, (h,)

    def elman_form(self) -> ElmanForm | None:
        """Return the form of `Elman` if the leak is 1, else None."""
        leaks = self.leak if isinstance(self.leak, tuple) else (self.leak,)
        return super().elman_form() if set(leaks) == {1} else None

    def leaky_form(self) -> LeakyForm | None:
        """Return the form of `Elman`, with the leak."""
        form = super().leaky_form()
        return None if form is None else replace(form, leak=self._leak())

    def _leak(self) -> float | Tensor:
        if isinstance(self.leak, tuple):
            assert self.rates is not None, "the cell is not bound"
            return self.rates
        return self.leak


def _rates(leak: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # so that the tensor can also be used in training
        return torch.tensor(leak, dtype=dtype, device=device)


# cached, because a copy from the host in each forward pass would wait for the device
_kept_rates = lru_cache(maxsize=32)(_rates)
