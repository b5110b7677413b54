"""The contract of a backend: which scans it can run, which of them "auto" leaves to others, and how it runs one."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from ..._torch import is_forward_mode, is_traced, is_transformed
from ...linalg.precision import autocast_device
from ..cells.base import Cell, State
from ..cells.elman_form import ElmanForm


@dataclass(frozen=True, eq=False)
class Request:
    """One scan to run: a bound cell, its inputs, and the options of `run`."""

    cell: Cell
    x: Tensor  # (T, B, m), or (N, m) if packed
    state: State
    W: Tensor  # (k n, n)
    batch_sizes: Sequence[int] | None
    reverse: bool
    diagonal: bool
    every_step: bool
    recompute: bool

    @cached_property
    def elman_form(self) -> ElmanForm | None:
        """The Elman form of the cell, or None if its steps have another; evaluated once for each scan."""
        return self.cell.elman_form() if self.cell.steps_match("elman_form") else None

    def needs_visible_steps(self) -> str:
        """Return why torch has to see the operations of each step, or "" if it has not."""
        if torch.compiler.is_compiling() or is_transformed():
            return "torch.compile and torch.func need to see every step"
        if is_traced() or is_forward_mode():
            return "traces and forward-mode derivatives need to see every step"
        if torch.is_autocast_enabled(autocast_device(self.x)):
            return "autocast chooses a precision in every step"
        return "" if self.x.numel() else "the input has no entries"


class Backend(ABC):
    """A way to run a scan.

    `cannot_run` and `auto_declines` only look at the request: they import and load nothing. What a backend needs is
    loaded by `load`, which is called once the backend has been chosen.
    """

    name: ClassVar[str]  # the value of ``backend=``, and the name of the function in `manifold_rnn.nn.scan`
    hides_steps: ClassVar[bool] = True  # from autograd and whoever else looks at the operations of a step

    @abstractmethod
    def run(self, request: Request) -> tuple[Tensor | None, State]:
        """Return the outputs, or None if only the last are wanted, and the state after the last step."""

    @abstractmethod
    def cannot_run(self, request: Request) -> str:
        """Return why this backend cannot run the request, or "" if it can."""

    def auto_declines(self, request: Request) -> str:
        """Return why "auto" leaves the request to another backend although this one may be able to run it, or ""."""
        return ""

    def load(self) -> str:
        """Load what the backend needs; return why that failed, or ""."""
        return ""
