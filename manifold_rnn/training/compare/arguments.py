"""The subcommand ``compare``: its arguments, and what is done with them; imports nothing heavy before it is needed."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..flags import Flag, add_flags, flags_of
from .settings import CompareSettings

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


def add_compare(parser: "ArgumentParser", arguments: Sequence[str]) -> list[Flag]:
    """Add the file and the flags of a comparison."""
    words = {flag.key: flag for flag in flags_of({"": CompareSettings})}
    parser.add_argument("grid", type=str, help=words.pop("grid").help)
    extend = words.pop("extend")
    return add_flags(parser, [*words.values(), Flag("extend", bool, False, extend.help, switch=True)])


def compare(values: dict[str, Any]) -> int:
    """Run the comparison."""
    settings = CompareSettings(**values)
    from .command import run_compare  # here, because Optuna and Lightning take seconds to import

    return run_compare(settings)
