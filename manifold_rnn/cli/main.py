"""``manifold-rnn``: parses the arguments and runs the subcommand. Every error is printed as one line."""

import gc
import signal
import sys
import threading
import warnings
from argparse import ArgumentError
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec

from .. import __version__
from ..errors import ManifoldError, NonFiniteError

_NEEDED = ("jsonargparse", "docstring_parser", "lightning", "matplotlib", "optuna", "rich", "sklearn", "tensorboard")
_COMMANDS = {  # the module of each, and its help
    "fit": ("fit", "train a network and test it"),
    "validate": ("fit", "evaluate a checkpoint on the validation set"),
    "test": ("fit", "evaluate a checkpoint on the test set"),
    "compare": ("compare", "compare combinations of settings in one study, and write a report"),
    "inspect": ("inspect", "describe a checkpoint and show how to resume its run"),
    "coverage": ("coverage", "test a checkpoint with mutants of its test set, and measure their coverage"),
    "prune": ("prune", "remove the closed units of a network that was trained with pruning"),
    "demo": ("demo", "compare an LSTM and published networks on handwritten digits"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``manifold-rnn`` and return its exit status.

    It prints one line on the error stream for a wrong value, a folder that cannot be written, or a missing package.

    Parameters
    ----------
    arguments : sequence of str, optional
        The arguments after ``manifold-rnn``. Default: those of the command line.

    Returns
    -------
    int
        0 after success, 1 if a network failed or has numbers that are not finite, 2 for a wrong argument, 130 after
        Ctrl-C or SIGTERM.

    Examples
    --------
    >>> assert mr.cli.main(["demo", "--epochs", "0"]) == 2
    """
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        return _refuse(f"{', '.join(missing)} not installed. Install the extra: pip install 'manifold-rnn[train]'.")
    from ..training.values import drop_unprinted, print_any_text, say

    print_any_text()
    try:
        with warnings.catch_warnings(), _interrupted_by_sigterm():
            warnings.showwarning = _print_warning
            return _run([str(argument) for argument in (sys.argv[1:] if arguments is None else arguments)])
    except BrokenPipeError:  # the reader has closed the pipe, as head does
        return 0
    except NonFiniteError as error:
        return _refuse(str(error), status=1)
    except (ManifoldError, OSError, MemoryError) as error:
        return _refuse(str(error) or type(error).__name__)
    except KeyboardInterrupt:
        say("manifold-rnn: interrupted", to_errors=True)
        return 130
    finally:
        drop_unprinted()


def _run(arguments: Sequence[str]) -> int:
    from ..training.choices import require_choice

    command = arguments[0] if arguments else "no command"
    if command in ("-h", "--help", "--version"):
        print(f"manifold-rnn {__version__}" if command == "--version" else _help(), flush=True)
        return 0
    require_choice("manifold-rnn", command, _COMMANDS)
    module, about = _COMMANDS[command]
    handler = import_module(f".{module}", __package__)
    gc.enable()  # `_command` turned it off, for faster imports
    parser = handler.build_parser(command, f"{about[0].upper()}{about[1:]}.")
    try:
        values = parser.parse(arguments[1:])
    except (ArgumentError, ValueError) as error:  # ValueError: a file is not UTF-8
        parser.explain(error, arguments[1:])
    return int(handler.execute(command, values))


def _help() -> str:
    width = max(map(len, _COMMANDS))
    rows = "\n".join(f"  {name:<{width}}  {about}" for name, (_, about) in _COMMANDS.items())
    return (
        "usage: manifold-rnn COMMAND [options]\n\nRecurrent networks with weights on manifolds.\n\n"
        f"commands:\n{rows}\n\nRun manifold-rnn COMMAND --help to list the options of a command."
    )


@contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    """Handle SIGTERM as Ctrl-C, until a command installs its own handlers."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler or signal.SIG_DFL)


def _print_warning(message: Warning | str, *_: object, **__: object) -> None:
    from ..training.values import say

    say(f"manifold-rnn: warning: {' '.join(str(message).split())}", to_errors=True)


def _refuse(message: str, status: int = 2) -> int:
    from ..training.values import presentable, say

    say(f"manifold-rnn: error: {presentable(' '.join(message.split()))}", to_errors=True)
    return status
