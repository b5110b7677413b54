"""Tests whether inputs have the moments that the estimates assume, in units of standard errors."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import UnsupportedError
from .scores import Condition

_CHANCE = 1e-6  # probability that a condition rejects valid inputs


class Check(NamedTuple):
    """A condition on the inputs.

    Parameters
    ----------
    deviation : float
        The largest deviation of a moment from its expectation, in standard errors.
    limit : float
        The limit, which valid inputs exceed with a probability of one in a million.

    Examples
    --------
    >>> assert mr.moments.Check(deviation=1.5, limit=5.3).holds
    """

    deviation: float
    limit: float

    @property
    def holds(self) -> bool:
        """Whether the deviation is within the limit."""
        return self.deviation <= self.limit


class Conditions:
    """Accumulates products over batches, and computes the checks."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[int, Tensor, Tensor | None, Condition]] = {}

    def add(self, conditions: dict[str, Condition]) -> None:
        """Add the products of a batch."""
        for name, condition in conditions.items():
            left, right = condition.left, condition.right
            count, total = len(left), left.mT @ right
            squares = left.square().mT @ right.square() if condition.variance is None else None
            if name in self._sums:
                old_count, old_total, old_squares, _ = self._sums[name]
                count, total = count + old_count, total + old_total
                squares = squares if squares is None or old_squares is None else squares + old_squares
            empty = condition._replace(left=left[:0], right=right[:0])  # so that no batch is kept in memory
            self._sums[name] = (count, total, squares, empty)

    def checks(self) -> dict[str, Check]:
        """Return the check of each condition, with the largest deviation."""
        result = {}
        for name, (count, total, squares, condition) in self._sums.items():
            mean = total / count
            variance = condition.variance if squares is None else squares / count - mean.square()
            error = torch.as_tensor(variance, dtype=mean.dtype, device=mean.device).clamp(min=1e-300).div(count).sqrt()
            off = mean - condition.expected
            off = torch.where(off.abs() <= 1e-12 * (1 + torch.as_tensor(condition.expected).abs()), 0.0, off)
            quantile = math.sqrt(2 * math.log(total.numel() / _CHANCE))
            skewed = condition.skewness / math.sqrt(count) * (quantile**2 - 1) / 6  # Cornish-Fisher correction
            result[name] = Check(float((off / error).abs().max()), quantile + skewed)
        return result


def require_conditions(checks: dict[str, Check], inputs: object) -> None:
    """Raise `UnsupportedError` for the first condition that fails, if any."""
    name = next((name for name, check in checks.items() if not check.holds), None)
    if name is None:
        return
    deviation, limit = checks[name]
    kind = inputs if isinstance(inputs, str) else "given"
    advice = "Whiten the inputs or use inputs='gaussian'" if kind == "standard" else "Pass the scores of their density"
    raise UnsupportedError(
        f"The inputs do not have the moments that inputs={kind!r} assumes: {name!r} fails.\n"
        f"Expected a deviation of at most {limit:.1f} standard errors, got {deviation:.1f}.\n"
        f"{advice}, or pass strict=False if a rough start is enough."
    )
