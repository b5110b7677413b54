"""Short names for what varies, in tables, pictures and the names of folders."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any


def joined(value: Any) -> str:
    """Return a value as a reader would write it; of a mapping, its values."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return ", ".join(joined(entry) for entry in value.values())
    if isinstance(value, (list, tuple)):
        return ", ".join(joined(entry) for entry in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def headings(keys: Iterable[str]) -> dict[str, str]:
    """Return a heading for every dotted key: its last part, or all of it where two would be the same."""
    keys = list(keys)
    last = [key.rpartition(".")[2] for key in keys]
    return {
        key: (short if last.count(short) == 1 else key).replace("_", " ") for key, short in zip(keys, last, strict=True)
    }


def label(choices: Mapping[str, Any]) -> str:
    """Return what tells a combination from others, in one line; numbers with their heading, names without."""
    titles = headings(choices)
    bare = (str, Mapping)
    words = [joined(v) if isinstance(v, bare) else f"{titles[key]} {joined(v)}" for key, v in choices.items()]
    return " · ".join(words)


def folder_name(choices: Mapping[str, Any], seed: int, run: str) -> str:
    """Return a name for a case's folder: what it is for a reader, and a hash of its whole run."""
    words = re.sub(r"[^a-z0-9.]+", "-", f"{label(choices)} seed {seed}".lower()).strip("-")
    return f"{words[:80]}-{hashlib.sha256(run.encode()).hexdigest()[:8]}"
