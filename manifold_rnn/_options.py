"""Keyword options that several classes share: declared once, checked once, and shown in every signature."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import TypeGuard, get_type_hints

from .errors import OptionError


def is_integer(value: object, least: int) -> bool:
    """Return whether a value is an integer of at least ``least``, of Python or NumPy, but not a bool."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least


def is_number(value: object) -> TypeGuard[float]:
    """Return whether a value is a real number of Python or NumPy, but not a bool. It may be NaN or infinite."""
    return isinstance(value, Real) and not isinstance(value, bool)


def require_known(kind: type, shared: type, options: Mapping[str, object]) -> None:
    """Raise `OptionError`, with the nearest name, unless all options are keys of the typed dictionary ``shared``."""
    for name in options:
        if name not in get_type_hints(shared):
            known = inspect.signature(kind).parameters
            near = difflib.get_close_matches(name, known, n=1)
            raise OptionError(
                f"{kind.__name__} has no option {name!r}.\nExpected some of {', '.join(known)}; got {name!r}.\n"
                + (f"Did you mean {near[0]!r}?" if near else "Leave it out.")
            )


def full_signature(init: Callable[..., None], shared: type, defaults: Mapping[str, object]) -> inspect.Signature:
    """Return the signature of a class, with the shared options instead of its ``**options``.

    Parameters
    ----------
    init : callable
        The ``__init__`` of the class.
    shared : type
        The typed dictionary of the shared options.
    defaults : mapping
        Their defaults, by name.
    """
    _, *parameters = _signature(init).parameters.values()  # without self
    own = [p for p in parameters if p.kind is not p.VAR_KEYWORD]
    if len(own) == len(parameters):
        return inspect.Signature(own)
    rest = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=defaults[name], annotation=hint)
        for name, hint in get_type_hints(shared).items()
    ]
    return inspect.Signature([*own, *rest])


def _signature(init: Callable[..., None]) -> inspect.Signature:
    try:
        return inspect.signature(init, eval_str=True)
    except NameError:  # a name that only type checkers import
        return inspect.signature(init)
