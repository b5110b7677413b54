"""Settings from nested mappings of plain values, as YAML files give them, and back; mistakes are answered by key."""

import types
import typing
from collections.abc import Collection, Mapping
from dataclasses import MISSING, Field, asdict, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

from ..errors import OptionError
from ..tasks import Task
from .choices import require, task_class, task_name, unknown_key
from .settings import RunSettings

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

PlainMapping = Mapping[str, Any]
_KINDS = {int: "an integer", float: "a number", bool: "true or false", str: "a text", dict: "a mapping", list: "a list"}


def read_run(mapping: PlainMapping) -> RunSettings:
    """Read the settings of a run from a nested mapping of plain values.

    Parameters
    ----------
    mapping : mapping
        As in a YAML file: ``task``, ``network``, ``optimizer`` and ``schedule`` are mappings too. The first has the
        ``name`` of a task and its fields.

    Returns
    -------
    RunSettings

    Raises
    ------
    OptionError
        If a key or a value is wrong; the message has the nearest right one.

    Examples
    --------
    >>> settings = mr.training.read_run({"task": {"name": "Digits"}, "network": {"zoo": "exprnn"}, "clip": 1})
    >>> assert settings.network.zoo == "exprnn" and settings.clip == 1.0
    """
    require("task" in mapping, "task", "the name of a task, such as Copying", "none")
    return _built(RunSettings, {"network": {}, **mapping})


def as_mapping(settings: RunSettings) -> dict[str, Any]:
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
    task = settings.task
    options = {f.name: getattr(task, f.name) for f in fields(task)}  # type: ignore[arg-type]  # tasks are dataclasses
    rest = {f.name: getattr(settings, f.name) for f in fields(settings) if f.name != "task"}
    parts = {key: asdict(value) if is_dataclass(value) else value for key, value in rest.items()}  # type: ignore[arg-type]
    plain: dict[str, Any] = _plain({"task": {"name": task_name(type(task)), **options}, **parts})
    return plain


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Raises
    ------
    OptionError
        If it cannot be read, or holds something else.

    Examples
    --------
    >>> try: mr.training.read_yaml("missing.yaml")
    ... except mr.errors.OptionError as error: assert "missing.yaml" in str(error)
    """
    try:
        content = load_yaml(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise OptionError(f"'{path}' cannot be read: {error.strerror or error}.") from error
    except Exception as error:  # the loader's own kinds are not public, and the text may not be UTF-8
        reason = " ".join(str(error).replace('"<unicode string>", ', "").split())
        raise OptionError(f"'{path}' needs to be a YAML file. Got: {reason[:250]}.") from error
    if not isinstance(content, Mapping):
        raise OptionError(f"'{path}' needs to hold a mapping. Got {content!r:.80}.")
    return dict(content)


def load_yaml(text: str) -> Any:
    """Read YAML as jsonargparse does, where 1e-3 is a number."""
    from jsonargparse import get_loader

    return get_loader("yaml")(text)


def check_keys(kind: type, mapping: PlainMapping, path: str = "") -> dict[str, Any]:
    """Return the fields of a dataclass that a mapping sets, with every key and value checked.

    Values that are dataclasses themselves stay mappings, and a task becomes one.

    Raises
    ------
    OptionError
        If a key is unknown or a value has the wrong type.
    """
    hints = _hints(kind)
    known = [*(path + key for key in hints), *(f"{path}{key}.{sub}" for key in hints for sub in _hints(hints[key]))]
    values: dict[str, Any] = {}
    for key, value in mapping.items():
        if key not in hints:
            raise unknown_key(f"{path}{key}", known)
        if is_dataclass(hints[key]):
            require(isinstance(value, Mapping), f"{path}{key}", "a mapping of its settings", repr(value))
            values[key] = check_keys(hints[key], value, f"{path}{key}.")
        elif hints[key] is Task:
            values[key] = _task(value)
        else:
            values[key] = checked(hints[key], value, f"{path}{key}")
    return values


def checked(hint: Any, value: object, key: str) -> Any:
    """Return a value as its type hint asks for it, such as a float for an integer.

    Raises
    ------
    OptionError
        If the value does not fit the hint.
    """
    from argparse import ArgumentError

    if get_origin(hint) is dict and not isinstance(value, Mapping):
        require(False, key, "a mapping", repr(value))
    try:
        return _value_parser(hint).parse_object({"value": value})["value"]
    except ArgumentError as error:
        raise OptionError(f"`{key}` needs {expected(hint)}. Got {value!r}.") from error


def expected(hint: Any) -> str:
    """Return what a type hint accepts, in words.

    Examples
    --------
    >>> from manifold_rnn.training.mapping import expected
    >>> assert expected(int | None) == "an integer, or null"
    """
    if get_origin(hint) in (Union, types.UnionType):
        parts = [part for part in get_args(hint) if part is not type(None)]
        words = " or ".join(dict.fromkeys(expected(part) for part in parts))
        return words + (", or null" if len(parts) < len(get_args(hint)) else "")
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, get_args(hint)))}"
    if get_origin(hint) is tuple:
        return f"a list of {len(get_args(hint))}, each {expected(get_args(hint)[0])}"
    return _KINDS.get(get_origin(hint) or hint, "a text")


def keys_of(kind: type, task: type[Task] | None = None) -> dict[str, Any]:
    """Return the type hint of every dotted key of a dataclass and the dataclasses in it, and of the fields of a task."""
    keys: dict[str, Any] = {}
    for name, hint in _hints(kind).items():
        inside = task if hint is Task else hint
        nested = keys_of(inside) if isinstance(inside, type) and is_dataclass(inside) else {}
        keys |= {f"{name}.{key}": sub for key, sub in nested.items()} if nested else {}
        if not nested or hint is Task:
            keys[name] = hint
    return keys


def merged(below: PlainMapping, above: PlainMapping) -> dict[str, Any]:
    """Return two nested mappings as one; where both have a value, that of ``above``."""
    both = {key: below[key] for key in below.keys() & above.keys() if isinstance(below[key], Mapping)}
    nested = {key: merged(value, above[key]) for key, value in both.items() if isinstance(above[key], Mapping)}
    return {**below, **above, **nested}


def flat(mapping: PlainMapping, keep: Collection[str] = (), prefix: str = "") -> dict[str, Any]:
    """Return a nested mapping with dotted keys; what is below a key in ``keep`` stays a mapping."""
    found: dict[str, Any] = {}
    for key, value in mapping.items():
        path = f"{prefix}{key}"
        nested = isinstance(value, Mapping) and value and path not in keep
        found |= flat(value, keep, f"{path}.") if nested else {path: value}
    return found


def _built(kind: type, mapping: PlainMapping) -> Any:
    values = check_keys(kind, mapping)
    hints = _hints(kind)
    return kind(**{key: hints[key](**value) if is_dataclass(hints[key]) else value for key, value in values.items()})


def _task(value: object) -> Task:
    options = {"name": value} if isinstance(value, str) else value
    require(
        isinstance(options, Mapping) and "name" in options, "task", "a mapping with the name of a task", repr(value)
    )
    assert isinstance(options, Mapping)
    kind = task_class(options["name"])
    values = check_keys(kind, {key: entry for key, entry in options.items() if key != "name"}, "task.")
    for f in fields(kind):  # type: ignore[arg-type]  # tasks are dataclasses
        required = f.default is MISSING and f.default_factory is MISSING
        require(
            not required or values.get(f.name) is not None, f"task.{f.name}", f"a value for {kind.__name__}", "none"
        )
    return kind(**values)


@cache
def _hints(kind: Any) -> dict[str, Any]:
    """The type hints of the fields of a dataclass; none for any other type."""
    if not (isinstance(kind, type) and is_dataclass(kind)):
        return {}
    hints = typing.get_type_hints(kind)
    own: tuple[Field[Any], ...] = fields(kind)
    return {f.name: hints[f.name] for f in own if f.init}


@cache
def _value_parser(hint: Any) -> "ArgumentParser":
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=hint)
    return parser


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return str(value) if isinstance(value, Path) else value
