"""Recorded structures as nodes and as text."""

from collections.abc import Sequence

from ...errors import OptionError
from ..cells import TreeSearch
from ..cells.choices import Choices, plain_structure
from ..cells.expressions import IDENTITY, Plain, Structure, parse


def structures(choices: Sequence[Choices], cell: TreeSearch) -> list[list[Structure]]:
    """Return the structure of each sample in each recorded step, in the form for `manifold_rnn.nn.cells.Tree`.

    Parameters
    ----------
    choices : sequence of Choices
        Choices from `recording`.
    cell : TreeSearch
        Cell that made the choices.

    Returns
    -------
    list of list of tuple of Node
        Structures by step, then by sample.

    Raises
    ------
    OptionError
        If an entry is not a recorded step, or the cell is not a TreeSearch.

    Examples
    --------
    >>> layer = mr.nn.Layer(mr.nn.cells.TreeSearch(nodes=1, slots=2, ops=["add"]), 2, 4)
    >>> with mr.nn.trees.recording() as choices:
    ...     _ = layer(torch.zeros(5, 7, 2))
    >>> found = mr.nn.trees.structures(choices, layer.cell)
    >>> assert (len(found), len(found[0]), found[0][0][0].op) == (5, 7, "add")
    """
    wrong = [type(step).__name__ for step in choices if not isinstance(step, Choices)]
    if wrong or not isinstance(cell, TreeSearch):
        got = wrong[0] if wrong else f"a cell of {type(cell).__name__}"
        raise OptionError(
            f"structures needs recorded steps of a TreeSearch.\nExpected the steps and their cell, got {got}.\n"
            "Pass the list of `with recording() as choices` and `layer.cell`."
        )
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
    """Return a tree as text. The text is equal for trees that differ only in the order of children.

    Parameters
    ----------
    structure : str or sequence of nodes
        Structure as for `manifold_rnn.nn.cells.Tree`.

    Returns
    -------
    str
        An expression such as ``tanh(h@0 + x@0)``. ``s@k`` is the product of ``s`` with a matrix of slot k. The text
        does not distinguish L and R.

    Raises
    ------
    OptionError
        If the structure has a wrong entry.

    Examples
    --------
    >>> assert mr.nn.trees.canonical([["h", "x", 0, "add", "tanh"]]) == mr.nn.trees.canonical("elman")
    """
    texts: list[str] = []
    for node in parse(structure, "canonical"):
        operands = sorted(texts[child] if isinstance(child, int) else str(child) for child in node[:2])
        mark = "" if node.slot == IDENTITY else f"@{node.slot}"
        argument = (" + " if node.op == "add" else " * ").join(operand + mark for operand in operands)
        texts.append(f"{node.activation}({argument})")
    return texts[-1]
