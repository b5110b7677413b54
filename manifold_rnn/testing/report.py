"""What every check returns: named numbers, each with the bound it is held to."""

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
    value : float or None
        None where the manifold refuses the operation by name.
    relation : "<=", ">=" or ""
        How the value has to compare with the bound; empty if it has none.
    bound : float
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
        """How far the number is beyond its bound, on a scale where 1 is the bound; infinite for NaN."""
        if self.value is None or not self.relation:
            return 0.0
        if math.isnan(self.value):
            return math.inf
        if self.relation == "<=":
            return self.value / self.bound if self.bound else math.inf if self.value > 0 else 0.0
        return self.bound / self.value if self.value > 0 else math.inf


@dataclass(frozen=True)
class Report:
    """Numbers that a check measured, and the bounds it holds them to.

    A number that could not be measured, because the manifold refuses the operation by name, is None.

    Parameters
    ----------
    check : str
        What was checked.
    subject : str
        On which manifold.
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
        """Every number with its bound and meaning."""
        rows = []
        for f in dataclasses.fields(self):
            if "meaning" in f.metadata:
                bound = f.metadata["bound"]
                limit = self.atol if bound is None else getattr(self, bound) if isinstance(bound, str) else bound
                rows.append(Row(f.name, getattr(self, f.name), f.metadata["relation"], limit, f.metadata["meaning"]))
        return rows

    @property
    def failures(self) -> list[Row]:
        """The numbers beyond their bounds, the worst first."""
        return sorted((row for row in self.rows if row.excess > 1), key=lambda row: -row.excess)

    @property
    def ok(self) -> bool:
        """Whether every number is within its bound."""
        return not self.failures

    def require(self) -> Self:
        """The report itself, if every number is within its bound.

        Returns
        -------
        Report

        Raises
        ------
        CheckError
            Otherwise, naming the worst number.
        """
        if self.failures:
            worst, *others = self.failures
            also = f" (and {', '.join(row.name for row in others)})" if others else ""
            raise CheckError(
                f"{self.check}({self.subject}): {worst.name}, {worst.meaning}.\n"
                f"Expected {worst.relation} {worst.bound:.3g}, got {worst.value:.3g}{also}.\n"
                "Print the report for all the numbers."
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
    """Field of a report that must not exceed ``bound``: a number, the name of another field, or None for ``atol``."""
    return dataclasses.field(metadata={"meaning": meaning, "relation": "<=", "bound": bound})


def at_least(meaning: str, bound: float | str) -> Any:
    """Field of a report that must reach ``bound``."""
    return dataclasses.field(metadata={"meaning": meaning, "relation": ">=", "bound": bound})


def measured(meaning: str) -> Any:
    """Field of a report that is told, and held to nothing."""
    return dataclasses.field(metadata={"meaning": meaning, "relation": "", "bound": 0.0})
