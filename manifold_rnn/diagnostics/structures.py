"""The trees that a `TreeSearch` chooses: how often, at which steps, and with which margins."""

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..errors import OptionError
from ..nn import Layer, trees
from ..nn.cells import TreeSearch
from ..nn.cells.expressions import Structure
from .activity import BATCH, batch_axis
from .batches import Data, tensors_of
from .checks import require_module
from .evaluation import evaluating
from .plotting import axes_or_new
from .sources import find_layer
from .tables import aligned

if TYPE_CHECKING:
    import matplotlib.axes

_SHOWN = 5  # number of trees in a table
_SYMBOLS = {"add": "+", "mul": r"$\times$"}
_SHORT = {"sigmoid": r"$\sigma$", "one_minus": "1 -", "identity": ""}


@dataclass(frozen=True)
class Structures:
    """The trees that a `manifold_rnn.nn.cells.TreeSearch` chose, the most frequent first.

    Trees that differ only in the order of children are counted as one.

    Parameters
    ----------
    expressions : tuple of str
        Trees as text, in the form of `manifold_rnn.nn.trees.canonical`.
    examples : tuple of structures
        Each tree as nodes, with its most frequent order of children.
    counts : tuple of int
        Number of times each tree was chosen, over all samples and steps.
    by_step : tuple of tuple (int, float)
        For each step, the index in ``expressions`` of the most frequent tree, and its fraction of the samples.
    margins : tuple of float
        For each node, the mean difference between the scores of the best and the second candidate. Choices with one
        candidate are left out. If there are no other choices, the margin is infinity.

    Examples
    --------
    >>> layer = mr.nn.Layer(mr.nn.cells.TreeSearch(nodes=3, slots=2), 2, 4)
    >>> found = mr.diagnostics.structures(layer, torch.randn(6, 5, 2))
    >>> assert sum(found.counts) == 6 * 5 and len(found.by_step) == 6 and len(found.margins) == 3
    """

    expressions: tuple[str, ...]
    examples: tuple[Structure, ...]
    counts: tuple[int, ...]
    by_step: tuple[tuple[int, float], ...]
    margins: tuple[float, ...]

    @property
    def most_frequent(self) -> Structure:
        """The most frequent tree, as an argument for `manifold_rnn.nn.cells.Tree`."""
        return self.examples[0]

    @property
    def shares(self) -> tuple[float, ...]:
        """The counts as fractions of all choices."""
        return tuple(count / sum(self.counts) for count in self.counts)

    @property
    def margin(self) -> float:
        """The mean margin of the nodes with a finite margin, or infinity if there are none."""
        finite = [margin for margin in self.margins if margin < math.inf]
        return sum(finite) / len(finite) if finite else math.inf

    def table(self) -> str:
        """Return the numbers, and a line for each of the most frequent trees."""
        changes = sum(a[0] != b[0] for a, b in zip(self.by_step, self.by_step[1:], strict=False))
        rows = [
            ("different trees", f"{len(self.counts):,}", f"of {sum(self.counts):,} choices"),
            ("changes over time", f"{changes}", f"of the most frequent tree, in {len(self.by_step)} steps"),
            ("mean margin", f"{self.margin:.3g}", f"smallest of a node {min(self.margins):.3g}"),
        ]
        trees = zip(self.shares, self.expressions, strict=True)
        rows += [(f"tree {k}", f"{100 * share:.1f}%", text) for k, (share, text) in enumerate(trees, 1) if k <= _SHOWN]
        return aligned("structures of the cell", rows)

    def plot(self, axes: "matplotlib.axes.Axes | None" = None) -> "matplotlib.axes.Axes":
        """Draw the most frequent tree with its root at the top, into the axes or a new figure."""
        from matplotlib import rcParams

        axes = axes_or_new(axes)
        nodes = self.most_frequent
        places: list[tuple[float, float]] = []

        def draw(child: str | int) -> tuple[float, float]:
            """Draw a subtree to the right of the drawn ones, and return the position of its root."""
            if isinstance(child, str):
                place = (sum(y == 0 for _, y in places) * 1.0, 0.0)
                text, edge = "0" if child == "zero" else child, "0.55"
            else:
                node = nodes[child]
                below = [draw(part) for part in node[:2]]
                place = (sum(x for x, _ in below) / 2, max(y for _, y in below) + 1)
                for x, y in below:
                    axes.plot([x, place[0]], [y, place[1]], color="0.6", linewidth=1, zorder=1)
                slot = "I" if isinstance(node.slot, str) else str(node.slot)
                act = _SHORT.get(node.activation, node.activation)
                text, edge = f"{act} {_SYMBOLS[node.op]}\nslot {slot}".strip(), "C0"
            places.append(place)
            box = {"boxstyle": "round", "facecolor": rcParams["figure.facecolor"], "edgecolor": edge}
            axes.text(*place, text, ha="center", va="center", fontsize=9, bbox=box, zorder=2)
            return place

        draw(len(nodes) - 1)
        axes.set(xlim=(-0.7, max(x for x, _ in places) + 0.7), ylim=(-0.6, max(y for _, y in places) + 0.6))
        axes.set_title(f"most frequent tree, {100 * self.shares[0]:.1f}% of the choices")
        axes.axis("off")
        return axes


def structures(network: nn.Module, data: Tensor | Data, *, suffix: str = "_l0") -> Structures:
    """Count the trees that a layer of `manifold_rnn.nn.cells.TreeSearch` chooses on data.

    Parameters
    ----------
    network : nn.Module
        A layer, or a network, whose first layer is used.
    data : Tensor, or pair, Dataset or DataLoader
        Inputs of the network, alone or with targets.
    suffix : str
        Suffix of the level and direction whose trees are counted, one of ``suffixes`` of the layer.

    Returns
    -------
    Structures

    Raises
    ------
    OptionError
        If the network has no layer of TreeSearch, or the layer no such level.
    ShapeError, DtypeError, NonFiniteError
        If the inputs do not fit.

    Examples
    --------
    >>> cell = mr.nn.cells.TreeSearch(nodes=1, slots=2, activations=["tanh"])
    >>> network = mr.zoo.Network(mr.nn.Layer(cell, 2, 4, batch_first=True), 3)
    >>> found = mr.diagnostics.structures(network, torch.randn(3, 5, 2))
    >>> assert sum(found.counts) == 15 and found.expressions[0].startswith("tanh(")
    """
    require_module(network, "structures")
    layer = find_layer(network)
    if not isinstance(layer, Layer) or not isinstance(layer.cell, TreeSearch):
        got = type(layer.cell if isinstance(layer, Layer) else layer or network).__name__
        raise OptionError(
            "structures needs a network with a layer of TreeSearch.\n"
            f"Got one of {got}, whose structure is always the same.\nUse another diagnostic for this network."
        )
    if suffix not in layer.suffixes:
        raise OptionError(
            "The layer does not have this level and direction.\n"
            f"Expected one of {', '.join(map(repr, layer.suffixes))}, got suffix={suffix!r:.40}.\nChoose one of these."
        )
    axis = batch_axis(layer if layer is network else network)
    x = tensors_of((data, data) if isinstance(data, Tensor) else data, "structures")[0]
    x = x.to(next(network.parameters()).device)
    plain: list[list[Structure]] = []
    margins: list[Tensor] = []
    with evaluating(network), torch.no_grad():
        for part in x.split(BATCH, axis):
            with trees.recording() as choices:
                network(part)
            steps = len(choices) // len(layer.suffixes)
            start = steps * layer.suffixes.index(suffix)
            own = choices[start : start + steps]
            own = own[::-1] if suffix.endswith("_reverse") else own
            found = trees.structures(own, layer.cell)
            plain = [a + b for a, b in zip(plain, found, strict=True)] if plain else found
            margins.append(torch.stack([step.margins.double() for step in own]).transpose(1, 2).flatten(0, 1))
    table = torch.cat(margins)
    table = table.where(table < torch.inf, torch.nan).nanmean(0)  # leave out choices with one candidate
    return _counted(plain, table.nan_to_num(nan=torch.inf).tolist())


def _counted(plain: list[list[Structure]], margins: list[float]) -> Structures:
    """Count structures by step and sample, ignoring the order of children."""
    ordered = Counter(structure for row in plain for structure in row)
    texts = {structure: trees.canonical(structure) for structure in ordered}
    examples: dict[str, Structure] = {}
    counts: Counter[str] = Counter()
    for structure, count in ordered.most_common():
        examples.setdefault(texts[structure], structure)
        counts[texts[structure]] += count
    expressions = [text for text, _ in counts.most_common()]
    numbers = {text: number for number, text in enumerate(expressions)}
    by_step = []
    for row in plain:
        text, most = Counter(texts[structure] for structure in row).most_common(1)[0]
        by_step.append((numbers[text], most / len(row)))
    return Structures(
        tuple(expressions),
        tuple(examples[text] for text in expressions),
        tuple(counts[text] for text in expressions),
        tuple(by_step),
        tuple(margins),
    )
