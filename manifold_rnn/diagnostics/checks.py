"""Checks of the options of diagnostics."""

from .._options import is_integer
from ..errors import OptionError


def require_at_least(name: str, value: object, least: int, most: int | None = None) -> None:
    """Raise `OptionError` unless an option is an integer in this range."""
    if not is_integer(value, least) or (most is not None and value > most):  # type: ignore[operator]
        span = f"an integer of at least {least}" if most is None else f"an integer from {least} to {most}"
        raise OptionError(f"`{name}` is out of range.\nExpected {span}. Got {value!r:.40}.\nChange `{name}`.")
