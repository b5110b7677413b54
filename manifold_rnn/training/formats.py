"""The format number of each kind of file: the one that is written, and those that can be read."""

from collections.abc import Mapping
from dataclasses import dataclass

from .. import __version__
from ..errors import OptionError
from .values import Value, Values

KEY = "format"


@dataclass(frozen=True)
class Format:
    """A file format: its content, the number that is written, and the oldest number that can be read."""

    content: str
    current: int
    oldest: int = 1

    def require(self, number: Value, place: object) -> None:
        """Raise `OptionError` unless this version of the package can read this format number."""
        if type(number) is int and self.oldest <= number <= self.current:
            return
        problem, hint = "has an unknown format", "Use a file that this package has written."
        if type(number) is int and number > self.current:
            problem, hint = "is from a newer version", "Upgrade the package: pip install --upgrade manifold-rnn."
        elif type(number) is int and number >= 1:
            problem, hint = "is from an older version", "Read it with the version that wrote it."
        numbers = " to ".join(map(str, dict.fromkeys((self.oldest, self.current))))
        raise OptionError(
            f"{place} {problem}.\nExpected {self.content} of format {numbers}, which manifold-rnn {__version__} reads. "
            f"Got format {number!r:.20}.\n{hint}"
        )

    def checked(self, values: Mapping[str, Value], place: object) -> Values:
        """Check the format number of a mapping, 1 if it has none. Returns the rest of the mapping."""
        self.require(values.get(KEY, 1), place)
        return {key: value for key, value in values.items() if key != KEY}


CHECKPOINT = Format("a checkpoint", current=2, oldest=2)
COVERAGE = Format("the record of a test campaign", current=1)
RECORD = Format("a result", current=1)
SETTINGS = Format("settings", current=1)
STUDY = Format("a study", current=1)
TABLE = Format("the results of a comparison", current=1)
