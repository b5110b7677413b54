"""Files and sizes beyond all bounds are refused before memory is taken, in one message."""

import gzip
import inspect
import os
import tracemalloc

import pytest

import manifold_rnn as mr
from manifold_rnn.errors import OptionError
from manifold_rnn.tasks import memory
from manifold_rnn.tasks.audio import read_sound
from manifold_rnn.tasks.files import LARGEST_FILE
from manifold_rnn.tasks.idx import read_idx
from manifold_rnn.tasks.synthetic import Synthetic

HEADER = b"\0\0\x08\x01"
SYNTHETIC = [
    getattr(mr.tasks, name)
    for name in mr.tasks.available()
    if issubclass(getattr(mr.tasks, name), Synthetic) and not inspect.isabstract(getattr(mr.tasks, name))
]


def test_a_small_gzip_file_is_never_unpacked_beyond_its_header(tmp_path):
    path = tmp_path / "labels.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(HEADER + (10).to_bytes(4, "big"))
        for _ in range(64):
            file.write(bytes(2**20))
    tracemalloc.start()
    try:
        with pytest.raises(OptionError, match="Expected 10 after the header"):
            read_idx(path, 1)
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


def test_a_header_cannot_ask_for_more_than_any_data_set_has(tmp_path):
    (tmp_path / "labels").write_bytes(HEADER + b"\xff" * 4)
    with pytest.raises(OptionError, match="at most"):
        read_idx(tmp_path / "labels", 1)


READERS = {
    "idx": lambda path: read_idx(path, 1),
    "sound": read_sound,
    "text": lambda path: mr.tasks.Characters(path).splits(),
}


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
@pytest.mark.parametrize("kind", ["pipe", "device", "gigabytes"])
def test_what_is_no_file_of_ordinary_size_is_not_read(kind, reader, tmp_path):
    path = tmp_path / "data"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.touch()
        os.truncate(path, LARGEST_FILE + 1)  # of holes
    with pytest.raises(OptionError, match=r"regular file|at most") as refusal:
        reader(path)
    assert len(str(refusal.value)) <= 400


@pytest.mark.parametrize("task", SYNTHETIC, ids=lambda task: task.__name__)
def test_sequences_beyond_memory_are_refused_before_they_are_drawn(task, monkeypatch):
    for sizes in ((10**12, 1, 1), (1, 1, 10**12)):
        with pytest.raises(OptionError, match=r"`task.sizes` needs .* this machine has"):
            task(sizes=sizes).splits()
    small = task(sizes=(4, 2, 2))
    monkeypatch.setattr(memory, "machine_memory", lambda: 8 * small.sequence_bytes - 1)
    with pytest.raises(OptionError, match=r"task\.sizes"):
        small.splits()
    monkeypatch.setattr(memory, "machine_memory", lambda: 8 * small.sequence_bytes)
    splits = small.splits()
    held = sum(tensor.nbytes for part in splits for tensor in part.tensors)
    assert 8 * small.sequence_bytes <= 12 * held  # a lower bound of what drawing takes, and not far off


@pytest.mark.parametrize(("options", "cause"), [
    ({"units": 10**9}, r"`task.units` needs a system that fits into memory"),
    ({"units": 10**6}, r"`task.units` needs a system that fits into memory"),
    ({"coupling": 1e20}, "overflow with coupling=1e"), ({"coupling": 1e10}, "overflow with coupling=1"),
    ({"noise": 1e30}, "overflow with coupling=0.15, noise=1e"),
], ids=str)  # fmt: skip
@pytest.mark.parametrize("use", [mr.tasks.QuadraticSystem.splits, mr.tasks.QuadraticSystem.baseline])
def test_a_quadratic_system_beyond_memory_or_float32_is_refused(use, options, cause):
    with pytest.raises(OptionError, match=cause):
        use(mr.tasks.QuadraticSystem(**options))
