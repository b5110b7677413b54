"""Flags and keys from dataclasses: one parser for the command line and for YAML, with answers of one line."""

import difflib
import re
import types
import typing
from argparse import ArgumentError
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

from ..errors import OptionError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

_KINDS = {int: "an integer", float: "a number", bool: "true or false", str: "a text", dict: "a mapping", list: "a list"}


class Flag(typing.NamedTuple):
    """A key of the settings, and its flag on the command line."""

    key: str
    kind: Any
    default: Any
    help: str
    switch: bool = False

    @property
    def flag(self) -> str:
        """The flag: the key with dashes."""
        return f"--{self.key.replace('_', '-')}"


def add_flags(parser: "ArgumentParser", flags: Sequence[Flag]) -> list[Flag]:
    """Give flags to a parser, and return them; a switch takes no value."""
    for flag in flags:
        kind = {"action": "store_true"} if flag.switch else {"type": flag.kind, "default": flag.default}
        parser.add_argument(flag.flag, help=flag.help, **kind)
    return list(flags)


def flags_of(sections: Mapping[str, type]) -> list[Flag]:
    """Return a flag for every field that is no section itself, with the name of its own section before it."""
    from docstring_parser import parse

    found = []
    for section, kind in sections.items():
        described = {p.arg_name: p.description for p in parse(kind.__doc__ or "").params}
        hints = typing.get_type_hints(kind)
        if section == "task":
            found.append(Flag("task.name", str, None, "Which task."))
        for field in fields(kind):
            if field.name != "task" and not is_dataclass(hints[field.name]):
                key = f"{section}.{field.name}" if section else field.name
                found.append(Flag(key, hints[field.name], _default(field), described.get(field.name) or ""))
    return found


def parse_mapping(mapping: Mapping[str, Any], sections: Mapping[str, type]) -> dict[str, Any]:
    """Read a nested mapping: every key is checked, every value is turned into what its field takes.

    Raises
    ------
    OptionError
        In one line, with the right keys or the kind of value that is expected.
    """
    flags = {flag.key: flag for flag in flags_of(sections)}
    for key, value in _leaves(mapping, flags):
        if key not in flags:
            raise OptionError(unknown_key(key, flags))
        if isinstance(flags[key].default, dict) and not isinstance(value, Mapping):
            raise OptionError(f"{key} needs a mapping. Got {value!r}.")
    parser = bare_parser()
    add_flags(parser, flags_of(sections))
    try:
        read: Namespace = parser.parse_object(dict(mapping))
    except ArgumentError as error:
        raise OptionError(reworded(str(error), flags.values(), mapping)) from error
    return read.as_dict()


def bare_parser(**options: Any) -> "ArgumentParser":
    """Return a parser that raises instead of ending the program."""
    from jsonargparse import ArgumentParser

    return ArgumentParser(exit_on_error=False, allow_abbrev=False, **options)


def unknown_key(key: str, known: Mapping[str, Any] | Sequence[str]) -> str:
    """Say which keys would have been right: the nearest, and all of that section."""
    section = key.rpartition(".")[0]
    if any(name.startswith(f"{section}.") for name in known):
        beside = [name for name in known if name.rpartition(".")[0] == section]
    else:
        section, beside = "", list(dict.fromkeys(name.partition(".")[0] for name in known))
    near = difflib.get_close_matches(key, [*beside, *known], n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    names = ", ".join(name.removeprefix(f"{section}.") for name in beside)
    return f"{key} is no key{f' of {section}' if section else ''}.{hint} Keys: {names}."


def reworded(message: str, flags: typing.Iterable[Flag], mapping: Mapping[str, Any] | None = None) -> str:
    """Turn the parser's words for a bad value into key, expected, got; for an unknown flag, name the nearest."""
    by_key = {flag.key: flag for flag in flags}
    if found := re.search(r'Parser key "([\w.]+)"', message):
        key = found[1]
        if key in by_key:
            got = re.search(r"(?:Given value|Got value): (.*)", message, re.DOTALL)
            value = repr(_at(mapping, key)) if mapping is not None else repr(got[1]) if got else "another"
            name = key if mapping is not None else by_key[key].flag
            return f"{name} needs {expected(by_key[key].kind)}. Got {value}."
    if found := re.search(r"unrecognized arguments: (\S+)", message):
        near = difflib.get_close_matches(found[1].partition("=")[0], [flag.flag for flag in by_key.values()], n=1)
        return f"{found[1]} is no flag.{f' Did you mean {near[0]}?' if near else ''} See --help."
    return message


def expected(kind: Any) -> str:
    """Return what a field of this type takes, in words.

    Examples
    --------
    >>> from manifold_rnn.training.flags import expected
    >>> assert expected(int | None) == "an integer, or null"
    """
    if get_origin(kind) in (Union, types.UnionType):
        parts = [part for part in get_args(kind) if part is not type(None)]
        words = " or ".join(dict.fromkeys(expected(part) for part in parts))
        return words + (", or null" if len(parts) < len(get_args(kind)) else "")
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    if get_origin(kind) is tuple:
        return f"a list of {len(get_args(kind))}, each {expected(get_args(kind)[0])}"
    return _KINDS.get(get_origin(kind) or kind, "a text")


def _default(field: "Field[Any]") -> Any:
    if field.default is not MISSING:
        return field.default
    return field.default_factory() if field.default_factory is not MISSING else None


def _leaves(mapping: Mapping[str, Any], flags: Mapping[str, Flag], prefix: str = "") -> Iterator[tuple[str, Any]]:
    sections = {key.partition(".")[0] for key in flags if "." in key}
    for key, value in mapping.items():
        path = f"{prefix}{key}"
        if path in sections:
            if not isinstance(value, Mapping):
                raise OptionError(f"{path} needs a mapping of its settings. Got {value!r}.")
            yield from _leaves(value, flags, f"{path}.")
        else:
            yield path, value


def _at(mapping: Mapping[str, Any], key: str) -> Any:
    value: Any = mapping
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value
