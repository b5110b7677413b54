"""The names that settings accept: everything that the packages export, by its exported name."""

import difflib
import inspect
import typing
from collections.abc import Callable, Collection, Mapping
from functools import cache
from pathlib import Path
from pkgutil import resolve_name
from types import ModuleType

import geoopt

from .. import constraints, manifolds, optim, tasks
from .. import diagnostics as diagnostic_package
from .. import nn as nn_package
from ..errors import OptionError
from ..tasks.files import expanded
from .values import Value, Values

Builder = Callable[..., Value]
_LONGEST_LIST = 250  # largest number of characters for the names in a message
_SET_ELSEWHERE = {  # options with settings of their own, or set by the task or the layer
    *("input_size", "hidden_size", "output_size", "nonlinearity", "retraction", "view", "rebase_every"),
    *("weights", "offset", "generator", "device", "dtype"),
    *("params", "lr", "weight_decay"),
}


def cells() -> dict[str, type[nn_package.cells.Cell]]:
    """Return the cells by name."""
    return _exported(nn_package.cells, nn_package.cells.Cell)


def constraints_by_name() -> dict[str, Builder]:
    """Return the builders of constraints of a square matrix by name. They take plain values and other constraints."""
    builders: dict[str, Builder] = {name: getattr(constraints, name) for name in constraints.__all__}
    structured = _exported(constraints, constraints.Constraint)
    functions = {
        n: f for n, f in builders.items() if inspect.isfunction(f) and _is_constraint(parameter_hints(f)["return"])
    }
    structured = {name: kind for name, kind in structured.items() if not kind.reads_whole_weight}  # not for kernels
    known = {name: f for name, f in {**structured, **functions}.items() if set(required(f)) <= set(members(f))}
    known |= {name: kind for name, kind in _exported(manifolds, manifolds.Manifold).items() if not required(kind)}
    return dict(sorted(known.items()))


def members(build: Builder) -> list[str]:
    """Return the options of a constraint that are constraints themselves."""
    return [name for name, hint in parameter_hints(build).items() if name != "return" and _is_constraint(hint)]


def optimizers() -> dict[str, type[optim.RiemannianOptimizer]]:
    """Return the optimizers by name. A name in `torch.optim` is used if there is one."""
    kinds = _exported(optim, optim.RiemannianOptimizer).values()
    return {(kind.plain or kind).__name__: kind for kind in kinds}


def diagnostics() -> dict[str, Builder]:
    """Return the diagnostics by name. Each takes a network, or a network and data, and its result has a ``table()``."""
    functions = {name: getattr(diagnostic_package, name) for name in diagnostic_package.__all__}
    return {
        name: f
        for name, f in functions.items()
        if inspect.isfunction(f)
        and hasattr(parameter_hints(f).get("return"), "table")
        and len(required(f)) <= 1 + needs_data(f)
    }


def needs_data(diagnostic: Builder) -> bool:
    """Return whether a diagnostic needs data."""
    return "data" in required(diagnostic)


def task_class(name: object) -> type[tasks.Task]:
    """Return a task by its name in `manifold_rnn.tasks`, or by its full name in any other module."""
    known = _exported(tasks, tasks.Task)
    if isinstance(name, str) and name not in known and "." in name:
        try:
            kind = resolve_name(name)
        except (ImportError, AttributeError, ValueError) as error:
            reason = str(error).rstrip(".")
            raise OptionError(f"`task.name` needs a task. Got {name!r}, which cannot be imported: {reason}.") from error
        require(isinstance(kind, type) and issubclass(kind, tasks.Task), "task.name", "a subclass of Task", repr(name))
        return kind
    require_choice("task.name", name, known)
    return known[str(name)]


def task_name(kind: type[tasks.Task]) -> str:
    """Return the name by which `task_class` finds a task."""
    is_exported = _exported(tasks, tasks.Task).get(kind.__name__) is kind
    return kind.__name__ if is_exported else f"{kind.__module__}.{kind.__qualname__}"


def require_task_name(kind: type[tasks.Task]) -> None:
    """Raise `OptionError` unless `task_class` finds a task by its name, because files store the name."""
    name = task_name(kind)
    try:
        found = task_class(name) is kind
    except OptionError:
        found = False
    require(found, "task", "a class that can be imported by its name, because files store this name", name)


def option_names(build: Builder) -> list[str]:
    """Return the names of the options that a builder or a class takes in an ``options`` mapping."""
    return [name for name in inspect.signature(build).parameters if name not in _SET_ELSEWHERE]


def takes(build: Builder, option: str) -> bool:
    """Return whether a builder or a class has an option of this name."""
    return option in inspect.signature(build).parameters


def require_options(key: str, build: Builder, options: Mapping[str, object]) -> None:
    """Raise `OptionError` with the nearest name, unless ``build`` takes all of these options."""
    known = option_names(build)
    for name in [name for name in options if name not in known]:
        hint = did_you_mean(str(name), known, f"{key}.")
        rest = f"{build.__name__} takes {', '.join(known) or 'no options'}."
        raise OptionError(f"Unknown key `{key}.{name}`.{hint} {rest}")


def named_constraint(key: str, value: object) -> tuple[Builder, Values]:
    """Return the builder and the options of a constraint, given as a name or as a mapping of name and options."""
    (name, options), known = named(key, value), constraints_by_name()
    require_choice(key, name, known)
    require_options(key, known[str(name)], options)
    return known[str(name)], options


def named(key: str, value: Value) -> tuple[object, Values]:
    """Split a value of the form ``name`` or ``{name: ..., option: ...}`` into the name and the options."""
    mapping = {"name": value} if isinstance(value, str) else value
    require(
        isinstance(mapping, Mapping) and "name" in mapping, key, "a name, or a mapping with the key `name`", repr(value)
    )
    return mapping["name"], {option: content for option, content in mapping.items() if option != "name"}


def require(holds: bool, key: str, expected: str, got: object) -> None:
    """Raise `OptionError` with the expected and the received value, unless ``holds``."""
    if not holds:
        raise OptionError(f"`{key}` needs {expected}. Got {got}.")


def require_path(key: str, path: object, kind: str = "file") -> Path:
    """Return a value as a path, with the home folder instead of ``~``. Raises `OptionError` if it cannot be a path.

    Commands and libraries use only the returned path. Some libraries would expand ``~`` themselves, others would not.
    ``kind`` is the word for the path in the message.
    """
    usable = isinstance(path, str | Path) and bool(str(path).strip()) and "\0" not in str(path)
    require(usable, key, f"the path of a {kind}", f"{path!r:.80}")
    return expanded(key, str(path))


def require_folder(key: str, path: object) -> Path:
    """Return a value as `require_path` does. Raises `OptionError` if it cannot be a folder for every library."""
    folder = require_path(key, path, "folder")
    try:
        str(folder).encode()
    except UnicodeEncodeError as error:
        raise OptionError(f"`{key}` needs the path of a folder in UTF-8. Got {path!r:.80}.") from error
    return folder


def require_choice(key: str, name: object, known: Collection[str]) -> None:
    """Raise `OptionError` with the known names and the nearest one, unless ``name`` is known."""
    if not isinstance(name, str) or name not in known:
        hint, names = did_you_mean(str(name), known), ", ".join(known)
        if len(names) > _LONGEST_LIST:
            names = f"{names[:_LONGEST_LIST].rpartition(', ')[0]}, and others"
        raise OptionError(f"`{key}` needs one of {names}. Got {name!r:.60}.{hint}")


def unknown_key(key: str, known: Collection[str]) -> OptionError:
    """Return the error for an unknown key, with the nearest key and all keys of its section."""
    section = key.rpartition(".")[0]
    beside = [name for name in known if name.rpartition(".")[0] == section]
    names = ", ".join(name.rpartition(".")[2] for name in beside)
    rest = f" Keys of `{section}`: {names}." if section else ""
    return OptionError(f"Unknown key `{key}`.{did_you_mean(key, [*beside, *known])}{rest}")


def did_you_mean(name: str, known: Collection[str], prefix: str = "") -> str:
    """Return a question with the nearest known name, or one that ends with ``name``, or ""."""
    lower = {other.lower(): other for other in known}
    near = difflib.get_close_matches(name.lower(), lower, n=1)
    near = near or [other for other in lower if len(name) > 2 and other.endswith(name.lower())]
    return f" Did you mean `{prefix}{lower[near[0]]}`?" if near else ""


def _exported(package: ModuleType, base: Value) -> dict[str, Value]:
    """The concrete subclasses of ``base`` that a package exports."""
    kinds = {name: getattr(package, name) for name in package.__all__ if isinstance(getattr(package, name), type)}
    subclasses = {name: kind for name, kind in kinds.items() if issubclass(kind, base) and kind is not base}
    return {name: kind for name, kind in subclasses.items() if not inspect.isabstract(kind)}


def required(build: Builder) -> list[str]:
    """Return the names of the options of a builder or a class that have no default."""
    return [name for name, option in inspect.signature(build).parameters.items() if option.default is option.empty]


@cache
def parameter_hints(build: Builder) -> dict[str, Value]:
    """Return the type hints of the options of a builder or a class."""
    return typing.get_type_hints(build.__init__ if isinstance(build, type) else build)  # type: ignore[misc]  # of this very class


def _is_constraint(hint: object) -> bool:
    parts = typing.get_args(hint) or (hint,)
    return all(isinstance(part, type) and issubclass(part, (geoopt.Manifold, constraints.Constraint)) for part in parts)
