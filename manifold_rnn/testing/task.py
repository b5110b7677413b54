"""Check of a task."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from ..tasks import Task
from ..tasks.base import Splits
from ..tasks.synthetic import Synthetic
from .report import Report, at_most
from .sample import difference, directional_error, largest, refuses, seeded

_BOUND = 5.0  # standard errors
_FIT_STEPS = 100
_FEW = 8  # sequences for derivatives


@dataclass(frozen=True)
class TaskReport(Report):
    """The result of `check_task`.

    Attributes
    ----------
    rtol : float
        Bound of relative errors.
    baseline_rtol : float
        Relative error of the baseline that is accepted in addition to five standard errors.

    Examples
    --------
    >>> report = mr.testing.check_task(mr.tasks.Adding(9, sizes=(500, 50, 500)))
    >>> assert report.shapes == 0 and report.baseline_loss < 1
    """

    rtol: float
    baseline_rtol: float
    shapes: float = at_most("tensors of a wrong shape or dtype, or empty sets", 0.0)
    repeated: float = at_most("difference of two calls of splits or train_epoch, under other global seeds", 0.0)
    global_state: float = at_most("calls that change the state of torch's global generator", 0.0)
    same_sets: float = at_most("pairs of equal sets among training, validation, test, and those of other seeds", 0.0)
    generator: float | None = at_most("samples that ignore their generator", 0.0)
    not_finite: float = at_most("inputs, losses or metrics that are not finite", 0.0)
    gradient: float = at_most("relative error of the derivative of the loss by the outputs", "rtol")
    mean: float = at_most("how far the loss of a batch is from any mean of its sequences, relative", "rtol")
    baseline_loss: float = at_most("error of the loss of the baseline, in units of its bound", 1.0)
    baseline_metric: float = at_most("error of the metric of the baseline, in units of its bound", 1.0)
    accepted: float = at_most("sizes or seeds below their least value that were not refused", 0.0)


def check_task(
    task: Task,
    *,
    count: int = 1000,
    rtol: float = 1e-6,
    baseline_rtol: float = 0.02,
    atol: float = 1e-9,
    seed: int = 0,
    strict: bool = False,
) -> TaskReport:
    r"""Measure whether a task fulfils its contract, and whether its baseline is right.

    Use a task with small sets, since all of them are drawn or read several times.

    Parameters
    ----------
    task : Task
        The task.
    count : int
        Number of test sequences on which the baseline is measured, at most.
    rtol : float
        Bound of relative errors.
    baseline_rtol : float
        Relative error of the baseline that is accepted in addition to five standard errors. Use a larger value if the
        sets of a task have different frequencies of targets.
    atol : float
        Bound of the numbers that are 0 up to rounding errors.
    seed : int
        Seed of the random numbers; the state of torch's generator is restored.
    strict : bool
        Whether to raise `CheckError` if a number is out of bounds.

    Returns
    -------
    TaskReport
        ``generator`` is None if the task has no ``sample``.

    Raises
    ------
    CheckError
        With ``strict``, if a number is out of bounds.

    Notes
    -----
    The baseline is compared with the best constant outputs, which do not depend on the input. With ``every_step`` they
    are equal for all time steps, or one for each time step; the closer of the two counts. The check minimizes the loss
    of the test set over such outputs. For losses :math:`\ell_i` of single sequences with standard deviation
    :math:`\sigma`, and :math:`p` outputs, the bound of the error is

    .. math:: 5\,\frac{\sigma}{\sqrt N} + \frac{p}{N}\,|b| + r\,|b|,

    where ``b`` is the baseline and ``r`` is ``baseline_rtol``. The second term is the error from fitting the outputs to
    the sequences that are scored. The baseline is not measured if a shape, a number or the gradient is wrong.

    Examples
    --------
    >>> import dataclasses
    >>> @dataclasses.dataclass(frozen=True)
    ... class Wrong(mr.tasks.Adding):
    ...     def baseline(self):
    ...         return mr.tasks.Score(loss=1.0, metric=0.08)
    >>> report = mr.testing.check_task(Wrong(9, sizes=(500, 50, 500)))
    >>> assert [row.name for row in report.failures] == ["baseline_loss"]
    """
    with seeded(seed):
        case = _Case(task, count)
        shapes, not_finite = case.wrong_shapes(), case.not_finite()
        sound = not shapes and not not_finite
        gradient = case.gradient_error() if sound else math.inf
        loss, metric = case.baseline_errors(baseline_rtol) if gradient <= rtol else (math.inf, math.inf)
        report = TaskReport(
            "check_task",
            type(task).__name__,
            atol,
            rtol=rtol,
            baseline_rtol=baseline_rtol,
            shapes=float(shapes),
            repeated=case.repeated(),
            global_state=float(case.changes_global_state()),
            same_sets=float(case.same_sets()),
            generator=float(case.ignored_generators(task)) if isinstance(task, Synthetic) else None,
            not_finite=float(not_finite),
            gradient=gradient,
            mean=case.mean_error() if sound else math.inf,
            baseline_loss=loss,
            baseline_metric=metric,
            accepted=float(sum(not refuses(use) for use in _bad_options(task))),
        )
    return report.require() if strict else report


class _Case:
    """A task with its sets, and a batch of the test set."""

    def __init__(self, task: Task, count: int) -> None:
        self.task, self.splits = task, task.splits()
        x, targets = self.splits.test[: min(count, len(self.splits.test))]
        # outputs are in double precision, and older versions of torch have no derivative of losses of two dtypes
        self.x, self.targets = x, targets.double() if targets.is_floating_point() else targets

    def wrong_shapes(self) -> int:
        """Count the tensors of a wrong shape or dtype, and empty sets."""
        task, wrong = self.task, []
        for k, part in enumerate(self.splits):
            wrong.append(not len(part))
            if len(part):
                x, targets = part[: min(2, len(part))]
                steps = task.length if k < 2 else x.shape[1]  # a test set may have another length
                wrong += [x.shape[1:] != (steps, task.input_size), x.dtype != torch.float32]
                wrong += [len(targets) != len(x), task.every_step and targets.shape[1:2] != x.shape[1:2]]
        scores = None if any(wrong) else self._scores(self.x, self.targets)
        wrong += [score.shape != () or not score.is_floating_point() for score in scores or ()]
        return sum(wrong)

    def not_finite(self) -> int:
        """Count the inputs, losses and metrics that are not finite, for every set and for one sequence."""
        count = 0
        for part in self.splits:
            for rows in ([0], range(min(50, len(part)))) if len(part) else ():
                x, targets = part[list(rows)]
                scores = self._scores(x, targets)
                count += scores is None or sum(not bool(value.isfinite().all()) for value in (x, *scores))
        return count

    def _scores(self, x: Tensor, targets: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return loss and metric of random outputs, or None if they refuse the targets, as for a class out of range."""
        try:
            return self.task.loss(self.outputs_like(x), targets), self.task.metric(self.outputs_like(x), targets)
        except (IndexError, RuntimeError):
            return None

    def outputs_like(self, x: Tensor) -> Tensor:
        """Return random outputs for these inputs."""
        steps = (x.shape[1],) if self.task.every_step else ()
        return torch.randn(len(x), *steps, self.task.output_size, dtype=torch.float64)

    def repeated(self) -> float:
        """Return the difference of two calls under other states of the global generator."""
        torch.manual_seed(1)
        again, epochs = self.task.splits(), [self.task.train_epoch(2)]
        torch.manual_seed(2)
        epochs.append(self.task.train_epoch(2))
        pairs = [*zip(self.splits, again, strict=True), tuple(epochs)]
        return largest(difference(_content(a), _content(b)) for a, b in pairs)

    def changes_global_state(self) -> int:
        """Count the calls that draw numbers from the global generator."""
        calls: list[Callable[[], object]] = [self.task.splits, partial(self.task.train_epoch, 1), self.task.baseline]
        return sum(_changes_state(call) for call in calls)

    def same_sets(self) -> int:
        """Count the pairs of equal sets, also of another seed, or of two epochs of a fresh task."""
        sets = list(self.splits)
        pairs = [(sets[0], sets[1]), (sets[0], sets[2]), (sets[1], sets[2])]
        if "seed" in _fields(self.task):
            pairs.append((sets[0], _changed(self.task, seed=vars(self.task)["seed"] + 1).splits().train))
        if "fresh" in _fields(self.task):
            fresh = _changed(self.task, fresh=True)
            pairs.append((fresh.train_epoch(1), fresh.train_epoch(2)))
        return sum(difference(_content(a), _content(b)) == 0 for a, b in pairs)

    def ignored_generators(self, task: Synthetic) -> int:
        """Count the laws of generators that samples break: equal seeds give equal samples, others different ones."""
        one, two, other = (task.sample(20, generator=torch.Generator().manual_seed(k)) for k in (1, 1, 2))
        return int(difference(one, two) != 0) + int(difference(one[:1], other[:1]) == 0)

    def gradient_error(self) -> float:
        """Return the relative error of the derivative of the loss by the outputs."""
        x, targets = self.x[:_FEW], self.targets[:_FEW]
        return directional_error(lambda outputs: self.task.loss(outputs[0], targets), [self.outputs_like(x)])

    def mean_error(self) -> float:
        """Return by how much the loss of a batch is no mean of the losses of its sequences, relative.

        It has to lie between them, and stay the same if the batch is repeated.
        """
        x, targets = self.x[:_FEW], self.targets[:_FEW]
        outputs, f = self.outputs_like(x), self.task.loss
        whole, each = float(f(outputs, targets)), self._each(f, outputs, targets)
        twice = float(f(torch.cat([outputs] * 2), torch.cat([targets] * 2)))
        gaps = (whole - float(each.max()), float(each.min()) - whole, abs(twice - whole), 0.0)
        return largest(gaps) / max(abs(whole), 1e-3)

    @staticmethod
    def _each(f: Callable[[Tensor, Tensor], Tensor], outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the score of each sequence."""
        return torch.stack([f(outputs[k : k + 1], targets[k : k + 1]).double() for k in range(len(outputs))])

    def baseline_errors(self, rtol: float) -> tuple[float, float]:
        """Return the errors of the loss and the metric of the baseline, in units of their bounds."""
        every = [self._errors(self._best_constant(steps), rtol) for steps in self._lengths()]
        return min(every, key=max)

    def _lengths(self) -> list[int | None]:
        """Return for how many time steps there is an output of its own: all, or one for all of them."""
        return [1, self.x.shape[1]] if self.task.every_step else [None]

    def _errors(self, guess: Tensor, rtol: float) -> tuple[float, float]:
        outputs, baseline = guess.expand_as(self.outputs_like(self.x)), self.task.baseline()
        errors = []
        for f, claimed in ((self.task.loss, baseline.loss), (self.task.metric, baseline.metric)):
            scores = self._each(f, outputs, self.targets)
            noise = _BOUND * float(scores.std()) / len(scores) ** 0.5 if len(scores) > 1 else 0.0
            fitting = self.task.output_size / len(scores)
            bound = noise + (fitting + rtol) * abs(claimed) + rtol * 1e-3
            errors.append(abs(float(f(outputs, self.targets)) - claimed) / bound)
        return errors[0], errors[1]

    @torch.enable_grad()
    def _best_constant(self, steps: int | None) -> Tensor:
        """Return the outputs, equal for all sequences, with the lowest loss on the test set."""
        outputs = self.outputs_like(self.x)
        axes = () if steps is None else (steps,)
        guess = outputs.new_zeros(1, *axes, self.task.output_size, requires_grad=True)
        optimizer = torch.optim.LBFGS([guess], max_iter=_FIT_STEPS, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = self.task.loss(guess.expand_as(outputs), self.targets)
            (guess.grad,) = torch.autograd.grad(loss, guess)
            return loss

        optimizer.step(closure)
        return guess.detach()


def _content(part: TensorDataset) -> tuple[Tensor, ...]:
    """Return the first items of a set."""
    return tuple(part[: min(500, len(part))])


def _changes_state(call: Callable[[], object]) -> bool:
    state = torch.get_rng_state()
    call()
    return not torch.equal(state, torch.get_rng_state())


def _fields(task: Task) -> list[str]:
    """Return the names of the options of a task."""
    return [field.name for field in dataclasses.fields(task) if field.init] if dataclasses.is_dataclass(task) else []


def _changed(task: Task, **options: object) -> Task:
    """Return the task with other options."""
    kind: Callable[..., Task] = type(task)
    return kind(**{name: vars(task)[name] for name in _fields(task)} | options)


def _bad_options(task: Task) -> Iterator[Callable[[], Splits]]:
    """Yield calls that use the task with an integer option of -1."""

    def use(name: str, value: object) -> Splits:
        return _changed(task, **{name: value}).splits()

    for name in _fields(task):
        value: object = vars(task)[name]
        if type(value) is int:
            yield partial(use, name, -1)
        if isinstance(value, tuple) and all(type(size) is int for size in value):
            yield from (partial(use, name, (*value[:k], -1, *value[k + 1 :])) for k in range(len(value)))
