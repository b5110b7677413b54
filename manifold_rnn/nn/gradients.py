"""Gradients of a function with a backward pass of its own, where that one does not do: by automatic differentiation."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def gradients_by_autograd(
    function: Callable[..., Sequence[Tensor]],
    inputs: Sequence[Tensor | None],
    needed: Sequence[bool],
    output_gradients: Sequence[Tensor | None],
) -> list[Tensor | None]:
    """Return the gradients of the inputs that are needed, as functions that can be differentiated or mapped over.

    Parameters
    ----------
    function : callable
        Maps the inputs to the outputs by operations that torch can differentiate.
    inputs : sequence of Tensor or None
        Inputs, of which some may be absent.
    needed : sequence of bool
        For each input, whether its gradient is needed.
    output_gradients : sequence of Tensor or None
        A gradient for each output, or None where it is zero.

    Returns
    -------
    list of Tensor or None
        A gradient for each input, or None where it is not needed or the outputs do not depend on the input.
    """
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # an input may depend on another: as views of their own, each receives its own part of the gradient
        aliases = [None if p is None else p.view_as(p) for p in inputs]
        outputs = [(out, g) for out, g in zip(function(*aliases), output_gradients, strict=True) if g is not None]
        wanted = [p for p, need in zip(aliases, needed, strict=True) if need and p is not None]
        if not outputs or not wanted:
            return [None] * len(aliases)
        gradients = torch.autograd.grad(
            [out for out, _ in outputs],
            wanted,
            [g for _, g in outputs],
            create_graph=create_graph,
            allow_unused=True,
        )
    of_wanted = iter(gradients)
    return [next(of_wanted) if need and p is not None else None for p, need in zip(aliases, needed, strict=True)]
