"""Character language modelling on any text, with the protocol of Penn Treebank."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..errors import OptionError
from .base import Score, Splits, Task
from .files import find_file, refuse
from .one_hot import OneHot

if TYPE_CHECKING:
    import matplotlib.axes

_SMALL = 256
_PARTS = ("training", "validation", "test")


@dataclass(frozen=True)
class Characters(Task):
    r"""Predict the next symbol of a text from all symbols before it.

    A text is cut into consecutive pieces of ``length`` time steps. The last symbols are left out if they do not fill a
    piece. At every step the network reads a symbol, as a one-hot vector, and returns logits for the next symbol. The
    pieces of a set are one stream (``carried``): the network keeps its state from piece to piece. Only the gradient is
    truncated at the ends of pieces, which is backpropagation truncated to ``length`` steps.

    Training, validation and test sets are three files, or consecutive fractions of one file in this order. The alphabet
    contains the sorted symbols of the training part. By default, any other symbol in the other parts raises an error.
    With ``unknown="map"``, all such symbols become one further class, which does not occur in training.

    **Loss**: mean cross-entropy of the logits, natural logarithm.
    **Metric**: bits per character, the loss divided by :math:`\log 2`. Lower is better.
    **Baseline**: predicting the frequencies :math:`p_i` of the training part has the loss :math:`-\sum_i p_i \log p_i`
    on that part, the entropy of single symbols. A uniform prediction has :math:`\log_2` of the number of symbols in
    bits.

    Parameters
    ----------
    path : str or Path
        File with the text in UTF-8, or with its training part. If there is no such file, it is searched in
        ``data_dir``, and in the folder ``text`` there.
    length : int
        Number of time steps of a piece, and of truncated backpropagation. Published results on Penn Treebank have 150
        or 300.
    validation_path, test_path : str or Path, optional
        Files with the other parts. Pass both or neither.
    fractions : tuple of float
        Fractions of one file for validation and test.
    separated : bool
        Whether the symbols of a line are separated by blanks, as in the character files of Penn Treebank. There, ``_``
        is the blank of the text. The end of a line is a symbol too.
    unknown : "refuse" or "map"
        Treatment of symbols that do not occur in the training part: raise an error, or map them to one class.
    data_dir : str or Path, optional
        Folder in which files are searched. Default: the environment variable ``MANIFOLD_RNN_DATA``.

    Raises
    ------
    OptionError
        If an option is out of range. Methods that read the text raise it if a file is missing, is not a text, or is too
        short. They also raise it for fewer than two different symbols.

    Notes
    -----
    The published rows are results on Penn Treebank. Do not compare them with other texts.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "text.txt")
    ...     size = path.write_text("to be or not to be, that is the question. " * 50)
    ...     task = mr.tasks.Characters(path, length=10)
    ...     x, target = task.splits().train[3]
    >>> assert x.shape == (10, len(task.alphabet)) and torch.equal(x[1:].argmax(-1), target[:-1])
    """

    path: str | Path
    length: int = 150
    validation_path: str | Path | None = None
    test_path: str | Path | None = None
    fractions: tuple[float, float] = (0.05, 0.05)
    separated: bool = False
    unknown: Literal["refuse", "map"] = "refuse"
    data_dir: str | Path | None = None

    metric_name: ClassVar[str] = "bits per character"
    higher_is_better: ClassVar[bool] = False
    every_step: ClassVar[bool] = True
    carried: ClassVar[bool] = True
    problem: ClassVar[str] = "Penn Treebank, bits per character"

    def __post_init__(self) -> None:
        rules = {
            "unknown": (self.unknown in ("refuse", "map"), "'refuse' or 'map'"),
            "length": (self.length >= 1, "at least 1 step"),
            "fractions": (
                len(self.fractions) == 2 and min(self.fractions) > 0 and sum(self.fractions) < 1,
                "two fractions above 0 that leave a part for training",
            ),
            "test_path": ((self.validation_path is None) == (self.test_path is None), "both paths or neither"),
        }
        for name, (holds, expected) in rules.items():
            if not holds:
                raise OptionError(
                    f"Characters cannot use {name} = {getattr(self, name)!r}.\nExpected {expected}.\nChange it."
                )

    @property
    def name(self) -> str:
        return f"characters of {Path(self.path).name}"

    @property
    def alphabet(self) -> tuple[str, ...]:
        """The different symbols of the training part, sorted."""
        return self._read[0]

    @property
    def input_size(self) -> int:
        """Number of different symbols, plus one if unknown symbols are mapped."""
        return len(self.alphabet) + (self.unknown == "map")

    @property
    def output_size(self) -> int:
        """Number of outputs, the same as the input size."""
        return self.input_size

    def splits(self) -> Splits:
        """Return the three sets of consecutive pieces. The target of a symbol is the next symbol."""
        return Splits(*(self._pieces(stream) for stream in self._read[1]))

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross-entropy of logits (B, length, symbols) and symbols (B, length)."""
        return functional.cross_entropy(outputs.flatten(0, -2), targets.flatten())

    def metric(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the bits per character."""
        return self.loss(outputs, targets) / math.log(2)

    def baseline(self) -> Score:
        r"""Return :math:`-\sum_i p_i \log p_i` of the frequencies in the training part, and the same in bits."""
        counts = self._read[1][0].to(torch.int64).bincount()
        loss = float(torch.special.entr(counts / counts.sum()).sum())
        return Score(loss=loss, metric=loss / math.log(2))

    def plot(self, axes: "matplotlib.axes.Axes") -> None:
        """Draw the first symbols of the training part as they are read."""
        symbols = self._read[1][0][:40].long()
        rows = functional.one_hot(symbols, self.input_size).T.numpy()
        axes.imshow(rows, aspect="auto", cmap="gray_r", interpolation="none")
        signs = [self.alphabet[symbol].replace("\n", "\\n") for symbol in symbols]
        axes.set_xticks(range(len(signs)), ["␣" if sign == " " else sign for sign in signs])
        axes.set(title=self.name, ylabel="index in the alphabet")

    def _pieces(self, stream: Tensor) -> OneHot:
        steps = (len(stream) - 1) // self.length * self.length
        symbols, after = (stream[i : i + steps].view(-1, self.length) for i in (0, 1))
        return OneHot(symbols, after, self.input_size)

    @cached_property
    def _read(self) -> tuple[tuple[str, ...], list[Tensor]]:
        paths, texts = self._texts()
        alphabet = tuple(sorted(set(texts[0])))
        if len(alphabet) < 2:
            got = f"only {''.join(alphabet)[:8]!r}"
            refuse(paths[0], "A text needs at least two different symbols.", got, "Use another text.")
        numbers = {symbol: i for i, symbol in enumerate(alphabet)}
        small = np.uint8 if len(alphabet) < _SMALL else np.int32
        streams = []
        for path, part, text in zip(paths, _PARTS, texts, strict=True):
            if len(text) <= self.length:
                rule = f"The {part} part needs more symbols than a piece.\nExpected at least {self.length + 1:,}."
                refuse(path, rule, f"{len(text):,}", "Use a longer text, other fractions, or shorter pieces.")
            foreign = set(text) - numbers.keys()
            if foreign and self.unknown == "refuse":
                rule = f"Every symbol of the {part} part needs to occur in the training part."
                refuse(path, rule, f"{sorted(foreign)[:5]}", "Pass unknown='map', or use other parts.")
            indices = (numbers.get(symbol, len(alphabet)) for symbol in text)
            streams.append(torch.as_tensor(np.fromiter(indices, small, len(text))))
        return alphabet, streams

    def _texts(self) -> tuple[list[Path], list[Sequence[str]]]:
        if self.validation_path is None or self.test_path is None:
            path = find_file("Characters", self.path, self.data_dir, "text")
            text = self._symbols(path)
            ends = [round(len(text) * share) for share in (1 - sum(self.fractions), 1 - self.fractions[1])]
            return [path] * 3, [text[: ends[0]], text[ends[0] : ends[1]], text[ends[1] :]]
        named = (self.path, self.validation_path, self.test_path)
        paths = [find_file("Characters", path, self.data_dir, "text") for path in named]
        return paths, [self._symbols(path) for path in paths]

    def _symbols(self, path: Path) -> Sequence[str]:
        try:
            text = path.read_text(encoding="utf-8-sig")  # a byte order mark is no symbol of the text
        except UnicodeDecodeError as error:
            byte = f"byte 0x{error.object[error.start]:02x} at {error.start:,}"
            refuse(path, "A text needs to be in UTF-8.", byte, "Convert the file.")
        if not self.separated:
            return text
        return [symbol for line in text.removesuffix("\n").split("\n") for symbol in (*line.split(), "\n")]
