"""Binary trees as expressions of a cell: their plain form, checks, named trees, and evaluation."""

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from ..._options import is_integer
from ...errors import OptionError
from ..activations import gate, mod_tanh, split_relu

LEAVES = ("x", "h", "zero")
IDENTITY = "identity"
_MOST_NODES = 200


class Node(NamedTuple):
    """A node of the tree of a cell.

    Attributes
    ----------
    left, right : str or int
        Children of the node: the name of a leaf, such as "x" and "h", or the number of an earlier node.
    slot : str or int
        Slot whose matrices the node uses.
    op : str
        Operation that combines the children, "add" or "mul".
    activation : str
        Function that is applied to the result.

    Examples
    --------
    >>> node = mr.nn.trees.Node("x", "h", 0, "add", "tanh")
    >>> assert mr.nn.cells.Tree([node]).nodes == mr.nn.cells.Tree("elman").nodes
    """

    left: str | int
    right: str | int
    slot: str | int
    op: str
    activation: str


Structure: TypeAlias = tuple[Node, ...]
Plain: TypeAlias = str | Sequence[Sequence[str | int]]


def _clipped(z: Tensor) -> Tensor:
    """Return ``z`` with entries of modulus at most 1."""
    return z / z.abs().clamp(min=1) if z.is_complex() else z.clamp(-1, 1)


def _opening(z: Tensor) -> Tensor:
    return gate(z).to(z.dtype)


def _one_minus(z: Tensor) -> Tensor:
    return 1 - z


def _same(z: Tensor) -> Tensor:
    return z


ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": _opening,
    "tanh": mod_tanh,
    "one_minus": _one_minus,
    "identity": _same,
    "relu": split_relu,
}
_BOUNDED = ("sigmoid", "tanh")


def activated(z: Tensor, names: Sequence[str]) -> list[Tensor]:
    """Return each activation of ``z``. Unbounded activations clip the modulus of ``z`` to 1."""
    clipped = z if all(name in _BOUNDED for name in names) else _clipped(z)
    return [ACTIVATIONS[name](z if name in _BOUNDED else clipped) for name in names]


OPS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {"add": torch.add, "mul": torch.mul}

NAMED: Mapping[str, Structure] = {
    "elman": (Node("x", "h", 0, "add", "tanh"),),
    "mgu": (
        Node("x", "h", 0, "add", "sigmoid"),  # f
        Node("x", "h", 0, "add", "sigmoid"),
        Node("x", "h", 0, "add", "sigmoid"),
        Node("h", 0, IDENTITY, "mul", "identity"),  # f h
        Node("x", 3, 1, "add", "tanh"),  # c
        Node("zero", 1, IDENTITY, "add", "one_minus"),  # 1 - f
        Node("h", 5, IDENTITY, "mul", "identity"),
        Node(4, 2, IDENTITY, "mul", "identity"),
        Node(6, 7, IDENTITY, "add", "identity"),  # (1 - f) h + f c
    ),
    "gru": (
        Node("x", "h", 0, "add", "sigmoid"),  # z
        Node("x", "h", 1, "add", "sigmoid"),  # r
        Node("x", "h", 0, "add", "sigmoid"),
        Node("h", 1, IDENTITY, "mul", "identity"),  # r h
        Node("x", 3, 2, "add", "tanh"),  # c
        Node("zero", 0, IDENTITY, "add", "one_minus"),  # 1 - z
        Node("h", 2, IDENTITY, "mul", "identity"),
        Node(4, 5, IDENTITY, "mul", "identity"),
        Node(6, 7, IDENTITY, "add", "identity"),  # z h + (1 - z) c
    ),
}


def parse(structure: Plain, who: str = "Tree") -> Structure:
    """Return the nodes of a named structure, or of a structure in plain values. Raises `OptionError` for others.

    The last node is the root. Every other node must be the child of exactly one later node.
    """
    if isinstance(structure, str):
        if structure not in NAMED:
            raise OptionError(
                f"The structure of {who} is unknown.\nExpected one of {', '.join(map(repr, NAMED))}, or a list of "
                f"nodes, got {structure!r:.40}.\nCheck the spelling."
            )
        return NAMED[structure]
    rows = structure if isinstance(structure, (list, tuple)) else ()
    if not 1 <= len(rows) <= _MOST_NODES:
        got = f"{len(rows)} nodes" if isinstance(structure, (list, tuple)) else f"{structure!r:.40}"
        raise OptionError(
            f"The structure of {who} is not a list of nodes.\n"
            f"Expected a name, or 1 to {_MOST_NODES} nodes, got {got}.\n"
            "Write a node as [left, right, slot, op, activation]."
        )
    nodes = tuple(_node(number, row, who) for number, row in enumerate(rows))
    used = [child for node in nodes for child in node[:2] if isinstance(child, int)]
    for number in range(len(nodes) - 1):
        if used.count(number) != 1:
            raise OptionError(
                f"Node {number} in the structure of {who} is a child {used.count(number)} times.\n"
                f"Expected a child of exactly one later node, since only the last node {len(nodes) - 1} is the root.\n"
                "Write a node twice if it is needed twice, or remove it."
            )
    return nodes


def _node(number: int, row: Any, who: str) -> Node:
    """Return a node from a list of plain values, or raise `OptionError`."""
    where = f"Node {number} in the structure of {who}"
    if not isinstance(row, (list, tuple)) or len(row) != len(Node._fields):
        raise OptionError(
            f"{where} is not a node.\nExpected [left, right, slot, op, activation], got {row!r:.80}.\n"
            "Write these five values."
        )
    node = Node(*row)
    for child in node[:2]:
        if not (isinstance(child, str) and child in LEAVES) and not (is_integer(child, 0) and int(child) < number):
            raise OptionError(
                f"{where} has an unknown child.\nExpected {', '.join(map(repr, LEAVES))}, or the number of an earlier "
                f"node, below {number}, got {child!r:.40}.\nWrite children before their parents."
            )
    if node.slot != IDENTITY and not (is_integer(node.slot, 0) and int(node.slot) <= _MOST_NODES):
        raise OptionError(
            f"{where} has an unknown slot.\nExpected a number from 0 to {_MOST_NODES}, or {IDENTITY!r}, "
            f"got {node.slot!r:.40}.\nNodes with the same number share their matrices."
        )
    for kind, value, known in (("op", node.op, OPS), ("activation", node.activation, ACTIVATIONS)):
        if not isinstance(value, str) or value not in known:
            raise OptionError(
                f"{where} has an unknown {kind}.\nExpected one of {', '.join(map(repr, known))}, "
                f"got {value!r:.40}.\nCheck the spelling."
            )
    left, right, slot = (value if isinstance(value, str) else int(value) for value in node[:3])
    return Node(left, right, slot, node.op, node.activation)


def trained_slots(nodes: Structure) -> set[int]:
    """Return the numbers of the slots that have matrices."""
    return {node.slot for node in nodes if isinstance(node.slot, int)}


def leaves(nodes: Structure) -> set[str | int]:
    """Return the leaves and the numbers of the nodes that are children."""
    return set(chain.from_iterable(node[:2] for node in nodes))


def first_equals(nodes: Structure) -> list[int]:
    """Return, for each node, the first node that computes the same value. It is often the node itself."""
    known: dict[Node, int] = {}
    equals: list[int] = []
    for number, node in enumerate(nodes):
        left, right = (equals[child] if isinstance(child, int) else child for child in node[:2])
        equals.append(known.setdefault(node._replace(left=left, right=right), number))
    return equals


def evaluate(
    nodes: Structure,
    product: Callable[[Tensor | str, str, str | int], Tensor],
    bias: Callable[[str | int], Tensor | None],
) -> list[Tensor]:
    r"""Return the values :math:`v = f((L_k s_i) \circ (R_k s_j) + b_k)` of all nodes. Equal nodes are computed once.

    Parameters
    ----------
    nodes : tuple of Node
        Nodes of the tree, children before their parents.
    product : callable
        Function of an operand (the name of a leaf, or a value), the side "L" or "R", and the slot. It returns the
        product with the matrix.
    bias : callable
        Function that returns the bias of a slot, or None.
    """
    equals = first_equals(nodes)
    values: list[Tensor] = []
    for number, node in enumerate(nodes):
        if equals[number] != number:
            values.append(values[equals[number]])
            continue
        sides = zip(node[:2], "LR", strict=True)
        left, right = (product(values[c] if isinstance(c, int) else c, side, node.slot) for c, side in sides)
        argument = OPS[node.op](left, right)
        if (b := bias(node.slot)) is not None:
            argument = argument + b
        values += activated(argument, [node.activation])
    return values
