"""Plain values, as YAML and JSON have them: nested mappings and lists of texts, numbers, truth values and null."""

import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from ..errors import OptionError

Value: TypeAlias = Any
Values: TypeAlias = dict[str, Any]


def merged(below: Mapping[str, Value], above: Mapping[str, Value]) -> Values:
    """Return two nested mappings as one; where both have a value, that of ``above``."""
    both = [key for key in below.keys() & above.keys() if isinstance(below[key], Mapping)]
    nested = {key: merged(below[key], above[key]) for key in both if isinstance(above[key], Mapping)}
    return {**below, **above, **nested}


def overridden(mapping: Mapping[str, Value], choices: Mapping[str, Value]) -> Values:
    """Return a nested mapping in which the values of these dotted keys override its own."""
    for key, value in choices.items():
        for part in reversed(key.split(".")):
            value = {part: value}
        mapping = merged(mapping, value)
    return dict(mapping)


def flat(mapping: Mapping[str, Value], keep: Collection[str] = (), prefix: str = "") -> Values:
    """Return a nested mapping with dotted keys; what is below a key in ``keep`` stays a mapping."""
    leaves: Values = {}
    for key, value in mapping.items():
        path = f"{prefix}{key}"
        is_nested = isinstance(value, Mapping) and value and path not in keep
        leaves |= flat(value, keep, f"{path}.") if is_nested else {path: value}
    return leaves


def plain(value: Value) -> Value:
    """Return a nested value as JSON has it: with lists, texts for paths, and null for a number that is not finite."""
    return json.loads(json.dumps(value, default=os.fspath), parse_constant=lambda name: None)


def read_yaml(path: str | Path) -> Values:
    """Read a YAML file that holds a mapping, or raise `OptionError`."""
    try:
        content = load_yaml(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise OptionError(f"'{path}' cannot be read: {error.strerror or error}.") from error
    except Exception as error:  # the loader's own kinds are not public, and the text may not be UTF-8
        reason = " ".join(str(error).replace('"<unicode string>", ', "").split())
        raise OptionError(f"'{path}' needs to be a YAML file. Got: {reason[:250]}.") from error
    if not isinstance(content, Mapping):
        raise OptionError(f"'{path}' needs to hold a mapping. Got {content!r:.80}.")
    return dict(content)


def load_yaml(text: str) -> Value:
    """Read YAML as jsonargparse does, where 1e-3 is a number."""
    from jsonargparse import get_loader

    return get_loader("yaml")(text)
