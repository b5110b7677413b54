"""The base classes of adapters: a frozen weight that the state dict omits, and a trained change of it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from ...errors import OffManifoldError, OptionError, ShapeError
from ...linalg import defect, polish
from ...linalg.checks import require_finite
from ...linalg.precision import without_autocast
from ...retractions import Retraction
from ..constraint import Constraint
from ..membership import widened
from ..parametrization import Parametrization

Side = Literal["input", "output"]


class Adapter(Constraint):
    """A constraint that keeps the weight fixed and trains parameters that change it.

    A subclass has the option ``save_base``, and it may have the option ``side``.
    """


class AdapterParametrization(Parametrization):
    """A frozen weight, the buffer ``base``, and parameters that change it.

    Parameters
    ----------
    weight : Tensor
        The weight to keep. It is not copied.
    save_base : bool
        Whether the state dict contains the weight. If not, it contains a ``fingerprint`` of four numbers instead.
    """

    has_linear: ClassVar[bool] = True
    base: Tensor
    was_frozen: bool = False

    def __init__(self, weight: Tensor, *, save_base: bool) -> None:
        super().__init__()
        require_finite(weight, "the weight of an adapter", "Nothing was changed. Load a valid checkpoint first.")
        self.save_base = save_base
        self.register_buffer("base", weight.detach(), persistent=save_base)

    @property
    def wide_dtype(self) -> torch.dtype:
        """The dtype of the change, and of its real parameters: single precision or better."""
        return torch.promote_types(self.base.dtype, torch.float32)

    @property
    def weight_dtype(self) -> torch.dtype:
        return self.base.dtype

    @property
    @abstractmethod
    def work(self) -> int:
        """Multiplications that change one row of the weight, or one input."""

    @property
    def rows(self) -> int:
        """Number of rows that the dense weight changes."""
        return self.base.shape[-2]

    def prefers_linear(self, x: Tensor) -> bool:
        """Compare the work for the inputs with the work for the weight, including its gradient if there is one."""
        if self.base.is_meta or self.base.ndim != 2 or x.shape[-1:] != self.base.shape[-1:]:
            return False
        inputs = x.numel() // max(1, x.shape[-1])
        if not torch.is_grad_enabled():
            return inputs < self.rows
        return 3 * inputs * self.work < 3 * self.rows * self.work + inputs * self.base.numel()

    def freeze(self) -> None:
        """Keep the parameters trainable, since adapters change a frozen weight. `release` freezes it again."""
        self.freeze_base()

    def freeze_base(self) -> None:
        self.was_frozen = True

    @property
    def is_trained(self) -> bool:
        return super().is_trained and not self.was_frozen

    # --- loading and conversion ---

    def check(self, loaded: Mapping[str, Tensor], path: str) -> dict[str, Tensor]:
        checked = super().check(loaded, path)
        known, base = loaded.get("fingerprint"), loaded.get("base")
        if self.save_base or self.base.is_meta:
            return checked
        if isinstance(base, Tensor) and not base.is_meta:  # saved with save_base=True, but not loaded here
            known = fingerprint(base)
        if isinstance(known, Tensor) and not known.is_meta:
            _require_same_base(known.detach().cpu(), self.fingerprint(), path)
        return checked

    def fingerprint(self) -> Tensor:
        """Return the norm of ``base``, two weighted sums of its entries, and its rounding unit, in double precision."""
        return fingerprint(self.base)

    def _save_to_state_dict(self, destination: dict[str, Tensor], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if not self.save_base and not self.base.is_meta:
            destination[f"{prefix}fingerprint"] = self.fingerprint()

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: object) -> None:
        state_dict.pop(f"{prefix}fingerprint", None)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def converted_dtype(self, x: Tensor, after: torch.dtype) -> torch.dtype:
        """Keep the parameters in single precision or better: in half precision, small steps would be lost."""
        if x is self.base:
            return after
        dtype = torch.promote_types(after, torch.float32)
        return dtype if x.is_complex() else dtype.to_real()


@torch.no_grad()
def fingerprint(weight: Tensor) -> Tensor:
    """Return the norm of a weight, two weighted sums of its entries, and its rounding unit, in double precision."""
    w = torch.view_as_real(weight.resolve_conj()).flatten(-2) if weight.is_complex() else weight
    w = w.detach().reshape(-1, w.shape[-1]).double()
    across, down = (torch.arange(n, dtype=w.dtype, device=w.device) for n in (w.shape[1], w.shape[0]))
    sums = [torch.dot(w @ wave(across * 2**0.5), wave(down * 3**0.5)) for wave in (torch.cos, torch.sin)]
    unit = w.new_tensor(torch.finfo(weight.dtype).eps)
    return torch.stack([torch.linalg.vector_norm(w), *sums, unit]).cpu()


class TurningParametrization(AdapterParametrization):
    """A frozen weight multiplied on one side by a square matrix ``R``, which starts as the identity.

    Parameters
    ----------
    weight : Tensor
        The weight to keep.
    side : "input" or "output"
        Whether the weight is ``base R`` or ``R base``.
    save_base : bool
        Whether the state dict contains the weight.
    """

    def __init__(self, weight: Tensor, *, side: Side, save_base: bool) -> None:
        super().__init__(weight, save_base=save_base)
        self.side = side

    @property
    def width(self) -> int:
        """The size of ``R``."""
        return self.base.shape[-1 if self.side == "input" else -2]

    @property
    def rows(self) -> int:
        return self.base.shape[-2 if self.side == "input" else -1]

    @abstractmethod
    def turning(self, dtype: torch.dtype, *, adjoint: bool) -> Callable[[Tensor], Tensor]:
        """Return a function that multiplies rows of that dtype, shape (..., n), by ``R`` or its adjoint.

        Where ``R`` is the identity, it returns its argument exactly.
        """

    def forward(self) -> Tensor:
        if self.base.is_meta:
            return torch.empty_like(self.base)
        with without_autocast(self.base):
            dtype = self.wide_dtype
            base = self.base.to(dtype)
            if self.side == "input":
                return self.turning(dtype, adjoint=False)(base).to(self.base.dtype)
            columns = self.turning(dtype, adjoint=True)(base.mH.resolve_conj())
            return columns.mH.resolve_conj().to(self.base.dtype).contiguous()

    def linear(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Return ``x W^T + bias`` by multiplying the inputs or the outputs by ``R``."""
        if self.side == "input":
            with without_autocast(self.base):
                x = self.turning(x.dtype, adjoint=True)(x.conj().resolve_conj()).conj()
            return nn.functional.linear(x, self.base, bias)
        y = nn.functional.linear(x, self.base, bias)
        with without_autocast(self.base):
            alone = y if bias is None else y - bias.to(y.dtype)
            turned = self.turning(y.dtype, adjoint=True)(alone.conj().resolve_conj()).conj()
            return turned if bias is None else y + (turned - alone)  # rounded like torch's linear layer where R = I

    def rotation(self) -> Tensor:
        """Return the dense ``R``, in single precision or better."""
        with without_autocast(self.base):
            eye = torch.eye(self.width, dtype=self.wide_dtype, device=self.base.device)
            return self.turning(eye.dtype, adjoint=False)(eye.expand(*self.base.shape[:-2], -1, -1))

    @torch.no_grad()
    def defect(self) -> Tensor | None:
        """Return the distance of ``R`` from an orthogonal matrix."""
        found = defect(widened(self.rotation()))
        return found.max() if found.numel() else found.new_zeros(())


def orthogonal(retraction: Retraction, A: Tensor) -> Tensor:
    """Return the retraction of a skew-Hermitian matrix, orthogonal to the last digits of single precision."""
    R = retraction.group_map(A)
    if R.dtype not in (torch.float32, torch.complex64):
        return R
    with torch.no_grad():  # the derivative of the correction is the identity on tangent vectors
        correction = polish(R) - R
    return R + correction


def wide(numbers: Tensor) -> Tensor:
    """Return numbers in single precision that a load with ``assign=True`` may have left in half precision."""
    return numbers.to(torch.promote_types(numbers.dtype, torch.float32))


def require_side(side: str, name: str) -> None:
    """Raise unless ``side`` is "input" or "output"."""
    if side not in ("input", "output"):
        raise OptionError(
            f"side of {name} is unknown.\n"
            f'Expected "input" for W0 R, or "output" for R W0; got {side!r:.40}.\nCheck the spelling.'
        )


def require_weight(like: Tensor, name: str) -> None:
    """Raise unless a tensor is a batch of nonempty matrices of floating point numbers."""
    if like.ndim < 2 or not all(like.shape[-2:]):
        raise ShapeError(
            f"{name} needs a weight with at least one row and one column.\n"
            f"Expected shape (..., rows, columns), got {tuple(like.shape)}.\n"
            "Constrain a matrix, or pass matrix_dims to read the weight as one."
        )


def _require_same_base(known: Tensor, own: Tensor, path: str) -> None:
    unit = 0.0
    if known.shape == own.shape and known.is_floating_point():  # a whole checkpoint may have been rounded
        unit, known = max(torch.finfo(known.dtype).eps, float(known[-1]), float(own[-1])), known.double()
    error, bound = float((known - own)[:-1].abs().max()) if unit else torch.inf, 4 * unit * float(own[0])
    if not error <= bound:  # NaN included
        raise OffManifoldError(
            f"The adapter {path.rstrip('.')} was trained on another frozen weight.\n"
            f"Expected a fingerprint within {bound:.1e} of that of the present weight, got a distance of {error:.3g}.\n"
            "Nothing in its module was changed. Load the base model first, or train with save_base=True."
        )
