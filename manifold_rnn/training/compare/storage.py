"""Where a study is kept: a journal or SQLite beside the results, or PostgreSQL."""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import OptionError
from .locks import DatabaseLock, FileLock, JournalLock, Lock

if TYPE_CHECKING:
    from optuna.storages import BaseStorage, RDBStorage
    from sqlalchemy import URL, Engine

JOURNAL = "study.journal"
_BEGINS = b'{"op_code"'


@dataclass(frozen=True)
class Store:
    """An open storage, the lock of a study in it, and how to call it; no password is in the name."""

    storage: "BaseStorage"
    lock: Lock
    name: str
    engines: tuple["Engine", ...] = ()

    def close(self) -> None:
        """Close its connections."""
        self.storage.remove_session()
        for engine in self.engines:
            engine.dispose()


class StudyLost(ConnectionError):
    """The storage can't be reached any more."""


def open_store(url: str | None, folder: Path, study: str) -> Store:
    """Open a storage, and make it if it is not there yet.

    Parameters
    ----------
    url : str, optional
        ``sqlite:///FILE`` or ``postgresql://USER:PASSWORD@HOST/DATABASE``. Default: a journal in the folder.
    folder : Path
        Of the results.
    study : str
        The study that is locked.

    Returns
    -------
    Store

    Raises
    ------
    OptionError
        If it is none of these, can't be reached or written, or its driver is missing.
    """
    if url is None:
        return _journal(folder / JOURNAL)
    parsed = _parse(url)
    name = parsed.render_as_string(hide_password=True)
    with _refusing(f"--storage {name} can't be opened"):
        if parsed.get_backend_name() == "sqlite":
            return _sqlite(parsed, name)
        return _postgresql(parsed, name, study)


@contextmanager
def reaching(store: Store) -> Iterator[None]:
    """Turn what goes wrong with a storage while it is used into `StudyLost`, in one line."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (StorageInternalError, SQLAlchemyError) as error:
        raise StudyLost(f"the study at {store.name} can't be reached: {reason(error)}") from error


def reason(error: BaseException) -> str:
    """Return the first cause of an error, in one line and without what SQLAlchemy adds."""
    while error.__cause__ is not None:
        error = error.__cause__
    words = " ".join(str(getattr(error, "orig", None) or error).split())
    words = re.sub(r"\[SQL:.*|\(Background on this error.*|Multiple connection attempts failed.*", "", words)
    return words[:200].strip(" .") or type(error).__name__


def _journal(path: Path) -> Store:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    with _refusing(f"'{path}' can't be opened as the journal of a study"):
        _require_journal(path)
        storage = JournalStorage(JournalFileBackend(str(path), lock_obj=JournalLock(path)))
    return Store(storage, FileLock(path.with_name("study.lock")), str(path))


def _require_journal(path: Path) -> None:
    """Raise `ValueError` if a file begins like no journal; the first line may be half, if its writer died."""
    if not path.exists():
        return
    with open(path, "rb") as file:
        first = file.readline()
    if not (first.startswith(_BEGINS) or _BEGINS.startswith(first)):
        raise ValueError("it begins like no journal")


def _sqlite(url: "URL", name: str) -> Store:
    if not url.database or url.database == ":memory:":
        raise OptionError(f"--storage needs sqlite:///FILE. Got {name}, which names no file.")
    lock = FileLock(Path(f"{url.database}.lock"))
    storage = _database(url, lock, {"timeout": 60})
    return Store(storage, lock, name, (storage.engine,))


def _postgresql(url: "URL", name: str, study: str) -> Store:
    from sqlalchemy import create_engine

    if url.drivername in ("postgresql", "postgres"):
        url = url.set(drivername="postgresql+psycopg")
    options = {"connect_timeout": 10} if "connect_timeout" not in url.query else {}
    engine = create_engine(url, connect_args=options, pool_pre_ping=True)
    storage = _database(url, DatabaseLock(engine, "manifold-rnn"), options)
    return Store(storage, DatabaseLock(engine, f"manifold-rnn {study}"), name, (storage.engine, engine))


def _database(url: "URL", lock: Lock, connect: dict[str, int]) -> "RDBStorage":
    from optuna.storages import RDBStorage

    text = url.render_as_string(hide_password=False).replace("{", "{{").replace("}", "}}")  # optuna fills a template
    with lock.hold(), warnings.catch_warnings():  # two workers must not both make the tables
        warnings.simplefilter("ignore")
        return RDBStorage(text, engine_kwargs={"connect_args": connect, "pool_pre_ping": True})


def _parse(url: str) -> "URL":
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    known = ("sqlite", "postgresql", "postgres")
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise OptionError(f"--storage needs {_EXPECTED}. Got another text.") from error
    if parsed.drivername.partition("+")[0] not in known:
        raise OptionError(f"--storage needs {_EXPECTED}. Got {parsed.drivername}://...")
    return parsed


_EXPECTED = "sqlite:///FILE or postgresql://USER:PASSWORD@HOST:PORT/DATABASE"


@contextmanager
def _refusing(what: str) -> Iterator[None]:
    """Turn whatever goes wrong in opening a storage into `OptionError`; drivers raise errors of many kinds."""
    try:
        yield
    except OptionError:
        raise
    except ImportError as error:
        raise OptionError(f"{what}: {reason(error)}. Install it: pip install 'manifold-rnn[postgresql]'.") from error
    except Exception as error:
        raise OptionError(f"{what}: {reason(error)}.") from error
