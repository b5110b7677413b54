"""Trees of `manifold_rnn.nn.cells.TreeSearch`: records of its choices, losses, distances, and fixed cells.

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

from ..cells.choices import Choices, recording
from ..cells.expressions import Node
from .distance import distance
from .fixing import fix_structure
from .forms import canonical, structures
from .losses import margin_loss, target_loss

__all__ = [
    "Choices",
    "Node",
    "canonical",
    "distance",
    "fix_structure",
    "margin_loss",
    "recording",
    "structures",
    "target_loss",
]
