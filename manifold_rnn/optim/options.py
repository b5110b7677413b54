"""The options common to all optimizers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypedDict

from ..errors import OptionError

OnNonFinite = Literal["raise", "skip"]


class StepOptions(TypedDict, total=False):
    """The keyword options of every optimizer. `RiemannianOptimizer` documents them."""

    maximize: bool
    on_nonfinite: OnNonFinite
    capturable: bool


class RetractionOptions(StepOptions, total=False):
    """The options of an optimizer that retracts to the manifold at every step."""

    polish_every: int | None


class StateKinds(NamedTuple):
    """The states of an optimizer that are not coordinates: gradients from autograd, and second moments."""

    ambient: tuple[str, ...] = ()
    squares: tuple[str, ...] = ()


def bad_decay(decay: object) -> OptionError:
    """Return the error for an invalid decay of a moving average."""
    return OptionError(
        f"decay of an average is out of range.\nExpected None or a number in [0, 1), got {decay!r}.\n"
        "Use e.g. decay=0.999."
    )


DEFAULTS: RetractionOptions = {"maximize": False, "on_nonfinite": "raise", "capturable": False, "polish_every": None}


def require(group: dict[str, Any], name: str, holds: Callable[[Any], bool], rule: str) -> None:
    """Raise `OptionError` unless ``holds`` is true for the option of the group."""
    try:
        ok = holds(group[name])
    except TypeError:
        ok = False
    if not ok:
        raise OptionError(f"{name} must be {rule}.\nGot {group[name]!r}.\nCorrect the option of that parameter group.")


def require_second_moment(group: dict[str, Any]) -> None:
    """Raise `OptionError` unless `Batch.square` supports the second moment."""
    require(group, "second_moment", lambda v: v in ("elementwise", "matrix"), "'elementwise' or 'matrix'")
