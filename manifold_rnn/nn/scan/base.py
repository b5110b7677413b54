"""What is asked of a scan."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..._torch import is_forward_mode, is_traced, is_transformed
from ...linalg.precision import autocast_device
from ..cells.base import Cell, Form, State


@dataclass(frozen=True, eq=False)
class Request:
    """A bound cell, its inputs, and how they are to be run; see `run`."""

    cell: Cell
    x: Tensor
    state: State
    W: Tensor
    batch_sizes: Sequence[int] | None
    reverse: bool
    diagonal: bool
    every_step: bool
    recompute: bool

    def form(self) -> Form | None:
        """That of the cell, if it is still what the cell does."""
        return None if self.cell.has_own_steps else self.cell.form()

    def cannot_be_hidden(self) -> str:
        """Why torch has to see each step, or nothing."""
        if torch.compiler.is_compiling() or is_transformed():
            return "torch.compile and torch.func need steps that they can look into"
        if is_traced() or is_forward_mode():
            return "traces and derivatives forward need steps that torch knows"
        if torch.is_autocast_enabled(autocast_device(self.x)):
            return "autocast chooses a precision for each step"
        return "" if self.x.numel() else "there are no entries"
