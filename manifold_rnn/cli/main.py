"""``manifold-rnn``: finds the subcommand, parses its arguments, runs it, and answers every mistake with one line."""

import sys
from argparse import ArgumentError
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import NamedTuple

from .. import __version__
from ..errors import ManifoldError

_NEEDED = ("jsonargparse", "docstring_parser", "lightning", "matplotlib", "optuna", "rich", "sklearn", "tensorboard")


class _Command(NamedTuple):
    module: str
    help: str


_COMMANDS = {
    "fit": _Command("fit", "train a network and test it"),
    "validate": _Command("fit", "score a checkpoint on the validation set"),
    "test": _Command("fit", "score a checkpoint on the test set"),
    "compare": _Command("compare", "compare combinations of settings as one study, and write a report"),
    "inspect": _Command("inspect", "describe a checkpoint and say how to resume it"),
    "demo": _Command("demo", "compare an LSTM and published networks on handwritten digits"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``manifold-rnn`` and return its exit status.

    Bad values, folders that cannot be written and missing packages are answered with one line on the error stream.

    Parameters
    ----------
    arguments : sequence of str, optional
        What follows the command's name. Default: the command line.

    Returns
    -------
    int
        0 if all went well, 1 if a network failed, 2 for a mistake in the arguments, 130 after Ctrl-C or SIGTERM.

    Examples
    --------
    >>> assert mr.cli.main(["demo", "--epochs", "0"]) == 2
    """
    given = [str(argument) for argument in (sys.argv[1:] if arguments is None else arguments)]
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        return _refuse(f"{', '.join(missing)} not installed. Install the extra: pip install 'manifold-rnn[train]'.")
    try:
        return _run(given)
    except (ManifoldError, OSError) as error:
        return _refuse(str(error))
    except KeyboardInterrupt:
        print("manifold-rnn: interrupted", file=sys.stderr)
        return 130


def _run(arguments: Sequence[str]) -> int:
    from ..training.choices import require_choice

    first = arguments[0] if arguments else "no command"
    if first in ("-h", "--help"):
        print(_help())
        return 0
    if first == "--version":
        print(f"manifold-rnn {__version__}")
        return 0
    require_choice("manifold-rnn", first, _COMMANDS)
    command, rest = _COMMANDS[first], arguments[1:]
    module = import_module(f".{command.module}", __package__)
    description = f"{command.help[0].upper()}{command.help[1:]}."
    parser = module.build_parser(first, description)
    try:
        namespace = parser.parser.parse_args(rest, defaults=False)
    except (ArgumentError, ValueError) as error:  # the second if a file is not UTF-8
        parser.explain(error, rest)
    return int(module.execute(first, parser.values(namespace)))


def _help() -> str:
    width = max(map(len, _COMMANDS))
    rows = "\n".join(f"  {name:<{width}}  {command.help}" for name, command in _COMMANDS.items())
    return (
        "usage: manifold-rnn COMMAND [options]\n\nRecurrent networks with weights on manifolds.\n\n"
        f"commands:\n{rows}\n\nmanifold-rnn COMMAND --help lists the options of a command."
    )


def _refuse(message: str) -> int:
    print(f"manifold-rnn: error: {' '.join(message.split())}", file=sys.stderr)
    return 2
