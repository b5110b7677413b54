"""Checks of the input and the initial state of a layer."""

import torch
from torch import Tensor

from ..errors import DeviceError, DtypeError, ShapeError
from ..linalg.precision import autocast_device


def require_input(x: Tensor, input_size: int, dim: int, weight: Tensor) -> None:
    """Raise unless ``x`` has ``dim`` axes, the last of size ``input_size``, and the dtype and device of a weight."""
    if x.dim() != dim or x.shape[-1] != input_size:
        raise ShapeError(
            "The input of the layer has the wrong shape.\n"
            "Expected the axes (time, batch, feature), (batch, time, feature) with batch_first, or (time, feature) for "
            f"one sequence or packed data, with input_size {input_size} on the last axis; got shape {tuple(x.shape)}.\n"
            "Change input_size, or add the missing axis."
        )
    if x.dtype not in (weight.dtype, weight.real.dtype) and not torch.is_autocast_enabled(autocast_device(x)):
        raise DtypeError(
            f"The input of the layer has another dtype than its weights.\nExpected {weight.dtype}, got {x.dtype}.\n"
            f"Convert the input with .to({weight.dtype}), or the layer with .to({x.dtype})."
        )
    if x.device != weight.device:
        raise DeviceError(
            "The input of the layer is on another device than its weights.\n"
            f"Expected {weight.device}, got {x.device}.\nMove one of them with .to(device)."
        )


def require_steps(x: Tensor, shape: tuple[int, ...]) -> None:
    """Raise unless time-major inputs have a time step. ``shape`` is the shape of the layer's input."""
    if not len(x):
        raise ShapeError(
            f"The input of the layer has no time step.\nExpected at least one time step, got shape {shape}.\n"
            "Leave out empty sequences."
        )


def require_state(parts: tuple[Tensor, ...], shapes: list[tuple[int, ...]], like: Tensor) -> None:
    """Raise unless the parts of ``hx`` have these shapes, and the device and dtype of ``like``."""
    actual = [tuple(part.shape) for part in parts]
    if actual != shapes:
        raise ShapeError(
            "The initial state hx has the wrong shape.\n"
            f"Expected {', '.join(map(str, shapes))}; got {', '.join(map(str, actual))}.\n"
            "Pass one row for each level and direction. The batch is on axis 1, also with batch_first, and missing if "
            "the input has no batch axis."
        )
    if other_devices := [part.device for part in parts if part.device != like.device]:
        raise DeviceError(
            "The initial state hx is on another device than the weights.\n"
            f"Expected {like.device}, got {other_devices[0]}.\nMove one of them with .to(device)."
        )
    other_dtypes = [part.dtype for part in parts if part.dtype != like.dtype]
    if other_dtypes and not torch.is_autocast_enabled(autocast_device(parts[0])):
        raise DtypeError(
            "The initial state hx has another dtype than the weights.\n"
            f"Expected {like.dtype}, got {other_dtypes[0]}.\nConvert it with .to(dtype)."
        )
