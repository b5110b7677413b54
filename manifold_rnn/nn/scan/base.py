"""The interface of a backend: which scans it can run, which ones "auto" gives to others, and how it runs."""

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
    """A request to run a scan: a bound cell, its inputs, and the options of `run`."""

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

    @property  # not cached, because the lock of Python 3.11 stops torch's compiler
    def elman_form(self) -> ElmanForm | None:
        """The Elman form of the cell, or None if the cell has none. It is evaluated once for each scan."""
        if not self._forms:
            self._forms.append(self.cell.elman_form() if self.cell.steps_match("elman_form") else None)
        return self._forms[0]

    def needs_visible_steps(self, *, has_operators: bool) -> str:
        """Return why torch must see the operations of each step, or "" if it does not need to.

        ``has_operators`` is whether the scan only calls registered operators, which torch.compile does not trace into.
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

    `cannot_run` and `auto_declines` only inspect the request. They do not import or load anything. `load` is called
    after the backend has been chosen, and loads its dependencies.
    """

    name: ClassVar[str]  # value of ``backend=``, and name of the function in `manifold_rnn.nn.scan`
    hides_steps: ClassVar[bool] = True  # whether autograd and other tracers cannot see the operations of a step
    has_operators: ClassVar[bool] = False  # whether it only calls registered operators, forward and backward

    @abstractmethod
    def run(self, request: Request) -> tuple[Tensor | None, State]:
        """Return the outputs (or None without `every_step`) and the state after the last step."""

    @abstractmethod
    def cannot_run(self, request: Request) -> str:
        """Return why this backend cannot run the request, or "" if it can."""

    def auto_declines(self, request: Request) -> str:
        """Return why "auto" should prefer another backend for this request, or ""."""
        return ""

    def load(self) -> str:
        """Load the dependencies of the backend. Returns why this failed, or ""."""
        return ""
