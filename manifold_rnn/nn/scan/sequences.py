"""The order in which a scan meets its inputs: from either end, packed batches from one change of size to the next."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby

import torch
from torch import Tensor

from ..cells.base import State

Run = Callable[[Tensor, State], tuple[Tensor | None, State]]


def in_order(
    run: Run, x: Tensor, state: State, batch_sizes: Sequence[int] | None, reverse: bool
) -> tuple[Tensor | None, State]:
    """Run over inputs, with a ``run`` that takes (T, B, ...) from the first step to the last.

    Parameters
    ----------
    run : callable
        From inputs (T, B, ...) and a state to outputs (T, B, n), or None, and the state after them.
    x : Tensor, shape (T, B, ...), or (N, ...) if packed
        Inputs.
    state : tuple of Tensor, each of shape (B, ...)
        Before each sequence's first step, or its last if reversed.
    batch_sizes : sequence of int, optional
        Given if packed: how many sequences are running at each step, never increasing.
    reverse : bool
        From the last step to the first.

    Returns
    -------
    y : Tensor, shape (T, B, n), or (N, n) if packed; or None
        In the order of the inputs.
    state : tuple of Tensor, each of shape (B, ...)
        After each sequence's own last step.
    """
    ahead: Run = partial(_backward, run) if reverse else run
    if batch_sizes is None:
        return ahead(x, state)
    stretches = [(size, len(list(group))) for size, group in groupby(batch_sizes)]
    parts = [
        part.unflatten(0, (steps, size))
        for part, (size, steps) in zip(x.split([n * T for n, T in stretches]), stretches, strict=True)
    ]
    parts = parts[::-1] if reverse else parts
    running = _rows(state, 0, parts[0].shape[1])
    ended: list[State] = []
    outputs: list[Tensor] = []
    for part in parts:
        now, before = part.shape[1], len(running[0])
        if now < before:  # the shortest sequences, which are the last rows, have ended
            ended.append(_rows(running, now, before))
            running = _rows(running, 0, now)
        elif now > before:  # longer ones join at their own last step
            running = _join([running, _rows(state, before, now)])
        y, running = ahead(part, running)
        if y is not None:
            outputs.append(y.flatten(0, 1))
    return (torch.cat(outputs[::-1] if reverse else outputs) if outputs else None), _join([running, *reversed(ended)])


def _backward(run: Run, x: Tensor, state: State) -> tuple[Tensor | None, State]:
    y, state = run(x.flip(0), state)
    return (None if y is None else y.flip(0)), state


def _rows(state: State, start: int, stop: int) -> State:
    return state if (start, stop) == (0, len(state[0])) else tuple(s[start:stop] for s in state)


def _join(states: list[State]) -> State:
    return states[0] if len(states) == 1 else tuple(torch.cat(parts) for parts in zip(*states, strict=True))
