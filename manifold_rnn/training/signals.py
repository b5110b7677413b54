"""Ctrl-C and SIGTERM as requests to stop, which work reads at its next safe point."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequested(Exception):
    """Raised at a safe point after a request to stop. After a KeyboardInterrupt, Lightning ends the program itself."""


class StopSignal:
    """Whether this process was asked to stop, by a signal or by ``also``, another source of the request."""

    def __init__(self, also: Callable[[], bool] = lambda: False) -> None:
        self._signalled, self._also = False, also

    @property
    def requested(self) -> bool:
        """Whether to stop."""
        return self._signalled or self._also()

    def install(self) -> None:
        """Handle Ctrl-C and SIGTERM here; to be repeated after a library has put its own handlers there."""
        if threading.current_thread() is threading.main_thread():  # handlers can be set only there
            signal.signal(signal.SIGINT, self._on_signal)
            signal.signal(signal.SIGTERM, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._signalled and number == signal.SIGINT:
            sys.exit(130)
        if number == signal.SIGINT:
            print("Stopping at the next checkpoint. Press Ctrl-C again to quit at once.", file=sys.stderr, flush=True)
        self._signalled = True


@contextmanager
def stop_on_signals(also: Callable[[], bool] = lambda: False) -> Iterator[StopSignal]:
    """Turn Ctrl-C and SIGTERM into a request for the block; a second Ctrl-C ends the program with status 130."""
    stop = StopSignal(also)
    is_main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)} if is_main else {}
    stop.install()
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
