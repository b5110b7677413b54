"""Short names of what varies, in tables, pictures and the names of folders."""

import hashlib
import re
from collections.abc import Iterable, Mapping

from ..training.values import Value


def shown_value(value: Value) -> str:
    """Return a value as a reader would write it; of a mapping, its texts, and its other values with their keys."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return ", ".join(shown_entry(str(key).replace("_", " "), entry) for key, entry in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(shown_value(entry) for entry in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def headings(keys: Iterable[str]) -> dict[str, str]:
    """Return a heading for every dotted key: its last part, or all of it where two would be the same."""
    keys = list(keys)
    last = [key.rpartition(".")[2] for key in keys]
    return {
        key: (short if last.count(short) == 1 else key).replace("_", " ") for key, short in zip(keys, last, strict=True)
    }


def label(choices: Mapping[str, Value]) -> str:
    """Return what tells a combination from others, in one line; numbers with their heading, names without."""
    titles = headings(choices)
    return " · ".join(shown_entry(titles[key], value) for key, value in choices.items())


def shown_entry(title: str, value: Value) -> str:
    """Return a value that needs no title, such as a name, alone, and any other with its title."""
    return shown_value(value) if isinstance(value, (str, Mapping)) else f"{title} {shown_value(value)}"


def folder_name(choices: Mapping[str, Value], seed: int, run: str) -> str:
    """Return a name for a case's folder: what it is for a reader, and a hash of its whole run."""
    words = re.sub(r"[^a-z0-9.]+", "-", f"{label(choices)} seed {seed}".lower()).strip("-")
    return f"{words[:80]}-{hashlib.sha256(run.encode()).hexdigest()[:8]}"
