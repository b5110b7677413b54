"""Whether the worker of a trial is alive: by its process on the same machine, by its heartbeat from any other."""

import itertools
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path

from ..training.values import Value, Values


class Superseded(Exception):
    """Another worker has taken over this case."""


@cache
def machine() -> str:
    """Return what tells this machine, since it was started, from all others; process ids mean something only here."""
    boot = namespace = "unknown"
    with suppress(OSError):  # on a system without /proc
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = os.readlink("/proc/self/ns/pid")
    return f"{socket.gethostname()} {boot} {namespace}"


def identity() -> Values:
    """Return what identifies this process, as it is stored with a trial."""
    return {"machine": machine(), "process": os.getpid(), "started": start_time(os.getpid())}


def is_known_dead(worker: Mapping[str, Value]) -> bool:
    """Return whether a worker ran on this machine, and its process has ended."""
    if worker.get("machine") != machine() or worker.get("started") is None:
        return False
    return start_time(int(worker["process"])) != worker["started"]


class HeartbeatMonitor:
    """Which heartbeats have stopped, by this process's own clock: those of other machines may be wrong."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._last: dict[int, tuple[object, float]] = {}

    def is_silent(self, trial: int, beat: object) -> bool:
        """Return whether a trial's heartbeat has been the same for longer than the patience."""
        now = time.monotonic()
        last, since = self._last.get(trial, (None, now))
        if trial not in self._last or beat != last:
            self._last[trial] = (beat, now)
            return False
        return now - since > self._patience


class Heartbeat:
    """A thread that calls ``beat`` with 1, 2, 3... while its block runs, until the call raises `Superseded`."""

    def __init__(self, beat: Callable[[int], None], interval: float) -> None:
        self._beat, self._interval = beat, interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        with suppress(Superseded):
            for count in itertools.count(1):
                if self._stop.wait(self._interval):
                    return
                self._beat(count)


def start_time(process: int) -> str | None:
    """Return when a process was started, in the kernel's ticks; None if there is none, or the system does not say."""
    try:
        text = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return None
    words = text.rpartition(")")[2].split()  # the name before it may have spaces
    return None if words[0] in "ZX" else words[19]
