"""The influence of the weights on the states: the exact one, and two that each unit can compute locally."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import OptionError


@dataclass(frozen=True, eq=False)
class Linearization:
    r"""The derivatives of one step :math:`h' = (1 - a) h + a f(z)`, :math:`z = W h + V x + b`.

    Parameters
    ----------
    keep : float or Tensor, shape (n,)
        The factor ``1 - a``.
    gain : Tensor, shape (B, n)
        ``a f'(z)``.
    row : Tensor, shape (B, n + m + 1)
        The vector ``[h; x; 1]``. The last entry is 0 if the cell has a threshold instead of ``b``.
    W : Tensor, shape (n, n)
        The recurrent matrix.
    threshold_gain : Tensor, shape (B, n), optional
        ``a`` times the derivative of ``f`` with respect to its threshold.
    """

    keep: float | Tensor
    gain: Tensor
    row: Tensor
    W: Tensor
    threshold_gain: Tensor | None = None


class Influence(ABC):
    """A running sum that estimates the derivative of the state with respect to ``[W V b]``, per sequence."""

    def __init__(self, batch: int, units: int, columns: int, like: Tensor) -> None:
        self.trace = like.new_zeros(self.shape(batch, units, columns))

    @staticmethod
    def shape(batch: int, units: int, columns: int) -> tuple[int, ...]:
        """Return the shape of the trace, which for each unit has its own row of ``[W V b]``."""
        return batch, units, columns

    @abstractmethod
    def advance(self, step: Linearization) -> None:
        """Update the trace by one time step."""

    def gradient(self, signal: Tensor) -> Tensor:
        """Return the gradient (n, columns) of ``[W V b]``, summed over the batch, for error signals (B, n)."""
        return torch.einsum("bi,bic->ic", signal, self.trace)

    def _own_rows(self) -> Tensor:
        """Return the part of the trace that a step changes directly, (B, n, columns): each unit's own row."""
        return self.trace

    def _add_direct(self, step: Linearization) -> None:
        rows = self._own_rows()
        rows.addcmul_(step.gain.unsqueeze(-1), step.row.unsqueeze(-2))
        if step.threshold_gain is not None:
            rows[..., -1] += step.threshold_gain


class Local(Influence):
    r"""The trace of RFLO, :math:`p' = (1 - a)\, p + a f'(z) \otimes [h; x; 1]`, which decays by the leak alone."""

    def advance(self, step: Linearization) -> None:
        keep = step.keep.unsqueeze(-1) if isinstance(step.keep, Tensor) else step.keep
        self.trace *= keep
        self._add_direct(step)


class Diagonal(Influence):
    r"""The trace with each unit's weight to itself: :math:`1 - a` becomes :math:`1 - a + a f' W_{ii}`.

    This is the diagonal of the influence, known as SnAp-1.
    """

    def advance(self, step: Linearization) -> None:
        self.trace *= (step.keep + step.gain * step.W.diagonal()).unsqueeze(-1)
        self._add_direct(step)


class Full(Influence):
    r"""The exact influence :math:`M' = J M + D` of real-time recurrent learning, of shape (B, n, n, columns).

    :math:`J` is the Jacobian of a step. The entry (j, i) of :math:`M` is the derivative of unit j with respect to the
    row of unit i.
    """

    @staticmethod
    def shape(batch: int, units: int, columns: int) -> tuple[int, ...]:
        """Return the shape of the influence of every row on every unit."""
        return batch, units, units, columns

    def advance(self, step: Linearization) -> None:
        jacobian = step.gain.unsqueeze(-1) * step.W  # (B, n, n)
        jacobian.diagonal(dim1=-2, dim2=-1).add_(step.keep)
        self.trace = (jacobian @ self.trace.flatten(2)).view_as(self.trace)
        self._add_direct(step)

    def gradient(self, signal: Tensor) -> Tensor:
        return torch.einsum("bj,bjic->ic", signal, self.trace)

    def _own_rows(self) -> Tensor:
        return self.trace.diagonal(dim1=1, dim2=2).mT


KINDS: dict[str, type[Influence]] = {"local": Local, "diagonal": Diagonal, "full": Full}


def influence_kind(name: str) -> type[Influence]:
    """Return the influence of this name; raises `OptionError` if it is unknown."""
    if not isinstance(name, str) or name not in KINDS:
        raise OptionError(
            "The influence of RFLO is unknown.\n"
            f"Expected one of {', '.join(map(repr, KINDS))}; got {name!r:.80}.\n"
            'Use "local" for the published rule, "full" for exact gradients.'
        )
    return KINDS[name]
