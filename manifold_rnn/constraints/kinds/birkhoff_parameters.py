"""The three parametrizations of `Birkhoff`."""

from __future__ import annotations

import itertools
import math
from abc import abstractmethod

import torch
from torch import Tensor, nn

from ...errors import NonFiniteError
from ...linalg.checks import on_numbers, require_finite
from ...linalg.precision import double, without_autocast
from ...manifolds import Orthogonal
from ...retractions import Retraction
from ..membership import projected, require_reached
from ..parametrization import Parametrization, require_shape
from ..trivialized import Trivialization

_FLOOR = 1e-9  # smallest starting entry: below it, gradients vanish
_LARGEST = 1e6  # largest logit: beyond it, sums in double precision have too few digits
_SWEEPS, _PROJECTIONS, _STARTS, _SMALL = 1000, 100, 30, 6  # limits of the search for a starting point


class DoublyStochastic(Parametrization):
    """The common base: measures the distance of a matrix from the set, and assigns a matrix."""

    @torch.no_grad()
    def defect(self) -> Tensor:
        """The largest distance of a row or column sum from 1, or the modulus of a negative entry if it is larger."""
        W = double(self())
        sums = [(W.sum(dim) - 1).abs().flatten() for dim in (-1, -2)]
        return torch.cat([*sums, (-W).clamp(min=0).flatten(), W.new_zeros(1)]).max()

    @torch.no_grad()
    def assign(self, weight: Tensor) -> None:
        """Compute the parameters of ``weight``; raises if there are none."""
        W: Tensor = self()
        require_shape(W, weight)
        require_finite(weight, "the assigned weight")
        if torch.equal(W, weight.to(W)):
            return  # for "sinkhorn", up to its residual
        before = {key: value.clone() for key, value in self.state_dict().items()}
        self.start_from(weight)
        try:
            rounding = max(1e-6, torch.finfo(W.dtype).eps)
            bound = rounding * weight.shape[-1] * max(1, W[..., 0, 0].numel())
            require_reached("Birkhoff", self(), weight, bound)
        except BaseException:
            self.load_state_dict(before)
            raise

    @torch.no_grad()
    def assign_nearest(self, weight: Tensor) -> None:
        require_shape(self(), weight)
        require_finite(weight, "the assigned weight")
        self.start_from(weight)

    @abstractmethod
    def start_from(self, weight: Tensor) -> None:
        """Set the parameters so that the matrix is near ``weight``, which may be any matrix."""


class OrthostochasticParametrization(DoublyStochastic):
    """The squared entries of an orthogonal matrix, ``rotation``."""

    def __init__(self, like: Tensor, retraction: Retraction) -> None:
        super().__init__()
        base = torch.eye(like.shape[-1], dtype=like.dtype, device=like.device).expand(like.shape).contiguous()
        self.rotation = Trivialization(Orthogonal(retraction), base)
        if not like.is_meta:
            self.start_from(like)

    def forward(self) -> Tensor:
        part = self.rotation
        if part.base.is_meta:
            return torch.empty_like(part.base)
        part.require_accepted()
        with without_autocast(part.base):
            Q = part.manifold.retr_free(double(part.base), double(part.coordinates))
            Q = 1.5 * Q - 0.5 * Q @ (Q.mH @ Q)  # the base is orthogonal only up to rounding in its own precision
            return Q.square().to(part.base.dtype)

    @torch.no_grad()
    def start_from(self, weight: Tensor) -> None:
        part = self.rotation
        root = _orthogonal_root(doubly_stochastic(weight, 1e-300), double(part()))
        part.assign_nearest(root.to(part.base.dtype))

    @property
    def weight_dtype(self) -> torch.dtype:
        return self.rotation.weight_dtype

    @property
    def retraction(self) -> Retraction | None:
        """The retraction of the orthogonal matrix."""
        return self.rotation.retraction

    def set_retraction(self, retraction: Retraction | str) -> None:
        """Change the retraction of the orthogonal matrix and keep the weight."""
        self.rotation.set_retraction(retraction)


class PermutationsParametrization(DoublyStochastic):
    """A convex combination of all permutation matrices; its weights are the softmax of ``logits``."""

    permutations: Tensor

    def __init__(self, like: Tensor) -> None:
        super().__init__()
        n = like.shape[-1]
        orders = torch.tensor(list(itertools.permutations(range(n))), device="cpu")
        every = torch.eye(n, device="cpu")[orders]  # on the CPU, since the default device may be meta
        self.keep_constant("permutations", every.to(torch.int8), like.device)
        self.logits = nn.Parameter(like.new_zeros(*like.shape[:-2], len(every)))
        if not like.is_meta:
            self.start_from(like)

    def forward(self) -> Tensor:
        require_finite(self.logits, "the logits of Birkhoff")
        with without_autocast(self.logits):
            weights = double(self.logits).softmax(-1)
            flat = self.permutations.to(weights.dtype).flatten(1)
            return (weights @ flat).unflatten(-1, self.permutations.shape[1:]).to(self.logits.dtype)

    @torch.no_grad()
    def start_from(self, weight: Tensor) -> None:
        """Compute the weights of largest entropy, for one row of the matrix after the other."""
        goal = doubly_stochastic(weight)
        flat = self.permutations.to(goal.dtype)
        logits = goal.new_zeros(self.logits.shape)
        for _ in range(_SWEEPS):
            before = logits
            for i in range(goal.shape[-1]):
                reached = logits.softmax(-1) @ flat[:, i]
                logits = logits + (goal[..., i, :] / reached.clamp(min=1e-300)).log() @ flat[:, i].mT
            logits = logits - logits.amax(-1, keepdim=True)
            if not logits.numel() or float((logits - before).abs().max()) < 1e-12:
                break
        self.logits.copy_(logits)

    def dimensions(self) -> dict[nn.Parameter, int]:
        return _whole_set(self.logits, self.permutations.shape[-1], 1)

    @property
    def weight_dtype(self) -> torch.dtype:
        return self.logits.dtype


class SinkhornParametrization(DoublyStochastic):
    """A matrix with entries ``exp(logits)``, scaled to be doubly stochastic."""

    def __init__(self, like: Tensor, sweeps: int) -> None:
        super().__init__()
        self.sweeps = sweeps
        self.logits = nn.Parameter(torch.zeros_like(like))
        if not like.is_meta:
            self.start_from(like)

    def extra_repr(self) -> str:
        return f'view="trivialized", sweeps={self.sweeps}'

    def forward(self) -> Tensor:
        on_numbers(_require_logits, self.logits)
        with without_autocast(self.logits):
            return sinkhorn(double(self.logits), self.sweeps).exp().to(self.logits.dtype)

    @torch.no_grad()
    def start_from(self, weight: Tensor) -> None:
        self.logits.copy_(doubly_stochastic(weight).log())

    def dimensions(self) -> dict[nn.Parameter, int]:
        return _whole_set(self.logits, self.logits.shape[-1], 2)

    @property
    def weight_dtype(self) -> torch.dtype:
        return self.logits.dtype


def sinkhorn(logits: Tensor, sweeps: int) -> Tensor:
    """Return the logarithm of the scaled matrix. Each sweep normalizes columns, then rows."""
    for _ in range(sweeps):
        logits = logits.log_softmax(-2).log_softmax(-1)  # log_softmax subtracts the largest entry first
    return logits


def doubly_stochastic(weight: Tensor, floor: float = _FLOOR) -> Tensor:
    """Return the moduli of a matrix in double precision, scaled to be doubly stochastic.

    Entries below ``floor`` times the largest are first raised to it.
    """
    W = double(weight.detach()).abs()
    largest = W.amax((-2, -1), keepdim=True)
    logits = (W / torch.where(largest > 0, largest, 1)).clamp(min=floor).log()
    for _ in range(_SWEEPS):
        logits = logits.log_softmax(-2).log_softmax(-1)
        if not logits.numel() or float((logits.exp().sum(-2) - 1).abs().max()) < 1e-13:
            break
    return logits.exp()


def _orthogonal_root(W: Tensor, present: Tensor) -> Tensor:
    """Return an orthogonal matrix with entries near ± the square roots of W, by alternating projections.

    Finding the right signs is a combinatorial problem, so the search runs from several signs and keeps the best result.
    It first tries the signs of the present matrix, since an assigned weight is often near it.
    """
    n, root = W.shape[-1], W.sqrt()
    k = torch.arange(n, dtype=W.dtype, device="cpu")
    cosines = torch.cos(math.pi / n * (k + 0.5) * k[:, None])  # signs of a full orthogonal matrix, like the next one
    reflection = 2 * torch.eye(n, dtype=W.dtype, device="cpu") - 1
    more = _STARTS if n <= _SMALL else 0  # random signs rarely succeed for larger matrices
    drawn = torch.randn(more, n, n, dtype=W.dtype, device="cpu", generator=torch.Generator().manual_seed(0))
    signs = torch.cat([cosines[None], reflection[None], drawn]).to(W.device)
    others = signs.view(-1, *[1] * (W.ndim - 2), n, n).expand(-1, *W.shape)
    Q = torch.cat([present[None], others])
    for _ in range(_PROJECTIONS):
        Q = projected(Orthogonal(), torch.where(Q < 0, -root, root))
        error = torch.linalg.matrix_norm(Q.square() - W)
        if not error.numel() or float(error.amin(0).max()) < 1e-14:
            break
    best = error.argmin(0)
    return Q.take_along_dim(best[None, ..., None, None], 0)[0]


def _require_logits(logits: Tensor) -> None:
    size = float(logits.abs().max()) if logits.numel() else 0.0
    if not size <= _LARGEST:  # NaN included
        raise NonFiniteError(
            f"The logits of Birkhoff('sinkhorn') must be finite and at most {_LARGEST:.0e}.\n"
            f"Got {size:.3g}, at which sums have too few digits.\nLower the learning rate, or clip the gradient."
        )


def _whole_set(p: nn.Parameter, n: int, axes: int) -> dict[nn.Parameter, int]:
    """Return the dimension of the set of doubly stochastic matrices, for a parameter with ``axes`` axes per matrix."""
    return {p: (n - 1) ** 2 * math.prod(p.shape[: p.ndim - axes])}
