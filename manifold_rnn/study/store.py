"""The storage of a study: a journal file, SQLite or PostgreSQL, with the locks of its workers."""

import json
import os
import re
import sqlite3
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from filelock import FileLock, Timeout
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from sqlalchemy import URL, Engine, create_engine, make_url, text
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from ..errors import OptionError
from ..training.values import without_secrets

Lock = Callable[[], AbstractContextManager[object]]
JOURNAL = "study.journal"
_FIRST_BYTES = b'{"op_code"'
_EXPECTED = "sqlite:///FILE or postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
_POLL = 0.01  # seconds between two attempts to get a lock
_WAIT = 30.0  # seconds until `StudyBusy` is raised, so that a waiting process can be stopped
_TABLE = "studies"  # a table of every Optuna database
_BUSY_STATES = ("40001", "40P01", "55P03", "57014")  # temporary conflicts and timeouts of PostgreSQL


@dataclass(frozen=True)
class Store:
    """An open storage: its lock, its name without a password, and a function that hides secrets in a text.

    The system releases a lock when its process dies, so no worker has to break one.
    """

    storage: BaseStorage
    lock: Lock
    name: str
    hide: Callable[[str], str] = without_secrets
    engines: tuple[Engine, ...] = ()

    def close(self) -> None:
        """Close the connections of the storage."""
        self.storage.remove_session()
        for engine in self.engines:
            engine.dispose()


class StudyLost(ConnectionError):
    """Raised when the storage cannot be reached any more."""


class StudyBusy(StudyLost):
    """Raised when another process, perhaps a suspended one, keeps the storage locked for too long."""


@contextmanager
def database_lock(engine: Engine, name: str) -> Iterator[None]:
    """Hold an advisory lock of PostgreSQL, which excludes all other connections to the database.

    The lock belongs to a transaction, so it ends with the connection. The server is set to test silent connections
    soon. Otherwise a machine that has lost power would keep the lock for hours.
    """
    with engine.begin() as connection:
        settings = {"tcp_keepalives_idle": 10, "tcp_keepalives_interval": 5, "tcp_keepalives_count": 3}
        limits = {"lock_timeout": round(1000 * _WAIT), "statement_timeout": 0, "idle_in_transaction_session_timeout": 0}
        for setting, value in {**settings, **limits}.items():
            connection.execute(text(f"SET LOCAL {setting} = {value}"))
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": zlib.crc32(name.encode())})
        yield


class JournalLock(JournalFileOpenLock):
    """A kernel lock for the journal. Optuna's own lock file would stay behind when a worker dies.

    After it gets the lock, a worker cuts off an incomplete last line, left by a worker that died while writing.
    """

    def __init__(self, journal: Path) -> None:
        super().__init__(str(journal))
        # not the name of Optuna's own lock, because its tools delete old lock files
        self._journal, self._lock = journal, FileLock(f"{journal}.append", poll_interval=_POLL)

    def acquire(self) -> bool:
        """Wait for the lock."""
        self._lock.acquire(timeout=_WAIT)
        if self._journal.exists():
            with open(self._journal, "rb+") as file:
                end = file.seek(0, os.SEEK_END)
                while end and (file.seek(end - 1), file.read(1))[1] != b"\n":
                    end -= 1
                file.truncate(end)
        return True

    def release(self) -> None:
        """Release the lock."""
        self._lock.release()


def open_store(url: str | None, folder: Path, study: str) -> Store:
    """Open a storage, ``sqlite:///FILE``, ``postgresql://USER:PASSWORD@HOST/DATABASE`` or a journal in the folder.

    A storage that does not exist is created. Raises `OptionError` for another URL, or if it cannot be opened.
    """
    if url is None:
        return _journal(folder / JOURNAL)
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise OptionError(f"`storage` needs {_EXPECTED}. Got another text.") from None  # maybe with a password
    if parsed.get_backend_name() not in ("sqlite", "postgresql", "postgres"):
        raise OptionError(f"`storage` needs {_EXPECTED}. Got {parsed.drivername}://...")
    is_file, hide = parsed.get_backend_name() == "sqlite", partial(_without_secrets_of, parsed)
    if "@" in (parsed.host or "") or (not is_file and "@" in (parsed.database or "")):
        raise OptionError(f"`storage` needs {_EXPECTED}. Write @ and / in the password as %40 and %2F.")
    # only parts without secrets: if the password has a colon, part of it may be parsed as the user's name
    place = f"/{parsed.database or ''}" if is_file else f"{parsed.host or ''}{f':{parsed.port}' if parsed.port else ''}"
    name = f"{parsed.drivername}://{place}"
    with _refusing(f"`storage` {name} cannot be opened", hide):
        return _sqlite(parsed, name, hide) if is_file else _postgresql(parsed, name, hide, study)


def _without_secrets_of(url: URL, message: str) -> str:
    """A message without the password of a URL, the values of its query, and other possible parts of a password."""
    misplaced = [(url.username or "").partition(":")[2], (url.database or "").partition("#")[2]]
    queried = [part for value in url.query.values() for part in ([value] if isinstance(value, str) else value)]
    for secret in [url.password, *misplaced, *queried]:
        message = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", "***", message) if secret else message
    return without_secrets(message)


@contextmanager
def reaching(store: Store) -> Iterator[None]:
    """Convert every error of a storage in use to `StudyLost` or `StudyBusy`, with a message of one line."""
    try:
        yield
    except (Timeout, StorageInternalError, SQLAlchemyError) as error:
        if _is_busy(error):
            raise StudyBusy(f"The study at {store.name} is locked by another process.") from None
        reason = store.hide(_reason(error))
        raise StudyLost(f"The study at {store.name} cannot be reached: {reason}.") from None  # maybe with a password


def _first_cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _is_busy(error: BaseException) -> bool:
    cause = _first_cause(error)
    if isinstance(cause, sqlite3.OperationalError):
        return "is locked" in str(cause)
    return isinstance(cause, Timeout) or getattr(cause, "sqlstate", None) in _BUSY_STATES


def _reason(error: BaseException) -> str:
    """The first line of the first cause of an error."""
    cause = _first_cause(error)
    return next(iter(str(cause).splitlines()), type(cause).__name__)[:200].rstrip(".")


def _journal(path: Path) -> Store:
    with _refusing(f"'{path}' cannot be opened as the journal of a study", without_secrets):
        first = b""
        if path.exists():
            with open(path, "rb") as file:
                first = file.readline()
        if not (first.startswith(_FIRST_BYTES) or _FIRST_BYTES.startswith(first)):  # the second: an incomplete line
            raise ValueError("it does not begin like a journal")
        _require_whole_end(path)
        storage = JournalStorage(JournalFileBackend(str(path), lock_obj=JournalLock(path)))
    return Store(storage, folder_lock(path.parent), str(path))


def _require_whole_end(path: Path) -> None:
    """Raise unless the last whole line is JSON. Optuna takes a damaged one for a line that is being written."""
    last = b"{}"
    if path.exists():
        with open(path, "rb") as file:
            for line in file:
                last = line if line.endswith(b"\n") else last
    try:
        json.loads(last)
    except ValueError:
        raise ValueError("its last line is damaged") from None


def folder_lock(folder: Path) -> Lock:
    """Return the lock of a folder, which is also that of the journal in it."""
    return _file_lock(folder / "study.lock")


def _file_lock(path: str | Path) -> Lock:
    return partial(FileLock(path, poll_interval=_POLL).acquire, timeout=_WAIT)


def _sqlite(url: URL, name: str, hide: Callable[[str], str]) -> Store:
    if not url.database or url.database == ":memory:":
        raise OptionError(f"`storage` needs sqlite:///FILE. Got {name}, which names no file.")
    if not Path(url.database).absolute().parent.is_dir():  # the lock would create the folder
        raise FileNotFoundError("its folder does not exist")
    if Path(url.database).exists():
        with closing(sqlite3.connect(url.database, timeout=_WAIT)) as file:
            tables = {name for (name,) in file.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if tables and _TABLE not in tables:
            raise ValueError(f"it contains tables of another program, such as {min(tables)}")
    lock = _file_lock(f"{url.database}.lock")
    storage = _database(url, lock, {"timeout": round(_WAIT)})
    return Store(storage, lock, name, hide, (storage.engine,))


def _postgresql(url: URL, name: str, hide: Callable[[str], str], study: str) -> Store:
    if url.drivername in ("postgresql", "postgres"):
        url = url.set(drivername="postgresql+psycopg")
    options = {"connect_timeout": 10} if "connect_timeout" not in url.query else {}
    engine = create_engine(url, connect_args=options, pool_pre_ping=True)
    storage = _database(url, partial(database_lock, engine, "manifold-rnn"), options)
    lock = partial(database_lock, engine, f"manifold-rnn {study}")
    return Store(storage, lock, name, hide, (storage.engine, engine))


def _database(url: URL, lock: Lock, connect: dict[str, int]) -> RDBStorage:
    # optuna formats the URL as a template
    address = url.render_as_string(hide_password=False).replace("{", "{{").replace("}", "}}")
    with lock():  # only one worker may create the tables
        return RDBStorage(address, engine_kwargs={"connect_args": connect, "pool_pre_ping": True})


@contextmanager
def _refusing(what: str, hide: Callable[[str], str]) -> Iterator[None]:
    """Convert every error while a storage is opened to `OptionError`. Drivers raise many kinds of errors."""
    try:
        yield
    except OptionError:
        raise
    except Exception as error:
        if _is_busy(error):
            raise StudyBusy(f"{what} before another process releases its lock.") from None
        hint = " Install it: pip install 'manifold-rnn[postgresql]'." if isinstance(error, ImportError) else ""
        raise OptionError(f"{what}: {hide(_reason(error))}.{hint}") from None  # it may contain a password
