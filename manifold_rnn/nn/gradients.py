"""Gradients by automatic differentiation, where the hand-written backward pass cannot be used."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def gradients_by_autograd(
    function: Callable[..., Sequence[Tensor]],
    inputs: Sequence[Tensor | None],
    needed: Sequence[bool],
    output_gradients: Sequence[Tensor | None],
) -> list[Tensor | None]:
    """Return the needed gradients of the inputs. They can be differentiated again, or mapped over.

    Parameters
    ----------
    function : callable
        Function that maps the inputs to the outputs by differentiable torch operations.
    inputs : sequence of Tensor or None
        Inputs, some of which may be None.
    needed : sequence of bool
        For each input, whether its gradient is needed.
    output_gradients : sequence of Tensor or None
        Gradient of each output, or None if it is zero.

    Returns
    -------
    list of Tensor or None
        Gradient of each input. None if it is not needed, or if the outputs do not depend on the input.
    """
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # inputs may depend on each other, so views separate their gradients
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
