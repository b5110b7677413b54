"""The plain loop compiled by ``torch.compile``, a few steps at a time."""

import os
import shutil
import warnings
from collections.abc import Callable, Mapping
from functools import cache, partial

import torch
from torch import Tensor

from ..cells.base import Cell, State
from .base import Backend, Request
from .reference import run_steps
from .sequences import scan_sequences

_CHUNK_STEPS = 16  # longer chunks take longer to compile and are hardly faster


def compiled(cell: Cell, u: Tensor, state: State, W: Tensor) -> tuple[Tensor, State]:
    """Run a bound cell over time by ``torch.compile``, which fuses the small operations of each step.

    Parameters
    ----------
    cell : Cell
        Cell that is bound to its weights.
    u : Tensor, shape (T, B, ...), T >= 1
        Projected inputs.
    state : tuple of Tensor, each of shape (B, ...)
        State before the first step.
    W : Tensor, shape (n, n), or (k n, n) for a cell with k gates
        Recurrent matrix.

    Returns
    -------
    y : Tensor, shape (T, B, n)
    state : tuple of Tensor
        State after the last step.

    Notes
    -----
    The first call for a cell and a shape takes about half a minute. Torch compiles 16 steps, which are run repeatedly.
    The plain loop runs the remaining steps. There are no second derivatives.

    Examples
    --------
    >>> cell = mr.nn.cells.Elman("relu", bias=False).bind({})
    >>> y, (h,) = mr.nn.scan.compiled(cell, torch.ones(3, 2, 1), (torch.zeros(2, 1),), torch.ones(1, 1))
    >>> assert torch.equal(h, torch.full((2, 1), 3.0))  # fewer than 16 steps are not compiled
    """
    outputs: list[Tensor] = []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The .grad attribute")  # the compiler reads .grad of its inputs
        for part in u.split(_CHUNK_STEPS):
            if len(part) == _CHUNK_STEPS:
                y, state = _compiled_steps()(cell.bind({}), dict(cell.weights), part, state, W)
            else:
                y, state = run_steps(cell, W, part, state)
            outputs.append(y)
    return torch.cat(outputs), state


def _bind_and_run_steps(
    cell: Cell, weights: Mapping[str, Tensor], u: Tensor, state: State, W: Tensor
) -> tuple[Tensor, State]:
    return run_steps(cell.bind(weights), W, u, state)  # bound here, because the compiler guards its arguments


@cache
def _compiled_steps() -> Callable[..., tuple[Tensor, State]]:
    steps: Callable[..., tuple[Tensor, State]] = torch.compile(_bind_and_run_steps)
    return steps


class Compiled(Backend):
    """The plain loop, compiled by torch."""

    name = "compiled"

    def run(self, request: Request) -> tuple[Tensor | None, State]:
        r = request
        return scan_sequences(partial(_project_and_run, r.cell, r.W), r.x, r.state, r.batch_sizes, r.reverse)

    def cannot_run(self, request: Request) -> str:
        compilers = (os.environ.get("CXX"), "g++", "clang++")
        if request.x.device.type == "cpu" and not any(map(shutil.which, filter(None, compilers))):
            return "there is no C++ compiler on the path"
        return "torch's compiler does not support complex numbers" if request.W.is_complex() else ""

    def auto_declines(self, request: Request) -> str:
        return "its first call takes half a minute"


def _project_and_run(cell: Cell, W: Tensor, x: Tensor, state: State) -> tuple[Tensor, State]:
    return compiled(cell, cell.project(x), state, W)
