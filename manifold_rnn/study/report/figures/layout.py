"""Which of the keys that vary are the rows, the columns and the colours of the pictures."""

from itertools import product
from typing import Any

from ...case_names import shown_entry
from ...results import Results, Row
from .theme import COLOURS, LINES, MARKERS

_FIRST = ("network.constraint", "network.retraction")  # where both vary, they are the rows and the columns
_FACETS = 6


class Layout:
    """The keys with a list of values, split in what is across, down, and beside each other.

    Attributes
    ----------
    down, across : str or None
        Keys of the heat map's rows and columns.
    beside : list of dict
        One for each heat map: the values of the keys that are neither.
    """

    def __init__(self, results: Results) -> None:
        self.results = results
        keys = results.listed
        keys.sort(key=lambda key: _FIRST.index(key) if key in _FIRST else len(_FIRST))
        self.down: str | None = keys[0] if len(keys) > 1 else None
        self.across: str | None = keys[len(keys) > 1] if keys else None
        rest = keys[2:]
        split: list[dict[str | None, Any]] = [
            dict(zip(rest, values, strict=True)) for values in product(*(results.values(key) for key in rest))
        ]
        self.beside: list[dict[str | None, Any]] = split if rest and len(split) <= _FACETS else [{}]

    def values(self, key: str | None) -> list[Any]:
        """Return the values of a key; one for no key."""
        return [None] if key is None else self.results.values(key)

    def rows(self, where: dict[str | None, Any]) -> list[Row]:
        """Return the rows with these values, the best first."""
        return [
            row
            for row in self.results.rows
            if all(key is None or row.choices.get(key) == value for key, value in where.items())
        ]

    def colour(self, row: Row) -> str:
        """Return the colour of a row: that of its column."""
        return COLOURS[self._place(self.across, row) % len(COLOURS)]

    def marker(self, row: Row) -> str:
        """Return the mark of a row."""
        return MARKERS[self._place(self.down, row) % len(MARKERS)]

    def line(self, row: Row) -> str:
        """Return the line of a row: another one where a colour comes again."""
        same = [r for r in self.rows({self.down: self._value(row)}) if self.colour(r) == self.colour(row)]
        return LINES[same.index(row) % len(LINES)]

    def name(self, key: str | None, value: Any) -> str:
        """Return what to call a value in a picture."""
        if key is None:
            return ""
        return shown_entry(self.results.titles[key], value)

    def _value(self, row: Row) -> Any:
        return None if self.down is None else row.choices.get(self.down)

    def _place(self, key: str | None, row: Row) -> int:
        return 0 if key is None else self.results.values(key).index(row.choices[key])
