"""Handles Ctrl-C and SIGTERM as requests to stop, which a run reads at its next safe point."""

import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Self

from .values import Value, say


class StopRequested(Exception):
    """Raised at a safe point after a request to stop. A KeyboardInterrupt would make Lightning end the program."""


class StopSignal:
    """Records a request to stop this process, by a signal or by the function ``also``.

    As a context manager, it handles Ctrl-C and SIGTERM in the block. A second Ctrl-C ends the program with status 130.
    """

    def __init__(self, also: Callable[[], bool] = lambda: False) -> None:
        self._signalled, self._also = False, also
        self._before: list[tuple[signal.Signals, Value]] = []

    @property
    def requested(self) -> bool:
        """Whether a stop was requested."""
        return self._signalled or self._also()

    def __enter__(self) -> Self:
        self._before = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]
        self.install()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before if _is_main_thread() else []:
            signal.signal(number, handler)
        self._before = []

    def install(self) -> None:
        """Install the handlers of Ctrl-C and SIGTERM. Call it again after a library has installed its own."""
        for number, _ in self._before if _is_main_thread() else ():
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._signalled and number == signal.SIGINT:
            sys.exit(130)
        if number == signal.SIGINT:
            say("Stopping at the next checkpoint. Press Ctrl-C again to quit at once.", to_errors=True)
        self._signalled = True


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()  # only the main thread can set handlers
