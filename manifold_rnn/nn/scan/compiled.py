"""The plain loop, a few steps at a time, by torch's compiler."""

import os
import shutil
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..cells.base import Cell, State
from .base import Request
from .reference import steps

_CHUNK = 16  # steps: a longer chunk takes longer to compile, and gains little


def compiled(cell: Cell, u: Tensor, state: State, W: Tensor) -> tuple[Tensor, State]:
    """Run a bound cell over time by ``torch.compile``, which fuses the small operations of each step.

    Parameters
    ----------
    cell : Cell
        Bound to its weights.
    u : Tensor, shape (T, B, ...), T >= 1
        Projected inputs.
    state : tuple of Tensor, each of shape (B, ...)
        Before the first step.
    W : Tensor, shape (n, n), or (k n, n) for a cell of k gates
        Recurrent matrix.

    Returns
    -------
    y : Tensor, shape (T, B, n)
    state : tuple of Tensor
        After the last step.

    Notes
    -----
    The first call for a cell and a shape takes torch half a minute or so; 16 steps are compiled and run again and
    again, what is left over is run by the plain loop. There are no second derivatives.

    Examples
    --------
    >>> cell = mr.nn.cells.Elman("relu", bias=False).bind({})
    >>> y, (h,) = mr.nn.scan.compiled(cell, torch.ones(3, 2, 1), (torch.zeros(2, 1),), torch.ones(1, 1))
    >>> assert torch.equal(h, torch.full((2, 1), 3.0))  # too short for the compiler
    """
    outputs: list[Tensor] = []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The .grad attribute")  # the compiler looks at that of its inputs
        for part in u.split(_CHUNK):
            if len(part) == _CHUNK:
                y, state = _chunk()(cell.bind({}), dict(cell.weights), part, state, W)
            else:
                y, state = steps(cell, W, part, state)
            outputs.append(y)
    return torch.cat(outputs), state


def cannot_compile(request: Request) -> str:
    """Why it can't run this, or nothing."""
    compilers = (os.environ.get("CXX"), "g++", "clang++")
    if request.x.device.type == "cpu" and not any(map(shutil.which, filter(None, compilers))):
        return "there is no C++ compiler on the path"
    return "torch's compiler knows no complex numbers" if request.W.is_complex() else ""


def _unbound_steps(
    cell: Cell, weights: Mapping[str, Tensor], u: Tensor, state: State, W: Tensor
) -> tuple[Tensor, State]:
    return steps(cell.bind(weights), W, u, state)  # bound in here, as the compiler guards what it is given


_compiled: Any = None


def _chunk() -> Callable[..., tuple[Tensor, State]]:
    global _compiled
    if _compiled is None:
        _compiled = torch.compile(_unbound_steps)
    return _compiled
