"""Checks that data fits into the memory of this machine before it is allocated."""

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import OptionError

if TYPE_CHECKING:
    from .base import Task

_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # limits of a container


class MemoryNeededError(OptionError):
    """Raised by `require_memory`, because a larger size would not help, as it may after other errors."""


def machine_memory() -> int:
    """Return the number of bytes of memory of this machine, or of the limit of this container."""
    known = []
    with suppress(AttributeError, OSError, ValueError):  # the system does not have these names
        known.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for path in _LIMITS:
        with suppress(OSError, ValueError):  # no such file, or its content is max
            known.append(int(Path(path).read_text(encoding="ascii")))
    return min(known, default=2**63)


def require_task_in_memory(task: "Task") -> None:
    """Raise `OptionError` if one sequence of a task does not fit into memory."""
    require_memory("task", 4 * task.length * task.input_size, "a sequence", f"{task.length:,} steps")


def require_memory(key: str, needed: int, what: str, got: object) -> None:
    """Raise `MemoryNeededError` if ``needed``, a lower bound in bytes, exceeds the memory of this machine."""
    most = machine_memory()
    if needed > most:
        size = f"at least {needed / 2**30:,.0f} GiB, and this machine has {most / 2**30:,.1f} GiB"
        raise MemoryNeededError(f"`{key}` needs {what} that fits into memory. Got {got!s:.60}. It takes {size}.")
