"""Locks between the workers of a study. The system takes them back when their holder dies, so none is ever broken."""

import os
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Any

from optuna.storages.journal import JournalFileOpenLock

from ...errors import UnsupportedError


class Lock(ABC):
    """What one worker at a time can hold."""

    @abstractmethod
    def hold(self) -> AbstractContextManager[None]:
        """Wait for the lock, and keep it for the block."""


class FileLock(Lock):
    """A lock on a file, by the kernel, among processes and threads that see the same file system."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Wait for the lock, and keep it for the block."""
        with open(self._path, "ab") as file:
            _lock(file)
            yield  # closing the file unlocks it


class DatabaseLock(Lock):
    """An advisory lock of PostgreSQL, among all who are connected to the database.

    It belongs to a transaction, and so ends with the connection. The server is asked to look after a silent connection
    soon, because that of a machine that has lost power says nothing for hours otherwise.
    """

    def __init__(self, engine: Any, name: str) -> None:
        self._engine, self._key = engine, zlib.crc32(name.encode())

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Wait for the lock, and keep it for the block."""
        from sqlalchemy import text

        with self._engine.begin() as connection:
            for setting, value in {"idle": 10, "interval": 5, "count": 3}.items():
                connection.execute(text(f"SET LOCAL tcp_keepalives_{setting} = {value}"))
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": self._key})
            yield


class JournalLock(JournalFileOpenLock):
    """The journal's own lock, with the kernel's instead of a file that a dead worker leaves behind.

    Whoever gets it cuts off half a line at the end of the journal, which a worker leaves that dies while it writes.
    """

    def __init__(self, journal: Path) -> None:
        super().__init__(str(journal))
        self._journal, self._path = journal, journal.with_name(f"{journal.name}.lock")
        self._held: IO[bytes] | None = None

    def acquire(self) -> bool:
        """Wait for the lock."""
        file = open(self._path, "ab")  # noqa: SIM115 - release closes it
        try:
            _lock(file)
            _cut_half_a_line(self._journal)
        except BaseException:
            file.close()
            raise
        self._held = file
        return True

    def release(self) -> None:
        """Give it back."""
        assert self._held is not None
        self._held.close()
        self._held = None


def _lock(file: IO[bytes]) -> None:
    try:
        import fcntl
    except ImportError as error:
        raise UnsupportedError(
            "A study in a file needs the file locks of Unix.\nGot a system without them.\n"
            "Give --storage postgresql://..., or use Linux, macOS or WSL."
        ) from error
    fcntl.flock(file, fcntl.LOCK_EX)


def _cut_half_a_line(path: Path) -> None:
    if not path.exists() or not path.stat().st_size:
        return
    with open(path, "rb+") as file:
        end = file.seek(-1, os.SEEK_END) + 1
        while end and file.read(1) != b"\n":
            end -= 1
            file.seek(max(end - 1, 0))
        file.truncate(end)
