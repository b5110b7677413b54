"""What the Riemannian optimizers share: batching, checks before anything is changed, retraction, polish."""

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
from .options import DEFAULTS, RetractionOptions, require
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

Work: TypeAlias = tuple[dict[str, Any], Batch]  # with the options of its group
PlainWork: TypeAlias = tuple[dict[str, Any], Plain]
_ADVICE = "Lower the learning rate, clip the gradient, or pass on_nonfinite='skip'."


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
        At NaN or infinity in a gradient, or where a step has no result on its manifold, for example because it is
        too long: raise `NonFiniteError`, or leave everything as it is and count in `skipped`.
    capturable : bool
        Read nothing from the device, for CUDA graphs: iteration counts are fixed, a non-finite gradient or a result
        off the manifold skips the step, and polish is made at every step if at all. Not for `UnitDisc` and
        `Contraction`, whose steps need eigenvalues or singular values.
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
    checks_steps: ClassVar[bool] = True  # whether steps are those of manifolds, most of which look at their results
    carried: ClassVar[tuple[str, ...]] = ()  # the states that are tangent vectors
    ambient: ClassVar[tuple[str, ...]] = ()  # the states that are gradients as autograd gives them
    decouples_decay: ClassVar[bool] = False  # whether `advance` decays plain parameters itself, not by their gradients
    plain: ClassVar[type[Optimizer] | None] = None  # the optimizer of torch.optim that does the same without manifolds
    small: ClassVar[Choose | None] = None  # its rule for small orthogonal weights, as compiled steps take it
    fused_on: ClassVar[tuple[str, ...]] = ()  # devices on which torch has a fused implementation of it
    shared: ClassVar[type] = RetractionOptions
    __signature__: ClassVar[Signature]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.plain, cls.small = vars(cls).get("plain"), vars(cls).get("small")  # a subclass does something else
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

    def step_plain(self, plain: Plain, group: dict[str, Any], found_inf: Tensor | None = None) -> None:
        """Step plain parameters by a function of torch.optim, unless ``found_inf`` is 1; else `direction` does it."""
        raise NotImplementedError

    def joins_plain(self, group: dict[str, Any]) -> bool:
        """Whether `step_plain` serves the options of a group."""
        return not isinstance(group["lr"], Tensor)

    def in_place(self, batch: Batch, group: dict[str, Any], size: float) -> Callable[[], None] | None:
        """What steps a batch without copies and cannot fail, where no gradient is longer than ``size``, if anything."""
        return None

    def validate(self, group: dict[str, Any]) -> None:
        """Raise `OptionError` if an option of the group is out of range."""
        require(group, "lr", lambda v: v >= 0, "a number of at least 0")
        require(group, "weight_decay", lambda v: v >= 0, "a number of at least 0")
        require(group, "on_nonfinite", lambda v: v in ("raise", "skip"), "'raise' or 'skip'")
        every = "None or a whole number of at least 0"
        require(group, "polish_every", lambda v: v is None or (isinstance(v, int) and v >= 0), every)
        for p in group["params"] if group["capturable"] else ():
            require_fixed_work(manifold_of(p))

    @property
    def skipped(self) -> int:
        """How many steps were skipped for a gradient or a result that is not sound (reads the device if capturable)."""
        return int(self._skipped)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        renew(group["params"])
        try:
            self.validate(group)
            for p in group["params"] if group["capturable"] else ():  # its steps do not look
                if (manifold := manifold_of(p)) is not None:
                    self.require_point(p, manifold, group, name_of(p, self.param_groups))
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
        self.defaults.pop("differentiable", None)  # torch adds it; a group made before loading has no such option
        self._groups, self._skipped = [], 0
        for group in self.param_groups:  # a state dict of an earlier version lacks newer options
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
            What the closure returned.

        Raises
        ------
        NonFiniteError
            If a gradient has NaN or infinity, or the step has no result on the manifold, and
            ``on_nonfinite="raise"``; nothing has been changed then.
        OffManifoldError
            If a weight was overwritten by something that is not on its manifold; nothing has been changed.
        OptimizerError
            If moments were gathered before `constrain` or `release`; nothing has been changed.
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
        # what writes the steps of small weights, which have sound results, once all others have them
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
        # plain parameters and steps in place cannot fail and come last: a step that is refused has changed nothing
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
            if together.fused:  # torch does not do it, and a graph from before would give wrong gradients in silence
                increment_version(together.params)

    def _moved(self, batch: Batch, g: Tensor, group: dict[str, Any]) -> Tensor:
        """The points that a step leads to; the states of the batch are already those after it."""
        steps, x = batch.count(on_device=group["capturable"]), batch.point()  # first what `undo` goes by
        g = -g if group["maximize"] else g
        if batch.manifold is None and group["weight_decay"] and not self.decouples_decay:
            g = g + group["weight_decay"] * x
        return self.advance(batch, x, g, steps, group)

    def _require_sound(self, batch: Batch, y: Tensor, size: float) -> None:
        """Raise `NonFiniteError` unless the result of a step is finite, where its map has not looked at it itself."""
        m = batch.manifold
        known = self.checks_steps and m is not None and m.checks_steps
        if not (known or math.isfinite(norm_bound([y]))):
            require_finite(y, "The result of a step", _ADVICE)
        # an infinite second moment would end all steps; on SPD coordinates may be long though a gradient is short
        if (m is not None and m.reads_device) or not size < 1e-3 * torch.finfo(y.dtype).max ** 0.5:
            batch.require_finite_states(_ADVICE)

    def _grouped(self) -> Iterator[tuple[dict[str, Any], Batches]]:
        """Each parameter group, and what keeps its batches."""
        self._groups += [Batches(self.ambient) for _ in self.param_groups[len(self._groups) :]]
        return zip(self.param_groups, self._groups, strict=True)

    def _work(self, *, captured: bool) -> tuple[list[Work], list[PlainWork]]:
        """What has a gradient; raises where some of it is not what a step may begin with."""
        work, plain = list[Work](), list[PlainWork]()
        try:
            for group, batches in self._grouped():
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
        """Raise if a weight is off its manifold. Numbers are looked at only where another than this has written."""
        for group, batch in work:
            if batch.manifold is None or group["capturable"]:
                continue
            if batch.is_untouched() and (batch.looked % LOOK_EVERY or not repairs(batch.manifold, group)):
                batch.looked += 1  # writing through `.data` leaves no trace, so now and then there is a look
                continue
            batch.looked = 1
            for p in batch.params:
                self.require_point(p, batch.manifold, group, name_of(p, self.param_groups))
            batch.require_finite_states("Delete optimizer.state[parameter], or load another checkpoint.")
            batch.trust()  # an infinite second moment would hold its coordinate still without an error

    def require_point(self, p: Tensor, manifold: Manifold, group: dict[str, Any], name: str) -> None:
        """Raise `OffManifoldError` if a parameter is not where a step of this optimizer may begin."""
        least = REPAIRED if repairs(manifold, group) else TOLERATED
        require_on_manifold(manifold, p, name, least=least)

    def advance(self, batch: Batch, x: Tensor, g: Tensor, steps: int | Tensor, group: dict[str, Any]) -> Tensor:
        """The points that a step leads to from ``x``, given the gradient of the loss."""
        c = batch.coordinates(x, g)
        d = self.direction(batch, x, c, steps, group)
        carried = [batch.state(name, c) for name in self.carried if name in batch.states[0]]
        y = batch.move(x, d * -group["lr"], carried)
        return batch.polished(y, steps, group["polish_every"])

    def _refuse_or_skip(self, error: NonFiniteError | None = None, failed: Batch | None = None) -> None:
        """Raise for a gradient, or for the batch whose step ``failed``, unless its group skips such steps."""
        for group, p, name in refused(self.param_groups, failed.params if failed else ()):
            if (manifold := manifold_of(p)) is not None:
                self.require_point(p, manifold, group, name)  # which may be the cause
            raise bad_gradient(p, name) if error is None else no_result(p, name, error) from error
        self._skipped = self._skipped + 1

    def _forget_empty_states(self) -> None:
        for p in [p for p, s in self.state.items() if not s]:
            del self.state[p]


@uncompiled
def _run_uncompiled(optimizer: RiemannianOptimizer) -> None:
    """Nothing is won by compiling a step that reads numbers, and batches are kept by the identity of parameters."""
    optimizer._run()
