"""The command ``manifold-rnn``: parses the command line, runs a subcommand, and answers mistakes with one line."""

import sys
from argparse import ArgumentError
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, NamedTuple

from .. import __version__
from ..errors import ManifoldError
from . import commands
from .compare.arguments import add_compare, compare
from .flags import Flag, bare_parser, reworded
from .run_parts import require_name

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

_NEEDED = ("jsonargparse", "docstring_parser", "lightning", "matplotlib", "optuna", "rich", "sklearn", "tensorboard")


class _Command(NamedTuple):
    help: str
    add: Callable[["ArgumentParser", Sequence[str]], list[Flag]]
    run: Callable[[commands.Values], int]


_COMMANDS = {
    "fit": _Command("train a network, and test it", commands.add_fit, commands.fit),
    "validate": _Command(
        "score a checkpoint on the validation set", commands.add_evaluation, partial(commands.score, "validate")
    ),
    "test": _Command("score a checkpoint on the test set", commands.add_evaluation, partial(commands.score, "test")),
    "compare": _Command("compare combinations of settings as one study, and report", add_compare, compare),
    "inspect": _Command("say what is in a checkpoint, and how to go on", commands.add_inspect, commands.inspect),
    "demo": _Command("compare an LSTM and the zoo's networks on handwritten digits", commands.add_demo, commands.demo),
}


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
    arguments = sys.argv[1:] if arguments is None else arguments
    parser, flags = _parser(arguments)
    try:
        if not arguments or not arguments[0].startswith("-"):
            require_name("manifold-rnn", arguments[0] if arguments else "no command", _COMMANDS)
        values = parser.parse_args(list(arguments), defaults=False)
        given = values[values.subcommand].as_dict()
        return _COMMANDS[values.subcommand].run({key: value for key, value in given.items() if key != "help"})
    except ArgumentError as error:
        return _refuse(reworded(str(error), flags.get(next(iter(arguments), ""), [])))
    except (ManifoldError, OSError) as error:
        return _refuse(str(error))
    except KeyboardInterrupt:
        print("manifold-rnn: interrupted", file=sys.stderr)
        return 130


def _parser(arguments: Sequence[str]) -> tuple["ArgumentParser", dict[str, list[Flag]]]:
    """The parser, and the flags of every subcommand."""
    parser = bare_parser(
        prog="manifold-rnn", description="Recurrent networks with weights on manifolds.", version=__version__
    )
    subcommands = parser.add_subcommands()
    flags = {}
    for name, command in _COMMANDS.items():
        child = bare_parser(description=f"{command.help[0].upper()}{command.help[1:]}.")
        flags[name] = command.add(child, arguments)
        subcommands.add_subcommand(name, child, help=command.help)
    return parser, flags


def _refuse(message: str) -> int:
    print(f"manifold-rnn: error: {' '.join(message.split())}", file=sys.stderr)
    return 2
