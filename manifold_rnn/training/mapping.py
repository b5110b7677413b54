"""Converts nested mappings of plain values, as in YAML files, to settings and back. Errors name the key."""

import inspect
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path

from .. import zoo
from ..tasks import Task
from .choices import (
    Builder,
    cells,
    named,
    named_constraint,
    option_names,
    require,
    required,
    takes,
    task_class,
    task_name,
    unknown_key,
)
from .fields import Hint, checked, hints
from .formats import SETTINGS
from .settings import RunSettings
from .values import Value, Values, plain, read_yaml


def read_run(source: str | Path | Mapping[str, Value]) -> RunSettings:
    """Read the settings of a run from a YAML file, or from a nested mapping of plain values.

    Parameters
    ----------
    source : str, Path or mapping
        File, or mapping of the fields of `RunSettings`. ``task``, ``network``, ``optimizer`` and ``schedule`` are
        mappings too. ``task`` contains the ``name`` of a task and its fields.

    Returns
    -------
    RunSettings

    Raises
    ------
    OptionError
        If the file cannot be read, or a key or a value is wrong. The message suggests the nearest valid one.

    Examples
    --------
    >>> settings = mr.training.read_run({"task": {"name": "Digits"}, "network": {"zoo": "exprnn"}, "clip": 1})
    >>> assert settings.network.zoo == "exprnn" and settings.clip == 1.0
    """
    mapping = SETTINGS.checked(source, "A mapping") if isinstance(source, Mapping) else read_settings(source)
    require("task" in mapping, "task", "the name of a task, such as Copying", "none")
    values, kinds = check_keys(RunSettings, {"network": {}, **mapping}), hints(RunSettings)
    return RunSettings(**{k: kinds[k](**v) if is_dataclass(kinds[k]) else v for k, v in values.items()})  # type: ignore[operator]


def read_settings(path: str | Path) -> Values:
    """Read a YAML file of settings. Raises `OptionError`, also for a file of a newer version of the package."""
    return SETTINGS.checked(read_yaml(path), f"'{path}'")


def as_mapping(settings: RunSettings) -> Values:
    """Return the nested mapping of plain values that `read_run` converts to these settings.

    Parameters
    ----------
    settings : RunSettings
        Settings of a run.

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


def resolved(settings: RunSettings) -> Values:
    """Return `as_mapping` with the defaults of omitted options. Equal runs have equal mappings."""
    mapping = as_mapping(settings)
    network, optimizer = mapping["network"], mapping["optimizer"]
    build = getattr(zoo, network["zoo"]) if network["zoo"] else cells()[network["cell"]]
    own = [build]
    network["options"] = {**_defaults(build), **network["options"]}
    if network["constraint"] is not None:
        kind, options = named_constraint("network.constraint", network["constraint"])
        network["constraint"] = {**_defaults(kind), **options, "name": kind.__name__}
        own.append(kind)
    for key in ("retraction", "view", "rebase_every"):
        defaults = (inspect.signature(kind).parameters[key].default for kind in own if takes(kind, key))
        if network[key] is None:
            network[key] = next((value for value in defaults if isinstance(value, (str, int))), None)
    optimizer["constrained"] = optimizer["constrained"] or optimizer["name"]
    return mapping


def _defaults(build: Builder) -> Values:
    parameters = inspect.signature(build).parameters
    known = {name: parameters[name].default for name in option_names(build)}
    return {name: value for name, value in known.items() if isinstance(value, (str, int, float))}


def check_keys(kind: Hint, mapping: Mapping[str, Value], path: str = "") -> Values:
    """Return the fields of a dataclass that a mapping sets. Every key and value is checked.

    A value that is a dataclass stays a mapping. A task is converted to an object.

    Raises
    ------
    OptionError
        If a key is unknown or a value has the wrong type.
    """
    known = hints(kind)
    values: Values = {}
    for key, value in mapping.items():
        hint = known.get(key)
        if hint is None:
            below = [f"{path}{name}.{sub}" for name in known for sub in hints(known[name])]
            raise unknown_key(f"{path}{key}", [*(path + name for name in known), *below])
        if is_dataclass(hint):
            require(isinstance(value, Mapping), f"{path}{key}", "a mapping of its settings", repr(value))
            values[key] = check_keys(hint, value, f"{path}{key}.")
        else:
            values[key] = _task(value) if hint is Task else checked(hint, value, f"{path}{key}")
    return values


def hints_by_key(kind: Hint) -> dict[str, Hint]:
    """Return the type hint of every dotted key of a dataclass and the dataclasses in it."""
    keys: dict[str, Hint] = {}
    for name, hint in hints(kind).items():
        keys |= {f"{name}.{key}": below for key, below in hints_by_key(hint).items()} or {name: hint}
    return keys


def _task(value: Value) -> Task:
    name, options = named("task", value)
    kind = task_class(name)
    values = check_keys(kind, options, "task.")
    for key in required(kind):
        require(values.get(key) is not None, f"task.{key}", f"a value for {kind.__name__}", "none")
    return kind(**values)
