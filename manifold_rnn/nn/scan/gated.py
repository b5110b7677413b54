"""A scan of cells with hand-written steps: one buffer for all steps, and in-place operations."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..._torch import has_own_dispatch
from ...errors import ShapeError
from ...linalg.precision import batched, is_readable, without_autocast
from ..cells.base import State
from ..cells.gated_form import BackwardPart, GatedForm, GatedSteps, without_gap
from ..cells.weights import affine
from ..gradients import gradients_by_autograd
from ..products import add_outer
from .base import Backend, Request
from .elman.engine import project_into
from .elman.fused import without_autograd_overhead
from .sequences import scan_sequences

_PART_BYTES = 1 << 20  # of the inputs of the steps that are computed together, so that all tensors stay in the cache
_PART_STEPS = 4, 64  # smallest and largest number of these steps
_DTYPES = (torch.float32, torch.float64)


def gated(form: GatedForm, x: Tensor, state: State, *, every_step: bool = True) -> tuple[Tensor | None, State]:
    r"""Run a recurrence :math:`s_t = \operatorname{step}(V x_t + b, s_{t-1})` with a hand-written backward pass.

    Parameters
    ----------
    form : GatedForm
        ``V``, ``b`` and the steps.
    x : Tensor, shape (T, B, m), T >= 1
        Inputs in the dtype of the weights, of shape (T, B, k) if the form has no ``V``.
    state : tuple of Tensor, each of shape (B, ...)
        State before the first step.
    every_step : bool
        Whether to return the outputs of all steps, or only the last state.

    Returns
    -------
    y : Tensor, shape (T, B, n), or None
    state : tuple of Tensor
        The last state.

    Raises
    ------
    ShapeError
        If the shapes of inputs, state and weights do not match.

    Notes
    -----
    The derivatives are computed for several steps at a time, and the gradients of the weights are products over several
    steps. The backward pass needs the states and one buffer of the size of the projected inputs. Second derivatives,
    and gradients that would not be finite, are computed by a loop of plain operations. ``torch.func`` and
    ``torch.compile`` are not supported. ``y`` is a view of the states that the backward pass needs, so torch refuses to
    change it in place.

    Examples
    --------
    >>> layer = mr.nn.Layer(mr.nn.cells.LEM(), 2, 3)
    >>> cell = layer.cell.bind(layer.weights("_l0"))
    >>> x, state = torch.randn(5, 1, 2), cell.initial_state(1)
    >>> y, (h, z) = mr.nn.scan.gated(cell.gated_form(layer.weight_hh_l0), x, state)
    >>> expected, _ = mr.nn.scan.reference(cell, cell.project(x), state, layer.weight_hh_l0)
    >>> assert torch.allclose(y, expected, atol=1e-6) and torch.equal(h, y[-1])
    """
    start = form.enter(state)
    x, V = form.prepare(x, form.weight_ih)
    _require_shapes(form, x, V, start)
    inputs = (x, V, form.bias, *start, *form.weights)
    y, *last = _Run.apply(_Kind(form.steps, form.numbers, form.gap), every_step, len(start), *inputs)
    return form.leave(y, tuple(last))


def _require_shapes(form: GatedForm, x: Tensor, V: Tensor | None, state: State) -> None:
    """Raise `ShapeError` unless the shapes match, because the compiled library does not check them."""
    sizes, W = form.steps.sizes(form.weights, form.numbers), form.weights[0]
    inputs = x.shape[-1] if V is None else len(V) + form.gap[1] - form.gap[0]
    fits = (inputs, len(W)) == (sizes.inputs, sizes.rows) and x.ndim == 3 and len(x) > 0
    if not fits or [part.shape for part in state] != [(x.shape[1], size) for size in sizes.state]:
        raise ShapeError(
            "The shapes of the inputs, the state and the weights do not match.\n"
            f"Expected inputs (T, B, m) with T >= 1, a state {', '.join(f'(B, {size})' for size in sizes.state)}, "
            f"{sizes.inputs} projected inputs and a recurrent matrix of {sizes.rows} rows; got {tuple(x.shape)}, "
            f"{', '.join(str(tuple(part.shape)) for part in state)}, {inputs} and {len(W)}.\n"
            "Make batch and features agree."
        )


class _Kind(NamedTuple):
    """The class and the options of the steps of a pass."""

    steps: type[GatedSteps]
    numbers: tuple[float, ...]
    gap: tuple[int, int]

    def __call__(
        self, weights: Sequence[Tensor], state: Sequence[Tensor], buffers: Sequence[Tensor] = ()
    ) -> GatedSteps:
        return self.steps(weights, tuple(state), self.numbers, buffers)


class _Run(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, kind: _Kind, every_step: bool, count: int, *inputs: Any) -> tuple[Tensor | None, ...]:
        x, V, b, *rest = inputs
        start, weights = rest[:count], rest[count:]
        ctx.set_materialize_grads(False)
        ctx.kind, ctx.count = kind, count
        K = x.new_empty(*x.shape[:2], x.shape[-1] if V is None else len(V) + kind.gap[1] - kind.gap[0])
        states = [part.new_empty(len(x) + 1, *part.shape) for part in start]
        with without_autograd_overhead(x, *start, *weights):
            for buffer, part in zip(states, start, strict=True):
                buffer[0] = part
            steps = kind(weights, start, (K, *states))
            for part in _parts(K):
                _project(x[part], V, b, kind.gap, K[part])
                steps.forward(K[part], [buffer[part.start : part.stop + 1] for buffer in states])
        ctx.save_for_backward(x, V, b, K, *start, *weights, *states)
        return (states[0][1:] if every_step else None, *(buffer[-1].clone() for buffer in states))

    @staticmethod
    def backward(ctx: Any, gy: Tensor | None, *g_last: Tensor | None) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors  # read once, because a checkpoint returns them only once
        with without_autocast(saved[0]):
            return (None, None, None, *_gradients(ctx, saved, gy, g_last))


def _gradients(
    ctx: Any, saved: Sequence[Any], gy: Tensor | None, g_last: Sequence[Tensor | None]
) -> Sequence[Tensor | None]:
    x, V, b, K, *rest = saved
    start, weights, states = rest[: ctx.count], rest[ctx.count : -ctx.count], rest[-ctx.count :]
    needed = ctx.needs_input_grad[3:]
    if not (torch.is_grad_enabled() or batched(gy, *g_last)):
        gradients = _by_hand(ctx.kind, x, V, b, K, weights, states, needed, gy, g_last)
        if not ctx.kind.steps.has_cutoffs or _are_finite(gradients[3 : 3 + ctx.count]):
            return gradients  # otherwise infinity times a slope of zero, which must be zero
    inputs = (x, V, b, *start, *weights)  # not the first states of the buffers, because these have no graph
    return gradients_by_autograd(partial(_plain, ctx.kind, ctx.count), inputs, needed, (gy, *g_last))


def _are_finite(gradients: Sequence[Tensor | None]) -> bool:
    """Return whether the gradients of the first state are finite. All other gradients contribute to them."""
    return all(g is None or not is_readable(g) or bool(g.isfinite().all()) for g in gradients)


def _by_hand(
    kind: _Kind,
    x: Tensor,
    V: Tensor | None,
    b: Tensor | None,
    K: Tensor,
    weights: Sequence[Tensor],
    states: Sequence[Tensor],
    needed: Sequence[bool],
    gy: Tensor | None,
    g_last: Sequence[Tensor | None],
) -> list[Tensor | None]:
    """Return the gradients of x, V, b, the first state and the weights."""
    gx, gV, gb = (
        torch.zeros_like(p, memory_format=torch.contiguous_format) if p is not None and need else None
        for p, need in zip((x, V, b), needed, strict=False)
    )
    sums = [torch.zeros_like(w, memory_format=torch.contiguous_format) for w in weights]
    first = [
        torch.zeros_like(buffer[0]) if g is None else g.clone(memory_format=torch.contiguous_format)
        for buffer, g in zip(states, g_last, strict=True)
    ]
    if gy is not None:
        first[0] += gy[-1]
    before = [None, *([None] * (len(x) - 1) if gy is None else gy[:-1].unbind(0))]
    steps = kind(weights, first, (K, *states))
    parts = _parts(K)
    ring = torch.empty_like(K[parts[0]])
    with without_autograd_overhead(x, K, *weights, *first):
        gradients: list[Tensor] = [g.clone() for g in first]
        for part in reversed(parts):
            gK = ring[: part.stop - part.start]
            buffers = [buffer[part.start : part.stop + 1] for buffer in states]
            gradients = steps.backward(BackwardPart(K[part], buffers, gK, before[part], sums), gradients)
            if gb is not None:
                gb += gK.sum((0, 1))
            of_inputs = gK if V is None else without_gap(gK, kind.gap)
            if gV is not None:
                add_outer(gV, of_inputs.flatten(0, 1), x[part].flatten(0, 1))
            if gx is not None:
                gx[part] = of_inputs if V is None else of_inputs @ V
        for g, result in zip(gradients, first, strict=True):
            result.copy_(g)
    return [gx, gV, gb, *first, *sums]


def _plain(kind: _Kind, count: int, *inputs: Any) -> tuple[Tensor, ...]:
    """Return all outputs and the last state, by differentiable torch operations."""
    x, V, b, *rest = inputs
    state, weights = tuple(rest[:count]), rest[count:]
    steps, outputs = kind(weights, state), []
    for u in (x if V is None else _projected(x, V, b, kind.gap)).unbind(0):
        state = steps.plain(u, state)
        outputs.append(state[0])
    return (torch.stack(outputs), *state)


def _project(x: Tensor, V: Tensor | None, b: Tensor | None, gap: tuple[int, int], out: Tensor) -> None:
    """Write the projected inputs of some steps to ``out``, (R, B, k)."""
    start, stop = gap
    if V is None or start == stop:
        project_into(x, V, b, out)
        return
    rows, x = out.view(-1, out.shape[-1]), x.reshape(-1, x.shape[-1])
    for part, columns in ((V[:start], slice(0, start)), (V[start:], slice(stop, None))):
        if len(part) and b is not None:
            torch.addmm(b[columns], x, part.mT, out=rows[:, columns])
        elif len(part):
            torch.mm(x, part.mT, out=rows[:, columns])
    rows[:, start:stop] = 0.0 if b is None else b[start:stop]


def _projected(x: Tensor, V: Tensor, b: Tensor | None, gap: tuple[int, int]) -> Tensor:
    """Return the projected inputs, by differentiable torch operations."""
    start, stop = gap
    u = affine(x, V)
    u = torch.cat([u[..., :start], u.new_zeros(*u.shape[:-1], stop - start), u[..., start:]], -1)
    return u if b is None else u + b


def _parts(K: Tensor) -> list[slice]:
    """Split the time steps into parts, whose tensors should fit into the cache."""
    T, step_bytes = len(K), max(1, K[0].numel() * K.element_size())
    R = min(T, max(_PART_STEPS[0], min(_PART_STEPS[1], _PART_BYTES // step_bytes)))
    return [slice(start, min(start + R, T)) for start in range(0, T, R)]


class Gated(Backend):
    """The scan of hand-written steps."""

    name = "gated"

    def run(self, request: Request) -> tuple[Tensor | None, State]:
        form = request.cell.gated_form(request.W)
        assert form is not None
        scan = partial(_scan_cell, form, request)
        return scan_sequences(scan, request.x, request.state, request.batch_sizes, request.reverse)

    def cannot_run(self, request: Request) -> str:
        if not request.cell.steps_match("gated_form") or request.cell.gated_form(request.W) is None:
            return "the cell has no hand-written steps"
        tensors = (request.W, *request.state, *request.cell.weights.values())
        if any(t.real.dtype not in _DTYPES or t.real.dtype != request.W.real.dtype for t in tensors):
            return "it needs single or double precision, the same for all tensors"
        return "a tensor subclass needs to see every operation" if has_own_dispatch(request.x, *tensors) else ""

    def auto_declines(self, request: Request) -> str:
        return "" if request.x.device.type == "cpu" else "it was only compared with the loop on a CPU"


def _scan_cell(form: GatedForm, request: Request, x: Tensor, state: State) -> tuple[Tensor | None, State]:
    form, inputs, own, rest = request.cell.gated_inputs(form, x, state)
    y, last = gated(form, inputs, own, every_step=request.every_step)
    return y, (*last, *rest)
