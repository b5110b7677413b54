import gzip
import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from support import ROOT

from manifold_rnn.errors import OptionError
from manifold_rnn.tasks import PixelMNIST


def idx(array):
    """The bytes of an IDX file, after its published description: magic number, big-endian sizes, values."""
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


def write(folder, name, array):
    (folder / name).write_bytes(idx(array))


def fill(folder, **counts):
    """Write a set in the format of MNIST: every image has its digit in its first pixel, its number in two others."""
    for part, count in counts.items():
        digits = (np.arange(count) * 7 % 10).astype(np.uint8)
        images = np.zeros((count, 28, 28), np.uint8)
        images[:, 0, 0], images[:, 27, 26], images[:, 27, 27] = digits, np.arange(count) // 256, np.arange(count) % 256
        write(folder, f"{part}-images-idx3-ubyte", images)
        write(folder, f"{part}-labels-idx1-ubyte", digits)
    return folder


@pytest.fixture
def folder(tmp_path):
    return fill(tmp_path, train=360, t10k=40)


def numbers(part):
    images = part.tensors[0].long()
    return (256 * images[:, -2] + images[:, -1]).tolist()


@pytest.mark.parametrize("compressed", [False, True])
def test_sequences_are_images_row_by_row_between_0_and_1(folder, compressed):
    if compressed:
        for path in list(folder.iterdir()):
            path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
    task = PixelMNIST(data_dir=folder, split="exprnn")
    train, validation, test = task.splits()
    assert (len(train), len(validation), len(test)) == (360, 40, 40) and numbers(train) == list(range(360))
    images, digits = train[:]
    assert images.shape == (360, task.length, task.input_size) and images.dtype == torch.float32
    assert torch.equal(images[:, 0, 0], digits / 255) and digits.dtype == torch.int64
    assert images[300, -1, 0] == np.float32(44 / 255) and images.max() <= 1
    assert torch.equal(train[5][0], images[5])


def test_the_stratified_split_holds_out_a_twelfth_of_every_digit(folder):
    train, validation, test = PixelMNIST(data_dir=folder).splits()
    assert sorted(numbers(train) + numbers(validation)) == list(range(360)) and len(test) == 40
    assert validation.tensors[1].bincount().tolist() == [3] * 10
    again, other = (PixelMNIST(data_dir=folder, seed=seed).splits().validation for seed in (0, 1))
    assert numbers(again) == numbers(validation) != numbers(other)


def test_the_papers_hold_out_the_first_5000_images_or_look_at_the_test_set(tmp_path):
    fill(tmp_path, train=5_024, t10k=7)
    splits = {name: PixelMNIST(split=name, data_dir=tmp_path).splits() for name in ("wisdom", "scornn", "exprnn")}
    assert numbers(splits["wisdom"].validation) == list(range(5_000))
    assert numbers(splits["wisdom"].train) == numbers(splits["scornn"].train) == list(range(5_000, 5_024))
    assert numbers(splits["exprnn"].train) == list(range(5_024))
    assert all(numbers(part.test) == list(range(7)) for part in splits.values())
    assert all(numbers(splits[name].validation) == list(range(7)) for name in ("scornn", "exprnn"))


def test_the_permutation_is_that_of_the_papers(folder):
    order = np.random.RandomState(92916).permutation(784)
    assert order[:5].tolist() == [319, 576, 323, 107, 355]
    plain, permuted = (PixelMNIST(permuted, data_dir=folder).splits().test[:][0] for permuted in (False, True))
    assert torch.equal(permuted, plain[:, order])
    assert PixelMNIST(True).order.tolist() == order.tolist()


def test_files_are_found_in_a_subfolder_and_by_the_environment(folder, tmp_path_factory, monkeypatch):
    above = tmp_path_factory.mktemp("data")
    (above / "mnist").symlink_to(folder)
    monkeypatch.setenv("MANIFOLD_RNN_DATA", str(above))
    assert len(PixelMNIST().splits().test) == 40
    monkeypatch.setenv("MANIFOLD_RNN_DATA", str(above / "nowhere"))
    assert len(PixelMNIST(data_dir=above).splits().test) == 40
    with pytest.raises(OptionError, match="nowhere"):
        PixelMNIST().splits()


def test_a_guesser_scores_the_baseline(folder):
    task = PixelMNIST(data_dir=folder)
    _, digits = task.splits().train[:]
    assert task.loss(torch.zeros(330, 10), digits).item() == pytest.approx(task.baseline().loss)
    assert task.metric(torch.eye(10)[digits], digits) == 1 and task.baseline().metric == 0.1


IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
DAMAGE = {
    "truncated": (IMAGES, lambda content: content[:-1], "282,239"),
    "too long": (LABELS, lambda content: content + b"\0", "361"),
    "only a header": (IMAGES, lambda content: content[:10], "10 bytes"),
    "labels in the place of images": (IMAGES, lambda _: idx(np.zeros(360, np.uint8)), "0x00000801"),
    "signed bytes": (IMAGES, lambda content: b"\0\0\t\3" + content[4:], "0x00000903"),
    "truncated gzip": (IMAGES, lambda content: gzip.compress(content)[:-20], "gzip"),
    "damaged gzip": (IMAGES, lambda content: b"\x1f\x8b" + content[2:], "gzip"),
    "images of another size": (IMAGES, lambda _: idx(np.zeros((360, 8, 8), np.uint8)), "28 x 28"),
    "fewer digits than images": (LABELS, lambda _: idx(np.zeros(359, np.uint8)), "359"),
    "no digit": (LABELS, lambda _: idx(np.full(360, 10, np.uint8)), "from 0 to 9"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_file_that_does_not_fit_is_named(folder, case):
    name, spoil, words = DAMAGE[case]
    (folder / name).write_bytes(spoil((folder / name).read_bytes()))
    with pytest.raises(OptionError, match=words) as caught:
        PixelMNIST(data_dir=folder).splits()
    assert name in str(caught.value) and len(str(caught.value)) <= 400


@pytest.mark.parametrize("split", ["wisdom", "scornn"])
def test_holding_out_the_first_5000_images_needs_more(folder, split):
    with pytest.raises(OptionError, match=r"5,000.*\nGot 360"):
        PixelMNIST(data_dir=folder, split=split).splits()


def test_a_missing_file_is_named(folder):
    (folder / IMAGES).unlink()
    with pytest.raises(OptionError, match=IMAGES) as caught:
        PixelMNIST(data_dir=folder).splits()
    assert len(str(caught.value)) <= 400


def test_files_that_nobody_named_are_asked_for(monkeypatch):
    monkeypatch.delenv("MANIFOLD_RNN_DATA", raising=False)
    with pytest.raises(OptionError, match="MANIFOLD_RNN_DATA"):
        PixelMNIST().splits()


@pytest.mark.parametrize("make", [lambda: PixelMNIST(split="half"), lambda: PixelMNIST(seed=-1)])
def test_an_option_that_makes_no_sense_is_refused(make):
    with pytest.raises(OptionError, match=r"half|-1"):
        make()


@pytest.fixture
def mnist():
    places = [os.environ.get("MANIFOLD_RNN_DATA"), ROOT.parent / "shared" / "data"]
    for place in filter(None, places):
        if (Path(place) / "mnist").is_dir():
            return Path(place)
    pytest.skip("MANIFOLD_RNN_DATA names no folder that has MNIST")


def test_the_papers_splits_of_mnist(mnist):
    tasks = {name: PixelMNIST(split=name, data_dir=mnist) for name in ("wisdom", "scornn", "exprnn", "stratified")}
    splits = {name: task.splits() for name, task in tasks.items()}
    sizes = {name: tuple(len(part) for part in parts) for name, parts in splits.items()}
    assert sizes["stratified"] == sizes["wisdom"] == (55_000, 5_000, 10_000)
    assert sizes["scornn"] == (55_000, 10_000, 10_000) and sizes["exprnn"] == (60_000, 10_000, 10_000)
    images = splits["exprnn"].train.tensors[0]
    header = idx(np.empty((0, 28, 28), np.uint8))[:4] + b"".join(n.to_bytes(4, "big") for n in (60_000, 28, 28))
    assert hashlib.md5(header + images.numpy().tobytes()).hexdigest() == "6bbc9ace898e44ae57da46a324031adb"
    held, rest = splits["wisdom"].validation.tensors[0], splits["wisdom"].train.tensors[0]
    assert torch.equal(images, torch.cat([held, rest])) and torch.equal(rest, splits["scornn"].train.tensors[0])
    held = splits["stratified"].validation.tensors[1].bincount()
    assert ((held - splits["exprnn"].train.tensors[1].bincount() / 12).abs() < 1).all()
