"""The names that settings accept: whatever the packages export, by the name that it is exported by."""

import difflib
import inspect
import typing
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any, TypeVar

from torch.optim import Optimizer

from .. import constraints, manifolds, optim, tasks
from .. import diagnostics as diagnostic_package
from ..errors import OptionError
from ..manifolds import Manifold
from ..nn import cells as cell_package
from ..nn.cells import Cell
from ..optim import RiemannianOptimizer
from ..tasks import Task

T = TypeVar("T")
_SET_ELSEWHERE = {  # by settings of their own, by the task, or by the layer
    *("input_size", "hidden_size", "output_size", "nonlinearity", "retraction", "view", "rebase_every"),
    *("weights", "offset", "generator", "device", "dtype"),
}
_OPTIMIZER_SET_ELSEWHERE = {"params", "lr", "weight_decay", "unsupported"}


@dataclass(frozen=True)
class OptimizerChoice:
    """An optimizer of `manifold_rnn.optim` and the one of `torch.optim` that does the same without manifolds.

    Attributes
    ----------
    riemannian : type
    plain : type or None
    """

    riemannian: type[RiemannianOptimizer]
    plain: type[Optimizer] | None

    def options(self) -> list[str]:
        """Return the options that can be set, the learning rate and the weight decay left out."""
        return [name for name in inspect.signature(self.riemannian).parameters if name not in _OPTIMIZER_SET_ELSEWHERE]


def cells() -> dict[str, type[Cell]]:
    """Return the cells by name."""
    return _exported(cell_package, Cell)


def constraint_classes() -> dict[str, type]:
    """Return the manifolds and structured constraints of a square matrix by name."""
    kinds: dict[str, type] = {**_exported(manifolds, Manifold), **_exported(constraints, constraints.Constraint)}
    return {name: kind for name, kind in sorted(kinds.items()) if vars(kind).get("is_choice", True)}


def optimizers() -> dict[str, OptimizerChoice]:
    """Return the optimizers, by the name in `torch.optim` where there is one."""
    found = {}
    for kind in _exported(optim, RiemannianOptimizer).values():
        plain = kind.plain
        found[plain.__name__ if plain else kind.__name__] = OptimizerChoice(kind, plain)
    return found


def diagnostics() -> dict[str, Callable[..., Any]]:
    """Return the diagnostics that describe a network alone, each a function whose result has a ``table()``."""
    functions = {name: getattr(diagnostic_package, name) for name in diagnostic_package.__all__}
    results = {name: typing.get_type_hints(f).get("return") for name, f in functions.items() if inspect.isfunction(f)}
    return {name: functions[name] for name, result in results.items() if callable(getattr(result, "table", None))}


def task_class(name: object) -> type[Task]:
    """Return a task by the name in `manifold_rnn.tasks`, or by its full name in any other module.

    Raises
    ------
    OptionError
        If there is no such task.
    """
    known = _exported(tasks, Task)
    if isinstance(name, str) and name not in known and "." in name:
        module, _, own = name.rpartition(".")
        try:
            kind = getattr(import_module(module), own)
        except (ImportError, AttributeError) as error:
            raise OptionError(f"`task.name` needs a task. Got {name!r}, which cannot be imported: {error}.") from error
        require(isinstance(kind, type) and issubclass(kind, Task), "task.name", "a subclass of Task", repr(name))
        return kind  # type: ignore[no-any-return]  # what was just required
    require_choice("task.name", name, known)
    return known[str(name)]


def task_name(kind: type[Task]) -> str:
    """Return the name by which `task_class` finds a task."""
    exported = _exported(tasks, Task).get(kind.__name__) is kind
    return kind.__name__ if exported else f"{kind.__module__}.{kind.__qualname__}"


def option_names(build: Callable[..., object]) -> list[str]:
    """Return the names of the options that a builder or a class takes in an ``options`` mapping.

    Examples
    --------
    >>> from manifold_rnn.training.choices import option_names
    >>> assert option_names(mr.zoo.scornn) == ["negatives"] and option_names(mr.Contraction) == ["bound"]
    """
    return [name for name in inspect.signature(build).parameters if name not in _SET_ELSEWHERE]


def takes(build: Callable[..., object], option: str) -> bool:
    """Return whether a builder or a class has an option of this name."""
    return option in inspect.signature(build).parameters


def require_options(key: str, build: Callable[..., object], options: Mapping[str, object]) -> None:
    """Raise `OptionError`, with the nearest name, unless ``build`` takes all of the options."""
    known = option_names(build)
    for name in options:
        if name not in known:
            name_of = getattr(build, "__name__", "it")
            raise OptionError(
                f"Unknown key `{key}.{name}`.{did_you_mean(str(name), known, f'{key}.')} "
                f"{name_of} takes {', '.join(known) or 'no options'}."
            )


def require_constraint(key: str, value: object) -> None:
    """Raise `OptionError` unless a value names a constraint, or is a mapping of its name and its options."""
    name, options = named(key, value)
    require_choice(key, name, constraint_classes())
    require_options(key, constraint_classes()[name], options)


def named(key: str, value: object) -> tuple[str, dict[str, Any]]:
    """Split a value of the form ``name`` or ``{name: ..., option: ...}`` into the name and the options.

    Raises
    ------
    OptionError
        If it is neither.
    """
    if isinstance(value, str):
        return value, {}
    valid = isinstance(value, Mapping) and isinstance(value.get("name"), str)
    require(valid, key, "a name, or a mapping with the key name", repr(value))
    assert isinstance(value, Mapping)
    return value["name"], {option: content for option, content in value.items() if option != "name"}


def require(holds: bool, key: str, expected: str, got: object) -> None:
    """Raise `OptionError` unless ``holds``."""
    if not holds:
        raise OptionError(f"`{key}` needs {expected}. Got {got}.")


def require_choice(key: str, name: object, known: Collection[str]) -> None:
    """Raise `OptionError`, with the known names and the nearest one, unless ``name`` is known."""
    if not isinstance(name, str) or name not in known:
        hint = did_you_mean(str(name), known)
        raise OptionError(f"`{key}` needs one of {', '.join(known)}. Got {name!r}.{hint}")


def unknown_key(key: str, known: Collection[str]) -> OptionError:
    """Return the error for a key that is not known, with the nearest key and those of its section."""
    section = key.rpartition(".")[0]
    beside = [name for name in known if name.rpartition(".")[0] == section]
    hint = did_you_mean(key, [*beside, *known])
    names = ", ".join(name.rpartition(".")[2] for name in beside)
    return OptionError(f"Unknown key `{key}`.{hint}{f' Keys of `{section}`: {names}.' if section else ''}")


def did_you_mean(name: str, known: Collection[str], prefix: str = "") -> str:
    """Return a question for the nearest known name, in small or capital letters, or nothing if none is near."""
    lower = {other.lower(): other for other in known}
    near = difflib.get_close_matches(name.lower(), lower, n=1)
    return f" Did you mean `{prefix}{lower[near[0]]}`?" if near else ""


def _exported(package: ModuleType, base: type[T]) -> dict[str, type[T]]:
    """The concrete subclasses of ``base`` that a package exports."""
    members = {name: getattr(package, name) for name in package.__all__}
    return {
        name: kind
        for name, kind in members.items()
        if isinstance(kind, type) and issubclass(kind, base) and kind is not base and not inspect.isabstract(kind)
    }
