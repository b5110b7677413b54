"""Checks of the options of a cell."""

import math
from collections.abc import Sequence

from ..._options import is_integer
from ...errors import OptionError


def require_number(cell: str, option: str, value: float, *, below: float = math.inf, zero: bool = False) -> None:
    """Raise `OptionError` unless ``value`` is above 0 (or 0 with ``zero``) and below ``below``."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if is_number and (0 < value < below or (zero and value == 0)):
        return
    upper = "finite" if below == math.inf else f"below {below:g}"
    raise OptionError(
        f"The {option} of {cell} is out of range.\n"
        f"Expected a number that is {'at least' if zero else 'above'} 0 and {upper}, got {value!r}.\n"
        "Choose a number in this range."
    )


def require_choice(cell: str, option: str, value: object, choices: Sequence[object]) -> None:
    """Raise `OptionError` unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise OptionError(
            f"The {option} of {cell} is unknown.\n"
            f"Expected one of {', '.join(map(repr, choices))}, got {value!r}.\nCheck the spelling."
        )


def require_count(cell: str, option: str, value: int, *, unit: str = "steps") -> None:
    """Raise `OptionError` unless ``value`` is an integer of at least 1."""
    if not is_integer(value, 1):
        raise OptionError(
            f"The {option} of {cell} is not a number of {unit}.\n"
            f"Expected an integer of at least 1, got {value!r:.40}.\nChoose a positive integer."
        )
