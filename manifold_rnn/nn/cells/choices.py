"""The choices of a `TreeSearch`: the candidates of each node, the trees that are built, and their record."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .expressions import IDENTITY, LEAVES, Node, Structure

FIRST_NODE = len(LEAVES)  # the number of node 0; the leaves come first
ZERO = LEAVES.index("zero")


class Candidates(NamedTuple):
    """The candidates of one node: pairs of sources, combined by operations, slots and activations.

    Sources are the leaves, then the open components. All sums come before all products.
    """

    sums: int  # number of sums; products leave out the leaf zero, because all would be equal
    slots: tuple[int, int]  # the first slot, and the one after the last
    table: Tensor  # (4, P): left source, right source, components needed, change of their number


def most_open(nodes: int, r: int) -> int:
    """Return how many components can be open before node ``r`` if one must be left at the end."""
    return min(r, nodes - r + 1)


def candidates(nodes: int, slots: int, ops: Sequence[str], device: torch.device) -> tuple[Candidates, ...]:
    """Return the candidates of each node. The first two nodes have one slot each, as in the source."""
    results = []
    for r in range(nodes):
        count = FIRST_NODE + most_open(nodes, r)
        pairs = [(i, j) for i in range(count - 1) for j in range(i + 1, count)]
        sums = pairs if "add" in ops else []
        products = [pair for pair in pairs if ZERO not in pair] if "mul" in ops else []
        rows = [(i, j, max(0, j - FIRST_NODE + 1), _change(i, j)) for i, j in (*sums, *products)]
        own = min(r, slots - 2)
        table = torch.tensor(rows, device=device).mT
        results.append(Candidates(len(sums), (own, own + 1) if r < 2 else (0, slots), table))
    return tuple(results)


def _change(i: int, j: int) -> int:
    """The change of the number of components. Two leaves open one, and two components become one."""
    return 1 - (i >= FIRST_NODE) - (j >= FIRST_NODE)


def pairwise(left: Tensor, right: Tensor, op: str) -> list[Tensor]:
    """Combine all pairs i < j of sources on axis 1, in the order of `candidates`."""
    combine = torch.add if op == "add" else torch.mul
    return [combine(left[:, i : i + 1], right[:, i + 1 :]) for i in range(left.shape[1] - 1)]


class Components(NamedTuple):
    """The open components of each sample: trees that no node uses yet, in the first ``used`` of Q places."""

    left: Tensor  # (B, Q, K, n): products of the values with the matrices L
    right: Tensor  # (B, Q, K, n)
    ids: Tensor  # (B, Q): the numbers of their nodes, after those of the leaves
    used: Tensor  # (B,)

    def sources(self) -> Tensor:
        """Return the numbers of all sources, (B, 3 + Q)."""
        leaves = torch.arange(FIRST_NODE, device=self.ids.device).expand(len(self.ids), -1)
        return torch.cat([leaves, self.ids], 1)

    def with_node(self, i: Tensor, j: Tensor, left: Tensor, right: Tensor, number: int, places: int) -> "Components":
        """Return the components after adding a node with the sources i and j and these products of its value.

        The node replaces a component that it uses, or fills the next place. If it uses two components, the last
        component moves to the place of the second one.
        """
        opens, merges = j < FIRST_NODE, i >= FIRST_NODE
        place = torch.where(opens, self.used, torch.where(merges, i, j) - FIRST_NODE).unsqueeze(1)
        positions = torch.arange(places, device=i.device).expand(len(i), -1)
        is_new = positions == place
        count = self.used + opens.long() - merges.long()
        if not self.ids.shape[1]:
            return Components(left.unsqueeze(1), right.unsqueeze(1), torch.full_like(positions, number), count)
        freed = merges.unsqueeze(1) & (positions == j.unsqueeze(1) - FIRST_NODE)
        origin = torch.where(freed, self.used.unsqueeze(1) - 1, positions).clamp(max=self.ids.shape[1] - 1)
        ids = torch.where(is_new, number, self.ids.gather(1, origin))
        place_of = origin[..., None, None].expand(-1, -1, *left.shape[1:])
        is_new = is_new[..., None, None]
        left = torch.where(is_new, left.unsqueeze(1), self.left.gather(1, place_of))
        right = torch.where(is_new, right.unsqueeze(1), self.right.gather(1, place_of))
        return Components(left, right, ids, count)


@dataclass(frozen=True, eq=False)
class Choices:
    """The choices of a `TreeSearch` in one step.

    Parameters
    ----------
    structure : Tensor, shape (B, N, 5), integer
        The left and right child, slot, op and activation of each node. The children 0, 1 and 2 are x, h and zero, and 3
        + r is node r. The last slot is the identity.
    values : Tensor, shape (N, B, n)
        Values of the nodes.
    margins : Tensor, shape (N, B)
        Score of the best candidate minus that of the second. Infinity if there is only one candidate.
    inputs, state, weight, bias : Tensor
        The arguments of the step: the projected input, the previous state, matrices and biases.

    Examples
    --------
    >>> layer = mr.nn.Layer(mr.nn.cells.TreeSearch(nodes=3, slots=2), 2, 4)
    >>> with mr.nn.trees.recording() as choices:
    ...     _ = layer(torch.zeros(1, 7, 2))
    >>> assert isinstance(choices[0], mr.nn.trees.Choices) and choices[0].structure.shape == (7, 3, 5)
    """

    structure: Tensor
    values: Tensor
    margins: Tensor
    inputs: Tensor
    state: Tensor
    weight: Tensor
    bias: Tensor


def plain_structure(row: Tensor, slots: int, ops: Sequence[str], activations: Sequence[str]) -> Structure:
    """Return the structure of one sample from its integers, (N, 5)."""
    return tuple(
        Node(_child(left), _child(right), IDENTITY if slot == slots - 1 else slot, ops[op], activations[act])
        for left, right, slot, op, act in row.tolist()
    )


def _child(number: int) -> str | int:
    return LEAVES[number] if number < FIRST_NODE else number - FIRST_NODE


_RECORD: ContextVar[list[Choices] | None] = ContextVar("choices", default=None)


@contextmanager
def recording() -> Iterator[list[Choices]]:
    """Context manager in which every step of a `TreeSearch` appends its `Choices` to a list.

    Yields
    ------
    list of Choices
        The choices of each step of each level, in the order of computation. They keep the graph of the forward pass
        alive.

    Notes
    -----
    Only the innermost context records. A compiled layer records nothing.

    Examples
    --------
    >>> layer = mr.nn.Layer(mr.nn.cells.TreeSearch(nodes=3, slots=2), 2, 4)
    >>> with mr.nn.trees.recording() as choices:
    ...     y, _ = layer(torch.zeros(5, 7, 2))
    >>> assert len(choices) == 5 and choices[0].margins.shape == (3, 7)
    """
    record: list[Choices] = []
    token = _RECORD.set(record)
    try:
        yield record
    finally:
        _RECORD.reset(token)


def current_record() -> list[Choices] | None:
    """Return the list of the innermost `recording`, or None."""
    return None if torch.compiler.is_compiling() else _RECORD.get()
