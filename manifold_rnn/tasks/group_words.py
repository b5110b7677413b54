"""Words of a finite group: predict the product of all elements read so far."""

import math
from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import OptionError
from .base import Score, Splits
from .memory import require_memory
from .one_hot import OneHot
from .synthetic import Synthetic, require_drawn, require_length

if TYPE_CHECKING:
    import matplotlib.axes

Group = Literal["parity", "S3", "S4", "A5", "S5"]
_DEGREES = {"parity": 2, "S3": 3, "S4": 4, "A5": 5, "S5": 5}


@dataclass(frozen=True)
class GroupWords(Synthetic):
    r"""Read elements of a permutation group, and predict their product after each of them.

    The elements :math:`g_1, g_2, \dots` are drawn uniformly and read as one-hot vectors. The label of time step ``t``
    is

    .. math:: p_t = g_t \circ p_{t-1} = g_t \circ \dots \circ g_1.

    =============  ===========================================  =========
    ``"parity"``   both permutations of 2, so the parity        2
    ``"S3"``       all permutations of 3                        6
    ``"S4"``       all permutations of 4                        24
    ``"A5"``       the even permutations of 5, not solvable     60
    ``"S5"``       all permutations of 5, not solvable          120
    =============  ===========================================  =========

    **Loss**: mean cross-entropy of the logits over all steps, natural logarithm.
    **Metric**: accuracy over all steps.
    **Baseline**: all elements are equally likely at every step. So chance level has the loss :math:`\log |G|` and the
    accuracy :math:`1 / |G|`.

    Parameters
    ----------
    group : "parity", "S3", "S4", "A5" or "S5"
        Name of the group, see above.
    length : int
        Number of time steps of a sequence for training and validation.
    test_length : int, optional
        Number of time steps of a test sequence. Default: ``length``.
    sizes : tuple of int
        Number of sequences for training, validation and test.
    seed : int
        Random seed of all sequences, from 0 to :math:`2^{32} - 1`.
    fresh : bool
        Whether to draw a new training set for every epoch.

    Raises
    ------
    OptionError
        If a length or a size is below 1, the seed out of range, or ``group`` unknown.

    Notes
    -----
    Short and long words have the same labels. So a network that has learned the group law is correct at any length.
    Source: Siems et al. (2025).

    Examples
    --------
    >>> x, target = mr.tasks.GroupWords("parity", length=4).sample(1)
    >>> assert torch.equal(x[0, :, 1].cumsum(0) % 2, target[0].float())
    """

    group: Group = "S3"
    length: int = 128
    test_length: int | None = None
    sizes: tuple[int, int, int] = (20_000, 1_000, 1_000)
    seed: int = 0
    fresh: bool = False

    metric_name: ClassVar[str] = "accuracy"
    every_step: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_drawn(self)
        if self.group not in get_args(Group):
            raise OptionError(
                "The group of GroupWords is unknown.\n"
                f"Expected one of {', '.join(map(repr, get_args(Group)))}; got {self.group!r:.40}.\nCheck the spelling."
            )
        require_length(self, "length", self.length, least=1)
        if self.test_length is not None:
            require_length(self, "test_length", self.test_length, least=1)

    @property
    def name(self) -> str:
        """Name of the task in tables and plots."""
        return f"words of {self.group}" if self.group != "parity" else "parity"

    @property
    def elements(self) -> tuple[tuple[int, ...], ...]:
        """The permutations in the order of their labels. The identity is the first one.

        Examples
        --------
        >>> assert mr.tasks.GroupWords("S3").elements[1] == (0, 2, 1)
        """
        everyone = permutations(range(_DEGREES[self.group]))
        return tuple(p for p in everyone if self.group != "A5" or _is_even(p))

    @property
    def table(self) -> Tensor:
        r"""The labels of all products :math:`g \circ h`, shape ``(|G|, |G|)``."""
        labels = {p: label for label, p in enumerate(self.elements)}
        return torch.tensor([[labels[tuple(g[i] for i in h)] for h in labels] for g in labels], device="cpu")

    @property
    def input_size(self) -> int:
        """Number of elements of the group."""
        return math.factorial(_DEGREES[self.group]) // (2 if self.group == "A5" else 1)

    @property
    def output_size(self) -> int:
        """Number of elements of the group."""
        return self.input_size

    @property
    def sequence_bytes(self) -> int:
        return 2 * self.length

    def draw(self, count: int, generator: torch.Generator | None) -> OneHot:
        """Return words of ``length`` elements, and their targets of shape (count, length)."""
        return self._words(count, self.length, generator)

    def splits(self) -> Splits:
        """Return the three sets, which are equal at every call. Raises `OptionError` if they do not fit into memory."""
        lengths = (self.length, self.length, self.test_length or self.length)
        needed = sum(2 * size * length for size, length in zip(self.sizes, lengths, strict=True))
        require_memory("task.sizes", needed, "a set of sequences", f"{self.sizes} of {max(lengths):,} steps")
        generator = torch.Generator().manual_seed(self.seed)
        return Splits(*(self._words(*set_, generator) for set_ in zip(self.sizes, lengths, strict=True)))

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross-entropy of logits (B, T, G) and labels (B, T)."""
        return functional.cross_entropy(outputs.flatten(0, -2), targets.flatten())

    def metric(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the accuracy over all steps."""
        return (outputs.argmax(-1) == targets).float().mean()

    def baseline(self) -> Score:
        r"""Return the loss :math:`\log |G|` and the accuracy :math:`1 / |G|`.

        Examples
        --------
        >>> assert round(mr.tasks.GroupWords("S3").baseline().loss, 4) == 1.7918
        """
        return Score(loss=math.log(self.output_size), metric=1 / self.output_size)

    def plot(self, axes: "matplotlib.axes.Axes") -> None:
        """Draw the inputs and targets, with a colour for each element."""
        read, due = self._words(1, min(self.length, 60), torch.Generator().manual_seed(self.seed)).tensors
        both = torch.cat([read, due]).to(torch.float32).numpy()
        axes.imshow(both, aspect="auto", interpolation="none", cmap="tab20", vmin=0, vmax=self.output_size - 1)
        axes.set(title=f"{self.name}: a colour for each element", xlabel="time step")
        axes.set_yticks([0, 1], ["read", "due"])

    def _words(self, count: int, length: int, generator: torch.Generator | None) -> OneHot:
        shape, table = (count, length), self.table
        read = torch.randint(0, self.input_size, shape, generator=generator, dtype=torch.uint8, device="cpu")
        due = torch.empty_like(read)
        product = torch.zeros(count, dtype=torch.long, device="cpu")  # the identity
        for t, element in enumerate(read.unbind(1)):
            product = table[element.long(), product]
            due[:, t] = product
        return OneHot(read, due, self.input_size)


def _is_even(p: tuple[int, ...]) -> bool:
    return sum(p[i] > p[j] for j in range(len(p)) for i in range(j)) % 2 == 0
