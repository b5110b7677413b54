"""Short patterns that a network learns by RFLO, and a circuit that chains them into long sequences."""

import math
from collections.abc import Sequence
from numbers import Real

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from .._options import is_integer
from ..errors import NonFiniteError, OptionError, ShapeError
from .rflo import RFLO


class MotifChain(nn.Module):
    r"""A network that plays short motifs, each for its own constant input, and a circuit that chooses the next motif.

    The context ``c`` is a one-hot vector. It is constant during a motif and enters through fixed random weights. RFLO
    trains the motifs, each from the same initial state. At the end of a motif a linear map of the state scores all
    contexts. The context with the largest score is next, and the state is reset. A trace therefore never has to last
    longer than a motif, even in a long chain.

    This simplifies Murray (2019): a linear map with a maximum, and a reset, replace the circuit of the paper.

    Parameters
    ----------
    network : RFLO
        A network with ``batch_first`` whose layer has as many inputs as there are motifs. New input weights are drawn
        and frozen.
    length : int
        Time steps per motif.
    scale : float
        Standard deviation of the normal input weights. Positive.
    start : float
        The value of every entry of the initial state. Finite.
    generator : torch.Generator, optional
        Generator of the input weights.

    Attributes
    ----------
    selector : Tensor, shape (motifs, n + 1)
        The map from a state and 1 to the scores: a buffer that `fit_order` computes. The row of a motif is 0 if the
        motif is not in the order.

    Raises
    ------
    OptionError
        If ``length`` is not an integer of at least 1, ``scale`` or ``start`` is out of range, or the network lacks a
        readout or ``batch_first``.

    Examples
    --------
    >>> layer = mr.nn.Layer(mr.nn.cells.LeakyElman(bias=False), 3, 20, batch_first=True)
    >>> chain = mr.online.MotifChain(mr.online.RFLO(layer, torch.nn.Linear(20, 1)), length=10)
    >>> optimizer = torch.optim.SGD([p for p in chain.parameters() if p.requires_grad], lr=0.03)
    >>> losses = chain.fit_motifs(torch.rand(3, 10, 1), optimizer, trials=5)
    >>> chain.fit_order([0, 2, 1])
    >>> outputs, order = chain.play(first=0, motifs=6)
    >>> assert outputs.shape == (60, 1) and len(order) == 6
    """

    selector: Tensor

    def __init__(
        self,
        network: RFLO,
        length: int,
        *,
        scale: float = 0.3,
        start: float = 0.1,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        _require_count("length", length)
        if not isinstance(network, RFLO) or not isinstance(network.readout, nn.Linear):
            raise OptionError(
                "A chain of motifs needs an RFLO network with a readout.\n"
                f"Got {type(network).__name__} without one.\nPass online.RFLO(layer, nn.Linear(units, outputs))."
            )
        if not network.layer.batch_first:
            raise OptionError(
                "A chain of motifs needs batch_first.\n"
                "Expected a layer with batch_first=True, got batch_first=False.\nBuild the layer with batch_first=True."
            )
        _require_number("scale", scale, 0.0)
        _require_number("start", start)
        self.network, self.length, self.start = network, length, start
        self.count, self.outputs = network.layer.input_size, network.readout.out_features
        V = network.layer.get_parameter("weight_ih_l0")
        nn.init.normal_(V, std=scale, generator=generator)
        V.requires_grad_(False)
        self.register_buffer("selector", V.new_zeros(self.count, network.layer.hidden_size + 1))

    def forward(self, contexts: Tensor) -> tuple[Tensor, Tensor]:
        """Play one motif for each row of a batch.

        Parameters
        ----------
        contexts : Tensor, shape (B,), int64
            Motif numbers.

        Returns
        -------
        outputs : Tensor, shape (B, length, k)
            The outputs of the motifs.
        state : Tensor, shape (B, n)
            The state at the end of the motif.
        """
        c = F.one_hot(contexts, self.count).to(self.selector.dtype)  # (B, motifs)
        start = self.selector.new_full((1, len(c), self.network.layer.hidden_size), self.start)
        x = c.unsqueeze(1).expand(-1, self.length, -1)
        outputs, state = self.network.carry_on(x, start, every_step=True)
        assert isinstance(outputs, Tensor)
        return outputs, state[0]

    def fit_motifs(self, targets: Tensor, optimizer: Optimizer, trials: int) -> list[float]:
        """Train the motifs by RFLO; each trial plays all of them. Call `fit_order` afterwards.

        Parameters
        ----------
        targets : Tensor, shape (motifs, length, k)
            The target outputs of each motif.
        optimizer : torch.optim.Optimizer
            An optimizer of the network's trained parameters.
        trials : int
            Number of optimizer steps.

        Returns
        -------
        list of float
            The loss of each trial: half of the mean squared error of a motif, summed over the motifs.

        Raises
        ------
        ShapeError
            If the targets have another shape.
        NonFiniteError
            If the targets have entries that are not finite. Then no weight is changed.
        OptionError
            If ``trials`` is not an integer of at least 1.

        Notes
        -----
        The final states of motifs change with the weights, so a previously fitted order is reset.
        """
        expected = (self.count, self.length, self.outputs)
        if tuple(targets.shape) != expected:
            raise ShapeError(
                "The targets of the motifs have the wrong shape.\n"
                f"Expected {expected}, motifs by steps by outputs; got {tuple(targets.shape)}.\n"
                "Use the same length for each motif."
            )
        if not targets.isfinite().all():
            raise NonFiniteError(
                "The targets of the motifs need finite entries.\n"
                f"Got {int((~targets.isfinite()).sum())} of {targets.numel()} that are not.\n"
                "Replace these entries. No weight has changed."
            )
        _require_count("trials", trials)
        self.selector.zero_()
        losses, contexts = [], torch.arange(self.count, device=targets.device)
        self.train()
        for _ in range(trials):
            optimizer.zero_grad()
            loss = 0.5 * self.count * F.mse_loss(self(contexts)[0], targets)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    @torch.no_grad()
    def fit_order(self, order: Sequence[int] | Tensor, *, ridge: float = 1e-4) -> None:
        """Fit the map that chooses the next context for a cycle of motifs, by least squares.

        Parameters
        ----------
        order : sequence of int, or Tensor of them
            Different motif numbers. The first motif follows the last one.
        ridge : float
            Weight of the squared norm of the map in the fit. Positive.

        Raises
        ------
        OptionError
            If the order is empty, or contains a motif twice or an unknown number. Also if ``ridge`` is out of range, or
            if the final states of motifs are too similar for correct choices. Then the map is unchanged.
        """
        order = order.tolist() if isinstance(order, Tensor) else list(order)
        _require_number("ridge", ridge, 0.0)
        self._require_motifs("order", order)
        if len(set(order)) < len(order):
            raise OptionError(
                "A motif can only have one successor.\n"
                f"Expected different numbers, got {list(order)!s:.80}.\nTrain two copies of a motif to use it twice."
            )
        H = _with_one(self(torch.tensor(order, device=self.selector.device))[1])  # (motifs in the order, n + 1)
        following = torch.tensor([*order[1:], order[0]], device=H.device)
        wanted = F.one_hot(following, self.count).to(H.dtype)
        penalty = ridge * torch.eye(len(H), dtype=H.dtype, device=H.device)
        solution, failed = torch.linalg.solve_ex(H @ H.mT + penalty, wanted)
        selector = (H.mT @ solution).mT
        if failed or not torch.equal((H @ selector.mT).argmax(-1), following):
            raise OptionError(
                "The final states of the motifs are too similar.\n"
                f"Expected a correct choice after each of {len(order)} motifs, got a wrong one.\n"
                "Increase scale, or train the motifs longer."
            )
        self.selector.copy_(selector)

    @torch.no_grad()
    def play(self, first: int, motifs: int) -> tuple[Tensor, list[int]]:
        """Play a number of motifs, each chosen by the circuit at the end of the previous one.

        Parameters
        ----------
        first : int
            The first motif.
        motifs : int
            The number of motifs to play.

        Returns
        -------
        outputs : Tensor, shape (motifs * length, k)
            The outputs of all motifs.
        order : list of int
            The numbers of the motifs that were played.

        Raises
        ------
        OptionError
            If no order is fitted, ``first`` is not in the fitted order, or ``motifs`` is not an integer of at least 1.
        """
        self._require_motifs("first", [first])
        _require_count("motifs", motifs)
        ordered = self.selector.any(-1).nonzero().flatten().tolist()
        if first not in ordered:
            raise OptionError(
                "`first` must be a motif of the order that fit_order has fitted.\n"
                f"Expected one of {ordered!s:.80}, got {first}.\n"
                "Call fit_order with this motif in the order, after fit_motifs."
            )
        pieces, order = [], [first]
        while True:
            outputs, state = self(torch.tensor(order[-1:], device=self.selector.device))
            pieces.append(outputs[0])
            if len(order) == motifs:
                return torch.cat(pieces), order
            order.append(int((_with_one(state) @ self.selector.mT).argmax()))

    def _require_motifs(self, name: str, motifs: Sequence[int]) -> None:
        wrong = [motif for motif in motifs if not is_integer(motif, 0) or motif >= self.count]
        if wrong or not motifs:
            raise OptionError(
                f"`{name}` must be motif numbers.\n"
                f"Expected integers from 0 to {self.count - 1}, got {wrong[0] if wrong else ()!r:.80}.\n"
                "There are as many motifs as the layer has inputs."
            )


def _require_count(name: str, value: int) -> None:
    if not is_integer(value, 1):
        raise OptionError(
            f"`{name}` of a chain of motifs is out of range.\n"
            f"Expected an integer of at least 1, got {value!r:.80}.\nChoose a positive integer."
        )


def _require_number(name: str, value: float, above: float = -math.inf) -> None:
    if isinstance(value, bool) or not isinstance(value, Real) or not above < value < math.inf:
        raise OptionError(
            f"`{name}` of a chain of motifs is out of range.\n"
            f"Expected a {'finite' if above < 0 else 'positive'} number, got {value!r:.80}.\nUse the default."
        )


def _with_one(h: Tensor) -> Tensor:
    return torch.cat([h, torch.ones_like(h[:, :1])], -1)
