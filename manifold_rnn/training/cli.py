"""The command ``manifold-rnn``: parses the command line, runs a subcommand, and answers mistakes with one line."""

import re
import sys
from argparse import ArgumentError
from collections.abc import Callable, Sequence
from dataclasses import fields
from importlib.util import find_spec
from typing import TYPE_CHECKING, NamedTuple

from .. import __version__
from ..errors import ManifoldError
from .settings import DemoSettings

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

_NEEDED = ("jsonargparse", "docstring_parser", "lightning", "matplotlib", "rich", "sklearn")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``manifold-rnn`` and return its exit status.

    Bad values, folders that can't be written and missing packages are answered with one line on the error stream.

    Parameters
    ----------
    arguments : sequence of str, optional
        What follows the command's name; by default taken from the command line.

    Returns
    -------
    int
        0 if all went well, 1 if a network failed, 2 for a bad command line, 130 after Ctrl-C.

    Examples
    --------
    >>> assert mr.training.main(["demo", "--epochs", "0"]) == 2
    """
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        return _refuse(f"{', '.join(missing)} not installed; install the extra: pip install 'manifold-rnn[train]'")
    try:
        parser = _parser()
        values = parser.parse_args(arguments)
        command = _COMMANDS[values.subcommand]
        return command.run(command.settings(**values[values.subcommand].as_dict()))
    except ArgumentError as error:
        return _refuse(_reworded(str(error)))
    except (ManifoldError, OSError) as error:
        return _refuse(str(error))
    except KeyboardInterrupt:
        print("manifold-rnn: interrupted", file=sys.stderr)
        return 130


def _demo(settings: DemoSettings) -> int:
    from .demo import run_demo  # here, because Lightning takes seconds to import

    return run_demo(settings)


class _Command(NamedTuple):
    settings: type[DemoSettings]
    run: Callable[[DemoSettings], int]
    help: str


_COMMANDS = {"demo": _Command(DemoSettings, _demo, "compare an LSTM and the zoo's networks on handwritten digits")}


def _parser() -> "ArgumentParser":
    from docstring_parser import parse
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(
        prog="manifold-rnn",
        description="Recurrent networks with weights on manifolds.",
        version=__version__,
        exit_on_error=False,
    )
    subcommands = parser.add_subcommands()
    for name, command in _COMMANDS.items():
        child = ArgumentParser(description=f"{command.help[0].upper()}{command.help[1:]}.", exit_on_error=False)
        described = {
            parameter.arg_name: parameter.description for parameter in parse(command.settings.__doc__ or "").params
        }
        for field in fields(command.settings):
            flag = (
                f"--{field.name.replace('_', '-')}"  # by hand, because add_class_arguments spells it with underscores
            )
            child.add_argument(flag, type=field.type, default=field.default, help=described[field.name])
        subcommands.add_subcommand(name, child, help=command.help)
    return parser


def _refuse(message: str) -> int:
    print(f"manifold-rnn: error: {' '.join(message.split())}", file=sys.stderr)
    return 2


def _reworded(message: str) -> str:
    """Turn the parser's words for a bad value into flag, expected, got."""
    found = re.search(r'Parser key "(\w+)":\s*Expected an? <class \'(\w+)\'>\. Got value: (.*)', message, re.DOTALL)
    if found is None:
        return message
    key, kind, value = found.groups()
    return f"--{key.replace('_', '-')} needs {'an integer' if kind == 'int' else 'a number'}. Got {value!r}."
