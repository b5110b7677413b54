"""Checks of the options of diagnostics."""

from collections.abc import Iterable
from math import inf
from typing import Any

import torch
from torch import Tensor, nn

from .._options import is_integer, is_number
from ..errors import OptionError, UnsupportedError


def require_at_least(name: str, value: object, least: int, most: int | None = None) -> None:
    """Raise `OptionError` unless an option is an integer in this range."""
    if not is_integer(value, least) or (most is not None and value > most):  # type: ignore[operator]
        span = f"an integer of at least {least}" if most is None else f"an integer from {least} to {most}"
        raise OptionError(f"`{name}` is out of range.\nExpected {span}. Got {value!r:.40}.\nChange `{name}`.")


def require_positive(name: str, value: object, below: float = inf) -> None:
    """Raise `OptionError` unless an option is a positive number below a bound."""
    if not is_number(value) or not 0 < float(value) < below:
        bound = "finite" if below == inf else f"below {below:g}"
        raise OptionError(f"`{name}` is out of range.\nExpected a positive number, {bound}. Got {value!r:.40}.")


def require_positives(name: str, values: object) -> tuple[float, ...]:
    """Return a sequence of positive, finite numbers, or raise `OptionError`."""
    items = _items(values)
    if items is None or not all(is_number(item) and 0 < float(item) < inf for item in items):
        raise OptionError(
            f"`{name}` needs a sequence of positive numbers.\nGot {values!r:.80}.\nPass a tuple such as (0.1,)."
        )
    return tuple(float(item) for item in items)


def require_range(name: str, value: object) -> tuple[float, float]:
    """Return a pair of a smaller and a larger number, or raise `OptionError`."""
    items = _items(value)
    if items is None or len(items) != 2 or not all(map(is_number, items)) or not items[0] < items[1]:
        raise OptionError(
            f"`{name}` needs a smaller and a larger number.\nGot {value!r:.80}.\nPass for example (0.0, 1.0)."
        )
    return float(items[0]), float(items[1])


def require_seed(seed: object) -> None:
    """Raise `OptionError` unless torch accepts the seed."""
    if not is_integer(seed, 0) or int(seed) >= 2**63:  # type: ignore[call-overload]
        raise OptionError(f"`seed` needs an integer from 0 to 2^63 - 1. Got {seed!r:.40}.")


def _items(values: object) -> tuple[Any, ...] | None:
    return tuple(values) if isinstance(values, Iterable) and not isinstance(values, (str, bytes)) else None


def require_module(module: object, who: str) -> None:
    """Raise `OptionError` unless this is a torch module."""
    if not isinstance(module, nn.Module):
        raise OptionError(f"{who} needs a torch module.\nGot {type(module).__name__}.\nPass the network first.")


def require_dense(x: Tensor, who: str) -> None:
    """Raise `UnsupportedError` unless a tensor is dense and has data."""
    if x.is_meta:
        raise UnsupportedError(
            f"{who} needs a tensor with data.\nGot a tensor on the meta device.\nCreate it on another device."
        )
    if x.layout != torch.strided:
        raise UnsupportedError(f"{who} needs a dense tensor.\nGot {x.layout}.\nConvert it with .to_dense().")
