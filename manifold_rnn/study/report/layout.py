"""Which of the keys that vary are the rows, the columns and the colours of the pictures."""

from itertools import islice, product

from ...training.values import Value
from ..grid import shown_entry
from ..results import Results, Row
from .theme import COLOURS, LINES, MARKERS

_FIRST = ("network.constraint", "network.retraction")  # where both vary, they are the rows and the columns
_FACETS = 6
Where = dict[str | None, Value]


class Layout:
    """The keys with a list of values, split in what is ``across``, ``down``, and ``beside`` each other in heat maps."""

    def __init__(self, results: Results) -> None:
        self.results = results
        keys = results.listed
        keys.sort(key=lambda key: _FIRST.index(key) if key in _FIRST else len(_FIRST))
        self.down: str | None = keys[0] if len(keys) > 1 else None
        self.across: str | None = keys[len(keys) > 1] if keys else None
        most = None if results.grid.grid else _FACETS + 1  # a search may have more combinations than memory
        combinations = islice(product(*(results.values(key) for key in keys[2:])), most)
        self._others: list[Where] = [dict(zip(keys[2:], values, strict=True)) for values in combinations]
        self.beside = self._others if len(self._others) <= _FACETS else [{}]

    def values(self, key: str | None) -> list[Value]:
        """Return the values of a key; one for no key."""
        return [None] if key is None else self.results.values(key)

    def rows(self, where: Where) -> list[Row]:
        """Return the rows with these values, the best first."""
        conditions = {key: value for key, value in where.items() if key is not None}
        return [row for row in self.results.rows if all(row.choices.get(k) == v for k, v in conditions.items())]

    def colour(self, row: Row) -> str:
        """Return the colour of a row: that of its column."""
        return COLOURS[self.place(row)[0] % len(COLOURS)]

    def marker(self, row: Row) -> str:
        """Return the mark of a row."""
        return MARKERS[self.values(self.down).index(row.choices.get(self.down or "")) % len(MARKERS)]

    def line(self, row: Row) -> str:
        """Return the line of a row: another one where a colour comes again."""
        return LINES[self.place(row)[1] % len(LINES)]

    def place(self, row: Row) -> tuple[int, int]:
        """Return the number of a row's column, and that of its other values; in a search, its rank in the column."""
        across = self.values(self.across).index(row.choices.get(self.across or ""))
        if self.results.grid.search:
            same = self.rows({self.across: row.choices.get(self.across or "")})
            return across, same.index(row)
        return across, next(k for k, where in enumerate(self._others) if row in self.rows(where))

    def name(self, key: str | None, value: Value) -> str:
        """Return what to call a value in a picture."""
        return "" if key is None else shown_entry(self.results.titles[key], value)
