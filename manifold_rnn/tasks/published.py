"""Published results, each with its source."""

import re
import tomllib
from functools import cache
from pathlib import Path
from typing import NamedTuple

_FILE = Path(__file__).with_name("published.toml")


class Published(NamedTuple):
    """A published result of a network of the zoo.

    Attributes
    ----------
    network : str
        Name of the network in `manifold_rnn.zoo`.
    setting : str
        Task, metric, and relevant options.
    units, parameters, result : str
        The numbers as the source writes them. Units and parameters may be missing.
    source : str
        Source of the result.

    Examples
    --------
    >>> rows = mr.tasks.PixelMNIST(permuted=True).published()
    >>> assert ("dtriv", "96.8 %") in [(row.network, row.result) for row in rows]
    """

    network: str
    setting: str
    units: str
    parameters: str
    result: str
    source: str


@cache
def _rows() -> tuple[Published, ...]:
    content = tomllib.loads(_FILE.read_text(encoding="utf-8"))
    names = content.pop("sources")
    return tuple(
        Published(network, setting, units, parameters, result, _plain(entry["read"], names))
        for network, entries in content.items()
        for entry in entries
        for setting, units, parameters, result in entry["rows"]
    )


def published(problem: str) -> list[Published]:
    """Return the rows whose setting begins with this text."""
    return [row for row in _rows() if row.setting.startswith(problem)]


def _plain(read: str, names: dict[str, str]) -> str:
    """Return a source without the markup of the documentation."""
    cited = re.sub(r":cite:t:`(\w+)`", lambda match: names[match[1]], read)
    return re.sub(r"`([^`<]+) <([^>]+)>`__", r"\1 (\2)", cited)
