"""A comparison as its file defines it: base settings, the grid or search, seeds, and the cases that result."""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import islice, product
from pathlib import Path

from ..errors import ManifoldError, OptionError
from ..training.choices import require
from ..training.fields import check_fields
from ..training.mapping import check_keys, read_run, read_settings, resolved
from ..training.values import Value, Values, flat, overridden, presentable

_MOST_CASES = 100_000


@dataclass(frozen=True)
class Case:
    """One run of a comparison: a combination, identified by ``point``, and a seed.

    ``choices`` maps each dotted key that varies to its value. It is None until a search has drawn the values.
    """

    key: str
    point: str
    seed: int
    choices: Values | None


@dataclass(frozen=True)
class Grid:
    """A comparison as its file defines it.

    Parameters
    ----------
    base : dict
        Settings common to all runs, as a nested mapping. Values of ``grid`` and ``search`` override them.
    grid : dict
        Lists of values by dotted key. Every combination is run. A value may be a mapping of several settings.
    search : dict
        Used instead of ``grid``: ranges ``{low, high, log}`` or lists ``{choices}``, by dotted key.
    trials : int, optional
        Number of different combinations that a search draws. It ends earlier if there are no more.
    seeds : list of int
        Every combination is run once with each seed.
    pruning : bool
        Whether a run ends early if it is worse than the median of those before it.

    Raises
    ------
    OptionError
        If a value does not have the form above.

    Examples
    --------
    >>> axes = {"network.constraint": ["Orthogonal", "Unitary"]}
    >>> grid = mr.study.Grid({"task": {"name": "Digits"}, "network": {"cell": "Elman"}}, axes, seeds=[0, 1])
    >>> assert len(grid.cases()) == 4
    """

    base: Values
    grid: dict[str, Value] = field(default_factory=dict)
    search: dict[str, Values] = field(default_factory=dict)
    trials: int | None = None
    seeds: list[int] = field(default_factory=lambda: [0])
    pruning: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        _require(bool(self.seeds), "seeds", "a list of at least one integer", "none")
        _require(all(0 <= seed < 2**32 for seed in self.seeds), "seeds", "integers from 0 to 2^32 - 1", self.seeds)
        _require(len(set(self.seeds)) == len(self.seeds), "seeds", "every seed once", self.seeds)
        if bool(self.grid) == bool(self.search):
            got = "both" if self.grid else "neither"
            raise OptionError(
                f"A comparison needs either `grid` or `search`. Got {got}. Write the keys to vary under one of them."
            )
        for place, keys in {"base": self.base, "what varies": [*self.grid, *self.search]}.items():
            for key in keys:
                allowed = isinstance(key, str) and key.partition(".")[0] not in ("seed", "output")
                _require(allowed, place, "keys of a run other than seed and output", key)
        varied = [*self.grid, *self.search]
        for key in varied:
            parts = [other for other in varied if other.startswith(f"{key}.")]
            _require(not parts, key, "to vary as a whole or in parts, not both", f"also {', '.join(parts)}")
        if self.grid:
            _require(self.trials is None, "trials", "a search, because a grid runs all combinations", self.trials)
        else:
            _require((self.trials or 0) >= 1, "trials", "an integer of at least 1 for a search", self.trials)
        for key, values in self.grid.items():
            _require(isinstance(values, list) and bool(values), f"grid.{key}", "a list of values", values)
            _require(_is_plain(values), f"grid.{key}", "plain values, with strings as keys", values)
            _require_distinct(f"grid.{key}", values)
        for key, space in self.search.items():
            _require_space(f"search.{key}", space)
        count = self.combinations() * len(self.seeds)
        _require(count <= _MOST_CASES, "grid", f"at most {_MOST_CASES:,} runs", count)

    def cases(self) -> list[Case]:
        """Return all cases, ordered by seed first. Equal runs occur once."""
        points: dict[str, Values | None] = dict(self.different()) if self.grid else {}
        if self.search:
            count = sum(1 for _ in islice(self.different(), self.trials)) or self.trials or 0
            points = dict.fromkeys(map(draw_name, range(count)))
        return [Case(case_key(p, seed), p, seed, choices) for seed in self.seeds for p, choices in points.items()]

    def different(self) -> Iterator[tuple[str, Values]]:
        """Yield all combinations that give different runs, with their points. Nothing if a search has too many."""
        axes = self.grid or {key: _listed(space) for key, space in self.search.items()}
        points = set()
        for values in product(*axes.values()) if math.prod(map(len, axes.values())) <= _MOST_CASES else ():
            choices = dict(zip(axes, values, strict=True))
            if (point := self.point(choices)) not in points:
                points.add(point)
                yield point, choices

    def combinations(self) -> int:
        """Return the number of combinations in the file."""
        return math.prod(map(len, self.grid.values())) * (self.trials or 1)

    def point(self, choices: Mapping[str, Value]) -> str:
        """Return a text that is equal for combinations that give the same run, however they are written."""
        key = canonical(choices)
        if key not in self._points:
            run: Values = _normal(self.run_mapping(choices, 0))
            with suppress(ManifoldError):  # another objective's settings, or wrong ones, for which `describe` raises
                run = _normal(resolved(read_run(run)))
            self._points[key] = hashlib.sha256(canonical(run).encode()).hexdigest()
        return self._points[key]

    @cached_property
    def _points(self) -> dict[str, str]:
        return {}

    def run_mapping(self, choices: Mapping[str, Value], seed: int) -> Values:
        """Return the settings of a case, for `manifold_rnn.training.read_run`."""
        return overridden(self.base, choices) | {"seed": seed}

    def plain(self) -> Values:
        """Return the parameters of this grid as plain values."""
        return asdict(self)

    def extends(self, old: "Grid") -> bool:
        """Return whether this grid contains every case of another grid, and differs in nothing else."""
        parts = ("base", "search", "pruning") if self.search else ("search", "pruning")  # the base is in the cases
        same = all(getattr(old, part) == getattr(self, part) for part in parts)
        return same and {case.key for case in old.cases()} <= {case.key for case in self.cases()}


def read_grid(path: str | Path) -> Grid:
    r"""Read a comparison from a YAML file.

    Parameters
    ----------
    path : str or Path
        File of the comparison. Its keys are the parameters of `Grid`.

    Returns
    -------
    Grid

    Raises
    ------
    OptionError
        If the file cannot be read, or a key or a value is wrong.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> text = "base: {task: {name: Digits}, network: {cell: Elman}}\ngrid: {network.hidden_size: [8, 16]}"
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "grid.yaml")
    ...     _ = path.write_text(text)
    ...     assert len(mr.study.read_grid(path).cases()) == 2
    """
    content = read_settings(path)
    try:
        return Grid(**{"base": {}, **check_keys(Grid, content)})
    except OptionError as error:
        raise OptionError(f"'{path}': {error}") from error


def differences(stored: Mapping[str, Value], current: Mapping[str, Value]) -> list[str]:
    """Return the differences between two grids of plain values, as one text for each dotted key."""
    old, new = flat(stored), flat(current)
    pairs = {key: (old.get(key, "missing"), new.get(key, "missing")) for key in sorted({**old, **new})}
    return [f"{key} was {shown_value(was)}, now {shown_value(now)}" for key, (was, now) in pairs.items() if was != now]


def canonical(value: Value) -> str:
    """Return text that is equal for equal plain values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _require_space(key: str, space: Value) -> None:
    expected = "a range {low, high, log}, or {choices}"
    _require(isinstance(space, Mapping) and _is_plain(space), key, expected, space)
    if "choices" in space:
        choices = isinstance(space["choices"], list) and bool(space["choices"])
        _require(choices and len(space) == 1, key, "{choices: [...]} and no other key", space)
        _require_distinct(key, space["choices"])
        return
    numbers = all(type(space.get(end)) in (int, float) for end in ("low", "high"))
    _require(numbers and set(space) <= {"low", "high", "log"}, key, expected, space)
    low, high, log = space["low"], space["high"], space.get("log", False)
    ordered = -math.inf < low < high < math.inf and type(log) is bool and (low > 0 or not log)
    _require(ordered, key, "low below high, and above 0 if log is true", space)


def _require_distinct(key: str, values: list[Value]) -> None:
    _require(len({canonical(value) for value in values}) == len(values), key, "every value once", values)


def _listed(space: Values) -> Sequence[Value]:
    """The values of choices or of a range of integers. A range of real numbers counts as one with too many values."""
    if "choices" in space:
        return list(space["choices"])
    low, high = space["low"], space["high"]
    few = isinstance(low, int) and isinstance(high, int) and high - low < _MOST_CASES
    return range(low, high + 1) if few else range(_MOST_CASES + 1)


def draw_name(number: int) -> str:
    """Return the point of a combination that a search draws, by its number from 0."""
    return f"draw {number + 1}"


def case_key(point: str, seed: int) -> str:
    """Return the key of a case."""
    return f"{point}, seed {seed}"


def _normal(value: Value) -> Value:
    """A plain value, in which integers replace floats of the same value."""
    if isinstance(value, Mapping):
        return {key: _normal(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_normal(entry) for entry in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _is_plain(value: Value) -> bool:
    try:
        return bool(json.loads(json.dumps(value)) == value)
    except (TypeError, ValueError):
        return False


def _require(holds: bool, key: str, expected: str, got: object) -> None:
    text = shown_value(got)
    require(holds, key, expected, text if len(text) <= 120 else f"{text[:117]}...")


def shown_value(value: Value) -> str:
    """Return a value as text. A mapping gives its strings alone, and its other values with their keys."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return ", ".join(shown_entry(presentable(str(key).replace("_", " ")), entry) for key, entry in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(shown_value(entry) for entry in value)
    return f"{value:.4g}" if isinstance(value, float) else presentable(str(value))


def headings(keys: Iterable[str]) -> dict[str, str]:
    """Return a heading for every dotted key: its last part, or the whole key if two headings would be equal."""
    last = {key: key.rpartition(".")[2] for key in keys}
    titles = {key: short if [*last.values()].count(short) == 1 else key for key, short in last.items()}
    return {key: presentable(title.replace("_", " ")) for key, title in titles.items()}


def label(choices: Mapping[str, Value]) -> str:
    """Return the name of a combination in one line: numbers with their heading, names without."""
    titles = headings(choices)
    return " · ".join(shown_entry(titles[key], value) for key, value in choices.items())


def shown_entry(title: str, value: Value) -> str:
    """Return a name or another string alone, and any other value with its title."""
    return shown_value(value) if isinstance(value, (str, Mapping)) else f"{title} {shown_value(value)}"


def folder_name(choices: Mapping[str, Value], seed: int, run: str) -> str:
    """Return the name of a case's folder: a readable part, and a hash of its settings."""
    words = re.sub(r"[^a-z0-9.]+", "-", f"{label(choices)} seed {seed}".lower()).strip("-")
    return f"{words[:80]}-{hashlib.sha256(run.encode()).hexdigest()[:8]}"
