"""One small task of each class, with files of its own where it reads some."""

from functools import partial

import numpy as np
import pytest

from manifold_rnn import tasks


def _pixels(folder, sizes):
    generator = np.random.default_rng(0)
    for part, count in (("train", max(24, sizes[0] // 2)), ("t10k", max(24, sizes[2] // 2))):
        for name, shape in (("images-idx3", (count, 28, 28)), ("labels-idx1", (count,))):
            header = bytes([0, 0, 8, len(shape)]) + b"".join(size.to_bytes(4, "big") for size in shape)
            values = generator.integers(10, size=shape, dtype=np.uint8)
            (folder / f"{part}-{name}-ubyte").write_bytes(header + values.tobytes())
    return tasks.PixelMNIST(data_dir=folder)


def _characters(folder, sizes):
    letters = np.random.default_rng(0).choice(list("aabcde \n"), max(1000, 33 * sizes[0]))
    (folder / "text").write_text("".join(letters))
    return tasks.Characters(folder / "text", length=9)


def _speech(folder, _):
    wavfile = pytest.importorskip("scipy.io.wavfile")
    generator = np.random.default_rng(1)
    for speaker in ("TRAIN/DR1/FCJF0", "TEST/DR1/FAKS0", "TEST/DR1/MDAB0"):
        (folder / speaker).mkdir(parents=True)
        for name in ("SI1", "SI2", "SI3"):
            samples = generator.integers(-2000, 2000, 1200, dtype=np.int16)
            wavfile.write(folder / speaker / f"{name}.WAV", 16_000, samples)
    return tasks.Speech(folder, length=9)


_MAKERS = {
    "Adding": lambda _, sizes: tasks.Adding(9, sizes=sizes),
    "Characters": _characters,
    "Copying": lambda _, sizes: tasks.Copying(5, sizes=sizes),
    "Digits": lambda *_: pytest.importorskip("sklearn") and tasks.Digits(),
    "GroupWords": lambda _, sizes: tasks.GroupWords("S3", length=9, sizes=sizes),
    "PixelMNIST": _pixels,
    "QuadraticSystem": lambda _, sizes: tasks.QuadraticSystem(sizes=sizes),
    "Speech": _speech,
    "SyntheticSpeech": lambda _, sizes: tasks.SyntheticSpeech(9, sizes=tuple(min(size, 200) for size in sizes)),
}


def makers(sizes):
    """What makes each task in an empty folder, by its name; a new task needs a line above."""
    return {name: partial(_with_sizes, make, sizes) for name, make in _MAKERS.items()}


def _with_sizes(make, sizes, folder):
    return make(folder, sizes)
