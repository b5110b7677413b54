"""A cell that builds its expression in each step, by scoring all candidates of each node."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Self, get_args

import torch
from torch import Tensor

from ..._options import is_integer
from ...errors import OptionError
from .base import FILLED_BY_BIND, Cell, State
from .choices import FIRST_NODE, ZERO, Candidates, Choices, Components, candidates, current_record, most_open, pairwise
from .expressions import ACTIVATIONS, OPS, activated
from .options import require_choice, require_number
from .weights import affine, allocate_empty, fill_uniform

Choice = Literal["soft", "straight-through", "hard"]
Per = Literal["sample", "batch"]
_MOST = 64  # largest number of nodes, and of slots


@dataclass(frozen=True, eq=False)
class TreeSearch(Cell):
    r"""A cell that chooses a tree of `Tree` in every step, for every sample.

    A step builds a binary tree with N nodes from the leaves to the root. At node r every allowed candidate

    .. math:: v = f\bigl((L_k s) \circ (R_k s') + b_k\bigr)

    is computed. The sources are the leaves x, h, zero and the open components. The candidates are all pairs of sources,
    slots k, sums and products, and activations f. A scorer assigns each candidate a score :math:`a(v) = w^\top v`, and

    .. math:: G_r = \sum_v \operatorname{softmax}(a / \tau)_v \, v, \qquad h_t = G_{N-1}.

    The candidate with the largest score becomes part of the structure. Two leaves open a component, a leaf and a
    component extend it, and two components are joined. Only those pairs are allowed that can leave one component at the
    end.

    Parameters
    ----------
    nodes : int
        Number N of nodes, at most 64.
    slots : int
        Number of slots of weights, from 2 to 64. The last one is the identity, which is not trained.
    choice : "soft", "straight-through" or "hard"
        With "soft", a node is the mixture above. With "straight-through", it is the best candidate, with the gradient
        of the mixture. With "hard", it is the best candidate, and the scorer has no gradient.
    per : "sample" or "batch"
        Whether each sample has its own structure, or all samples of a batch share the one with the best mean scores.
    ops : sequence of str
        "add" and "mul", or one of them.
    activations : sequence of str
        Some of "sigmoid", "tanh", "one_minus", "identity" and "relu".
    temperature : float
        :math:`\tau`. As it tends to 0, the mixture becomes the best candidate.
    fixed : bool
        Whether the search has ended. Then nodes are their best candidates, as with "hard", for every ``choice``.
    weights : mapping from str to Tensor
        ``weight_ih`` (n, m), which maps the input to the size of the state, and ``weight_hh`` with the blocks L and R
        of each trained slot. ``bias`` has n entries for each trained slot. ``scorer`` has the shape (n,).
    tables : tuple, optional
        Candidates of each node, filled by `bind`.

    Attributes
    ----------
    gates : tuple of str
        The matrices in the rows of ``weight_hh``: "L0", "R0", "L1", "R1" and so on.

    Raises
    ------
    OptionError
        If an option is unknown, repeated or out of range.

    Notes
    -----
    The first two nodes use the slots 0 and 1, as in the source. The released code differs in these points. It takes the
    structure from scores that are summed over the batch (``per="batch"`` here). Its last version trains the identity
    slot. If an argument exceeds 1 anywhere in the batch, it leaves out all activations but two. Here "one_minus",
    "identity" and "relu" clip the modulus of their argument to 1 instead. Products with the leaf zero are left out.
    They are all equal, so the margin between them would be 0.

    "soft" mixes all structures, but the components follow the best one. So the mixture is close to a tree only if the
    margins are large. `manifold_rnn.nn.trees.margin_loss` rewards large margins. A step computes 920 candidates with 5
    nodes and 3 slots, and 4,125 with 9 nodes and 4 slots. Each candidate is a vector of n entries for every sample.

    Scores of complex candidates are the real part of the inner product with the scorer. Weights start uniform in
    :math:`\pm 1/\sqrt n`, and biases to zero. Learning rate: 1e-2. Source: Qian, Kennedy and Klabjan (2019).

    Examples
    --------
    >>> cell = mr.nn.cells.TreeSearch(nodes=5, slots=3)
    >>> layer = mr.nn.Layer(cell, 2, 8, constraint={"R1": mr.Orthogonal()})
    >>> assert layer(torch.zeros(6, 4, 2))[0].shape == (6, 4, 8)
    """

    nodes: int = 9
    slots: int = 4
    choice: Choice = "soft"
    per: Per = "sample"
    ops: Sequence[str] = tuple(OPS)
    activations: Sequence[str] = tuple(ACTIVATIONS)
    temperature: float = 1.0
    fixed: bool = False
    tables: tuple[Candidates, ...] = field(default=(), kw_only=True, repr=False, metadata={FILLED_BY_BIND: True})

    def __post_init__(self) -> None:
        for option, least in (("nodes", 1), ("slots", 2)):
            value = getattr(self, option)
            if not is_integer(value, least) or value > _MOST:
                raise OptionError(
                    f"The number of {option} of TreeSearch is out of range.\n"
                    f"Expected an integer from {least} to {_MOST}, got {value!r:.40}.\nChoose a number in this range."
                )
        require_choice("TreeSearch", "choice", self.choice, get_args(Choice))
        require_choice("TreeSearch", "per", self.per, get_args(Per))
        require_choice("TreeSearch", "fixed", self.fixed, (False, True))
        require_number("TreeSearch", "temperature", self.temperature)
        for option, known in (("ops", OPS), ("activations", ACTIVATIONS)):
            names = getattr(self, option)
            valid = isinstance(names, (list, tuple)) and 0 < len(names) == len({*map(repr, names)})
            if not valid or not all(isinstance(name, str) and name in known for name in names):
                raise OptionError(
                    f"The {option} of TreeSearch need to be different, known names.\n"
                    f"Expected some of {', '.join(map(repr, known))}, got {names!r:.80}.\nPass a list of names."
                )

    @property
    def gates(self) -> tuple[str, ...]:  # type: ignore[override]
        """The matrices in the rows of ``weight_hh``."""
        return tuple(f"{side}{slot}" for slot in range(self.slots - 1) for side in "LR")

    def bind(self, weights: Mapping[str, Tensor]) -> Self:
        """Return the same cell with its weights, and the tables of candidates on their device."""
        tables = candidates(self.nodes, self.slots, self.ops, weights["weight_ih"].device)
        return dataclasses.replace(self, weights=weights, tables=tables)

    def allocate(
        self,
        input_size: int,
        hidden_size: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> dict[str, Tensor]:
        """Return ``weight_ih``, ``weight_hh``, ``bias`` and ``scorer``, uninitialized."""
        n, trained = hidden_size, self.slots - 1
        shapes: dict[str, tuple[int, ...]] = {"weight_ih": (n, input_size), "weight_hh": (2 * trained * n, n)}
        shapes |= {"bias": (trained * n,), "scorer": (n,)}
        return allocate_empty(shapes, device=device, dtype=dtype)

    def reset(self, generator: torch.Generator | None = None) -> None:
        """Initialize the weights uniformly, and the biases with zeros."""
        bound = self.weights["weight_hh"].shape[-1] ** -0.5
        for name, weight in self.weights.items():
            fill_uniform({name: weight}, 0.0 if name == "bias" else bound, generator)

    def project(self, x: Tensor) -> Tensor:
        """Return the input in the size of the state, (..., n)."""
        return affine(x, self.weights["weight_ih"])

    def initial_state(self, batch: int) -> State:
        """Return ``(0,)``, shape (B, n)."""
        W = self.weights["weight_hh"]
        return (W.new_zeros(batch, W.shape[-1]),)

    def step(self, u: Tensor, state: State, W: Tensor) -> tuple[Tensor, State]:
        """Return the value of the root, shape (B, n), and the same as the state."""
        (h,), n = state, u.shape[-1]
        bias = torch.cat([self.weights["bias"], self.weights["bias"].new_zeros(n)]).view(self.slots, n)
        rows = torch.stack([u, h])
        lefts, rights = (side.transpose(0, 1) for side in self._products(rows, W))  # (B, 2, K, n)
        zero = torch.zeros_like(lefts[:, :1])
        lefts, rights = torch.cat([lefts, zero], 1), torch.cat([rights, zero], 1)
        none, empty = lefts[:, :0], u.new_zeros(len(u), 0, dtype=torch.long)
        components = Components(none, none, empty, u.new_zeros(len(u), dtype=torch.long))
        record, value = current_record(), h
        steps: list[tuple[Tensor, Tensor, Tensor]] = []
        for r, table in enumerate(self.tables):
            left, right = (torch.cat(pair, 1) for pair in ((lefts, components.left), (rights, components.right)))
            arguments = self._arguments(left, right, bias, table)
            # (B, P): pairs after which the remaining nodes can still join all open components
            needed, change = table.table[2], components.used.unsqueeze(1) + table.table[3]
            allowed = (components.used.unsqueeze(1) >= needed) & (change <= self.nodes - r)
            values = activated(arguments, self.activations)
            value, best, scores = self._chosen(values, allowed)
            pairs, slots = arguments.shape[1:3]
            pair = best // slots % pairs
            i, j = table.table[0][pair], table.table[1][pair]
            if record is not None:
                slot, activation = best % slots + table.slots[0], best // (slots * pairs)
                op = (pair >= table.sums).long() if len(self.ops) > 1 and self.ops[0] == "add" else 0 * pair
                op = (pair < table.sums).long() if len(self.ops) > 1 and self.ops[0] == "mul" else op
                numbers = components.sources()
                children = [numbers.gather(1, source.unsqueeze(1)).squeeze(1) for source in (i, j)]
                top = torch.nn.functional.pad(scores, (0, 1), value=-torch.inf).topk(2, -1).values
                steps.append((torch.stack([*children, slot, op, activation], -1), value, top[:, 0] - top[:, 1]))
            if r < self.nodes - 1:
                places = most_open(self.nodes, r + 1)
                components = components.with_node(i, j, *self._products(value, W), FIRST_NODE + r, places)
        if record is not None:
            structure, values_, margins = zip(*steps, strict=True)
            parts = torch.stack(structure, 1), torch.stack(values_), torch.stack(margins)
            record.append(Choices(*parts, u, h, W, bias))
        return value, (value,)

    def _products(self, v: Tensor, W: Tensor) -> tuple[Tensor, Tensor]:
        """Return the products of values (..., n) with the matrices L and R of all slots, (..., K, n) each."""
        products = (v @ W.mT).unflatten(-1, (self.slots - 1, 2, v.shape[-1]))
        own = v.unsqueeze(-2)
        return torch.cat([products[..., 0, :], own], -2), torch.cat([products[..., 1, :], own], -2)

    def _arguments(self, left: Tensor, right: Tensor, bias: Tensor, table: Candidates) -> Tensor:
        """Return the arguments of the activations, (B, P, slots, n)."""
        own = slice(*table.slots)
        left, right, bias = left[:, :, own], right[:, :, own], bias[own]
        parts: list[Tensor] = []
        if "add" in self.ops:
            parts += pairwise(left, right + bias, "add")
        if "mul" in self.ops:
            left, right = (torch.cat([side[:, :ZERO], side[:, FIRST_NODE:]], 1) for side in (left, right))
            parts += [part + bias for part in pairwise(left, right, "mul")]
        return torch.cat(parts, 1)

    def _chosen(self, values: list[Tensor], allowed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the value of a node (B, n), the number of its best candidate (B,), and all scores (B, C).

        ``values`` has a tensor (B, P, slots, n) for each activation; candidates are numbered in this order.
        """
        scorer = self.weights["scorer"]
        scores = torch.stack([(v @ scorer.conj()).real for v in values], 1)  # (B, A, P, slots)
        scores = scores.masked_fill(~allowed[:, None, :, None], -torch.inf).flatten(1)
        by = scores if self.per == "sample" else scores.mean(0, keepdim=True).expand_as(scores)
        best = by.argmax(-1)
        choice = "hard" if self.fixed else self.choice
        if choice == "soft":
            return self._mixture(values, scores), best, by
        flat = [v.flatten(1, 2) for v in values]
        each = flat[0].shape[1]
        activation, place = best // each, (best % each).view(-1, 1, 1).expand(-1, 1, flat[0].shape[-1])
        value = torch.zeros_like(flat[0][:, 0])
        for number, v in enumerate(flat):
            value = torch.where((activation == number).unsqueeze(-1), v.gather(1, place).squeeze(1), value)
        if choice == "straight-through":
            mixture = self._mixture(values, scores)
            value = value.detach() + (mixture - mixture.detach())
        return value, best, by

    def _mixture(self, values: list[Tensor], scores: Tensor) -> Tensor:
        """Return the mean of all candidates by the softmax of their scores, (B, n)."""
        shares = torch.softmax(scores / self.temperature, -1).to(values[0].dtype).chunk(len(values), -1)  # (B, P slots)
        mixed = [torch.einsum("bc,bcn->bn", p, v.flatten(1, 2)) for p, v in zip(shares, values, strict=True)]
        return sum(mixed[1:], mixed[0])
