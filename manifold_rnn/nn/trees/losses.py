"""Losses for the choices of a search: for margins, and for the distance to a target tree."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ...errors import OptionError
from ..cells import TreeSearch
from ..cells.choices import FIRST_NODE, Choices
from ..cells.expressions import Plain, Structure, evaluate, parse, trained_slots
from .distance import square, subtree_squares


def margin_loss(choices: Sequence[Choices], margin: float = 1.0) -> Tensor:
    r"""Return a loss for margins of chosen candidates that are too small.

    .. math:: \ell = \sum_{r} \max(0, m - m_r) / m,

    The margin :math:`m_r` of node r is the score of its best candidate minus that of the second. The loss is the mean
    over samples and steps. A node with one candidate has no loss.

    Parameters
    ----------
    choices : sequence of Choices
        Choices from `recording`.
    margin : float
        Smallest margin m at which a node has no loss. It must be positive.

    Returns
    -------
    Tensor
        Scalar loss, at most the number of nodes.

    Raises
    ------
    OptionError
        If there are no choices, or the margin is not a positive number.

    Notes
    -----
    Two candidates with equal values have a margin of 0 that training cannot change. "relu" and "identity" of a positive
    argument are an example. Source: Qian, Kennedy and Klabjan (2019), where m = 1.

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
            "Use 1 for the value of the paper."
        )
    short = [(margin - step.margins).clamp(min=0).sum(0).mean() / margin for step in choices]
    return torch.stack(short).mean()


def target_loss(choices: Sequence[Choices], cell: TreeSearch, target: Plain = "gru") -> Tensor:
    r"""Return the distance of the chosen trees from a target tree.

    The subtree of each node of the target is compared with the subtrees of all chosen nodes. The loss is the smallest
    `distance`, averaged over the nodes of the target, samples and steps.

    Parameters
    ----------
    choices : sequence of Choices
        Choices from `recording`.
    cell : TreeSearch
        Cell that made the choices.
    target : str or sequence of nodes
        Structure as for `manifold_rnn.nn.cells.Tree`. It is evaluated with the slots of the cell, from the same input
        and state, without a gradient.

    Returns
    -------
    Tensor
        Scalar loss.

    Raises
    ------
    OptionError
        If there are no choices, or the target has a wrong entry or a slot that the cell does not have.

    Notes
    -----
    In the released code, the target has the weights of a GRU that was trained before, and multiplies by their
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
    """Return the nodes of a target for a search with this number of slots. Raises `OptionError` if it does not fit."""
    nodes = parse(target, "the target")
    needed = max(trained_slots(nodes), default=-1) + 2
    if needed > slots:
        raise OptionError(
            "The target tree has a slot that the cell does not have.\n"
            f"Expected at least {needed} slots of TreeSearch, including the identity, got {slots}.\n"
            "Add slots, or choose another target."
        )
    return nodes


def _target_distances(step: Choices, target: Structure, slots: int) -> Tensor:
    """Return the distances (B, N, M) of the subtrees of all chosen nodes to those of all nodes of the target."""
    with torch.no_grad():
        goals = target_values(step, target, slots)
    goal_squares = torch.stack(subtree_squares(target, goals), -1)  # (B, M)
    nothing = torch.zeros_like(goal_squares[:, :1])
    # rows: the leaves x, h and zero, which have no subtree, then the chosen nodes; the last column: no node
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
            columns.append(square(value - goal) + sum(below))
        columns.append(square(value) + children[0][:, -1] + children[1][:, -1])
        rows.append(torch.stack(columns, -1))
    return torch.stack(rows[FIRST_NODE:], 1)[..., :-1]


def target_values(step: Choices, target: Structure, slots: int) -> list[Tensor]:
    """Return the values of the nodes of a target, (B, n) each, with the weights and operands of a recorded step."""
    blocks = step.weight.unflatten(0, (slots - 1, 2, step.state.shape[-1]))
    leaves = {"x": step.inputs, "h": step.state, "zero": torch.zeros_like(step.state)}

    def product(operand: Tensor | str, side: str, slot: str | int) -> Tensor:
        v = operand if isinstance(operand, Tensor) else leaves[operand]
        return v @ blocks[slot, "LR".index(side)].mT if isinstance(slot, int) else v

    return evaluate(target, product, lambda slot: step.bias[slot] if isinstance(slot, int) else None)


def _require_choices(choices: Sequence[Choices]) -> None:
    if not choices or not all(isinstance(step, Choices) for step in choices):
        raise OptionError(
            "The loss needs at least one recorded step.\n"
            f"Got {'none' if not choices else type(choices[0]).__name__}.\n"
            "Call a layer of TreeSearch without torch.compile inside `with recording() as choices`."
        )
