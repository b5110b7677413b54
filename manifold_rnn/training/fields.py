"""Checks the fields of settings against their type hints. Python, flags and files get the same messages."""

import math
import os
import types
import typing
from abc import ABCMeta
from argparse import ArgumentError
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, Union, get_args, get_origin

import numpy as np

from ..errors import OptionError
from .choices import Builder, members, named_constraint, parameter_hints, require, require_options
from .values import Value, Values

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

Hint: TypeAlias = object  # a type, or an object of `typing`
_LARGEST = float(np.finfo(np.float32).max)
_KINDS: dict[Hint, str] = {int: "an integer", float: "a number", bool: "true or false", dict: "a mapping"}


def check_fields(settings: object, path: str = "") -> None:
    """Raise `OptionError` unless the fields of a frozen dataclass have the types of their hints.

    Some values are converted: a path to a string, a numpy number to a Python number, and an integer to a float.
    """
    kind: Hint = type(settings)
    for name, hint in hints(kind).items():
        value = getattr(settings, name)
        if isinstance(hint, type) and (is_dataclass(hint) or isinstance(hint, ABCMeta)):
            require(isinstance(value, hint), f"{path}{name}", f"a {hint.__name__}", f"{value!r:.80}")
            if isinstance(hint, ABCMeta):  # a task does not check the types of its own fields
                check_fields(value, f"{path}{name}.")
            continue
        object.__setattr__(settings, name, checked(hint, value, f"{path}{name}"))


def checked(hint: Hint, value: Value, key: str) -> Value:
    """Return a value, converted to the type of its hint where needed. Raises `OptionError` if it does not fit."""
    value = _native(value)
    if _fits(hint, value):
        return value
    require(get_origin(hint) is not dict or isinstance(value, Mapping), key, "a mapping", repr(value))
    is_set = value is not None or get_origin(hint) in (Union, types.UnionType) or hint is Any
    require(is_set, key, expected(hint), "none")  # the parser would accept null for every type
    try:
        return _value_parser(hint).parse_object({"value": value})["value"]
    except (ArgumentError, OverflowError) as error:
        raise OptionError(f"`{key}` needs {expected(hint)}. Got {value!r:.80}.") from error


def check_options(key: str, build: Builder, options: Mapping[str, Value]) -> None:
    """Raise `OptionError` unless a builder takes these options, and those that are numbers have their types.

    The builder checks all other types. The options of a nested constraint are checked too.
    """
    require_options(key, build, options)
    for name, value in options.items():
        if name in members(build):
            check_options(f"{key}.{name}", *named_constraint(f"{key}.{name}", value))
        elif _is_number(hint := parameter_hints(build).get(name)):
            checked(hint, value, f"{key}.{name}")
            require_float32(f"{key}.{name}", value)


def require_float32(key: str, value: Value) -> None:
    """Raise `OptionError` if a number, or one in a list, is finite and too large for float32."""
    numbers = value if isinstance(value, tuple | list) else [value]
    fits = all(abs(n) <= _LARGEST or abs(n) == math.inf for n in numbers if isinstance(n, int | float) and n == n)
    require(fits, key, "numbers that fit float32, which are below 3.4e38", f"{value!r:.80}")


def _is_number(hint: Hint) -> bool:
    """Whether a hint consists of numbers, true and false, and null."""
    if get_origin(hint) in (Union, types.UnionType, tuple):
        return all(part is ... or _is_number(part) for part in get_args(hint))
    return hint in (int, float, bool, type(None))


def _native(value: Value) -> Value:
    """A nested value, with paths converted to strings, and numpy's numbers and arrays to Python's."""
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    if isinstance(value, dict):
        return {_native(key): _native(entry) for key, entry in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_native, value))
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _fits(hint: Hint, value: Value) -> bool:
    """Whether a value has exactly a plain type. The slower parser checks all other values."""
    if get_origin(hint) in (Union, types.UnionType):
        return any(_fits(part, value) for part in get_args(hint))
    if get_origin(hint) is Literal:
        return any(type(part) is type(value) and part == value for part in get_args(hint))
    if hint == Values and type(value) is dict:
        return all(type(key) is str for key in value)
    if get_origin(hint) in (dict, list) and not value:
        return type(value) is get_origin(hint)
    return hint in (int, float, bool, str, type(None)) and type(value) is hint


def expected(hint: Hint) -> str:
    """Return the values that a type hint accepts, in words, such as "an integer, or null"."""
    if get_origin(hint) in (Union, types.UnionType):
        parts = [part for part in get_args(hint) if part is not type(None)]
        words = " or ".join(dict.fromkeys(expected(part) for part in parts))
        return words + (", or null" if len(parts) < len(get_args(hint)) else "")
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, get_args(hint)))}"
    if get_origin(hint) in (tuple, list):
        count = f" of {len(get_args(hint))}" if get_origin(hint) is tuple else ""
        return f"a list{count}, each {expected(get_args(hint)[0])}"
    return _KINDS.get(get_origin(hint) or hint, "a text")


@cache
def hints(kind: Hint) -> dict[str, Hint]:
    """Return the type hints of the fields of a dataclass, or {} for any other type."""
    known = typing.get_type_hints(kind) if isinstance(kind, type) and is_dataclass(kind) else {}
    return {f.name: known[f.name] for f in fields(kind)} if known else {}  # type: ignore[arg-type]


@cache
def _value_parser(hint: Hint) -> "ArgumentParser":
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=hint)
    return parser
