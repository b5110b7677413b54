"""Settings from nested mappings of plain values, as YAML files give them, and back; mistakes are answered by key."""

import types
import typing
from argparse import ArgumentError
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, Union, get_args, get_origin

from ..errors import OptionError
from ..tasks import Task
from .choices import named, require, required, task_class, task_name, unknown_key
from .formats import SETTINGS
from .settings import RunSettings
from .values import Value, Values, plain, read_yaml

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

Hint: TypeAlias = object  # a type, or what `typing` has instead of one
_KINDS: dict[Hint, str] = {int: "an integer", float: "a number", bool: "true or false", dict: "a mapping"}


def read_run(source: str | Path | Mapping[str, Value]) -> RunSettings:
    """Read the settings of a run from a YAML file, or from a nested mapping of plain values.

    Parameters
    ----------
    source : str, Path or mapping
        ``task``, ``network``, ``optimizer`` and ``schedule`` are mappings too. The first has the ``name`` of a task and
        its fields.

    Returns
    -------
    RunSettings

    Raises
    ------
    OptionError
        If the file cannot be read, or a key or a value is wrong; the message has the nearest right one.

    Examples
    --------
    >>> settings = mr.training.read_run({"task": {"name": "Digits"}, "network": {"zoo": "exprnn"}, "clip": 1})
    >>> assert settings.network.zoo == "exprnn" and settings.clip == 1.0
    """
    mapping = SETTINGS.checked(source, "A mapping") if isinstance(source, Mapping) else read_settings(source)
    require("task" in mapping, "task", "the name of a task, such as Copying", "none")
    values, hints = check_keys(RunSettings, {"network": {}, **mapping}), _hints(RunSettings)
    return RunSettings(**{k: hints[k](**v) if is_dataclass(hints[k]) else v for k, v in values.items()})  # type: ignore[operator]


def read_settings(path: str | Path) -> Values:
    """Read a YAML file of settings, or raise `OptionError`, also if it is from a newer version of the package."""
    return SETTINGS.checked(read_yaml(path), f"'{path}'")


def as_mapping(settings: RunSettings) -> Values:
    """Return the nested mapping of plain values from which `read_run` makes these settings.

    Parameters
    ----------
    settings : RunSettings

    Returns
    -------
    dict

    Examples
    --------
    >>> mapping = {"task": {"name": "Copying", "delay": 20}, "network": {"cell": "LSTM"}, "epochs": 3}
    >>> settings = mr.training.read_run(mapping)
    >>> assert mr.training.read_run(mr.training.as_mapping(settings)) == settings
    """
    mapping: Values = plain(asdict(settings))
    return {**mapping, "task": {"name": task_name(type(settings.task)), **mapping["task"]}}


def check_keys(kind: Hint, mapping: Mapping[str, Value], path: str = "") -> Values:
    """Return the fields of a dataclass that a mapping sets, with every key and value checked.

    Values that are dataclasses themselves stay mappings, and a task becomes one.

    Raises
    ------
    OptionError
        If a key is unknown or a value has the wrong type.
    """
    hints = _hints(kind)
    values: Values = {}
    for key, value in mapping.items():
        hint = hints.get(key)
        if hint is None:
            below = [f"{path}{name}.{sub}" for name in hints for sub in _hints(hints[name])]
            raise unknown_key(f"{path}{key}", [*(path + name for name in hints), *below])
        if is_dataclass(hint):
            require(isinstance(value, Mapping), f"{path}{key}", "a mapping of its settings", repr(value))
            values[key] = check_keys(hint, value, f"{path}{key}.")
        else:
            values[key] = _task(value) if hint is Task else checked(hint, value, f"{path}{key}")
    return values


def checked(hint: Hint, value: Value, key: str) -> Value:
    """Return a value as its type hint asks for it, such as a float for an integer, or raise `OptionError`."""
    require(get_origin(hint) is not dict or isinstance(value, Mapping), key, "a mapping", repr(value))
    try:
        return _value_parser(hint).parse_object({"value": value})["value"]
    except ArgumentError as error:
        raise OptionError(f"`{key}` needs {expected(hint)}. Got {value!r}.") from error


def expected(hint: Hint) -> str:
    """Return what a type hint accepts, in words, such as "an integer, or null"."""
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


def hints_by_key(kind: Hint) -> dict[str, Hint]:
    """Return the type hint of every dotted key of a dataclass and the dataclasses in it."""
    keys: dict[str, Hint] = {}
    for name, hint in _hints(kind).items():
        keys |= {f"{name}.{key}": below for key, below in hints_by_key(hint).items()} or {name: hint}
    return keys


def _task(value: Value) -> Task:
    name, options = named("task", value)
    kind = task_class(name)
    values = check_keys(kind, options, "task.")
    for key in required(kind):
        require(values.get(key) is not None, f"task.{key}", f"a value for {kind.__name__}", "none")
    return kind(**values)


@cache
def _hints(kind: Hint) -> dict[str, Hint]:
    """The type hints of the fields of a dataclass; none for any other type."""
    hints = typing.get_type_hints(kind) if isinstance(kind, type) and is_dataclass(kind) else {}
    return {f.name: hints[f.name] for f in fields(kind)} if hints else {}  # type: ignore[arg-type]


@cache
def _value_parser(hint: Hint) -> "ArgumentParser":
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=hint)
    return parser
