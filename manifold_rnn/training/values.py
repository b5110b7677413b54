"""Plain values of YAML and JSON: nested mappings and lists of strings, numbers, booleans and null."""

import errno
import io
import json
import os
import re
import sys
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from ..errors import OptionError

Value: TypeAlias = Any
Values: TypeAlias = dict[str, Any]
_LARGEST_FILE, _MOST_NODES, _DEEPEST = 2**20, 100_000, 50  # limits of a settings file: bytes, values, and levels
_USER = re.compile(r"(?i)(\w://[^\s/:@]*?(?::|%3a))[^@\n]*@(?:\S*@)?")  # a password may contain blanks and @
_KEY = r"\b(?:\w*(?:password|passwd|passphrase|pwd|secret)|(?:\w+_)?token|api_?key)\b"
_SECRET = re.compile(rf"(?i)({_KEY}['\"]?\s*[=:]\s*)[^\s&,;]+")


def merged(below: Mapping[str, Value], above: Mapping[str, Value]) -> Values:
    """Merge two nested mappings. If both have a value, ``above`` wins."""
    both = [key for key in below.keys() & above.keys() if isinstance(below[key], Mapping)]
    nested = {key: merged(below[key], above[key]) for key in both if isinstance(above[key], Mapping)}
    return {**below, **above, **nested}


def overridden(mapping: Mapping[str, Value], choices: Mapping[str, Value]) -> Values:
    """Return a nested mapping, with the values of these dotted keys replaced."""
    for key, value in choices.items():
        for part in reversed(key.split(".")):
            value = {part: value}
        mapping = merged(mapping, value)
    return dict(mapping)


def flat(mapping: Mapping[str, Value], keep: Collection[str] = (), prefix: str = "") -> Values:
    """Return a nested mapping as a flat one with dotted keys. The values of keys in ``keep`` stay mappings."""
    leaves: Values = {}
    for key, value in mapping.items():
        path = f"{prefix}{key}"
        is_nested = isinstance(value, Mapping) and value and path not in keep
        leaves |= flat(value, keep, f"{path}.") if is_nested else {path: value}
    return leaves


def plain(value: Value) -> Value:
    """Return a nested value for JSON, with lists, strings for paths, and null for numbers that are not finite."""
    try:
        text = json.dumps(value, default=os.fspath)
    except (TypeError, ValueError) as error:
        raise OptionError(f"Settings need plain values: strings, numbers, lists and mappings. Got: {error}.") from error
    return json.loads(text, parse_constant=lambda name: None)


def presentable(text: str) -> str:
    """Return a text that is safe to show: without passwords, and with unprintable characters escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in without_secrets(text))


def without_secrets(text: str) -> str:
    """Return a text with stars for passwords in URLs and for values of keys such as ``token``."""
    return _SECRET.sub(r"\1***", _USER.sub(r"\1***@", text))


def print_any_text() -> None:
    """Make this process print escapes for characters that a terminal cannot show, instead of raising an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def print_result(text: str) -> None:
    """Print a result that is in no file. Raises `OSError` if it cannot be printed."""
    if sys.stdout is None:  # the program was started with it closed
        raise OSError(errno.EBADF, "The result cannot be printed, because the standard output is closed")
    print(text, flush=True)


def say(text: str, *, to_errors: bool = False) -> None:
    """Print a line immediately, and ignore errors such as a closed pipe or a full disk."""
    stream = sys.stderr if to_errors else sys.stdout
    if stream is not None:  # None if the program was started with it closed
        with suppress(OSError, ValueError):  # ValueError: the stream was closed later
            print(text, file=stream, flush=True)


def drop_unprinted() -> None:
    """Discard output that could not be printed, or Python would report it at the end of the program."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), stream.fileno())


def read_yaml(path: str | Path) -> Values:
    """Read a YAML file that contains a mapping, or raise `OptionError`."""
    return parse_yaml(read_text(path), path)


def read_text(path: str | Path) -> str:
    """Read a settings file or a pipe once. Raises `OptionError` if it is too large or not UTF-8."""
    try:
        with open(path, "rb") as file:
            content = file.read(_LARGEST_FILE + 1)
        if len(content) > _LARGEST_FILE:
            raise OptionError(f"'{path}' needs to contain at most {_LARGEST_FILE:,} bytes of settings. Got more.")
        return content.decode("utf-8-sig")
    except OptionError:
        raise
    except UnicodeDecodeError as error:
        got = f"byte 0x{error.object[error.start]:02x} at {error.start:,}, which is not UTF-8"
        raise OptionError(f"'{path}' needs to be a YAML file. Got: {got}.") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise OptionError(f"'{path}' cannot be read: {getattr(error, 'strerror', None) or error}.") from error


def parse_yaml(text: str, path: str | Path) -> Values:
    """Return the mapping in the text of a YAML file, or raise `OptionError`."""
    from yaml import YAMLError  # type: ignore[import-untyped]

    try:
        content = load_yaml(text)
    except YAMLError as error:
        reason = " ".join(str(error).replace('"<unicode string>", ', "").split())
        raise OptionError(f"'{path}' needs to be a YAML file. Got: {reason[:250]}.") from error
    if not isinstance(content, Mapping):
        raise OptionError(f"'{path}' needs to contain a mapping. Got {content!r:.80}.")
    return dict(content)


def load_yaml(text: str) -> Value:
    """Read YAML as jsonargparse does, with 1e-3 as a number. Raises `yaml.YAMLError` for invalid text.

    It also raises for duplicate keys, deep nesting, and aliases that expand to very many values.
    """
    from jsonargparse import get_loader
    from yaml import YAMLError

    try:
        _require_tame(text)
        return get_loader("yaml")(text)
    except YAMLError:
        raise
    except Exception as error:  # such as a number with more digits than Python accepts
        raise YAMLError(f"{type(error).__name__}: {error}") from error


def dump_yaml(values: Values) -> str:
    """Return YAML that `load_yaml` reads as these values. A string that looks like a number is quoted."""
    import yaml

    class Dumper(yaml.SafeDumper):  # type: ignore[misc]  # it has no type hints
        pass

    def represented(dumper: Value, text: str) -> Value:
        try:
            is_text = load_yaml(text) == text
        except yaml.YAMLError:
            is_text = False
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if is_text else "'")

    Dumper.add_representer(str, represented)
    return str(yaml.dump(values, Dumper=Dumper, sort_keys=False))


@dataclass
class _Open:
    """An open collection: its keys and its number of nodes so far, with aliases expanded."""

    anchor: str | None = None
    is_mapping: bool = False
    children: int = 0
    size: int = 1
    keys: set[str] = field(default_factory=set)


def _require_tame(text: str) -> None:
    import yaml

    sizes: dict[str, int] = {}  # number of nodes below each anchor
    above = [_Open()]
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        if isinstance(event, yaml.NodeEvent):
            top, line = above[-1], event.start_mark.line + 1
            if top.is_mapping and top.children % 2 == 0 and isinstance(event, yaml.ScalarEvent):
                if event.value in top.keys:
                    raise yaml.YAMLError(f"the key `{event.value:.80}` twice in a mapping, again in line {line}")
                top.keys.add(event.value)
            top.children += 1
            if isinstance(event, yaml.CollectionStartEvent):
                above.append(_Open(event.anchor, isinstance(event, yaml.MappingStartEvent)))
                if len(above) > _DEEPEST:
                    raise yaml.YAMLError(f"more than {_DEEPEST} levels of nesting, in line {line}")
                continue
            if isinstance(event, yaml.AliasEvent) and event.anchor not in sizes:
                raise yaml.YAMLError(f"an alias `{event.anchor:.80}` of nothing that is complete, in line {line}")
            size = sizes[event.anchor] if isinstance(event, yaml.AliasEvent) else 1
            if event.anchor and isinstance(event, yaml.ScalarEvent):
                sizes[event.anchor] = 1
        elif isinstance(event, yaml.CollectionEndEvent):
            size = above[-1].size
            if anchor := above.pop().anchor:
                sizes[anchor] = size
        else:
            continue
        above[-1].size += size
        if above[-1].size > _MOST_NODES:
            raise yaml.YAMLError(f"more than {_MOST_NODES:,} values, aliases expanded")
