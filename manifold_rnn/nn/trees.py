"""Trees of `manifold_rnn.nn.cells.TreeSearch`: records of what it chose, losses on it, distances, and fixed cells.

>>> layer = mr.nn.Layer(mr.nn.cells.TreeSearch(nodes=5, slots=4), 2, 8)
>>> with mr.nn.trees.recording() as choices:
...     y, _ = layer(torch.randn(6, 4, 2))
>>> loss = y.square().mean() + 0.1 * mr.nn.trees.margin_loss(choices)
>>> loss = loss + 0.1 * mr.nn.trees.target_loss(choices, layer.cell, "elman")
>>> loss.backward()
>>> structure = mr.nn.trees.structures(choices, layer.cell)[0][0]  # of the first step and the first sample
>>> len(structure)
5
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from ..constraints.constrain import constrain
from ..constraints.constraint import AnyConstraint
from ..errors import OptionError, ShapeError
from .cells import Tree, TreeSearch
from .cells.choices import FIRST_NODE, Choices, plain_structure, recording
from .cells.expressions import IDENTITY, Node, Plain, Structure, evaluate, parse, trained_slots
from .layer import Layer
from .options import constraint_by_block

__all__ = ["Choices", "Node", "canonical", "distance", "fix_structure", "margin_loss", "recording", "structures",
           "target_loss"]  # fmt: skip


def margin_loss(choices: Sequence[Choices], margin: float = 1.0) -> Tensor:
    r"""Return how much the margins of the chosen candidates fall short.

    .. math:: \ell = \sum_{r} \max(0, m - m_r) / m,

    with the margin :math:`m_r` of node r, the score of its best candidate minus that of the second, as the mean over
    the samples and steps.

    Parameters
    ----------
    choices : sequence of Choices
        Of `recording`.
    margin : float
        The margin m from which on a node has no loss; positive.

    Returns
    -------
    Tensor
        A scalar, at most the number of nodes.

    Raises
    ------
    OptionError
        If there are no choices, or the margin is not a positive number.

    Notes
    -----
    Source: Qian, Kennedy and Klabjan (2019), where m = 1. Two candidates with equal values have a margin of 0 that no
    step changes: "relu" and "identity" of a positive argument, for example.

    Examples
    --------
    >>> layer = mr.nn.Layer(mr.nn.cells.TreeSearch(nodes=3, slots=2), 2, 4)
    >>> with mr.nn.trees.recording() as choices:
    ...     _ = layer(torch.zeros(5, 7, 2))
    >>> assert 0 <= mr.nn.trees.margin_loss(choices) <= 3
    """
    _require_choices(choices)
    is_number = isinstance(margin, (int, float)) and not isinstance(margin, bool)
    if not is_number or not 0 < margin < float("inf"):
        raise OptionError(
            f"The margin of margin_loss is out of range.\nExpected a positive, finite number, got {margin!r:.40}.\n"
            "The source has 1."
        )
    short = [(margin - step.margins).clamp(min=0).sum(0).mean() / margin for step in choices]
    return torch.stack(short).mean()


def distance(first: Plain, values: Tensor, second: Plain, other_values: Tensor) -> Tensor:
    r"""Return the distance of two trees with values.

    .. math:: d = \sum_p \lVert v_p - v'_p \rVert^2

    over the positions p of a complete binary tree: the root is 1, the children of p are 2p and 2p + 1. A tree has the
    value 0 at a position without a node; leaves count as no node.

    Parameters
    ----------
    first, second : str or sequence of nodes
        The structures, as for `manifold_rnn.nn.cells.Tree`.
    values, other_values : Tensor, shapes (N, ..., n) and (N', ..., n)
        The values of their nodes, in the same order.

    Returns
    -------
    Tensor, shape (...), real

    Raises
    ------
    OptionError
        If a structure has a wrong entry.
    ShapeError
        If there is not one value for each node, or the values differ in the other axes.

    Notes
    -----
    This is the square of a Euclidean distance. Children are ordered: exchanging them changes it.
    Source: Qian, Kennedy and Klabjan (2019).

    Examples
    --------
    >>> a = [["x", "h", 0, "add", "tanh"], ["h", 0, 1, "add", "identity"]]
    >>> b = [["x", "h", 0, "add", "tanh"], [0, "h", 1, "add", "identity"]]
    >>> values = torch.tensor([[3.0], [1.0]])
    >>> mr.nn.trees.distance(a, values, a, values), mr.nn.trees.distance(a, values, b, values)
    (tensor(0.), tensor(18.))
    """
    trees = parse(first, "distance"), parse(second, "distance")
    for nodes, own, other in zip(trees, (values, other_values), (other_values, values), strict=True):
        if len(own) != len(nodes) or own.shape[1:] != other.shape[1:] or own.dim() < 2:
            raise ShapeError(
                "The values of a tree do not fit its structure, or those of the other tree.\nExpected shape "
                f"({len(nodes)}, ..., n), got {tuple(own.shape)} beside {tuple(other.shape)}.\n"
                "Pass one value for each node."
            )
    squares = [_subtree_squares(nodes, own) for nodes, own in zip(trees, (values, other_values), strict=True)]
    zero = torch.zeros_like(squares[0][0])

    def between(a: int | None, b: int | None) -> Tensor:
        if a is None or b is None:
            return squares[1][b] if b is not None else squares[0][a] if a is not None else zero
        total = _square(values[a] - other_values[b])
        for side in range(2):
            total = total + between(_inner(trees[0][a][side]), _inner(trees[1][b][side]))
        return total

    return between(len(trees[0]) - 1, len(trees[1]) - 1)


def _inner(child: str | int) -> int | None:
    return child if isinstance(child, int) else None


def _square(v: Tensor) -> Tensor:
    return (v * v.conj()).real.sum(-1)


def _subtree_squares(nodes: Structure, values: Sequence[Tensor] | Tensor) -> list[Tensor]:
    """Return the sum of the squares of the values in the subtree of each node."""
    sums: list[Tensor] = []
    for node, value in zip(nodes, values, strict=True):
        total = _square(value)
        for child in node[:2]:
            total = total + sums[child] if isinstance(child, int) else total
        sums.append(total)
    return sums


def target_loss(choices: Sequence[Choices], cell: TreeSearch, target: Plain = "gru") -> Tensor:
    r"""Return how far the chosen trees are from a target tree.

    Each node of the target, as the root of its subtree, is compared with all nodes that were chosen. The loss is the
    mean over the target's nodes of the smallest `distance`, as the mean over samples and steps.

    Parameters
    ----------
    choices : sequence of Choices
        Of `recording`.
    cell : TreeSearch
        The cell that chose.
    target : str or sequence of nodes
        A structure as for `manifold_rnn.nn.cells.Tree`. It is computed with the slots of the cell, from the same input
        and state, and without a gradient.

    Returns
    -------
    Tensor
        A scalar.

    Raises
    ------
    OptionError
        If there are no choices, or the target has a wrong entry or a slot that the cell does not have.

    Notes
    -----
    In the source's code the target has other weights, those of a GRU that was trained before, and multiplies by their
    transposes. Source: Qian, Kennedy and Klabjan (2019).

    Examples
    --------
    >>> layer = mr.nn.Layer(mr.nn.cells.TreeSearch(nodes=9, slots=4), 2, 4)
    >>> with mr.nn.trees.recording() as choices:
    ...     _ = layer(torch.zeros(2, 3, 2))
    >>> assert mr.nn.trees.target_loss(choices, layer.cell, "gru") > 0
    """
    _require_choices(choices)
    nodes = require_target(target, cell.slots)
    return torch.stack([_target_distances(step, nodes, cell.slots).amin(1).mean() for step in choices]).mean()


def require_target(target: Plain, slots: int) -> Structure:
    """Return the nodes of a target for a search with so many slots, or raise `OptionError`."""
    nodes = parse(target, "the target")
    needed = max(trained_slots(nodes), default=-1) + 2
    if needed > slots:
        raise OptionError(
            "The target tree has a slot that the cell does not have.\n"
            f"Expected slots of TreeSearch of at least {needed}, one of them the identity, got {slots}.\n"
            "Add slots, or choose another target."
        )
    return nodes


def _target_distances(step: Choices, target: Structure, slots: int) -> Tensor:
    """Return the distances (B, N, M) of the subtrees of all chosen nodes to those of all nodes of the target."""
    with torch.no_grad():
        goals = target_values(step, target, slots)
    goal_squares = torch.stack(_subtree_squares(target, goals), -1)  # (B, M)
    nothing = torch.zeros_like(goal_squares[:, :1])
    # rows are subtrees: of x, h and zero, which are no node, then of the chosen nodes; the last column is no node
    rows = [torch.cat([goal_squares, nothing], -1)] * FIRST_NODE
    for r, value in enumerate(step.values):
        table = torch.stack(rows, 1)  # (B, 3 + r, M + 1)
        children = [
            table.gather(1, step.structure[:, r, side].view(-1, 1, 1).expand(-1, 1, table.shape[-1])).squeeze(1)
            for side in range(2)
        ]
        columns = []
        for goal, node in zip(goals, target, strict=True):
            below = (own[:, c if isinstance(c, int) else -1] for own, c in zip(children, node[:2], strict=True))
            columns.append(_square(value - goal) + sum(below))
        columns.append(_square(value) + children[0][:, -1] + children[1][:, -1])
        rows.append(torch.stack(columns, -1))
    return torch.stack(rows[FIRST_NODE:], 1)[..., :-1]


def target_values(step: Choices, target: Structure, slots: int) -> list[Tensor]:
    """Return the values of a target's nodes, (B, n) each, with the weights and the operands of a recorded step."""
    blocks = step.weight.unflatten(0, (slots - 1, 2, step.state.shape[-1]))
    leaves = {"x": step.inputs, "h": step.state, "zero": torch.zeros_like(step.state)}

    def product(operand: Tensor | str, side: str, slot: str | int) -> Tensor:
        v = operand if isinstance(operand, Tensor) else leaves[operand]
        return v @ blocks[slot, "LR".index(side)].mT if isinstance(slot, int) else v

    return evaluate(target, product, lambda slot: step.bias[slot] if isinstance(slot, int) else None)


def structures(choices: Sequence[Choices], cell: TreeSearch) -> list[list[Structure]]:
    """Return the structure of each sample in each recorded step, in the form that `manifold_rnn.nn.cells.Tree` takes.

    Parameters
    ----------
    choices : sequence of Choices
        Of `recording`.
    cell : TreeSearch
        The cell that chose.

    Returns
    -------
    list of list of tuple of Node
        Steps, then samples.

    Examples
    --------
    >>> layer = mr.nn.Layer(mr.nn.cells.TreeSearch(nodes=1, slots=2, ops=["add"]), 2, 4)
    >>> with mr.nn.trees.recording() as choices:
    ...     _ = layer(torch.zeros(5, 7, 2))
    >>> found = mr.nn.trees.structures(choices, layer.cell)
    >>> len(found), len(found[0]), found[0][0][0].op
    (5, 7, 'add')
    """
    plain: dict[bytes, Structure] = {}
    results = []
    for step in choices:
        rows = step.structure.cpu()
        keys = [row.numpy().tobytes() for row in rows]
        for key, row in zip(keys, rows, strict=True):
            if key not in plain:
                plain[key] = plain_structure(row, cell.slots, cell.ops, cell.activations)
        results.append([plain[key] for key in keys])
    return results


def canonical(structure: Plain) -> str:
    """Return a tree as text, equal for trees that differ only in the order of children.

    Parameters
    ----------
    structure : str or sequence of nodes

    Returns
    -------
    str
        An expression such as ``tanh(h@0 + x@0)``: ``s@k`` is the product of ``s`` with a matrix of slot k. Which one of
        L and R it is does not appear.

    Raises
    ------
    OptionError
        If the structure has a wrong entry.

    Examples
    --------
    >>> mr.nn.trees.canonical([["h", "x", 0, "add", "tanh"]]) == mr.nn.trees.canonical("elman")
    True
    """
    texts: list[str] = []
    for node in parse(structure, "canonical"):
        operands = sorted(texts[child] if isinstance(child, int) else str(child) for child in node[:2])
        mark = "" if node.slot == IDENTITY else f"@{node.slot}"
        argument = (" + " if node.op == "add" else " * ").join(operand + mark for operand in operands)
        texts.append(f"{node.activation}({argument})")
    return texts[-1]


@torch.no_grad()
def fix_structure(
    layer: Layer,
    structure: Plain,
    *,
    constraint: AnyConstraint | Mapping[str, AnyConstraint] | None = None,
    view: Literal["update", "trivialized"] = "update",
) -> Layer:
    """Return a layer of `manifold_rnn.nn.cells.Tree` with the weights of a `manifold_rnn.nn.cells.TreeSearch`.

    Parameters
    ----------
    layer : Layer
        Of a TreeSearch. It is not changed.
    structure : str or sequence of nodes
        The structure of all steps, such as ``diagnostics.structures(layer, data).most_frequent``.
    constraint, view
        As for `manifold_rnn.nn.Layer`. The copied weights must satisfy the constraint, as they do where the search had
        it. Default: the new layer has no constraint.

    Returns
    -------
    Layer
        With the sizes, levels, directions and backend of ``layer``. Where a search chooses this structure by
        "hard", the outputs are equal.

    Raises
    ------
    OptionError
        If the cell of the layer is no TreeSearch, the structure is none of a Tree, or it has a slot that the cell
        does not have.

    Notes
    -----
    The matrices that multiply the input are multiplied with ``weight_ih`` of the search, and are trained alone after.

    Examples
    --------
    >>> search = mr.nn.Layer(mr.nn.cells.TreeSearch(nodes=5, slots=4), 2, 8)
    >>> layer = mr.nn.trees.fix_structure(search, "gru")
    >>> assert torch.equal(layer.weight_hh_l0[:8], search.weight_hh_l0[8:16])  # R0
    """
    search = layer.cell
    if not isinstance(search, TreeSearch):
        raise OptionError(
            "fix_structure needs a layer of TreeSearch.\n"
            f"Got a layer of {type(search).__name__}.\nPass the layer whose structures were counted."
        )
    cell = Tree(structure)
    require_target(cell.structure, search.slots)
    weight = layer.weights(layer.suffixes[0])["weight_hh"]
    sizes = (layer.input_size, layer.hidden_size, layer.num_layers, layer.batch_first, layer.dropout)
    options = {"train_initial_state": layer.train_initial_state, "backend": layer.backend}
    made = Layer(cell, *sizes, layer.bidirectional, weight.device, weight.dtype, **options)  # type: ignore[arg-type]
    n = layer.hidden_size
    for suffix in layer.suffixes:
        own, new = layer.weights(suffix), made.weights(suffix)
        blocks = dict(zip(search.gates, own["weight_hh"].split(n), strict=True))
        biases = own["bias"].split(n)
        inputs = [own["weight_ih"] if name == IDENTITY else blocks[name] @ own["weight_ih"] for name in cell.inputs]
        new["weight_ih"].copy_(torch.cat(inputs))
        new["weight_hh"].copy_(torch.cat([blocks[name] for name in cell.gates]))
        new["bias"].copy_(torch.cat([biases[slot] for slot in sorted(trained_slots(cell.nodes))]))
    for name, parameter in made.named_parameters():
        if name.startswith("initial_state"):
            parameter.copy_(layer.get_parameter(name))
    if constraint is not None:
        by_block = constraint_by_block(constraint, cell.gates)
        for suffix in made.suffixes:
            constrain(made, "weight_hh" + suffix, by_block, view=view, blocks=len(cell.gates))
    return made


def _require_choices(choices: Sequence[Choices]) -> None:
    if not choices or not all(isinstance(step, Choices) for step in choices):
        raise OptionError(
            "A loss on choices needs at least one recorded step.\n"
            f"Got {'none' if not choices else type(choices[0]).__name__}.\n"
            "Call a layer of TreeSearch, not compiled, inside of `with recording() as choices`."
        )
