"""The naive loop over time: what every faster scan must equal."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..cells.base import Cell, State


def loop(
    cell: Cell,
    u: Tensor,
    state: State,
    W: Tensor,
    *,
    batch_sizes: Sequence[int] | None = None,
    reverse: bool = False,
) -> tuple[Tensor, State]:
    r"""Run a bound cell over time, one step after the other.

    .. math:: (y_t, s_t) = \operatorname{step}(u_t, s_{t-1}; W), \qquad t = 1, \dots, T.

    Parameters
    ----------
    cell : Cell
        Bound to its weights.
    u : Tensor, shape (T, B, ...), T >= 1, or (N, ...) if packed
        Projected inputs.
    state : tuple of Tensor, each of shape (B, ...)
        Before the first step.
    W : Tensor, shape (n, n)
        Recurrent matrix.
    batch_sizes : sequence of int, optional
        Given if ``u`` is packed: how many sequences are running at each time step, never increasing, N in all.
    reverse : bool
        From the last step to the first; each sequence of a packed batch starts at its own end.

    Returns
    -------
    y : Tensor, shape (T, B, n), or (N, n) if packed
        Outputs, in the order of ``u`` also if reversed.
    state : tuple of Tensor, each of shape (B, ...)
        After each sequence's own last step.

    Examples
    --------
    >>> cell = mr.nn.cells.Elman("relu", bias=False).bind({})
    >>> y, (h,) = mr.nn.scan.loop(cell, torch.ones(3, 2, 1), (torch.zeros(2, 1),), torch.ones(1, 1))
    >>> assert torch.equal(y[:, 0, 0], torch.tensor([1.0, 2.0, 3.0])) and torch.equal(h, y[-1])
    """
    # one unbind, since indexing u[t] would give each step a gradient of the size of u
    steps = u.unbind(0) if batch_sizes is None else torch.split(u, list(batch_sizes))
    steps = steps[::-1] if reverse else steps
    running = _rows(state, 0, len(steps[0]))
    ended: list[State] = []
    outputs: list[Tensor] = []
    for u_t in steps:
        now, before = len(u_t), len(running[0])
        if now < before:  # forward: the shortest sequences, which are the last rows, have ended
            ended.append(_rows(running, now, before))
            running = _rows(running, 0, now)
        elif now > before:  # backward: longer ones join at their own last step
            running = _join([running, _rows(state, before, now)])
        y, running = cell.step(u_t, running, W)
        outputs.append(y)
    if reverse:
        outputs.reverse()
    y = torch.stack(outputs) if batch_sizes is None else torch.cat(outputs)
    return y, _join([running, *reversed(ended)])


def _rows(state: State, start: int, stop: int) -> State:
    return state if (start, stop) == (0, len(state[0])) else tuple(s[start:stop] for s in state)


def _join(states: list[State]) -> State:
    return states[0] if len(states) == 1 else tuple(torch.cat(parts) for parts in zip(*states, strict=True))
