"""The base class of Riemannian optimizers: batching, checks before anything is changed, retraction, polishing."""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator
from inspect import Signature
from typing import Any, ClassVar, TypeAlias, Unpack, overload

import torch
from torch import Tensor
from torch.autograd.graph import increment_version
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from .._options import full_signature, require_known
from .._torch import uncompiled
from ..constraints.membership import require_on_manifold
from ..constraints.optimizer_hooks import renew
from ..errors import ManifoldError, NonFiniteError
from ..linalg.checks import require_finite
from ..manifolds import Manifold, manifold_of
from .batch import Batch, Batches, Join, require_fixed_work
from .captured import count_skipped, move_captured
from .options import DEFAULTS, RetractionOptions, StateKinds, require_own_options, require_shared
from .plain import Plain
from .preconditions import (
    LOOK_EVERY,
    REPAIRED,
    TOLERATED,
    all_finite,
    bad_gradient,
    name_of,
    no_result,
    norm_bound,
    refused,
    repairs,
)
from .small import Choose, prepared

Work: TypeAlias = tuple[dict[str, Any], Batch]  # a batch with the options of its group
PlainWork: TypeAlias = tuple[dict[str, Any], Plain]
_ADVICE = "Lower the learning rate, clip the gradient, or pass on_nonfinite='skip'."


class RiemannianOptimizer(Optimizer):
    r"""Base of the optimizers that move parameters along their manifolds.

    A step computes the coordinates ``c`` of the Riemannian gradient. The subclass turns them into a direction ``d``,
    with moments in the same coordinates. Then the parameter moves:

    .. math:: x \leftarrow R_x(-\eta\, d).

    Parameters without a manifold are Euclidean, and updated as by the optimizer of the same name in `torch.optim`.

    Parameters
    ----------
    params : iterable of Tensor, named parameters, or param groups
    defaults : dict
        The options of the subclass with their default values, including ``lr`` and ``weight_decay``.
    maximize : bool
        Whether to ascend.
    on_nonfinite : {"raise", "skip"}
        What to do if a gradient contains NaN or infinity, or a step is too long to have a result. Raise
        `NonFiniteError`, or skip the step: nothing is changed, and the step is counted in `skipped`.
    capturable : bool
        Whether to read nothing from the device, for CUDA graphs. Iteration counts are fixed, bad gradients and results
        skip the step, and ``polish_every`` is 0 or 1. Not for `UnitDisc` and `Contraction`, whose steps need
        eigenvalues or singular values.
    polish_every : int, optional
        Steps between two corrections of rounding drift; 0 for none. Default: 1 for the manifolds of this package (0
        with the QR and polar retractions, which correct themselves), and 0 for those of geoopt.

    Raises
    ------
    OptionError
        If an option is unknown or out of range.

    Notes
    -----
    A subclass accepts ``**options`` and passes them on; its signature then shows each of them.

    Examples
    --------
    >>> optimizer = mr.optim.RiemannianSGD([torch.nn.Parameter(torch.ones(2))], lr=0.1)
    >>> assert isinstance(optimizer, mr.optim.RiemannianOptimizer) and optimizer.skipped == 0
    """

    moves_on_manifolds: ClassVar[bool] = True
    checks_steps: ClassVar[bool] = True  # whether steps are those of manifolds, which check their own results
    carried: ClassVar[tuple[str, ...]] = ()  # the states that are tangent vectors
    kinds: ClassVar[StateKinds] = StateKinds()  # the states that are no coordinates
    decouples_decay: ClassVar[bool] = False  # whether `advance` itself decays plain parameters
    plain: ClassVar[type[Optimizer] | None] = None  # the equivalent optimizer of torch.optim without manifolds
    small: ClassVar[Choose | None] = None  # its rule for small orthogonal weights in compiled steps
    fused_on: ClassVar[tuple[str, ...]] = ()  # devices on which torch has a fused implementation of it
    shared: ClassVar[type] = RetractionOptions
    __signature__: ClassVar[Signature]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.plain, cls.small = vars(cls).get("plain"), vars(cls).get("small")  # not inherited
        if "__init__" in vars(cls):
            cls.__signature__ = full_signature(cls.__init__, cls.shared, DEFAULTS)

    def __init__(self, params: ParamsT, defaults: dict[str, Any], **options: Unpack[RetractionOptions]) -> None:
        require_known(type(self), self.shared, options)
        self._groups: list[Batches] = []
        self._skipped: int | Tensor = 0
        super().__init__(params, {**defaults, **DEFAULTS, **options})

    @abstractmethod
    def direction(self, batch: Batch, x: Tensor, c: Tensor, steps: int | Tensor, group: dict[str, Any]) -> Tensor:
        """Return coordinates of the direction of ascent, given those of the gradient ``c``; update the moments."""

    def step_plain(self, plain: Plain, group: dict[str, Any], found_inf: Tensor | None = None) -> None:
        """Update plain parameters by a function of torch.optim, unless ``found_inf`` is 1."""
        raise NotImplementedError

    def joins_plain(self, group: dict[str, Any]) -> bool:
        """Return whether `step_plain` supports the options of a group."""
        return not isinstance(group["lr"], Tensor)

    def in_place(self, batch: Batch, group: dict[str, Any], size: float) -> Callable[[], None] | None:
        """Return a function that updates a batch in place and cannot fail for gradients up to ``size``, or None."""
        return None

    def validate(self, group: dict[str, Any]) -> None:
        """Raise `OptionError` if an option of the group is out of range."""
        require_shared(group)
        for p in group["params"] if group["capturable"] else ():
            require_fixed_work(manifold_of(p))

    @property
    def skipped(self) -> int:
        """Number of steps skipped for a bad gradient or result (reads the device if capturable)."""
        return int(self._skipped)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        renew(group["params"])
        try:
            self.validate(group)
            for p in group["params"] if group["capturable"] else ():  # captured steps cannot read numbers
                if (manifold := manifold_of(p)) is not None:
                    self.require_point(p, manifold, group, name_of(p, self.param_groups))
        except ManifoldError:
            self.param_groups.pop()
            raise
        if group["weight_decay"] and any(manifold_of(p) is not None for p in group["params"]):
            warnings.warn(
                "weight_decay would pull a weight off its manifold, so it is ignored for the constrained weights of "
                "this group. Put them into a group without weight_decay.",
                stacklevel=3,
            )

    def __setstate__(self, state: dict[str, Any]) -> None:
        require_own_options(type(self), RiemannianOptimizer, state["param_groups"], vars(self).get("param_groups"))
        super().__setstate__(state)
        self.defaults.pop("differentiable", None)  # torch adds this option, which older groups lack
        self._groups, self._skipped = [], 0
        for group in self.param_groups:  # state dicts of earlier versions lack newer options
            group |= {**self.defaults, **group}

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
            The return value of the closure.

        Raises
        ------
        NonFiniteError
            If a gradient contains NaN or infinity, or the step has no result on the manifold, and
            ``on_nonfinite="raise"``. Nothing has been changed then.
        OffManifoldError
            If a weight was overwritten by a value off its manifold. Nothing has been changed then.
        OptimizerError
            If moments were collected on another manifold or with other options. Nothing has been changed then.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._run()
        return loss

    def _run(self) -> None:
        if torch.compiler.is_compiling():
            _run_uncompiled(self)
            return
        captured = any(group["capturable"] for group in self.param_groups)
        work, plain = self._work(captured=captured)
        # functions that write the steps of small weights, called once all other steps have valid results
        ready = [None if captured else prepared(batch, group, type(self).small) for group, batch in work]
        work = [each for each, call in zip(work, ready, strict=True) if call is None]
        if not (work or plain):
            for call in filter(None, ready):
                call()
            return
        alone = [] if captured else [each for each in work if self.in_place(each[1], each[0], 0.0)]
        work = [each for each in work if not any(each is other for other in alone)]
        gradients = [batch.gradient() for _, batch in work]
        everything = [*gradients, *(g for _, together in plain for g in together.gradients())]
        everything += [p.grad for _, batch in alone for p in batch.params if p.grad is not None]
        if captured:
            sound = move_captured(work, gradients, all_finite(everything), self._moved, checks=self.checks_steps)
            self._step_plain([({**group, "capturable": True}, each) for group, each in plain], (~sound).float())
            self._skipped = count_skipped(self._skipped, sound)
            return
        size = norm_bound(everything)
        if not (math.isfinite(size) or bool(all_finite(everything))):
            self._forget_empty_states()
            self._refuse_or_skip()
            return
        calls = [self.in_place(batch, group, size) for group, batch in alone]
        if None in calls:
            work, gradients, calls = [*work, *alone], [*gradients, *(batch.gradient() for _, batch in alone)], []
        moved: list[tuple[Batch, Tensor]] = []
        # plain parameters and steps in place cannot fail and come last, so a refused step has changed nothing
        for (group, batch), g in zip(work, gradients, strict=True):
            if batch.manifold is None:
                continue
            try:
                self._require_sound(batch, y := self._moved(batch, g, group), size)
            except BaseException as error:
                for other in (batch, *(done for done, _ in moved)):
                    other.undo()
                self._forget_empty_states()
                if not isinstance(error, NonFiniteError):
                    raise
                self._refuse_or_skip(error, batch)
                return
            moved.append((batch, y))
        for batch, y in moved:
            batch.write(y)
        for (group, batch), g in zip(work, gradients, strict=True):
            if batch.manifold is None:
                batch.write(self._moved(batch, g, group))
        for call in filter(None, [*calls, *ready]):
            call()
        self._step_plain(plain)

    def _step_plain(self, plain: list[PlainWork], found_inf: Tensor | None = None) -> None:
        for group, together in plain:
            self.step_plain(together, group, found_inf)
            if together.fused:  # torch does not count versions there, so older graphs would give wrong gradients
                increment_version(together.params)

    def _moved(self, batch: Batch, g: Tensor, group: dict[str, Any]) -> Tensor:
        """Return the points after a step. The states of the batch are those after the step."""
        steps, x = batch.count(on_device=group["capturable"]), batch.point()  # first, since `undo` relies on it
        g = -g if group["maximize"] else g
        if batch.manifold is None and group["weight_decay"] and not self.decouples_decay:
            g = g + group["weight_decay"] * x
        return self.advance(batch, x, g, steps, group)

    def _require_sound(self, batch: Batch, y: Tensor, size: float) -> None:
        """Raise `NonFiniteError` unless the result of a step is finite, if its manifold has not checked it."""
        m = batch.manifold
        known = self.checks_steps and m is not None and m.checks_steps
        if not (known or math.isfinite(norm_bound([y]))):
            require_finite(y, "The result of a step", _ADVICE)
        # an infinite second moment would end all steps; on SPD coordinates may be long for a short gradient
        if (m is not None and m.reads_device) or not size < 1e-3 * torch.finfo(y.dtype).max ** 0.5:
            batch.require_finite_states(_ADVICE)

    def _grouped(self) -> Iterator[tuple[dict[str, Any], Batches]]:
        """Yield each parameter group and its batches."""
        self._groups += [Batches(self.kinds) for _ in self.param_groups[len(self._groups) :]]
        return zip(self.param_groups, self._groups, strict=True)

    def _work(self, *, captured: bool) -> tuple[list[Work], list[PlainWork]]:
        """Return all batches with a gradient; raise if a step cannot start with one of them."""
        work, plain = list[Work](), list[PlainWork]()
        try:
            for group, batches in self._grouped():
                batches.accept_options(group, self.validate)
                joins = "step_plain" in vars(type(self)) and self.joins_plain({**group, "capturable": captured})
                join: Join = (self.fused_on if joins else None, captured)
                alike, together = batches.of(group["params"], self.state, join)
                work += [(group, batch) for batch in alike]
                plain += [(group, each) for each in together]
            self._require_points(work)
        except ManifoldError:
            self._forget_empty_states()
            raise
        return work, plain

    def _require_points(self, work: list[Work]) -> None:
        """Raise if a weight is off its manifold. Numbers are read only if something else has written to the weight."""
        for group, batch in work:
            if batch.manifold is None or group["capturable"]:
                continue
            if batch.is_untouched() and (batch.looked % LOOK_EVERY or not repairs(batch.manifold, group)):
                batch.looked += 1  # writes through `.data` are not detected, so numbers are read now and then
                continue
            batch.looked = 1
            for p in batch.params:
                self.require_point(p, batch.manifold, group, name_of(p, self.param_groups))
            batch.require_finite_states("Delete optimizer.state[parameter], or load another checkpoint.")
            batch.trust()  # checked before, since an infinite second moment would silently stop its coordinate

    def require_point(self, p: Tensor, manifold: Manifold, group: dict[str, Any], name: str) -> None:
        """Raise `OffManifoldError` if a step of this optimizer cannot start at a parameter."""
        least = REPAIRED if repairs(manifold, group) else TOLERATED
        require_on_manifold(manifold, p, name, least=least)

    def advance(self, batch: Batch, x: Tensor, g: Tensor, steps: int | Tensor, group: dict[str, Any]) -> Tensor:
        """Return the points after a step from ``x``, given the gradient of the loss."""
        c = batch.coordinates(x, g)
        d = self.direction(batch, x, c, steps, group)
        carried = [batch.state(name, c) for name in self.carried if name in batch.states[0]]
        y = batch.move(x, d * -group["lr"], carried)
        return batch.polished(y, steps, group["polish_every"])

    def _refuse_or_skip(self, error: NonFiniteError | None = None, failed: Batch | None = None) -> None:
        """Raise for a bad gradient or for the batch whose step ``failed``, unless its group skips such steps."""
        for group, p, name in refused(self.param_groups, failed.params if failed else ()):
            if (manifold := manifold_of(p)) is not None:
                self.require_point(p, manifold, group, name)  # a point off its manifold may be the cause
            raise bad_gradient(p, name) if error is None else no_result(p, name, error) from error
        self._skipped = self._skipped + 1

    def _forget_empty_states(self) -> None:
        for p in [p for p, s in self.state.items() if not s]:
            del self.state[p]


@uncompiled
def _run_uncompiled(optimizer: RiemannianOptimizer) -> None:
    """Run a step uncompiled: it reads numbers, and batches depend on the identity of parameters."""
    optimizer._run()
