"""The section ``search``: losses for the trees of a cell, and phases that train a part of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ...errors import OptionError
from ...nn import Layer, trees
from ...nn.cells import TreeSearch
from ...nn.cells.choices import current_record
from ...nn.trees.losses import require_target
from ...tasks import Task
from ...zoo import Network
from ..choices import require
from ..fields import check_fields
from ..values import Value
from .base import Method

_SCORER = "scorer"


@dataclass(frozen=True)
class SearchSettings(Method):
    r"""Searches the trees of a `manifold_rnn.nn.cells.TreeSearch`.

    The loss is the loss of the task plus

    .. math:: \lambda_2 \ell_2 + \lambda_3 \ell_3 + \lambda_4 \ell_4,

    :math:`\ell_2` is `manifold_rnn.nn.trees.margin_loss`, :math:`\ell_3` is the sum of the squares of the layer's
    parameters, and :math:`\ell_4` is `manifold_rnn.nn.trees.target_loss`.

    Parameters
    ----------
    margin : float
        Weight :math:`\lambda_2` of the margin loss.
    least : float
        Smallest margin at which a node has no margin loss. Needs ``margin``.
    warmup : float
        Fraction of all steps over which the weight of the margin loss rises linearly from 0. Needs ``margin``.
    weights : float
        Weight :math:`\lambda_3` of the squares of the parameters.
    tree : float
        Weight :math:`\lambda_4` of the distance from the target tree.
    target : str or list
        The target tree: elman, mgu, gru, or a list of nodes. Needs ``tree``.
    alternate : int
        Number of phases of equal length in the search, at least 2. The scorer is frozen in the odd phases, the other
        weights of the layer in the even ones. The readout is always trained. 0 trains all weights together.
    fix : float
        Fraction of all steps after which the structure is fixed. Then each node uses its best candidate, and the scorer
        is frozen. Validation and test use the best candidates during the whole run, as does every network built from
        the settings. With 1, the structure is never fixed.

    Raises
    ------
    OptionError
        If a value is out of range, the target is unknown, or an option is set without the weight that it needs.

    Notes
    -----
    A frozen weight has no gradient. So no optimizer changes it or its moments. Source: Qian, Kennedy and Klabjan
    (2019).

    Examples
    --------
    >>> settings = mr.training.SearchSettings(margin=0.1, alternate=10, fix=0.7)
    >>> assert settings.active and not mr.training.SearchSettings().active
    """

    margin: float = 0.0
    least: float = 1.0
    warmup: float = 0.0
    weights: float = 0.0
    tree: float = 0.0
    target: str | list[Value] = "gru"
    alternate: int = 0
    fix: float = 1.0

    def __post_init__(self) -> None:
        check_fields(self, "search.")
        for key in ("margin", "weights", "tree"):
            value = getattr(self, key)
            require(0 <= value < math.inf, f"search.{key}", "a finite number of at least 0", value)
        require(0 < self.least < math.inf, "search.least", "a positive number", self.least)
        require(0 <= self.warmup <= 1, "search.warmup", "a fraction of the run, from 0 to 1", self.warmup)
        expected = "0 or an integer from 2 to 1,000,000"
        require(self.alternate == 0 or 2 <= self.alternate <= 1_000_000, "search.alternate", expected, self.alternate)
        require(0 < self.fix <= 1, "search.fix", "a fraction of the run, above 0 and at most 1", self.fix)
        try:
            require_target(self.target, 10**6)
        except OptionError as error:
            raise OptionError(f"`search.target` needs a tree. {' '.join(str(error).split())}"[:400]) from error
        for key, weight in (("least", "margin"), ("warmup", "margin"), ("target", "tree")):
            value = getattr(self, key)
            is_used = bool(getattr(self, weight)) or value == getattr(SearchSettings, key)
            require(is_used, f"search.{key}", f"`search.{weight}` above 0", value)

    @property
    def active(self) -> bool:
        """Whether a loss, the phases or the fixing are set."""
        return bool(self.margin or self.weights or self.tree or self.alternate) or self.fix < 1

    def require(self, settings: Value) -> None:
        network = settings.network
        got = f"network.cell={network.cell}" if network.cell else f"network.zoo={network.zoo}"
        require(network.cell == TreeSearch.__name__, "search", "network.cell=TreeSearch", got)
        is_fixed = bool(network.options.get("fixed"))
        require(not is_fixed, "search", "a cell whose structure is not fixed", f"network.options.fixed={is_fixed}")
        trains_scorer = self.margin > 0 or network.options.get("choice") != "hard"
        expected = "`search.margin`, since choice=hard has no other gradient of the scorer,"
        require(not self.alternate or trains_scorer, "search.alternate", expected, self.alternate)
        if self.tree:
            cell = TreeSearch(**network.options)
            try:
                require_target(self.target, cell.slots)
            except OptionError as error:
                raise OptionError(f"`search.target`: {' '.join(str(error).split())}"[:400]) from error

    def build(self, network: Network) -> Network:
        """Return the network in the form for validation: fixed, if the structure will be fixed. `context` searches."""
        layer, cell = _searching(network)
        if self.fix < 1:
            layer.cell = replace(cell, fixed=True)
        return network

    @contextmanager
    def context(self, network: nn.Module, progress: float | None) -> Iterator[None]:
        layer, cell = _searching(network)
        if progress is not None and not self._fixed(progress):
            layer.cell = replace(cell, fixed=False)
        try:
            if progress is None:
                yield
            else:
                with trees.recording():
                    yield
        finally:
            layer.cell = cell

    def added_loss(self, network: nn.Module, task: Task, progress: float) -> Tensor | None:
        layer, cell = _searching(network)
        choices, total = current_record() or [], None
        parts: list[Tensor] = []
        if self.margin and not self._fixed(progress):
            grown = min(1.0, progress / self.warmup) if self.warmup else 1.0
            parts.append(grown * self.margin * trees.margin_loss(choices, self.least))
        if self.weights:
            squares = [torch.linalg.vector_norm(p).square() for p in layer.parameters()]
            parts.append(self.weights * torch.stack(squares).sum())
        if self.tree and not self._fixed(progress):
            parts.append(self.tree * trees.target_loss(choices, cell, self.target))
        for part in parts:
            total = part if total is None else total + part
        return total

    def before_step(self, network: nn.Module, progress: float) -> None:
        layer, _ = _searching(network)
        scorer, others = _split(layer)
        phase = int(progress / self.fix * self.alternate)
        if self._fixed(progress) or (self.alternate and phase % 2 == 0):
            frozen = scorer
        else:
            frozen = others if self.alternate else []
        for parameter in frozen:
            parameter.grad = None

    def _fixed(self, progress: float) -> bool:
        return self.fix < 1 and progress >= self.fix


def _searching(network: nn.Module) -> tuple[Layer, TreeSearch]:
    """The layer of a network and its tree search cell."""
    layers = (part for part in network.modules() if isinstance(part, Layer))
    layer = next(part for part in layers if isinstance(part.cell, TreeSearch))
    assert isinstance(layer.cell, TreeSearch)
    return layer, layer.cell


def _split(layer: Layer) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The parameters of the scorers, and all others."""
    named = list(layer.named_parameters())
    scorer = [p for name, p in named if name.startswith(_SCORER)]
    return scorer, [p for name, p in named if not name.startswith(_SCORER)]
