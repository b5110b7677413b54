"""The UCI handwritten digits, read by pixels or by rows. The data is part of scikit-learn."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import TensorDataset

from ..errors import OptionError
from .base import Score, Splits, Task, require_seed

if TYPE_CHECKING:
    import matplotlib.axes

_SIDE = 8


@dataclass(frozen=True)
class Digits(Task):
    r"""Classify an 8 x 8 handwritten digit after reading its 64 pixels one by one, or its 8 rows.

    Each of the 1797 images is a sequence of 64 time steps with one feature, row by row from the top left. With
    ``by="rows"``, it has 8 steps with the 8 pixels of a row. The grey values 0 to 16 are divided by 16. The target is
    the digit. The images are the test part of the UCI set *Optical Recognition of Handwritten Digits*, which
    scikit-learn contains. Nothing is downloaded.

    The split is stratified by digit: 360 images for the test, 180 for validation, 1257 for training.

    **Loss**: mean cross-entropy of the ten logits, natural logarithm.
    **Metric**: accuracy, the fraction of images whose largest logit belongs to their digit.
    **Baseline**: predicting the same probability for every digit has the accuracy :math:`1/10` and the loss :math:`\log
    10 \approx 2.303`.

    Parameters
    ----------
    seed : int
        Seed of the split, from 0 to :math:`2^{32} - 1`.
    by : "pixels" or "rows"
        Input of a time step: one pixel or one row.

    Raises
    ------
    OptionError
        If the seed is out of range, or ``by`` is unknown.

    Notes
    -----
    One of the 360 test images is 0.28 percentage points of accuracy. Near 95%, the standard error of one test run is
    1.1 points. Do not rank networks by smaller differences. Source: E. Alpaydin and C. Kaynak, *Optical Recognition of
    Handwritten Digits*, UCI Machine Learning Repository (1998).

    Examples
    --------
    >>> image, digit = mr.tasks.Digits().splits().test[0]
    >>> assert image.shape == (64, 1) and image.min() >= 0 and image.max() <= 1 and 0 <= digit <= 9
    >>> assert mr.tasks.Digits(by="rows").splits().test[0][0].equal(image.reshape(8, 8))
    """

    seed: int = 0
    by: Literal["pixels", "rows"] = "pixels"

    name: ClassVar[str] = "UCI digits"
    metric_name: ClassVar[str] = "accuracy"
    output_size: ClassVar[int] = 10

    def __post_init__(self) -> None:
        require_seed(self.seed)
        if self.by not in ("pixels", "rows"):
            raise OptionError(
                f"The option by of Digits is unknown.\nExpected by='pixels' or 'rows', got {self.by!r}.\n"
                "Check the spelling."
            )

    @property
    def input_size(self) -> int:
        return 1 if self.by == "pixels" else _SIDE

    @property
    def length(self) -> int:
        return _SIDE**2 // self.input_size

    def splits(self) -> Splits:
        """Return the three sets. Images are float32 of shape (64, 1) or (8, 8), digits are int64 scalars.

        Raises
        ------
        ImportError
            If scikit-learn is not installed.

        Examples
        --------
        >>> assert [len(part) for part in mr.tasks.Digits(seed=1).splits()] == [1257, 180, 360]
        """
        from sklearn.model_selection import train_test_split

        images, digits = _read()
        images = images.reshape(len(images), self.length, self.input_size)
        rest, test = train_test_split(range(len(digits)), test_size=360, stratify=digits, random_state=self.seed)
        train, validation = train_test_split(rest, test_size=180, stratify=digits[rest], random_state=self.seed)
        return Splits(*(TensorDataset(images[part], digits[part]) for part in (train, validation, test)))

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross-entropy of logits (B, 10) and digits (B,).

        Examples
        --------
        >>> loss = mr.tasks.Digits().loss(torch.zeros(3, 10), torch.tensor([0, 5, 9]))
        >>> assert abs(loss.item() - mr.tasks.Digits().baseline().loss) < 1e-6
        """
        return functional.cross_entropy(outputs, targets)

    def metric(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the accuracy of logits (B, 10) against digits (B,).

        Examples
        --------
        >>> assert mr.tasks.Digits().metric(torch.eye(10), torch.arange(10)) == 1
        """
        return (outputs.argmax(-1) == targets).float().mean()

    def baseline(self) -> Score:
        """Return the loss and the accuracy of equal probabilities for all digits.

        Examples
        --------
        >>> assert mr.tasks.Digits().baseline().metric == 0.1
        """
        return Score(loss=math.log(self.output_size), metric=1 / self.output_size)

    def plot(self, axes: "matplotlib.axes.Axes") -> None:
        """Draw the first image of the set."""
        images, digits = _read()
        axes.imshow(images[0].reshape(_SIDE, _SIDE).numpy(), cmap="gray_r")
        axes.set(title=f"{self.name}: {digits[0]}", xticks=(), yticks=())


def _read() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.as_tensor(bunch.data, dtype=torch.float32) / 16
    return images, torch.as_tensor(bunch.target, dtype=torch.int64)
