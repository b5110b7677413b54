"""The reports of checks: named numbers, each with its bound."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from ..errors import CheckError


class Row(NamedTuple):
    """One number of a report, with its bound.

    Attributes
    ----------
    name : str
        The name of the number in the report.
    value : float or None
        None if the checked object does not support the operation.
    relation : "<=", ">=" or ""
        The required relation of value and bound; empty if there is no bound.
    bound : float
        The bound.
    meaning : str
        What was measured.

    Examples
    --------
    >>> row = mr.testing.Row("gap", 2.0, "<=", 1.0, "an example")
    >>> assert row.excess == 2
    """

    name: str
    value: float | None
    relation: str
    bound: float
    meaning: str

    @property
    def excess(self) -> float:
        """The ratio of value and bound, above 1 if the bound is exceeded; infinite for NaN."""
        if self.value is None or not self.relation:
            return 0.0
        if math.isnan(self.value):
            return math.inf
        if self.relation == "<=":
            return self.value / self.bound if self.bound else math.inf if self.value > 0 else 0.0
        return self.bound / self.value if self.value > 0 else math.inf


@dataclass(frozen=True)
class Report:
    """The numbers that a check measured, and their bounds.

    A number is None if the checked object does not support the operation.

    Parameters
    ----------
    check : str
        The name of the check.
    subject : str
        What was checked, such as a manifold.
    atol : float
        Bound of the numbers that are 0 up to rounding errors.

    Examples
    --------
    >>> report = mr.testing.check_manifold(mr.Orthogonal())
    >>> assert report.ok and "self_adjoint" in str(report) and report.require() is report
    """

    check: str
    subject: str
    atol: float

    @property
    def rows(self) -> list[Row]:
        """Return every number with its bound and meaning."""
        rows = []
        for f in dataclasses.fields(self):
            if "meaning" in f.metadata:
                bound = f.metadata["bound"]
                limit = self.atol if bound is None else getattr(self, bound) if isinstance(bound, str) else bound
                rows.append(Row(f.name, getattr(self, f.name), f.metadata["relation"], limit, f.metadata["meaning"]))
        return rows

    @property
    def failures(self) -> list[Row]:
        """Return the numbers out of bounds, the worst first."""
        return sorted((row for row in self.rows if row.excess > 1), key=lambda row: -row.excess)

    @property
    def ok(self) -> bool:
        """Whether every number is within its bound."""
        return not self.failures

    def require(self) -> Self:
        """Return the report itself if every number is within its bound.

        Returns
        -------
        Report

        Raises
        ------
        CheckError
            If a number is out of bounds. The message names the worst one.
        """
        if self.failures:
            worst, *others = self.failures
            also = f" (and {', '.join(row.name for row in others)})" if others else ""
            raise CheckError(
                f"{self.check}({self.subject}): {worst.name}, {worst.meaning}.\n"
                f"Expected {worst.relation} {worst.bound:.3g}, got {worst.value:.3g}{also}.\n"
                "Print the report for all numbers."
            )
        return self

    def __str__(self) -> str:
        width = max(len(row.name) for row in self.rows)
        lines = [f"{self.check}({self.subject}): {'ok' if self.ok else 'FAILED'}"]
        for row in self.rows:
            value = "refused" if row.value is None else f"{row.value:.3g}"
            bound = f"{row.relation} {row.bound:.3g}" if row.relation else ""
            mark = "!" if row.excess > 1 else " "
            lines.append(f"{mark} {row.name:<{width}}  {value:>9}  {bound:<10}  {row.meaning}")
        return "\n".join(lines)


def at_most(meaning: str, bound: float | str | None = None) -> Any:
    """Declare a number that must be at most ``bound``: a number, the name of another field, or None for ``atol``."""
    return dataclasses.field(metadata={"meaning": meaning, "relation": "<=", "bound": bound})


def at_least(meaning: str, bound: float | str) -> Any:
    """Declare a number that must be at least ``bound``."""
    return dataclasses.field(metadata={"meaning": meaning, "relation": ">=", "bound": bound})


def measured(meaning: str) -> Any:
    """Declare a number without a bound."""
    return dataclasses.field(metadata={"meaning": meaning, "relation": "", "bound": 0.0})
