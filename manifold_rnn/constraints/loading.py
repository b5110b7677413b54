"""Loading a model completely or not at all, and saving only what was trained."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from .registry import Registry, check_loaded


def load_checked(model: nn.Module, state: Mapping[str, Any], *, strict: bool = True, assign: bool = False) -> Any:
    """Load a state dict only if every constrained weight in it is on its manifold.

    Plain ``load_state_dict`` checks module by module: when one weight is refused, others may already be loaded. This
    function checks all weights before it changes any.

    Parameters
    ----------
    model : nn.Module
        A model that contains constrained weights.
    state : mapping from str to Tensor
        A state dict, as from ``model.state_dict()``.
    strict, assign : bool
        Passed to ``load_state_dict``, which reports missing keys and wrong shapes.

    Returns
    -------
    NamedTuple
        ``missing_keys`` and ``unexpected_keys``, as from ``load_state_dict``.

    Raises
    ------
    OffManifoldError
        If the defect of a weight constrained with ``on_load="raise"`` is too large. The model is unchanged.
    NonFiniteError
        If a weight has a NaN or infinite entry. The model is unchanged.

    Examples
    --------
    >>> model = torch.nn.Sequential(mr.constrain(torch.nn.Linear(2, 2), "weight", mr.Orthogonal()))
    >>> assert not mr.load_checked(model, model.state_dict()).missing_keys
    """
    checked = dict(state)
    for path, module in model.named_modules(remove_duplicate=False):
        check_loaded(module, checked, f"{path}." if path else "")
    return model.load_state_dict(state, strict=strict, assign=assign)


def adapter_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """Return the part of a state dict that training changes: constrained weights and parameters that are not frozen.

    For a frozen model with adapters, the result contains only the adapters.

    Parameters
    ----------
    model : nn.Module
        A model with constrained weights.

    Returns
    -------
    dict from str to Tensor
        A subset of ``model.state_dict()``. Load it with ``load_checked(model, state, strict=False)`` into a model with
        the same frozen weights and the same constraints.

    Examples
    --------
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    >>> model = mr.constrain_matching(model, {"0.weight": mr.OrthogonalAdapter()}, freeze_others=True)
    >>> state = mr.constraints.adapter_state_dict(model)
    >>> assert list(state) == ["0.constraints.weight.coordinates", "0.constraints.weight.fingerprint"]
    """
    computed: list[str] = []
    frozen: set[str] = set()
    trained = {name for name, p in model.named_parameters(remove_duplicate=False) if p.requires_grad}
    for path, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, Registry):
            owner = path.rpartition(".")[0]
            for name, entry in module.entries().items():
                if entry.is_stored_by_module:
                    trained.add(f"{owner}.{name}" if owner else name)
                else:
                    computed.append(f"{path}.{name}.")
                    own = set(entry.trained())
                    free = (n for n, p in entry.named_parameters() if p not in own and not p.requires_grad)
                    frozen.update(computed[-1] + n for n in free)
    state: dict[str, Tensor] = model.state_dict()
    chosen = trained | {key for key in state if key.startswith(tuple(computed))} - frozen
    return {key: value for key, value in state.items() if key in chosen}
