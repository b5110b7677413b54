"""MNIST read pixel by pixel, in order or permuted."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import TensorDataset

from ..errors import OptionError
from .base import Score, Splits, Task, require_seed
from .files import data_folder, refuse
from .idx import find_idx, read_idx

if TYPE_CHECKING:
    import matplotlib.axes

_SIDE, _FIRST, _EVERY, _PERMUTATION_SEED = 28, 5_000, 12, 92916
_Split = Literal["stratified", "wisdom", "scornn", "exprnn"]


class _Pixels(TensorDataset):
    """Images that are stored as bytes, and become floats when they are read."""

    def __getitem__(self, index: int | slice | list[int] | Tensor) -> tuple[Tensor, ...]:
        images, digits = (tensor[index] for tensor in self.tensors)
        return (images.to(torch.float32) / 255).unsqueeze(-1), digits.long()


@dataclass(frozen=True)
class PixelMNIST(Task):
    r"""Classify a handwritten digit of MNIST after reading its 784 pixels one by one.

    The pixels are numbers from 0 to 1 and are read row by row from the top left. With ``permuted``, they are read in
    the order of ``numpy.random.RandomState(92916).permutation(784)``, which most papers use.

    ================  ==========  ================  =======================================================
    split             training    validation        what it is
    ================  ==========  ================  =======================================================
    ``"stratified"``  55,000      5,000             a random twelfth of every digit is held out
    ``"wisdom"``      55,000      5,000             the first 5,000 images are held out, as for full-capacity uRNN
    ``"scornn"``      55,000      10,000, the test  the same training set; the test set is looked at in every epoch
    ``"exprnn"``      60,000      10,000, the test  all images; the test set is looked at in every epoch
    ================  ==========  ================  =======================================================

    The test set always has 10,000 images. The last two splits choose the best epoch by the test set. Such accuracies
    are slightly too high. Compare them only with those papers.

    **Loss**: mean cross-entropy of the ten logits, natural logarithm.
    **Metric**: accuracy, the fraction of images whose largest logit belongs to their digit.
    **Baseline**: predicting the same probability for every digit has the accuracy :math:`1/10` and the loss :math:`\log
    10 \approx 2.303`.

    Parameters
    ----------
    permuted : bool
        Whether to read the pixels in the permuted order.
    split : "stratified", "wisdom", "scornn" or "exprnn"
        Split of the images, see the table.
    data_dir : str or Path, optional
        Folder that contains the four IDX files, with or without gzip, or a folder ``mnist`` with them. Default: the
        environment variable ``MANIFOLD_RNN_DATA``.
    seed : int
        Random seed of the stratified split, from 0 to :math:`2^{32} - 1`.

    Raises
    ------
    OptionError
        If the split is unknown or the seed is out of range. ``splits`` and ``plot`` raise it if a file is missing or
        damaged.

    Notes
    -----
    Other files of the same format, such as Fashion-MNIST, can be used too. Sources: LeCun, Cortes and Burges (1998),
    pixel by pixel since Le, Jaitly and Hinton (2015).

    Examples
    --------
    >>> task = mr.tasks.PixelMNIST(permuted=True)
    >>> assert (task.input_size, task.output_size, task.length) == (1, 10, 784)
    >>> assert task.order[:3].tolist() == [319, 576, 323]
    """

    permuted: bool = False
    split: _Split = "stratified"
    data_dir: str | Path | None = None
    seed: int = 0

    metric_name: ClassVar[str] = "accuracy"
    input_size: ClassVar[int] = 1
    output_size: ClassVar[int] = 10
    length: ClassVar[int] = _SIDE**2

    def __post_init__(self) -> None:
        require_seed(self.seed)
        if self.split not in get_args(_Split):
            raise OptionError(
                f"The split of PixelMNIST is unknown.\nExpected one of {', '.join(get_args(_Split))}, "
                f"got {self.split!r}.\nCheck the spelling."
            )

    @property
    def name(self) -> str:
        return "permuted MNIST" if self.permuted else "pixel MNIST"

    @property
    def problem(self) -> str:
        return "permuted pixels" if self.permuted else "pixels in order"

    @property
    def order(self) -> Tensor:
        """The indices of the pixels in the order in which they are read."""
        if not self.permuted:
            return torch.arange(self.length)
        return torch.as_tensor(np.random.RandomState(_PERMUTATION_SEED).permutation(self.length))

    def splits(self) -> Splits:
        """Return the three sets. Images are float32 of shape (784, 1), digits are int64 scalars."""
        (images, digits), test = (self._read(part) for part in ("train", "t10k"))
        held = torch.zeros(len(digits), dtype=torch.bool)
        if self.split == "stratified":
            held[self._twelfth(digits)] = True
        elif self.split != "exprnn":
            held[:_FIRST] = True
        train = _Pixels(images[~held], digits[~held])
        own = self.split in ("stratified", "wisdom")
        validation = _Pixels(images[held], digits[held]) if own else _Pixels(*test)
        return Splits(train, validation, _Pixels(*test))

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross-entropy of logits (B, 10) and digits (B,)."""
        return functional.cross_entropy(outputs, targets)

    def metric(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the accuracy of logits (B, 10) against digits (B,)."""
        return (outputs.argmax(-1) == targets).float().mean()

    def baseline(self) -> Score:
        """Return the loss and the accuracy of equal probabilities for all digits."""
        return Score(loss=math.log(self.output_size), metric=1 / self.output_size)

    def plot(self, axes: "matplotlib.axes.Axes") -> None:
        """Draw the first test image, with its pixels in the order in which they are read."""
        images, digits = self._read("t10k")
        axes.imshow(images[0].reshape(_SIDE, _SIDE).numpy(), cmap="gray_r")
        axes.set(title=f"{self.name}: {digits[0]}", xticks=(), yticks=())

    def _read(self, part: str) -> tuple[Tensor, Tensor]:
        folder = data_folder("PixelMNIST", self.data_dir, "mnist")
        paths = find_idx(folder, f"{part}-images-idx3-ubyte"), find_idx(folder, f"{part}-labels-idx1-ubyte")
        images, digits = read_idx(paths[0], 3), read_idx(paths[1], 1)
        if images.shape[1:] != (_SIDE, _SIDE):
            refuse(paths[0], "Images need 28 x 28 pixels.", f"{images.shape[1:]}", "Use files in the format of MNIST.")
        if len(images) != len(digits) or len(images) <= self._least(part):
            rule = f"Each of more than {self._least(part):,} images needs one digit."
            refuse(paths[1], rule, f"{len(digits):,} for {len(images):,} images", "Download both files again.")
        if digits.max() >= self.output_size:
            refuse(paths[1], "Digits need to be from 0 to 9.", f"{digits.max()}", "Download the file again.")
        pixels = torch.as_tensor(images.reshape(len(images), -1))
        return pixels[:, self.order], torch.as_tensor(digits)

    def _least(self, part: str) -> int:
        return _FIRST if part == "train" and self.split in ("wisdom", "scornn") else 0

    def _twelfth(self, digits: Tensor) -> Tensor:
        shuffled = np.random.RandomState(self.seed).permutation(len(digits))
        by_digit = shuffled[np.argsort(digits.numpy()[shuffled], kind="stable")]
        return torch.as_tensor(by_digit[_EVERY // 2 :: _EVERY].copy())
