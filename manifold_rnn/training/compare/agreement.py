"""Whether a study that exists is the one that a file states."""

from collections.abc import Iterator, Mapping
from typing import Any

from ...errors import OptionError
from .grid import Grid, canonical
from .naming import joined


def require_same(name: str, stored: Mapping[str, Any], grid: Grid, extend: bool) -> None:
    """Raise `OptionError`, and say what differs, unless the grids are equal or the new one extends the stored one."""
    changed = list(_changed(stored, grid.plain()))
    if not changed or (extend and _extends(Grid(**stored), grid)):
        return
    shown = "; ".join(changed)
    shown = shown if len(shown) <= 180 else f"{shown[:177]}..."
    if extend:
        hint = "--extend only adds: values to a grid, seeds, trials to a search. Choose another --study or --output."
    else:
        hint = "Choose another --study or --output, or add --extend if all that was in it still is."
    raise OptionError(f"The study '{name}' has another grid: {shown}. {hint}")


def _extends(old: Grid, new: Grid) -> bool:
    same = all(getattr(old, part) == getattr(new, part) for part in ("base", "search", "pruning"))
    return same and {case.key for case in old.cases()} <= {case.key for case in new.cases()}


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    before, after = dict(_leaves(old)), dict(_leaves(new))
    for key in sorted(before.keys() | after.keys()):
        if key not in before or key not in after or canonical(before[key]) != canonical(after[key]):
            yield f"{key} was {_shown(before, key)}, now {_shown(after, key)}"


def _leaves(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, entry in value.items():
        if isinstance(entry, Mapping) and entry:
            yield from _leaves(entry, f"{prefix}{key}.")
        elif entry != {}:
            yield f"{prefix}{key}", entry


def _shown(values: Mapping[str, Any], key: str) -> str:
    return joined(values[key]) if key in values else "not there"
