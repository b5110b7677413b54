"""Loading a whole model with nothing changed unless every constrained weight may be."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from .registry import check_loaded


def load_checked(model: nn.Module, state: Mapping[str, Any], *, strict: bool = True, assign: bool = False) -> Any:
    """Load a state dict only if every constrained weight in it is on its manifold.

    Plain ``load_state_dict`` checks module by module, so when one is refused its siblings may already be loaded. Here
    all are checked before any is changed.

    Parameters
    ----------
    model : nn.Module
        A model with constrained weights anywhere inside.
    state : mapping from str to Tensor
        As from ``model.state_dict()``.
    strict, assign : bool
        Passed on to ``load_state_dict``, which reports missing keys and wrong shapes.

    Returns
    -------
    NamedTuple
        ``missing_keys`` and ``unexpected_keys``, as from ``load_state_dict``.

    Raises
    ------
    OffManifoldError
        If a weight has too large a defect and was constrained with ``on_load="raise"``; the model is unchanged.
    NonFiniteError
        If a weight has a NaN or infinite entry; the model is unchanged.

    Examples
    --------
    >>> model = torch.nn.Sequential(mr.constrain(torch.nn.Linear(2, 2), "weight", mr.Orthogonal()))
    >>> assert not mr.load_checked(model, model.state_dict()).missing_keys
    """
    checked = dict(state)
    for path, module in model.named_modules():
        check_loaded(module, checked, f"{path}." if path else "")
    return model.load_state_dict(state, strict=strict, assign=assign)
