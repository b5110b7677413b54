"""Whether the worker of a trial is alive: by its process on the same machine, by its heartbeat from any other."""

import os
import socket
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any


@cache
def machine() -> str:
    """Return what tells this machine, since it was started, from all others; process ids mean something only here."""
    found = [socket.gethostname()]
    for source in (lambda: Path("/proc/sys/kernel/random/boot_id").read_text().strip(), _namespace):
        try:
            found.append(source())
        except OSError:
            found.append("unknown")
    return " ".join(found)


def identity() -> dict[str, Any]:
    """Return who this process is, as it is written beside what it runs."""
    return {"machine": machine(), "process": os.getpid(), "born": _born(os.getpid())}


def known_dead(worker: dict[str, Any]) -> bool:
    """Return whether a worker ran on this machine, and its process has ended."""
    if worker.get("machine") != machine() or worker.get("born") is None:
        return False
    return _born(int(worker["process"])) != worker["born"]


class Watch:
    """Tells which heartbeats have stopped, by this process's own clock: those of other machines may be wrong."""

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self._seen: dict[int, tuple[Any, float]] = {}

    def silent(self, trial: int, beat: Any) -> bool:
        """Return whether a trial's beat has been the same for longer than the patience."""
        now = time.monotonic()
        last, since = self._seen.get(trial, (None, now))
        if trial not in self._seen or beat != last:
            self._seen[trial] = (beat, now)
            return False
        return now - since > self.patience


class Heart:
    """A thread that calls ``beat`` with 1, 2, 3... while its block runs, until the call returns false."""

    def __init__(self, beat: Callable[[int], bool], interval: float) -> None:
        self._beat, self._interval = beat, interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        count = 0
        while not self._stop.wait(self._interval):
            count += 1
            if not self._beat(count):
                return


def _namespace() -> str:
    return os.readlink("/proc/self/ns/pid")


def _born(process: int) -> str | None:
    """When a process was started, in the kernel's ticks; None if there is none, or the system does not say."""
    try:
        text = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return None
    words = text.rpartition(")")[2].split()  # the name before it may have spaces
    return None if words[0] in "ZX" else words[19]
