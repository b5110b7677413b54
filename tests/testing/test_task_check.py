"""`check_task` passes every exported task and reports each fault by the name of its law."""

import dataclasses
import math

import pytest
import torch
from support.task_cases import makers
from torch.utils.data import TensorDataset

from manifold_rnn import errors, tasks, testing
from manifold_rnn.tasks import Adding, Score

SIZES = (600, 100, 500)
MAKE = makers(SIZES)


@pytest.mark.filterwarnings("ignore:A complete TIMIT has")
@pytest.mark.parametrize("name", MAKE)
def test_every_exported_task_passes(name, tmp_path):
    testing.check_task(MAKE[name](tmp_path), strict=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Adding", "Copying", "GroupWords", "QuadraticSystem", "SyntheticSpeech"])
def test_longer_tasks_of_other_seeds_pass(name):
    sizes = (2000, 100, 2000)
    for seed in range(3):
        task = dataclasses.replace(MAKE[name](None), sizes=sizes, seed=seed)
        testing.check_task(task, count=2000, seed=seed, strict=True)


class Shifted(torch.autograd.Function):
    """The mean of squares with half its gradient."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square().mean()

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * x / x.numel()


@dataclasses.dataclass(frozen=True)
class Faulty(Adding):
    """The adding problem with one mistake, given by name."""

    fault: str = ""

    def __post_init__(self):
        if self.fault != "accepted":
            super().__post_init__()

    @property
    def input_size(self):
        return 3 if self.fault == "shapes" else 2

    @property
    def output_size(self):
        return 2 if self.fault == "outputs" else 1

    def draw(self, count, generator):
        if self.fault == "accepted":
            count = abs(count)
        if self.fault == "generator":
            generator = torch.Generator().manual_seed(3)
        x, targets = super().draw(count, None if self.fault in ("repeated", "global_state") else generator)[:]
        x = x.double() if self.fault == "dtype" else x
        return TensorDataset(x, targets / 0 if self.fault == "not_finite" else targets)

    def splits(self):
        sets = super().splits()
        return sets._replace(validation=sets.train) if self.fault == "same_sets" else sets

    def loss(self, outputs, targets):
        if self.fault == "gradient":
            return Shifted.apply(outputs - targets)
        if self.fault == "detached":
            return super().loss(outputs.detach(), targets)
        if self.fault == "mean":
            return (outputs - targets).square().sum()
        return super().loss(outputs, targets)

    def metric(self, outputs, targets):
        return (outputs - targets).abs() if self.fault == "unreduced" else super().metric(outputs, targets)

    def baseline(self):
        loss, metric = super().baseline()
        loss = {"baseline_loss": 2 * loss, "no_baseline": math.nan}.get(self.fault, loss)
        return Score(loss, 3 * metric if self.fault == "baseline_metric" else metric)


def failed(fault):
    return [row.name for row in testing.check_task(Faulty(9, sizes=SIZES, fault=fault)).failures]


def test_the_task_without_a_fault_passes():
    report = testing.check_task(Faulty(9, sizes=SIZES), strict=True)
    assert report.shapes == 0 and "baseline_loss" in str(report)
    with pytest.raises(errors.CheckError, match="baseline_metric"):
        testing.check_task(Faulty(9, sizes=SIZES, fault="baseline_metric"), strict=True)


LAWS = [row.name for row in testing.check_task(Adding(9, sizes=SIZES)).rows]


@pytest.mark.parametrize("fault", LAWS)
def test_each_fault_is_reported_by_name(fault):
    assert fault in failed(fault)


@pytest.mark.parametrize(
    ("fault", "law"),
    [
        ("dtype", "shapes"), ("unreduced", "shapes"), ("detached", "gradient"), ("no_baseline", "baseline_loss"),
        ("repeated", "generator"), ("generator", "same_sets"),
    ],
)  # fmt: skip
def test_other_faults_are_reported(fault, law):
    assert law in failed(fault)


@dataclasses.dataclass(frozen=True)
class OutOfRange(tasks.GroupWords):
    """Words with a target that is no class."""

    def splits(self):
        sets = super().splits()
        sets.test.tensors[1][0] = 200
        return sets


def test_a_class_out_of_range_is_found():
    report = testing.check_task(OutOfRange("S3", length=9, sizes=SIZES))
    assert "not_finite" in [row.name for row in report.failures] and math.isinf(report.baseline_loss)


def test_a_report_comes_out_the_same_again_and_leaves_the_generator():
    state, task = torch.get_rng_state(), Adding(9, sizes=(60, 20, 50))
    assert testing.check_task(task) == testing.check_task(task)
    assert torch.equal(torch.get_rng_state(), state)
