"""What the Riemannian optimizers share: batching, checks before anything is changed, retraction, polish."""

from __future__ import annotations

import cmath
import contextlib
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator
from inspect import Signature
from typing import Any, ClassVar, Unpack, overload

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from .._options import full_signature, require_known
from ..constraints.membership import require_on_manifold
from ..constraints.optimizer_hooks import renew
from ..errors import ManifoldError, NonFiniteError, OptionError, UnsupportedError
from ..linalg import fixed_iterations
from ..linalg.precision import may_read_device
from ..manifolds import Manifold, manifold_of
from .batch import Batch, Batches, require_fixed_work
from .options import DEFAULTS, RetractionOptions

_LOOK_EVERY = 100  # steps between two looks at the numbers of weights that nothing seems to have touched
_REPAIRED = 5e-2  # the defect that two corrections of rounding drift bring down to rounding in single precision
_TOLERATED = 1e-3  # without corrections, that of a weight which single precision has rounded


class RiemannianOptimizer(Optimizer):
    r"""Base of the optimizers that move parameters along their manifolds.

    A step takes the coordinates ``c`` of the Riemannian gradient, lets the subclass turn them into a direction ``d``
    with its moments kept in the same coordinates, and moves

    .. math:: x \leftarrow R_x(-\eta\, d).

    Parameters without a manifold are Euclidean: there it is the optimizer of `torch.optim` of that name.

    Parameters
    ----------
    params : iterable of Tensor, named parameters, or param groups
    defaults : dict
        Options of the subclass, with their default values; ``lr`` and ``weight_decay`` are among them.
    maximize : bool
        Ascend instead.
    on_nonfinite : {"raise", "skip"}
        At NaN or infinity in a gradient: raise `NonFiniteError`, or leave everything as it is and count in `skipped`.
    capturable : bool
        Read nothing from the device, for CUDA graphs: iteration counts are fixed, a non-finite gradient skips the step,
        and polish is made at every step if at all. Not for `UnitDisc` and `Contraction`, whose steps need eigenvalues
        or singular values.
    polish_every : int, optional
        Steps between two corrections of rounding drift; 0 for never. Default: what each manifold needs, which for ours
        is 1 (0 with the QR and polar retractions, which correct themselves) and for geoopt's 0.

    Raises
    ------
    OptionError
        If an option is out of range, or unknown.

    Notes
    -----
    A subclass takes ``**options`` and passes them on; its signature then shows each of them.

    Examples
    --------
    >>> optimizer = mr.optim.RiemannianSGD([torch.nn.Parameter(torch.ones(2))], lr=0.1)
    >>> assert isinstance(optimizer, mr.optim.RiemannianOptimizer) and optimizer.skipped == 0
    """

    moves_on_manifolds: ClassVar[bool] = True
    carried: ClassVar[tuple[str, ...]] = ()  # the states that are tangent vectors
    plain: ClassVar[type[Optimizer] | None] = None  # the optimizer of torch.optim that does the same without manifolds
    shared: ClassVar[type] = RetractionOptions
    __signature__: ClassVar[Signature]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.plain = vars(cls).get("plain")  # a subclass does something else
        if "__init__" in vars(cls):
            cls.__signature__ = full_signature(cls.__init__, cls.shared, DEFAULTS)

    def __init__(self, params: ParamsT, defaults: dict[str, Any], **options: Unpack[RetractionOptions]) -> None:
        require_known(type(self), self.shared, options)
        self._groups: list[Batches] = []
        self._skipped: int | Tensor = 0
        super().__init__(params, {**defaults, **DEFAULTS, **options})

    @abstractmethod
    def direction(self, batch: Batch, x: Tensor, c: Tensor, steps: int | Tensor, group: dict[str, Any]) -> Tensor:
        """Coordinates of the direction of ascent, from those of the gradient ``c``; updates the moments in place."""

    def validate(self, group: dict[str, Any]) -> None:
        """Raise `OptionError` if an option of the group is out of range."""
        require(group, "lr", lambda v: v >= 0, "a number of at least 0")
        require(group, "weight_decay", lambda v: v >= 0, "a number of at least 0")
        require(group, "on_nonfinite", lambda v: v in ("raise", "skip"), "'raise' or 'skip'")
        require(
            group,
            "polish_every",
            lambda v: v is None or (isinstance(v, int) and v >= 0),
            "None or a whole number of at least 0",
        )
        if group["capturable"]:
            for p in group["params"]:
                require_fixed_work(manifold_of(p))

    @property
    def skipped(self) -> int:
        """How many steps were skipped for a non-finite gradient (reads the device if ``capturable``)."""
        return int(self._skipped)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        renew(group["params"])
        try:
            self.validate(group)
            for p in group["params"] if group["capturable"] else ():  # its steps do not look
                if (manifold := manifold_of(p)) is not None:
                    self.require_point(p, manifold, group, self._name_of(p))
        except ManifoldError:
            self.param_groups.pop()
            raise
        if group["weight_decay"] and any(manifold_of(p) is not None for p in group["params"]):
            warnings.warn(
                "weight_decay pulls a weight off its manifold and is ignored for the constrained ones of this group; "
                "put them into one without it.",
                stacklevel=3,
            )

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._groups, self._skipped = [], 0

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Move every parameter that has a gradient.

        Parameters
        ----------
        closure : callable, optional
            Evaluates the model again and returns the loss.

        Returns
        -------
        float or None
            What the closure returned.

        Raises
        ------
        NonFiniteError
            If a gradient has NaN or infinity and ``on_nonfinite="raise"``; nothing has been changed then.
        OffManifoldError
            If a weight was overwritten by something that is not on its manifold; nothing has been changed.
        OptimizerError
            If moments were gathered before `constrain` or `release`; nothing has been changed.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        try:
            work = [
                (group, batch)
                for group, batches in self._grouped()
                for batch in batches.of(group["params"], self.state)
            ]
            self._require_points(work)
        except ManifoldError:
            self._forget_empty_states()
            raise
        gradients = [batch.gradient() for _, batch in work]
        capturable = any(group["capturable"] for group in self.param_groups)
        with fixed_iterations() if capturable else contextlib.nullcontext():
            finite = _all_finite(gradients) if capturable else None
            if finite is None and not (_surely_finite(gradients) or bool(_all_finite(gradients))):
                self._forget_empty_states()
                self._refuse_or_skip()
                return loss
            for (group, batch), g in zip(work, gradients, strict=True):
                self._step(batch, g, group, finite)
        if finite is not None:
            self._count_skipped(finite)
        return loss

    def _grouped(self) -> Iterator[tuple[dict[str, Any], Batches]]:
        """Each parameter group, and what keeps its batches."""
        self._groups += [Batches() for _ in self.param_groups[len(self._groups) :]]
        return zip(self.param_groups, self._groups, strict=True)

    def _step(self, batch: Batch, g: Tensor, group: dict[str, Any], finite: Tensor | None) -> None:
        x = batch.point()
        before = [{k: v.clone() for k, v in s.items()} for s in batch.states] if finite is not None else []
        steps = batch.count(on_device=group["capturable"])
        g = -g if group["maximize"] else g
        if batch.manifold is None and group["weight_decay"]:
            g = g + group["weight_decay"] * x
        y = self.advance(batch, x, g, steps, group)
        if finite is None:
            batch.write(y)
            batch.remember()
            return
        batch.write(torch.where(finite, y, x))
        for s, old in zip(batch.states, before, strict=True):
            for k, v in s.items():
                v.copy_(torch.where(finite, v, old.get(k, batch.starts.get(k, 0.0))))

    def _require_points(self, work: list[tuple[dict[str, Any], Batch]]) -> None:
        """Raise if a weight is off its manifold. Numbers are looked at only where another than this has written."""
        for group, batch in work:
            if batch.manifold is None or group["capturable"] or torch.compiler.is_compiling():
                continue
            if batch.is_untouched() and (batch.looked % _LOOK_EVERY or not _repairs(batch.manifold, group)):
                batch.looked += 1  # writing through `.data` leaves no trace, so now and then there is a look
                continue
            batch.looked = 1
            for p in batch.params:
                self.require_point(p, batch.manifold, group, self._name_of(p))

    def require_point(self, p: Tensor, manifold: Manifold, group: dict[str, Any], name: str) -> None:
        """Raise `OffManifoldError` if a parameter is not where a step of this optimizer may begin."""
        least = _REPAIRED if _repairs(manifold, group) else _TOLERATED
        require_on_manifold(manifold, p, name, least=least)

    def _name_of(self, p: Tensor) -> str:
        for i, group in enumerate(self.param_groups):
            for j, q in enumerate(group["params"]):
                if q is p:
                    return str(group["param_names"][j]) if "param_names" in group else f"number {j} of group {i}"
        return ""

    def advance(self, batch: Batch, x: Tensor, g: Tensor, steps: int | Tensor, group: dict[str, Any]) -> Tensor:
        """The points that a step leads to from ``x``, given the gradient of the loss."""
        c = batch.coordinates(x, g)
        d = self.direction(batch, x, c, steps, group)
        carried = [batch.state(name, c) for name in self.carried if name in batch.states[0]]
        y = batch.move(x, d * -group["lr"], carried)
        return self._polished(batch, y, steps, group["polish_every"])

    @staticmethod
    def _polished(batch: Batch, y: Tensor, steps: int | Tensor, every: int | None) -> Tensor:
        if batch.manifold is None:
            return y
        every = batch.manifold.polish_every if every is None else every
        due = every and (isinstance(steps, Tensor) or steps % every == 0)
        return batch.manifold.polish(y) if due else y

    def _refuse_or_skip(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None or bool(p.grad.isfinite().all()) or group["on_nonfinite"] == "skip":
                    continue
                if (manifold := manifold_of(p)) is not None:
                    self.require_point(p, manifold, group, self._name_of(p))  # which may be the cause
                raise NonFiniteError(
                    f"A step needs finite gradients; nothing has been changed.\n"
                    f"Got {int((~p.grad.isfinite()).sum())} of {p.numel()} entries NaN or infinite in parameter "
                    f"{self._name_of(p)}, shape {tuple(p.shape)}.\n"
                    "Lower the rate, clip the gradient, or pass on_nonfinite='skip'."
                )
        self._skipped = self._skipped + 1

    def _forget_empty_states(self) -> None:
        for p in [p for p, s in self.state.items() if not s]:
            del self.state[p]

    def _count_skipped(self, finite: Tensor) -> None:
        if not isinstance(self._skipped, Tensor):
            self._skipped = torch.full((), self._skipped, dtype=torch.long, device=finite.device)
        self._skipped.add_(~finite)


def _repairs(manifold: Manifold | None, group: dict[str, Any]) -> bool:
    """Whether steps bring a weight that is slightly off its manifold back to it."""
    if manifold is None:
        return False
    if manifold.retraction is not None and manifold.retraction.self_correcting:
        return True
    every = group.get("polish_every")
    return bool(manifold.polish_every if every is None else every)


def _surely_finite(gradients: list[Tensor]) -> bool:
    """Whether the sum of all entries is finite, which NaN and infinity survive; large numbers may make one."""
    _refuse_sparse(gradients)
    if not gradients or not may_read_device():
        return not gradients
    total = gradients[0].sum()
    if len(gradients) > 1:  # one number to wait for
        total = sum((g.sum().abs().to(total.device, torch.float64) for g in gradients[1:]), total.abs().double())
    return cmath.isfinite(total.item())


def _all_finite(gradients: list[Tensor]) -> Tensor:
    """Whether every entry is finite, as one truth value on the device."""
    _refuse_sparse(gradients)
    gradients = [g for g in gradients if g.numel()]
    if not gradients:
        return torch.ones((), dtype=torch.bool)
    return torch.stack([g.isfinite().all().to(gradients[0].device) for g in gradients]).all()


def _refuse_sparse(gradients: list[Tensor]) -> None:
    if any(g.is_sparse for g in gradients):
        raise UnsupportedError(
            "A Riemannian step takes dense gradients.\nGot a sparse one.\n"
            "Use sparse=False, or geoopt's SparseRiemannianAdam."
        )


def require(group: dict[str, Any], name: str, holds: Callable[[Any], bool], rule: str) -> None:
    """Raise `OptionError` unless the option of the group obeys the rule."""
    try:
        ok = holds(group[name])
    except TypeError:
        ok = False
    if not ok:
        raise OptionError(f"{name} is {rule}.\nGot {group[name]!r}.\nCorrect the option of that parameter group.")


def require_second_moment(group: dict[str, Any]) -> None:
    """Raise `OptionError` unless the second moment is one that `Batch.square` knows."""
    require(group, "second_moment", lambda v: v in ("elementwise", "matrix"), "'elementwise' or 'matrix'")
