"""The contract of a backend: which scans it can run, which of them "auto" leaves to others, and how it runs one."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
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
    _forms: list[ElmanForm | None] = field(default_factory=list, init=False, repr=False)

    @property  # not a cached one, whose lock in Python 3.11 stops torch's compiler
    def elman_form(self) -> ElmanForm | None:
        """The Elman form of the cell, or None if its steps have another; evaluated once for each scan."""
        if not self._forms:
            self._forms.append(self.cell.elman_form() if self.cell.steps_match("elman_form") else None)
        return self._forms[0]

    def needs_visible_steps(self, *, has_operators: bool) -> str:
        """Return why torch has to see the operations of each step, or "" if it has not.

        ``has_operators`` says whether the scan calls registered operators only, which torch.compile leaves as they are.
        """
        if torch.compiler.is_compiling() and (torch.compiler.is_exporting() or self.recompute or not has_operators):
            return "torch.compile and torch.export need to see every step"
        if is_transformed():
            return "torch.func needs to see every step"
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
    has_operators: ClassVar[bool] = False  # calls registered operators only, forward and backward

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
