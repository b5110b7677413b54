"""The distance of two trees with values."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ...errors import OptionError, ShapeError
from ..cells.expressions import Plain, Structure, parse


def distance(first: Plain, values: Tensor, second: Plain, other_values: Tensor) -> Tensor:
    r"""Return the distance of two trees with values.

    .. math:: d = \sum_p \lVert v_p - v'_p \rVert^2

    The sum is over the positions p of a complete binary tree. The root is 1, and the children of p are 2p and 2p + 1.
    At a position without a node, the value is 0. Leaves do not count as nodes.

    Parameters
    ----------
    first, second : str or sequence of nodes
        Structures, as for `manifold_rnn.nn.cells.Tree`.
    values, other_values : Tensor, shapes (N, ..., n) and (N', ..., n)
        Values of the nodes, in the same order.

    Returns
    -------
    Tensor, shape (...), real

    Raises
    ------
    OptionError
        If a structure has a wrong entry, or the values are not tensors.
    ShapeError
        If there is not one value for each node, or the values differ in the other axes.

    Notes
    -----
    This is the square of a Euclidean distance. Exchanging two children changes it. Source: Qian, Kennedy and Klabjan
    (2019).

    Examples
    --------
    >>> a = [["x", "h", 0, "add", "tanh"], ["h", 0, 1, "add", "identity"]]
    >>> b = [["x", "h", 0, "add", "tanh"], [0, "h", 1, "add", "identity"]]
    >>> values = torch.tensor([[3.0], [1.0]])
    >>> assert mr.nn.trees.distance(a, values, a, values) == 0 and mr.nn.trees.distance(a, values, b, values) == 18
    """
    trees = parse(first, "distance"), parse(second, "distance")
    wrong = [type(v).__name__ for v in (values, other_values) if not isinstance(v, Tensor)]
    if wrong:
        raise OptionError(
            f"The values of distance need to be tensors.\nExpected tensors of shape (N, ..., n), got {wrong[0]}.\n"
            "Stack the values of the nodes with torch.stack."
        )
    for nodes, own, other in zip(trees, (values, other_values), (other_values, values), strict=True):
        if len(own) != len(nodes) or own.shape[1:] != other.shape[1:] or own.dim() < 2:
            raise ShapeError(
                "The values of a tree do not fit its structure, or the values of the other tree.\nExpected shape "
                f"({len(nodes)}, ..., n), got {tuple(own.shape)} and {tuple(other.shape)}.\n"
                "Pass one value for each node."
            )
    squares = [subtree_squares(nodes, own) for nodes, own in zip(trees, (values, other_values), strict=True)]
    zero = torch.zeros_like(squares[0][0])

    def between(a: int | None, b: int | None) -> Tensor:
        if a is None or b is None:
            return squares[1][b] if b is not None else squares[0][a] if a is not None else zero
        total = square(values[a] - other_values[b])
        for side in range(2):
            total = total + between(_inner(trees[0][a][side]), _inner(trees[1][b][side]))
        return total

    return between(len(trees[0]) - 1, len(trees[1]) - 1)


def _inner(child: str | int) -> int | None:
    return child if isinstance(child, int) else None


def square(v: Tensor) -> Tensor:
    """Return the squared norms of vectors on the last axis."""
    return (v * v.conj()).real.sum(-1)


def subtree_squares(nodes: Structure, values: Sequence[Tensor] | Tensor) -> list[Tensor]:
    """Return the sum of the squares of the values in the subtree of each node."""
    sums: list[Tensor] = []
    for node, value in zip(nodes, values, strict=True):
        total = square(value)
        for child in node[:2]:
            total = total + sums[child] if isinstance(child, int) else total
        sums.append(total)
    return sums
