"""A cell whose step is a fixed expression: a binary tree of products, sums and nonlinearities."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...errors import OptionError
from .base import FILLED_BY_BIND, Cell, State
from .expressions import IDENTITY, Plain, Structure, evaluate, leaves, parse, trained_slots
from .weights import affine, allocate_empty, fill_uniform


@dataclass(frozen=True, eq=False)
class Tree(Cell):
    r"""A cell that is defined by a binary tree.

    A node of the tree has two children ``s`` and ``s'``, a slot k of weights, an operation and an activation:

    .. math:: v = f\bigl((L_k s) \circ (R_k s') + b_k\bigr),

    :math:`\circ` is the sum or the entrywise product. The leaves are the input, the state :math:`h_{t-1}` and zero. The
    root is :math:`h_t`.

    Parameters
    ----------
    structure : str or sequence of nodes
        "elman", "mgu" or "gru", or a list of nodes ``[left, right, slot, op, activation]``. A child is "x", "h", "zero"
        or the number of an earlier node, counted from 0. A slot is a number, or "identity" for the matrices I and the
        bias 0. The op is "add" or "mul". The activation is "sigmoid", "tanh", "one_minus", "identity" or "relu".
    weights : mapping from str to Tensor
        ``weight_ih`` has one block (n, m) for each matrix that multiplies the input. ``weight_hh`` has one block (n, n)
        for each of the `gates`. ``bias`` has n entries for each numbered slot.

    Attributes
    ----------
    gates : tuple of str
        Names of the matrices in the rows of ``weight_hh`` by side and slot, such as "R0" and "L2". Matrices that
        multiply ``h`` come first.
    nodes : tuple of Node
        The structure as nodes.

    Raises
    ------
    OptionError
        If the structure is unknown or has a wrong entry. If a node is not the child of exactly one later node. If the
        structure does not use "x", "h" and a recurrent matrix.

    Notes
    -----
    "elman" is :math:`\tanh(L_0 x + R_0 h + b_0)`. "mgu" has one gate f with :math:`(1-f) h + f c`, and
    :math:`c = \tanh(L_1 x + R_1 (f h) + b_1)`. "gru" is the GRU whose reset gate acts before the product,

    .. math::
        z = \sigma(L_0 x + R_0 h + b_0), \quad r = \sigma(L_1 x + R_1 h + b_1), \quad
        c = \tanh(L_2 x + R_2 (r h) + b_2), \quad h_t = z h + (1 - z) c,

    In ``torch.nn.GRU`` the reset gate acts after the product. Nodes with the same slot number share their matrices.
    Equal nodes are computed once.

    "one_minus", "identity" and "relu" clip the modulus of their argument to 1, so states stay bounded. This has no
    effect in the named structures, whose states are at most 1. Complex weights give complex states. Then "sigmoid" is
    `manifold_rnn.nn.gate`, "tanh" is `manifold_rnn.nn.mod_tanh` and "relu" is `manifold_rnn.nn.split_relu`.

    Weights are initialized uniformly in :math:`\pm 1/\sqrt n`, and biases to zero. Learning rate: 1e-2. Source: Qian,
    Kennedy and Klabjan (2019); the minimal gated unit: Zhou, Wu, Zhang and Zhou (2016).

    Examples
    --------
    >>> assert mr.nn.cells.Tree("gru").gates == ("R0", "R1", "R2")
    >>> leaky = [["x", "h", 0, "add", "tanh"], ["h", 0, 1, "add", "identity"]]
    >>> layer = mr.nn.Layer(mr.nn.cells.Tree(leaky), 3, 8, constraint={"R1": mr.Orthogonal()})
    >>> assert layer(torch.zeros(5, 2, 3))[0].shape == (5, 2, 8)
    """

    structure: Plain = "gru"
    nodes: Structure = field(init=False, repr=False, metadata={FILLED_BY_BIND: True})

    def __post_init__(self) -> None:
        nodes = parse(self.structure)
        object.__setattr__(self, "nodes", nodes)
        for leaf in ("x", "h"):
            if leaf not in leaves(nodes):
                raise OptionError(
                    f"The structure of Tree does not use {leaf!r}.\nExpected a node with this child.\n"
                    "Add such a node, because a cell needs the input and the previous state."
                )
        if not self.gates:
            raise OptionError(
                "The structure of Tree has no recurrent matrix.\n"
                "Expected a node with a numbered slot and a child other than 'x' and 'zero'.\nChange a slot."
            )

    @property
    def gates(self) -> tuple[str, ...]:  # type: ignore[override]
        """The matrices in the rows of ``weight_hh``."""
        uses = {(c == "h", f"{side}{slot}") for c, side, slot in self._uses() if c not in ("x", "zero")}
        of_state = sorted((name for first, name in uses if first), key=_by_slot)
        return (*of_state, *sorted({name for _, name in uses} - set(of_state), key=_by_slot))

    @property
    def inputs(self) -> tuple[str, ...]:
        """The blocks in the rows of ``weight_ih``, matrices of the input and "identity" for the unchanged input."""
        by_matrix = sorted({f"{side}{slot}" for c, side, slot in self._uses() if c == "x"}, key=_by_slot)
        by_identity = any("x" in node[:2] and node.slot == IDENTITY for node in self.nodes)
        return (*by_matrix, *([IDENTITY] if by_identity else []))

    def _uses(self) -> list[tuple[str | int, str, int]]:
        """The operands of numbered slots, each with its side and its slot."""
        pairs = [(node, zip(node[:2], "LR", strict=True)) for node in self.nodes]
        return [(c, side, node.slot) for node, sides in pairs for c, side in sides if isinstance(node.slot, int)]

    def allocate(
        self,
        input_size: int,
        hidden_size: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> dict[str, Tensor]:
        """Return ``weight_ih``, ``weight_hh`` and ``bias``, uninitialized."""
        n = hidden_size
        shapes: dict[str, tuple[int, ...]] = {
            "weight_ih": (len(self.inputs) * n, input_size),
            "weight_hh": (len(self.gates) * n, n),
            "bias": (len(trained_slots(self.nodes)) * n,),
        }
        return allocate_empty(shapes, device=device, dtype=dtype)

    def reset(self, generator: torch.Generator | None = None) -> None:
        """Initialize the matrices uniformly and the biases with zeros."""
        bound = self.weights["weight_hh"].shape[-1] ** -0.5
        fill_uniform({name: w for name, w in self.weights.items() if name != "bias"}, bound, generator)
        fill_uniform({"bias": self.weights["bias"]}, 0.0)

    def project(self, x: Tensor) -> Tensor:
        """Return the products of all `inputs` with ``x``, concatenated on the last axis."""
        return affine(x, self.weights["weight_ih"])

    def initial_state(self, batch: int) -> State:
        """Return ``(0,)``, shape (B, n)."""
        W = self.weights["weight_hh"]
        return (W.new_zeros(batch, W.shape[-1]),)

    def step(self, u: Tensor, state: State, W: Tensor) -> tuple[Tensor, State]:
        """Return the value of the root, shape (B, n), and the same as the state."""
        h = self.values(u, state[0], W)[-1]
        return h, (h,)

    def values(self, u: Tensor, h: Tensor, W: Tensor) -> list[Tensor]:
        """Return the values of all nodes, each of shape (B, n). Equal nodes have the same tensor.

        Parameters
        ----------
        u : Tensor
            Projected inputs of one step.
        h : Tensor, shape (B, n)
            The state before the step.
        W : Tensor
            The matrices of the `gates`, stacked.
        """
        gates, n = self.gates, h.shape[-1]
        inputs = dict(zip(self.inputs, u.split(n, -1), strict=True))
        uses = {f"{side}{slot}" for c, side, slot in self._uses() if c == "h"}
        of_state = dict(zip(gates, (h @ W[: len(uses) * n].mT).split(n, -1), strict=False)) if uses else {}
        matrices = dict(zip(gates, W.split(n), strict=True))
        biases = dict(zip(sorted(trained_slots(self.nodes)), self.weights["bias"].split(n), strict=True))
        zero = torch.zeros_like(h)

        def product(operand: Tensor | str, side: str, slot: str | int) -> Tensor:
            name = IDENTITY if slot == IDENTITY else f"{side}{slot}"
            if isinstance(operand, Tensor):
                return operand if slot == IDENTITY else operand @ matrices[name].mT
            if operand == "zero":
                return zero
            if operand == "x":
                return inputs[name]
            return h if slot == IDENTITY else of_state[name]

        return evaluate(self.nodes, product, lambda slot: biases[slot] if isinstance(slot, int) else None)


def _by_slot(name: str) -> tuple[int, str]:
    """Order matrices by their slot, then by their side."""
    return int(name[1:]), name[0]
