import math

import pytest
import torch
from support.seeds import seeded
from torch.utils._python_dispatch import TorchDispatchMode

from manifold_rnn.errors import OptionError
from manifold_rnn.tasks import Adding, Copying, GroupWords, Task

TASKS = [Copying(5, sizes=(30, 20, 10)), Adding(7, sizes=(30, 20, 10))]


@pytest.mark.parametrize("task", TASKS, ids=lambda t: t.name)
def test_sets_have_their_sizes_and_are_always_the_same(task):
    assert isinstance(task, Task)
    first, again = task.splits(), task.splits()
    assert [len(part) for part in first] == [30, 20, 10]
    for one, other in zip(first, again, strict=True):
        assert all(map(torch.equal, one.tensors, other.tensors))
    inputs, targets = first.train[:3]
    assert inputs.shape == (3, task.length, task.input_size)
    shape = (3, task.length, task.output_size) if task.every_step else (3, task.output_size)
    assert task.loss(torch.zeros(shape), targets).ndim == 0
    assert not torch.equal(first.train[:10][0], first.test[:10][0])


@pytest.mark.parametrize(("layout", "marker"), [("marker", 14), ("early", 15)])
def test_copying_is_laid_out_as_published(layout, marker):
    x, target = Copying(5, layout).sample(50, generator=seeded())
    read = x.argmax(-1)
    assert (x.sum(-1) == 1).all() and (read[:, marker] == 9).all()
    blank = torch.ones(25, dtype=torch.bool)
    blank[:10] = blank[marker] = False
    assert not read[:, blank].any() and not target[:, :15].any()
    assert torch.equal(read[:, :10], target[:, 15:])
    assert target[:, 15:].unique().tolist() == list(range(1, 9))


@pytest.mark.parametrize(("delay", "loss"), [(100, 0.17329), (200, 0.09452), (500, 0.03999), (1000, 0.02039)])
def test_a_guesser_has_the_baseline_loss_in_copying(delay, loss):
    task = Copying(delay)
    _, targets = task.sample(4, generator=seeded())
    outputs = torch.full((4, task.length, 9), -math.inf)
    outputs[:, :-10, 0] = 0
    outputs[:, -10:, 1:] = 0
    torch.testing.assert_close(task.loss(outputs, targets).item(), task.baseline().loss)
    assert task.baseline().loss == pytest.approx(loss, abs=5e-6)
    assert task.metric(torch.nn.functional.one_hot(targets, 9), targets) == 1


@pytest.mark.parametrize(("layout", "half"), [("half", 4), ("early", 3)])
def test_adding_marks_one_number_in_each_half(layout, half):
    x, target = Adding(8, layout).sample(500, generator=seeded())
    marks = x[..., 1]
    assert ((marks == 0) | (marks == 1)).all() and (marks[:, :half].sum(-1) == 1).all() and (marks.sum(-1) == 2).all()
    assert (marks.sum(0) > 0).all()
    torch.testing.assert_close(target[:, 0], (x[..., 0] * marks).sum(-1))


def test_a_guesser_has_the_baseline_scores_in_adding():
    task = Adding(20)
    _, target = task.sample(200_000, generator=seeded())
    guess = torch.ones_like(target)
    assert task.loss(guess, target).item() == pytest.approx(task.baseline().loss, rel=0.02)
    assert task.metric(guess, target).item() == pytest.approx(task.baseline().metric, rel=0.05)


@pytest.mark.parametrize(
    "make", [lambda: Copying(0), lambda: Adding(2), lambda: Copying(layout="late"), lambda: Adding(sizes=(1, 0, 1))]
)
def test_what_makes_no_sense_is_named(make):
    with pytest.raises(OptionError, match=r"Copying|Adding"):
        make()


class LargestTensor(TorchDispatchMode):
    """The bytes of the largest tensor that an operation returned."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.size = max(self.size, out.nbytes if isinstance(out, torch.Tensor) else 0)
        return out


def test_words_are_drawn_in_the_memory_that_they_keep():
    with LargestTensor() as largest:
        words = GroupWords("parity", length=100).draw(50, seeded())
    assert largest.size == words.tensors[0].nbytes == 50 * 100
