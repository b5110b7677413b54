"""The gated form: a recurrence with hand-written steps and gradients, for scans with their own backward pass."""

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple, TypeAlias, TypeVar

import torch
from torch import Tensor

from ..._kernels.pointwise import Functions, functions
from ..._torch import is_watched
from ..products import Products, products_with

_A = TypeVar("_A")
_B = TypeVar("_B")
State: TypeAlias = tuple[Tensor, ...]
_THREADS_FROM = 1 << 15  # number of entries of a state above which torch uses several threads


class Sizes(NamedTuple):
    """The sizes of one step."""

    inputs: int  # number k of inputs of a step
    rows: int  # number of rows of the recurrent matrix
    state: tuple[int, ...]  # size of each part of the state


class BackwardPart(NamedTuple):
    """The arguments of the backward pass for R consecutive steps."""

    K: Tensor  # (R, B, k), as written by `forward`
    states: Sequence[Tensor]  # each (R + 1, B, ...)
    gK: Tensor  # (R, B, k), filled with the gradients of the inputs
    before: Sequence[Tensor | None]  # added to the gradient of the first part of the state before each step
    sums: Sequence[Tensor]  # accumulate the gradients of the weights


class GatedSteps(ABC):
    r"""Steps of a real recurrence :math:`s_t = \operatorname{step}(V x_t + b, s_{t-1})`, created for one pass.

    The inputs of some steps are in a buffer ``K``, (R, B, k). `forward` overwrites them with the values that `backward`
    needs.

    Parameters
    ----------
    weights : sequence of Tensor
        The weights of the steps, the recurrent matrix first.
    state : tuple of Tensor, each of shape (B, ...)
        A state with the shapes, dtype and device of all states.
    numbers : sequence of float
        Options of the cell.
    buffers : sequence of Tensor
        Other tensors of the pass. The compiled library is only used if it can read all of them.

    Attributes
    ----------
    has_cutoffs : bool
        Whether a derivative can be exactly 0, as that of relu. Then an infinite gradient must become 0 there.
    """

    has_cutoffs: ClassVar[bool] = False

    def __init__(
        self, weights: Sequence[Tensor], state: State, numbers: Sequence[float], buffers: Sequence[Tensor]
    ) -> None:
        self.weights, self.numbers, self.batch = weights, numbers, len(state[0])
        self.compiled = compiled_functions(*state, *weights, *buffers)

    @functools.cached_property
    def product(self) -> Products:
        """Products of states with the whole recurrent matrix."""
        return products_with(self.weights[0], self.batch)

    def tanh(self, z: Tensor, out: Tensor) -> Tensor:
        """Write tanh of ``z`` to ``out`` and return ``out``. Both have contiguous rows."""
        if self.compiled is None:
            return torch.tanh(z, out=out)
        flat, into = (z, out) if z.ndim == 2 else (z.flatten(0, -2), out.flatten(0, -2))
        self.compiled["tanh"](flat.data_ptr(), into.data_ptr(), *flat.shape, flat.stride(0), into.stride(0))
        return out

    @staticmethod
    @abstractmethod
    def sizes(weights: Sequence[Tensor], numbers: Sequence[float]) -> Sizes:
        """Return the sizes of a step with these weights."""

    @abstractmethod
    def plain(self, u: Tensor, state: State) -> State:
        """Return the state after one step by differentiable torch operations. ``u`` is (B, k)."""

    @abstractmethod
    def forward(self, K: Tensor, states: Sequence[Tensor]) -> None:
        """Run the steps of ``K``. Each of the ``states`` is (R + 1, B, ...), and only its first entry is given."""

    @abstractmethod
    def backward(self, part: BackwardPart, gradients: Sequence[Tensor]) -> list[Tensor]:
        """Return the gradients of the first state of a part, from those of the last state, which may be overwritten."""


def _same(z: _A) -> _A:
    return z


def _same_pair(y: _A, z: _B) -> tuple[_A, _B]:
    return y, z


@dataclass(frozen=True, eq=False)
class GatedForm:
    r"""The recurrence :math:`s_t = \operatorname{step}(V x_t + b, s_{t-1})` with the first part of the state as output.

    Parameters
    ----------
    steps : type of GatedSteps
        The steps.
    weight_ih : Tensor, shape (k, m), or None
        ``V`` without the rows of the gap. None if the inputs are already projected.
    bias : Tensor, shape (k,), or None
        ``b``.
    weights : tuple of Tensor
        Weights of the steps.
    numbers : tuple of float
        Options of the steps.
    gap : tuple of int
        First row of ``V`` that is zero, and the row after the last one. There the projected inputs are ``b``.
    arrange : callable
        Function that maps the projected inputs of the cell to those of the steps, which include the gap.
    prepare : callable
        Function that maps inputs of the cell and ``V`` to real inputs and the matrix that projects them.
    enter : callable
        Function that maps a state of the cell to a real state of the steps.
    leave : callable
        Function that maps outputs, or None, and the last state of the steps to those of the cell.

    Examples
    --------
    >>> cell = mr.nn.cells.LEM(bias=False).bind({"weight_ih": torch.ones(4, 1)})
    >>> form = cell.gated_form(torch.zeros(4, 1))
    >>> assert form.bias is None and form.numbers == (cell.time_step,)
    """

    steps: type[GatedSteps]
    weight_ih: Tensor | None
    bias: Tensor | None
    weights: tuple[Tensor, ...]
    numbers: tuple[float, ...] = ()
    gap: tuple[int, int] = (0, 0)
    arrange: Callable[[Tensor], Tensor] = field(default_factory=lambda: _same)
    prepare: Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor | None]] = field(default_factory=lambda: _same_pair)
    enter: Callable[[State], State] = field(default_factory=lambda: _same)
    leave: Callable[[Tensor | None, State], tuple[Tensor | None, State]] = field(default_factory=lambda: _same_pair)


def without_gap(z: Tensor, gap: tuple[int, int]) -> Tensor:
    """Return the last axis of ``z`` without the columns of the gap."""
    start, stop = gap
    return z if start == stop else torch.cat([z[..., :start], z[..., stop:]], -1)


def compiled_functions(h: Tensor, *others: Tensor) -> Functions | None:
    """Return the functions of the compiled library for states like ``h``, (B, n), or None if torch must be used."""
    shared = torch.get_num_threads() > 1 and h.numel() >= _THREADS_FROM
    return None if h.device.type != "cpu" or shared or is_watched(h, *others) else functions(h.dtype)


def blocks(z: Tensor, count: int) -> list[Sequence[Tensor]]:
    """Return the steps of each block of the last axis of ``z`` (R, B, count n), as lists of tensors (B, n)."""
    return [block.unbind(0) for block in z.chunk(count, -1)]


def sigmoid_factor(g: Tensor, y: Tensor, out: Tensor) -> None:
    """Write ``g y (1 - y)`` to ``out``, the gradient of the argument of a sigmoid with value ``y``."""
    torch.ops.aten.sigmoid_backward.grad_input(g, y, grad_input=out)


def tanh_factor(g: Tensor, y: Tensor, out: Tensor) -> None:
    """Write ``g (1 - y^2)`` to ``out``, the gradient of the argument of a tanh with value ``y``."""
    torch.ops.aten.tanh_backward.grad_input(g, y, grad_input=out)
