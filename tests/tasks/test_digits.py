import pytest
import torch

from manifold_rnn.errors import OptionError
from manifold_rnn.tasks import Digits, Task

pytest.importorskip("sklearn")


@pytest.fixture(params=[0, 7], ids="seed {}".format)
def task(request):
    return Digits(request.param)


def test_every_image_is_in_exactly_one_set(task):
    from sklearn.datasets import load_digits

    images = torch.cat([part.tensors[0] for part in task.splits()]).squeeze(-1) * 16
    expected = torch.as_tensor(load_digits().data, dtype=images.dtype)
    assert sorted(images.tolist()) == sorted(expected.tolist())


def test_each_set_has_the_digits_in_equal_proportions(task):
    splits = task.splits()
    whole = sum(torch.bincount(part.tensors[1]) for part in splits) / 1797
    for part in splits:
        share = torch.bincount(part.tensors[1])
        assert ((share - whole * len(part)).abs() <= 1).all()


def test_equal_seeds_give_equal_splits_and_others_do_not(task):
    first, second, other = (Digits(seed).splits().test.tensors for seed in (task.seed, task.seed, task.seed + 1))
    assert all(map(torch.equal, first, second))
    assert not torch.equal(first[1], other[1])


def test_a_sequence_is_one_image_row_by_row_between_0_and_1(task):
    from sklearn.datasets import load_digits

    image, digit = task.splits().train[0]
    assert image.shape == (task.length, task.input_size)
    assert image.dtype == torch.float32
    assert digit.dtype == torch.int64
    assert image.min() >= 0
    assert image.max() <= 1
    known = torch.as_tensor(load_digits().images, dtype=torch.float32) / 16
    assert (known == image.reshape(8, 8)).all((1, 2)).any()


def test_a_guesser_scores_the_baseline(task):
    images, digits = task.splits().train.tensors
    logits = torch.zeros(len(images), task.output_size)
    assert task.loss(logits, digits).item() == pytest.approx(task.baseline().loss)
    hits = [task.metric(logits + torch.eye(10)[guess], digits).item() for guess in range(10)]
    assert sum(hits) / 10 == pytest.approx(task.baseline().metric)


def test_it_is_a_task():
    assert issubclass(Digits, Task)
    with pytest.raises(TypeError, match="abstract"):
        Task()


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_out_of_range_is_refused(seed):
    with pytest.raises(OptionError, match=str(seed)):
        Digits(seed)


def test_by_rows_the_same_images_are_read_in_eight_steps(task):
    rows = Digits(task.seed, by="rows")
    assert (rows.length, rows.input_size) == (8, 8)
    for pixels, by_rows in zip(task.splits(), rows.splits(), strict=True):
        assert torch.equal(pixels.tensors[0].reshape(-1, 8, 8), by_rows.tensors[0])
        assert torch.equal(pixels.tensors[1], by_rows.tensors[1])


def test_another_way_of_reading_is_refused():
    with pytest.raises(OptionError, match="'columns'"):
        Digits(by="columns")
