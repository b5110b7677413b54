"""Every use of a private name of torch, in one place. Each function has a fallback for versions without the name.

Tested with torch 2.10 to 2.14. A fallback gives the same results but may be slower.
"""

import contextlib
import functools
import sys
from collections.abc import Callable, Sequence
from types import CodeType, FrameType
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

_P = ParamSpec("_P")
_R = TypeVar("_R")


def _private(path: str, fallback: Any) -> Any:
    """Return the object at a dotted path below ``torch``, or the fallback."""
    value: Any = torch
    try:
        for name in path.split("."):
            value = getattr(value, name)
    except AttributeError:
        return fallback
    return value


_transforms_active = _private("_C._are_functorch_transforms_active", None)
_forward_mode_enabled = _private("autograd.forward_ad._set_fwd_grad_enabled", None)
_is_gradtrackingtensor = _private("_C._functorch.is_gradtrackingtensor", lambda _: False)
_level_of = _private("_C._functorch.maybe_get_level", lambda _: None)
_interpreters = _private("_C._functorch.get_interpreter_stack", lambda: None)
_forward_transform = _private("_C._functorch.TransformType.Jvp", None)
_unwrap_batched = _private("_C._functorch._unwrap_batched", None)
_add_batch_dim = _private("_C._functorch._add_batch_dim", None)
_wrap_for_grad = _private("_C._functorch._wrap_for_grad", None)
_unwrap_for_grad = _private("_C._functorch._unwrap_for_grad", None)
_proxy_mode = _private("_C._TorchDispatchModeKey.PROXY", None)
_fake_mode = _private("_C._TorchDispatchModeKey.FAKE", None)
_dispatch_mode = _private("_C._get_dispatch_mode", None)
_current_level = _private("_C._functorch.maybe_current_level", lambda: None)
_unwrap_if_dead = _private("_C._functorch.unwrap_if_dead", None)
_is_batchedtensor = _private("_C._functorch.is_batchedtensor", lambda _: True)
_is_legacy_batchedtensor = _private("_C._functorch.is_legacy_batchedtensor", lambda _: False)
dispatch_modes = _private("_C._len_torch_dispatch_stack", lambda: 0)  # their number, without a call of Python
_tracing_state = _private("_C._get_tracing_state", lambda: None)
_saved_tensor_hooks = _private("_C._autograd._top_saved_tensors_default_hooks", None)
_graph_task = _private("_C._current_graph_task_id", lambda: -1)
_parametrize = _private("nn.utils.parametrize", None)
_profiled = _private("optim.Optimizer.profile_hook_step", lambda step: step)
_swap_tensor = _private("nn.utils._named_member_accessor.swap_tensor", None)
_onednn_enabled = _private("_C._get_mkldnn_enabled", lambda: False)
_lazy_clone = _private("_lazy_clone", None)
_foreach_copy = _private("_foreach_copy_", None)
_foreach_add = _private("_foreach_add_", None)
_foreach_norm = _private("_foreach_norm", None)


# --- what observes the operations ---


def transform_level() -> int | None:
    """Return the depth of the innermost ``torch.func`` transform, or None outside all of them."""
    level: int | None = _current_level()
    return level


def is_transformed() -> bool:
    """Return whether a ``torch.func`` transform is active."""
    return (_transforms_active is not None and bool(_transforms_active())) or transform_level() is not None


def is_traced() -> bool:
    """Return whether ``torch.jit.trace`` is recording."""
    return _tracing_state() is not None


def is_forward_mode() -> bool:
    """Return whether a forward-mode derivative may be requested."""
    return bool(forward_ad._current_level >= 0)


def enable_forward_mode() -> contextlib.AbstractContextManager[object]:
    """Return a context that enables forward mode. Torch disables it inside the rules of a custom function."""
    return contextlib.nullcontext() if _forward_mode_enabled is None else _forward_mode_enabled(True)


def without_tangent(x: Tensor) -> Tensor:
    """Return a tensor without its tangent of the innermost forward mode; tangents of outer transforms are kept."""
    levels = [each.level() for each in _interpreters() or () if each.key() == _forward_transform]
    return _stripped(x, levels[-1]) if levels else forward_ad.unpack_dual(x, level=0).primal


def _stripped(x: Tensor, level: int) -> Tensor:
    """Remove the tangent by wrapping again what ``torch.func.jvp`` wrapped; vmap has no rule to unpack it."""
    bare: Tensor = x
    if _is_batchedtensor(x) and (own := _level_of(x)) > level:
        value, axis = _unwrap_batched(x, own)
        bare = _add_batch_dim(_stripped(value, level), axis, own)
    elif _is_gradtrackingtensor(x) and _level_of(x) == level:
        bare = _wrap_for_grad(_unwrap_for_grad(x, level), level)
    return bare


def is_symbolic() -> bool:
    """Return whether operations are recorded for other numbers: by `torch.jit.trace`, `make_fx` or fake tensors."""
    if not dispatch_modes():
        return _tracing_state() is not None
    if is_traced():
        return True
    if _dispatch_mode is None or _proxy_mode is None:
        return True
    return _dispatch_mode(_proxy_mode) is not None or _dispatch_mode(_fake_mode) is not None


def makes_proxies() -> bool:
    """Return whether `make_fx` is recording."""
    known = _dispatch_mode is not None and _proxy_mode is not None
    return bool(known and _dispatch_mode(_proxy_mode) is not None)


def is_batched(x: Tensor) -> bool:
    """Return whether `vmap`, of ``torch.func`` or of autograd itself, produced a tensor."""
    return bool(_is_batchedtensor(x) or _is_legacy_batchedtensor(x))


def is_watched(*tensors: Tensor) -> bool:
    """Return whether a dispatch mode, or the own dispatch of a tensor subclass, intercepts every operation."""
    return has_own_dispatch(*tensors) or has_dispatch_mode()


def has_own_dispatch(*tensors: Tensor) -> bool:
    """Return whether a tensor belongs to a subclass with its own dispatch. Such a tensor may have no memory."""
    return any(type(t).__torch_dispatch__ is not Tensor.__torch_dispatch__ for t in tensors)


def has_dispatch_mode() -> bool:
    """Return whether a dispatch mode intercepts every operation."""
    return bool(dispatch_modes() > 0)


def saved_tensor_hooks() -> object:
    """Return the innermost hooks on saved tensors, which identify a checkpointed region; None if there are none."""
    if _saved_tensor_hooks is None:
        return object()  # unequal to all others: treats every call as a region of its own
    return _saved_tensor_hooks(True)  # also while tracing


def autograd_context() -> tuple[object, int, int | None]:
    """Return the innermost hooks on saved tensors, the id of the running backward pass (or -1), and the level."""
    hooks = object() if _saved_tensor_hooks is None else _saved_tensor_hooks(True)  # see `saved_tensor_hooks`
    return hooks, _graph_task(), _current_level()


def torch_cache() -> dict[object, object] | None:
    """Return the cache that `torch.nn.utils.parametrize.cached` drops at its end, or None outside of it."""
    if not getattr(_parametrize, "_cache_enabled", 0):
        return None
    cache: object = getattr(_parametrize, "_cache", None)
    return cache if isinstance(cache, dict) else None


def storage_address(x: Tensor) -> int:
    """Return the address of the numbers of a tensor, or 0 if it has none."""
    try:
        return x.data_ptr()
    except RuntimeError:  # the tensor is wrapped by a transform, or fake
        return 0


def is_sharded(x: Tensor | None) -> bool:
    """Return whether a tensor is a DTensor, of which each process has a part."""
    return any(kind.__name__ == "DTensor" for kind in type(x).__mro__)


def version(x: Tensor) -> int | None:
    """Return a number that grows with every edit in place of a tensor, or None for one made in inference mode."""
    return None if x.is_inference() else x._version


# --- cheaper calls ---

fused_adam = _private("_fused_adam_", None)  # `torch.optim.adam.adam` calls it after counting the step
fused_adagrad = _private("_fused_adagrad_", None)


def apply_function(function: type[torch.autograd.Function], *args: Any) -> Any:
    """Call ``function.apply(*args)`` without inspecting its signature, which costs as much as a small product."""
    if torch.compiler.is_compiling() or _unwrap_if_dead is None or _transforms_active is None or _transforms_active():
        return function.apply(*args)
    # wrappers that an ended transform left on a tensor would hide the graph
    bare = [_unwrap_if_dead(x) if isinstance(x, Tensor) else x for x in args]
    return super(torch.autograd.Function, function).apply(*bare)  # type: ignore[misc]


def sees_every_step() -> bool:
    """Return whether the compiler, a transform, a trace or forward mode observes every operation."""
    return torch.compiler.is_compiling() or is_transformed() or is_traced() or is_forward_mode()


def writable(x: Tensor) -> Tensor:
    """Return a tensor with the same values that can be written to; its memory is copied at the first write."""
    if _lazy_clone is None or x.is_complex() or has_dispatch_mode():
        return x.clone()
    copied: Tensor = _lazy_clone(x)
    return copied


def copy_each(into: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Copy each value into the tensor at the same position, in one call if torch has one."""
    if _foreach_copy is not None and not any(x.is_conj() or x.is_neg() for x in into):  # it refuses such tensors
        _foreach_copy(into, values)
        return
    for x, y in zip(into, values, strict=True):
        x.copy_(y)


def add_each(into: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Add each value to the tensor at the same position, in one call if torch has one."""
    if _foreach_add is not None:
        _foreach_add(into, values)
        return
    for x, y in zip(into, values, strict=True):
        x.add_(y)


def norms_of(tensors: Sequence[Tensor]) -> Tensor | None:
    """Return the norm of each tensor in one call; None if torch has no such call or the devices differ."""
    if _foreach_norm is None or len({t.device for t in tensors}) > 1:
        return None
    return torch.stack(_foreach_norm(list(tensors)))


def has_onednn() -> bool:
    """Return whether `onednn_linear` can be called."""
    return bool(_onednn_enabled()) and onednn_linear() is not None


@functools.cache
def onednn_linear() -> Any:
    """Return torch's oneDNN call for ``X W^T``, or None if this build lacks it or it gives wrong results."""
    try:
        call = torch.ops.mkldnn._linear_pointwise
        eye = torch.eye(2, dtype=torch.float32, device="cpu")
        ok = torch.equal(call(eye, eye, None, "none", [], None), eye)
        return call if ok and torch.equal(call.binary(eye, eye, eye, None, "add"), 2 * eye) else None
    except (AttributeError, RuntimeError):
        return None


# --- modules ---

_Convolution: type[nn.Module] | tuple[type[nn.Module], ...] = _private(
    "nn.modules.conv._ConvNd",
    (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
)


def convolution_groups(module: nn.Module) -> int | None:
    """Return the groups of a convolution, transposed or not; None for any other module."""
    return int(module.groups) if isinstance(module, _Convolution) else None  # type: ignore[arg-type]


def drop_hook(hooks: dict[int, Any], hook: Callable[..., object]) -> list[int]:
    """Remove ``hook`` from a module's table of hooks. It searches for the hook, since handles do not survive copies.

    Some tables hold the hook inside a private wrapper. Returns the keys that were removed.
    """
    keys = [key for key, value in hooks.items() if getattr(value, "hook", value) is hook]
    for key in keys:
        del hooks[key]
    return keys


def is_lent() -> bool:
    """Return whether `torch.func.functional_call` calls this, to put a tensor into a module for one forward."""
    return bool(_frames(getattr(_swap_tensor, "__code__", None)))


_step_code = _profiled(lambda optimizer: None).__code__  # the same for the steps of all optimizers


def outer_steps() -> list[Any]:
    """Return the optimizers whose steps have called the running step of an optimizer."""
    arguments = [frame.f_locals.get("args") for frame in _frames(_step_code)]
    return [args[0] for args in arguments[1:] if args]


def _frames(code: CodeType | None) -> list[FrameType]:
    """Return the calls of a function that lead to here, the last one first."""
    frame: FrameType | None = sys._getframe()
    found = []
    while frame is not None:
        if frame.f_code is code:
            found.append(frame)
        frame = frame.f_back
    return found


# --- the compiler, without importing it: `torch._dynamo` takes seconds ---


def uncompiled(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """`torch.compiler.disable`, whose import waits for the first call."""
    disable = _private("_disable_dynamo", None) or torch.compiler.disable
    disabled: Callable[_P, _R] = disable(function)
    return disabled


def constant_result(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """`torch.compiler.assume_constant_result`, which sets this mark."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function
