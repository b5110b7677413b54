"""The options common to all optimizers."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypedDict

from ..errors import OptimizerError, OptionError

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


def require_own_options(
    kind: type, root: type, saved: list[dict[str, Any]], groups: list[dict[str, Any]] | None
) -> None:
    """Raise `OptimizerError` if saved groups lack options of a class, and have those of another subclass of ``root``.

    Their moments would be missing or mean something else, while the number of steps would be kept. Groups may have
    other keys in addition, such as those of schedulers.
    """
    if groups is None:  # a copy, or an optimizer from a pickle
        return
    known = {name for each in _with_subclasses(root) for name in inspect.signature(each).parameters}
    had, own = known & set().union(*saved), known & set().union(*groups)
    foreign = sorted(had - own)
    if foreign and own - had:
        name = kind.__name__
        raise OptimizerError(
            f"This state was saved by another optimizer: its groups have {foreign[0]!r}, which {name} lacks.\n"
            f"Expected a state of {name}. Nothing was changed.\n"
            "Load it into the class that saved it, or train with a new state."
        )


def _with_subclasses(kind: type) -> list[type]:
    found = [kind]
    below: list[type] = type.__subclasses__(kind)
    for subclass in below:
        found += _with_subclasses(subclass)
    return found


def require(group: dict[str, Any], name: str, holds: Callable[[Any], bool], rule: str) -> None:
    """Raise `OptionError` unless ``holds`` is true for the option of the group."""
    try:
        ok = holds(group[name])
    except TypeError:
        ok = False
    if not ok:
        raise OptionError(f"{name} must be {rule}.\nGot {group[name]!r}.\nCorrect the option of that parameter group.")


def require_shared(group: dict[str, Any]) -> None:
    """Raise `OptionError` if an option that every optimizer has is out of range."""
    require(group, "lr", lambda v: 0 <= v < math.inf, "a finite number of at least 0")
    require(group, "weight_decay", lambda v: 0 <= v < math.inf, "a finite number of at least 0")
    require(group, "on_nonfinite", lambda v: v in ("raise", "skip"), "'raise' or 'skip'")
    every = "None or a whole number of at least 0"
    require(group, "polish_every", lambda v: v is None or (isinstance(v, int) and v >= 0), every)


def require_second_moment(group: dict[str, Any]) -> None:
    """Raise `OptionError` unless `Batch.square` supports the second moment."""
    require(group, "second_moment", lambda v: v in ("elementwise", "matrix"), "'elementwise' or 'matrix'")
