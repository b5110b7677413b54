"""Checks of the arguments of rules of local learning."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .._options import is_integer
from ..errors import DeviceError, DtypeError, NonFiniteError, OptionError, ShapeError, UnsupportedError
from ..linalg.precision import autocast_device
from ..nn import Layer
from ..nn.inputs import require_input
from .recurrence import recurrence_of

_SOURCES = ("random", "transpose")
_OF_CONSTRAINTS = f"{__name__.split('.')[0]}.constraints."


def require_layer(layer: Layer) -> None:
    """Raise unless the rule supports the recurrence of a layer."""
    if not isinstance(layer, Layer):
        raise UnsupportedError(
            "RFLO needs a layer of manifold_rnn.nn.\n"
            f"Expected a Layer of the cell LeakyElman, got {type(layer).__name__}.\n"
            "Build one with nn.Layer(nn.cells.LeakyElman(), input_size, hidden_size)."
        )
    if layer.num_layers > 1 or layer.bidirectional or layer.train_initial_state:
        raise UnsupportedError(
            "RFLO needs a layer with one level and one direction, without a trained initial state.\n"
            f"Got num_layers={layer.num_layers}, bidirectional={layer.bidirectional}, "
            f"train_initial_state={layer.train_initial_state}.\n"
            "Leave these options at their defaults."
        )
    weights = layer.weights("_l0")
    if any(weight.is_complex() for weight in weights.values()):
        raise DtypeError(
            "RFLO needs a real layer, since nonlinearities of complex numbers have no single derivative.\n"
            f"Expected float32 or float64, got {weights['weight_ih'].dtype}.\n"
            "Use a real dtype, with the constraint UnitaryRealForm for a unitary matrix."
        )
    recurrence, name = recurrence_of(layer.cell.bind(weights)), type(layer.cell).__name__
    if recurrence is None:
        raise UnsupportedError(
            "RFLO needs a cell with a leaky form.\n"
            f"Expected LeakyElman, Elman or a cell with leaky_form, got {name}.\n"
            "Use nn.cells.LeakyElman, or define leaky_form in your cell."
        )
    modules = [value for value in vars(layer.cell).values() if isinstance(value, nn.Module)]
    if any(p.requires_grad for module in modules for p in module.parameters()):
        raise UnsupportedError(
            "RFLO trains the weights of a cell, not those of its nonlinearity.\n"
            f"Expected a nonlinearity without trained parameters, got {type(modules[0]).__name__} in {name}.\n"
            "Use a named nonlinearity, or freeze the parameters with requires_grad_(False)."
        )
    if not _acts_on_entries(recurrence.form.activate, weights["weight_ih"]):
        raise UnsupportedError(
            "RFLO needs a nonlinearity that acts on each unit separately.\n"
            f"Expected one such as torch.tanh, got one that mixes the units of {name}.\n"
            'Use "tanh", "relu", "modrelu" or a function of each entry.'
        )


def require_readout(layer: Layer, readout: nn.Linear | None) -> None:
    """Raise unless a readout is linear and matches the layer."""
    if readout is None:
        return
    if not isinstance(readout, nn.Linear):
        raise UnsupportedError(
            "RFLO needs a linear readout.\n"
            f"Expected nn.Linear or None, got {type(readout).__name__}.\n"
            "Omit the readout, and pass the error of the units to learn."
        )
    if readout.in_features != layer.hidden_size:
        raise ShapeError(
            "The readout of RFLO does not fit the layer.\n"
            f"Expected in_features={layer.hidden_size}, the hidden size; got {readout.in_features}.\n"
            "Change the size of the readout."
        )
    weight = layer.weights("_l0")["weight_ih"]
    if readout.weight.dtype != weight.dtype:
        raise DtypeError(
            "The readout of RFLO has another dtype than the layer.\n"
            f"Expected {weight.dtype}, got {readout.weight.dtype}.\nConvert one of them with .to(dtype)."
        )


def require_plain_forward(layer: Layer, readout: nn.Module) -> None:
    """Raise if a hook or gate changes the result of the layer or readout, because the rule does not call them."""
    found, remedy = None, "Remove it, or call eval() and train by backpropagation."
    if layer.unit_gates is not None:
        found, remedy = "gates over the units of the layer", "Train gates by backpropagation, and prune first."
    elif hooks := _hooks(layer):
        found = f"the forward hook {hooks[0]} of the layer"
    elif isinstance(readout, nn.Linear) and (hooks := _hooks(readout)):
        found = f"the forward hook {hooks[0]} of the readout"
    elif isinstance(readout, nn.Linear) and getattr(readout.forward, "__func__", None) is not nn.Linear.forward:
        found = f"the forward method of {type(readout).__name__}"
    if found is not None:
        raise UnsupportedError(
            "RFLO computes states and outputs from the weights, without calling the layer or the readout.\n"
            f"Expected modules without hooks or gates, got {found:.120}.\n{remedy}"
        )


def feedback_matrix(
    layer: Layer, readout: nn.Linear | None, feedback: str | Tensor | None, generator: torch.Generator | None
) -> Tensor | None:
    """Return the fixed feedback (n, k), or None for the transposed readout or no readout."""
    if readout is None:
        if feedback is not None:
            raise OptionError(
                "RFLO without a readout uses the errors of the units, and needs no feedback.\n"
                f"Expected feedback=None, got {feedback!r:.80}.\nPass a readout, or leave feedback out."
            )
        return None
    n, k, like = layer.hidden_size, readout.out_features, readout.weight
    if isinstance(feedback, Tensor):
        if feedback.shape != (n, k):
            raise ShapeError(
                "The feedback of RFLO has the wrong shape.\n"
                f"Expected ({n}, {k}), units by outputs; got {tuple(feedback.shape)}.\nTranspose it, or draw another."
            )
        if not feedback.isfinite().all():
            raise NonFiniteError(
                "The feedback of RFLO needs finite entries.\n"
                f"Got {int((~feedback.isfinite()).sum())} of {feedback.numel()} that are not.\nDraw another matrix."
            )
        return feedback.detach().to(like).clone()
    if feedback == "transpose":
        return None
    if feedback not in (None, "random"):
        raise OptionError(
            "The feedback of RFLO is unknown.\n"
            f"Expected {', '.join(map(repr, _SOURCES))} or a tensor; got {feedback!r:.80}.\nCheck the spelling."
        )
    device = like.device if generator is None else generator.device
    return torch.randn(n, k, generator=generator, device=device, dtype=like.dtype).to(like.device) * k**-0.5


def require_no_gradient(x: Tensor) -> None:
    """Raise if the inputs need a gradient."""
    if isinstance(x, Tensor) and x.requires_grad:
        raise UnsupportedError(
            "RFLO computes no gradient of the inputs.\nExpected inputs that need none, got requires_grad=True.\n"
            "Detach the inputs, or call eval() for exact gradients."
        )


def require_no_inference_mode() -> None:
    """Raise in inference mode, whose tensors cannot be updated outside of it."""
    if torch.is_inference_mode_enabled():
        raise UnsupportedError(
            "RFLO updates a state and a trace between steps, which inference mode prevents.\n"
            "Expected start, step and learn outside of torch.inference_mode().\nUse torch.no_grad() instead."
        )


def require_step_input(x: Tensor, input_size: int, weight: Tensor, state: Tensor | None) -> None:
    """Raise unless the input of one time step matches the layer and the current sequences."""
    require_no_gradient(x)
    if x.dim() == 2 and (state is None or len(state) == len(x)):
        require_input(x.unsqueeze(0), input_size, 3, weight)
        if state is not None:
            require_same_place(state, weight)
        if not x.is_meta and not x.isfinite().all():
            raise NonFiniteError(
                "The input of a step needs finite entries.\n"
                f"Got {int((~x.isfinite()).sum())} of {x.numel()} that are not.\n"
                "Replace these entries. The step was not taken."
            )
        return
    batch = "B" if state is None else len(state)
    raise ShapeError(
        "The input of a step has the wrong shape.\n"
        f"Expected ({batch}, {input_size}), sequences by features; got {tuple(x.shape)}.\n"
        "Pass one time step, and call start for another number of sequences."
    )


def require_start(batch: int, state: Tensor | None, units: int) -> None:
    """Raise unless sequences can start with this batch size and these states."""
    if not is_integer(batch, 0):
        raise OptionError(
            "`batch` of start is out of range.\n"
            f"Expected an integer of at least 0, got {batch!r:.80}.\nPass the number of sequences, len(x) for inputs x."
        )
    if state is not None and (not isinstance(state, Tensor) or state.shape != (batch, units)):
        got = tuple(state.shape) if isinstance(state, Tensor) else type(state).__name__
        raise ShapeError(
            "The state of start has the wrong shape.\n"
            f"Expected ({batch}, {units}), sequences by units; got {got}.\n"
            "Pass one row for each of the `batch` sequences."
        )


def require_same_place(state: Tensor, weight: Tensor) -> None:
    """Raise if the layer was converted or moved after the sequences started."""
    for kind, name in ((DtypeError, "dtype"), (DeviceError, "device")):
        expected, got = getattr(weight, name), getattr(state, name)
        if expected != got:
            raise kind(
                f"The state of the current sequences has another {name} than the layer.\n"
                f"Expected {expected}, got {got}.\nCall start after you convert or move the network."
            )


def require_target(target: Tensor, shape: tuple[int, int]) -> None:
    """Raise unless a mean squared error can compare outputs of this shape with the target entry by entry."""
    if not isinstance(target, Tensor) or tuple(target.shape) != shape:
        got = tuple(target.shape) if isinstance(target, Tensor) else type(target).__name__
        raise ShapeError(
            "The target of a step has the wrong shape.\n"
            f"Expected {shape}, that of the outputs; got {got}.\n"
            "Reshape it, or pass a loss that supports this target. The step was not taken."
        )


def require_loss(value: Tensor) -> None:
    """Raise unless a loss is a scalar with a graph."""
    if not isinstance(value, Tensor) or not value.requires_grad:
        raise OptionError(
            "The loss of a step must depend on the outputs through a graph.\n"
            f"Expected a scalar tensor that requires a gradient, got {value!r:.80}.\n"
            "Compute it from the first argument, without detach. No gradient was added."
        )
    if value.numel() != 1:
        raise ShapeError(
            "The loss of a step must be one number.\n"
            f"Expected a scalar, got shape {tuple(value.shape)}.\n"
            'Sum it, or use reduction="mean". No gradient was added.'
        )


def require_error(error: Tensor, shape: tuple[int, int], state: Tensor) -> None:
    """Raise unless an error has the shape of the outputs and the dtype of the states, and is finite."""
    if not isinstance(error, Tensor):
        raise DtypeError(
            f"The error of RFLO must be a tensor.\nExpected one of shape {shape}, got {type(error).__name__}.\n"
            "Pass the derivative of the loss with respect to the outputs of the last step."
        )
    if tuple(error.shape) != shape:
        raise ShapeError(
            "The error of RFLO has the wrong shape.\n"
            f"Expected {shape}, that of the outputs; got {tuple(error.shape)}.\n"
            "Pass the derivative of the loss with respect to the outputs of the last step."
        )
    if error.dtype != state.dtype and not torch.is_autocast_enabled(autocast_device(error)):
        raise DtypeError(
            "The error of RFLO has another dtype than the layer.\n"
            f"Expected {state.dtype}, got {error.dtype}.\nConvert it with .to({state.dtype})."
        )
    if not error.isfinite().all():
        raise NonFiniteError(
            "The error of RFLO needs finite entries.\n"
            f"Got {int((~error.isfinite()).sum())} of {error.numel()} that are not.\n"
            "Lower the learning rate, or check the target. No gradient was added."
        )


def _hooks(module: nn.Module) -> list[str]:
    """Return the names of the hooks around the forward pass, except those that constraints need."""
    hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
    kinds = [hook if hasattr(hook, "__qualname__") else type(hook) for hook in hooks]
    return [kind.__qualname__ for kind in kinds if not kind.__module__.startswith(_OF_CONSTRAINTS)]


@torch.no_grad()
def _acts_on_entries(f: Callable[[Tensor], Tensor], like: Tensor) -> bool:
    """Return whether changing half of the entries leaves the values of the others unchanged."""
    if like.is_meta:
        return True
    z = torch.linspace(-1, 1, len(like), dtype=like.dtype, device=like.device).unsqueeze(0)
    kept = torch.arange(len(like), device=like.device) % 2 == 0
    return all(torch.equal(f(torch.where(half, z, z + 0.5))[:, half], f(z)[:, half]) for half in (kept, ~kept))
