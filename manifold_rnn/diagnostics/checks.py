"""Checks of the options of diagnostics."""

from math import inf
from numbers import Real

from .._options import is_integer
from ..errors import OptionError


def require_at_least(name: str, value: object, least: int, most: int | None = None) -> None:
    """Raise `OptionError` unless an option is an integer in this range."""
    if not is_integer(value, least) or (most is not None and value > most):  # type: ignore[operator]
        span = f"an integer of at least {least}" if most is None else f"an integer from {least} to {most}"
        raise OptionError(f"`{name}` is out of range.\nExpected {span}. Got {value!r:.40}.\nChange `{name}`.")


def require_positive(name: str, value: object, below: float = inf) -> None:
    """Raise `OptionError` unless an option is a positive number below a bound."""
    if not isinstance(value, Real) or isinstance(value, bool) or not 0 < float(value) < below:
        bound = "finite" if below == inf else f"below {below:g}"
        raise OptionError(f"`{name}` is out of range.\nExpected a positive number, {bound}. Got {value!r:.40}.")
