"""The options that optimizers share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypedDict

from ..errors import OptionError

OnNonFinite = Literal["raise", "skip"]


class StepOptions(TypedDict, total=False):
    """The keyword options of every optimizer. `RiemannianOptimizer` documents them."""

    maximize: bool
    on_nonfinite: OnNonFinite
    capturable: bool


class RetractionOptions(StepOptions, total=False):
    """Those of an optimizer that retracts to the manifold at every step."""

    polish_every: int | None


def bad_decay(decay: object) -> OptionError:
    """A decay of a moving average that is none."""
    return OptionError(
        f"decay is the share of the old average.\nExpected None or a number from 0 up to below 1, got {decay!r}.\n"
        "Use e.g. decay=0.999."
    )


DEFAULTS: RetractionOptions = {"maximize": False, "on_nonfinite": "raise", "capturable": False, "polish_every": None}


def require(group: dict[str, Any], name: str, holds: Callable[[Any], bool], rule: str) -> None:
    """Raise `OptionError` unless the option of the group obeys the rule."""
    try:
        ok = holds(group[name])
    except TypeError:
        ok = False
    if not ok:
        raise OptionError(f"{name} is {rule}.\nGot {group[name]!r}.\nCorrect the option of that parameter group.")


def require_second_moment(group: dict[str, Any]) -> None:
    """Raise `OptionError` unless the second moment is one that `Batch.square` knows."""
    require(group, "second_moment", lambda v: v in ("elementwise", "matrix"), "'elementwise' or 'matrix'")
