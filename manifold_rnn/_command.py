"""Handles Ctrl-C while the command ``manifold-rnn`` imports torch, and makes these imports faster."""

import gc
import sys
from pathlib import Path
from types import TracebackType


def _is_command() -> bool:
    """Whether this program is ``manifold-rnn`` or ``python -m manifold_rnn``, which run only after the imports."""
    program = Path(next(iter(getattr(sys, "argv", ())), ""))
    return program.stem == "manifold-rnn" or (str(program) == "-m" and "manifold_rnn" in sys.orig_argv)


def _answer(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    if sys.stderr is not None:
        print("manifold-rnn: interrupted", file=sys.stderr, flush=True)
    raise SystemExit(130)


if _is_command():
    gc.disable()  # imports leave no garbage; `cli.main` collects again
if _is_command() and sys.excepthook is sys.__excepthook__:
    sys.excepthook = _answer
