"""Packed and reversed sequences, for scans that only support padded batches in forward direction."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby
from typing import TypeAlias

import torch
from torch import Tensor

from ..cells.base import State

PaddedScan: TypeAlias = Callable[[Tensor, State], tuple[Tensor | None, State]]


def scan_sequences(
    scan: PaddedScan, x: Tensor, state: State, batch_sizes: Sequence[int] | None, reverse: bool
) -> tuple[Tensor | None, State]:
    """Run a scan of padded batches over padded or packed inputs, in either direction.

    A packed batch is split into parts with a constant number of sequences.

    Parameters
    ----------
    scan : callable
        Function that maps inputs (T, B, ...) and a state to outputs (T, B, n) or None, and the state after the last
        step.
    x : Tensor, shape (T, B, ...), or (N, ...) if packed
        Inputs.
    state : tuple of Tensor, each of shape (B, ...)
        State before the first step of each sequence, or the last if reversed.
    batch_sizes : sequence of int, optional
        For packed inputs: the number of sequences at each time step. It never increases.
    reverse : bool
        Whether to run from the last step to the first.

    Returns
    -------
    y : Tensor, shape (T, B, n), or (N, n) if packed; or None
        Outputs in the order of the inputs.
    state : tuple of Tensor, each of shape (B, ...)
        State after the last step of each sequence.
    """
    directed: PaddedScan = partial(_reversed_scan, scan) if reverse else scan
    if batch_sizes is None:
        return directed(x, state)
    lengths = [(size, len(list(group))) for size, group in groupby(batch_sizes)]
    parts = [
        part.unflatten(0, (steps, size))  # (steps, size, ...)
        for part, (size, steps) in zip(x.split([size * steps for size, steps in lengths]), lengths, strict=True)
    ]
    parts = parts[::-1] if reverse else parts
    running = _take_rows(state, 0, parts[0].shape[1])
    ended: list[State] = []
    outputs: list[Tensor] = []
    for part in parts:
        size, previous_size = part.shape[1], len(running[0])
        if size < previous_size:  # the shortest sequences, which are the last rows, have ended
            ended.append(_take_rows(running, size, previous_size))
            running = _take_rows(running, 0, size)
        elif size > previous_size:  # longer sequences start at their own last step
            running = _join_rows([running, _take_rows(state, previous_size, size)])
        y, running = directed(part, running)
        if y is not None:
            outputs.append(y.flatten(0, 1))
    y = torch.cat(outputs[::-1] if reverse else outputs) if outputs else None
    return y, _join_rows([running, *reversed(ended)])


def _reversed_scan(scan: PaddedScan, x: Tensor, state: State) -> tuple[Tensor | None, State]:
    y, state = scan(x.flip(0), state)
    return (None if y is None else y.flip(0)), state


def _take_rows(state: State, start: int, stop: int) -> State:
    """Return the sequences from ``start`` to ``stop``."""
    return state if (start, stop) == (0, len(state[0])) else tuple(part[start:stop] for part in state)


def _join_rows(states: list[State]) -> State:
    """Return the concatenated sequences of all states."""
    return states[0] if len(states) == 1 else tuple(torch.cat(parts) for parts in zip(*states, strict=True))
