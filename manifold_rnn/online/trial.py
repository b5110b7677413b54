"""A pass over sequences whose backward pass computes the gradients of a local rule."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .._torch import uncompiled
from ..linalg.precision import without_autocast
from ..nn.cells import Cell
from .influence import Influence
from .recurrence import Recurrence, recurrence_of


@dataclass(frozen=True, eq=False)
class Plan:
    """The arguments of a pass that are not tensors: the cell, the names of its weights, and the options of the rule."""

    cell: Cell
    names: tuple[str, ...]
    influence: type[Influence]
    every_step: bool

    def recurrence(self, weights: Sequence[Tensor]) -> Recurrence:
        """Return the recurrence with these weights."""
        found = recurrence_of(self.cell.bind(dict(zip(self.names, weights, strict=True))))
        assert found is not None  # the rule has checked it
        return found


def signal(error: Tensor, readout: Tensor | None, feedback: Tensor | None) -> Tensor:
    """Return the error signals of the units, (B, n), for errors (B, k) of the outputs."""
    if feedback is not None:
        return error @ feedback.mT
    return error if readout is None else error @ readout


class _Trial(torch.autograd.Function):
    @staticmethod
    def forward(
        plan: Plan,
        x: Tensor,
        h: Tensor,
        feedback: Tensor | None,
        readout: Tensor | None,
        bias: Tensor | None,
        *weights: Tensor,
    ) -> tuple[Tensor, Tensor]:
        recurrence, outputs = plan.recurrence(weights), []
        for x_t in x.unbind(0):
            h = recurrence.next_state(x_t, h)
            if plan.every_step:
                outputs.append(h if readout is None else F.linear(h, readout, bias))
        if plan.every_step:
            return torch.stack(outputs), h
        return h.clone() if readout is None else F.linear(h, readout, bias), h

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.plan = inputs[0]
        ctx.save_for_backward(*inputs[1:])
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, error: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        x, h, feedback, readout, bias, *weights = ctx.saved_tensors
        plan: Plan = ctx.plan
        with without_autocast(x):
            recurrence = plan.recurrence(weights)
            influence = recurrence.influence(plan.influence, x.shape[1])
            total = weights[0].new_zeros(len(recurrence.W), recurrence.columns)
            of_readout = None if readout is None else torch.zeros_like(readout)
            for t, x_t in enumerate(x.unbind(0)):
                h = recurrence.next_state_with(influence, x_t, h)
                if not plan.every_step and t < len(x) - 1:
                    continue
                error_t = error[t] if plan.every_step else error
                total += influence.gradient(signal(error_t, readout, feedback))
                if of_readout is not None:
                    of_readout.addmm_(error_t.mT, h)
            by_name = recurrence.gradients(total)
            of_bias = None if bias is None else error.flatten(0, -2).sum(0)
        return None, None, None, None, of_readout, of_bias, *(by_name[name] for name in plan.names)


@uncompiled
def trial(
    plan: Plan,
    x: Tensor,
    h: Tensor,
    feedback: Tensor | None,
    readout: Tensor | None,
    bias: Tensor | None,
    weights: Sequence[Tensor],
) -> tuple[Tensor, Tensor]:
    """Run over sequences (T, B, m) from the state ``h`` (B, n).

    The outputs are those of all steps, (T, B, k), or of the last, (B, k). Without a readout they are the states. Their
    backward pass runs over the sequences again, from the first step to the last, and updates the influence. Only
    inputs, outputs and errors grow with the number of steps.

    Returns
    -------
    outputs : Tensor
    h : Tensor, shape (B, n)
        The last state, without a graph.
    """
    with without_autocast(x):
        outputs, h = _Trial.apply(plan, x, h, feedback, readout, bias, *weights)
    return outputs, h
