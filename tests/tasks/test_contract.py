"""What every task has to bring, whichever it is: a new one needs a line in `support.task_cases`."""

import dataclasses
import inspect
import math
import os
import pickle
import tomllib
import typing
from pathlib import Path

import pytest
import torch
from support.task_cases import makers
from torch.utils.data import DataLoader, TensorDataset

from manifold_rnn import tasks, zoo
from manifold_rnn.errors import OptionError
from manifold_rnn.tasks import published

MAKE = makers((12, 4, 5))
pytestmark = pytest.mark.filterwarnings("ignore:A complete TIMIT has")


@pytest.fixture(params=MAKE)
def task(request, tmp_path):
    return MAKE[request.param](tmp_path)


def batch(task, part, count=3):
    return next(iter(DataLoader(part, count)))


def answers(task, count):
    return (count, task.length, task.output_size) if task.every_step else (count, task.output_size)


def test_all_tasks_are_listed():
    assert tasks.available() == sorted(MAKE)


def test_sets_are_never_empty_and_always_the_same(task):
    for one, other in zip(task.splits(), task.splits(), strict=True):
        assert isinstance(one, TensorDataset) and len(one) and all(map(torch.equal, one.tensors, other.tensors))
        inputs, targets = batch(task, one)
        assert inputs.shape[1:] == (task.length, task.input_size) and inputs.dtype == torch.float32
        first = one[0]
        assert torch.equal(first[0], inputs[0]) and torch.equal(first[1], targets[0])
        assert torch.equal(one[:2][0], inputs[:2]) and torch.equal(one[[1, 0]][1], targets[[1, 0]])


def test_loss_and_metric_are_numbers_and_the_loss_has_a_gradient(task):
    inputs, targets = batch(task, task.splits().train)
    outputs = torch.zeros(answers(task, len(inputs)), requires_grad=True)
    loss, metric = task.loss(outputs, targets), task.metric(outputs, targets)
    assert loss.shape == metric.shape == () and loss > 0 and metric.isfinite()
    loss.backward()
    assert outputs.grad.isfinite().all() and outputs.grad.any()


def test_a_network_takes_it_as_it_comes(task):
    network = zoo.scornn(task.input_size, 4, task.output_size)
    inputs, targets = batch(task, task.splits().validation)
    outputs = network(inputs, every_step=True) if task.every_step else network(inputs)
    assert outputs.shape == answers(task, len(inputs)) and task.loss(outputs, targets).isfinite()


def test_fields_are_plain_values_so_that_flags_can_be_made_of_them(task):
    plain = {str, int, float, bool, Path, type(None)}
    hints = typing.get_type_hints(type(task))

    def leaves(hint):
        if typing.get_origin(hint) is typing.Literal:
            return {type(value) for value in typing.get_args(hint)}
        return set().union(*map(leaves, typing.get_args(hint))) or {hint}

    assert dataclasses.is_dataclass(task)
    for field in dataclasses.fields(task):
        assert leaves(hints[field.name]) <= plain
    with pytest.raises(dataclasses.FrozenInstanceError):
        task.seed = 1
    task.splits()
    assert pickle.loads(pickle.dumps(task)) == task and hash(task) == hash(dataclasses.replace(task))


def test_it_says_how_it_is_scored(task):
    text = inspect.getdoc(type(task))
    assert "**Baseline**" in text and "etric**" in text and "oss**" in text
    assert task.name and task.metric_name and isinstance(task.higher_is_better, bool)
    loss, metric = task.baseline()
    assert loss > 0 and math.isfinite(metric)
    assert ("Lower is better" in text) is not task.higher_is_better


def test_the_training_set_of_an_epoch_depends_on_seed_and_epoch_alone(task):
    first = task.splits().train
    assert all(map(torch.equal, task.train_epoch(0).tensors, first.tensors))
    assert all(map(torch.equal, task.train_epoch(3).tensors, first.tensors))
    if not hasattr(type(task), "fresh") or "fresh" not in {field.name for field in dataclasses.fields(task)}:
        assert not task.fresh
        return
    fresh = dataclasses.replace(task, fresh=True)
    epochs = [fresh.train_epoch(epoch).tensors for epoch in (0, 1, 2, 1)]
    assert torch.equal(epochs[0][0], first.tensors[0])
    assert torch.equal(epochs[1][0], epochs[3][0])
    other = dataclasses.replace(fresh, seed=1).train_epoch(1).tensors
    different = [epochs[0][0], epochs[1][0], epochs[2][0], other[0]]
    assert not any(torch.equal(a, b) for i, a in enumerate(different) for b in different[:i])
    held = zip(fresh.splits()[1:], task.splits()[1:], strict=True)
    assert all(torch.equal(one.tensors[0], two.tensors[0]) for one, two in held)


def test_it_draws_an_example(task, tmp_path):
    figure = pytest.importorskip("matplotlib.figure").Figure()
    axes = figure.subplots()
    task.plot(axes)
    assert axes.get_title().startswith(task.name) and (axes.images or axes.lines)
    figure.savefig(tmp_path / "example.png")


def test_published_rows_name_a_network_of_the_zoo_and_their_source(task):
    rows = task.published()
    assert bool(rows) == bool(task.problem)
    for row in rows:
        assert row.network in zoo.available() and row.setting.startswith(task.problem)
        assert row.result and row.source and "`" not in row.source


def test_every_row_of_the_file_has_a_source_that_can_be_read():
    content = tomllib.loads(published._FILE.read_text(encoding="utf-8"))
    count = sum(len(entry["rows"]) for name, entries in content.items() if name != "sources" for entry in entries)
    assert len(published.published("")) == count > 50
    assert ("exprnn", "98.7 %") in [(row.network, row.result) for row in published.published("pixels in order")]


@pytest.mark.parametrize("name", ["PixelMNIST", "Speech"])
def test_a_missing_folder_is_one_clear_error(name, tmp_path):
    deep = tmp_path / ("far" * 30) / ("away" * 30)
    with pytest.raises(OptionError, match="away'") as caught:
        getattr(tasks, name)(data_dir=deep).splits()
    assert len(str(caught.value)) <= 400


def test_long_copying_sets_are_kept_as_bytes():
    part = tasks.Copying(2000, sizes=(50, 1, 1)).splits().train
    assert sum(tensor.nbytes for tensor in part.tensors) == 2 * 50 * 2020 and part[0][0].nbytes == 4 * 10 * 2020


def test_the_folder_of_the_user_can_begin_with_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    MAKE["PixelMNIST"](tmp_path)
    assert os.path.expanduser("~") == str(tmp_path) and len(tasks.PixelMNIST(data_dir="~").splits().test) == 24
    (tmp_path / "x.txt").write_text("abc" * 200)
    for options in ({"path": "x.txt", "data_dir": "~"}, {"path": "~/x.txt"}):
        assert tasks.Characters(**options, length=5).alphabet == ("a", "b", "c")


@pytest.mark.skipif(os.name == "nt", reason="Windows guesses the home folder of every user")
def test_the_folder_of_nobody_is_named(monkeypatch):
    nowhere = "~nobody-of-this-name/x"
    for make in (
        lambda: tasks.PixelMNIST(data_dir=nowhere),
        lambda: tasks.Characters("x", data_dir=nowhere),
        lambda: tasks.Characters(nowhere),
    ):
        with pytest.raises(OptionError, match="home folder of an unknown user"):
            make().splits()
    monkeypatch.setenv("MANIFOLD_RNN_DATA", nowhere)
    with pytest.raises(OptionError, match="`MANIFOLD_RNN_DATA` begins with"):
        tasks.PixelMNIST().splits()
