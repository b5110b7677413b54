"""Mutants of test cases, and their distances from the original cases."""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from ..errors import NonFiniteError, ShapeError
from .checks import require_seed

Mutate: TypeAlias = Callable[[Tensor, torch.Generator], Tensor]
Distance: TypeAlias = Callable[[Tensor, Tensor], Tensor]
_VARIANCES = (0.005, 0.02)  # variances of the noise for inputs in [0, 1]
_RATE = 0.05  # fraction of replaced symbols, and of replaced binary entries


def root_mean_square(x: Tensor, y: Tensor) -> Tensor:
    """Return the Euclidean distance of each pair of cases, divided by the root of the number of entries."""
    squares: Tensor = (x - y).abs().double() ** 2
    return squares.flatten(1).mean(1).sqrt()


class Mutation:
    """Creates mutants of seeds, whose first axis is the batch.

    ``mutate`` is a function of the user for inputs whose batch axis is ``axis``. Without it, symbols are replaced, and
    other numbers get Gaussian noise within the range of the seeds. Channels (the last of three axes) that are 0 or 1 in
    all seeds stay unchanged. If all channels are, entries are drawn again from 0 and 1.
    """

    def __init__(self, seeds: Tensor, mutate: Mutate | None, axis: int, seed: int) -> None:
        require_seed(seed)
        self._generator = torch.Generator(seeds.device).manual_seed(int(seed))
        self._mutate, self._axis = mutate, axis
        self._is_integer = not (seeds.is_floating_point() or seeds.is_complex())
        self._is_one_hot = seeds.dim() == 3 and seeds.shape[2] > 1 and not self._is_integer and _is_one_hot(seeds)
        binary = (seeds == 0) | (seeds == 1)
        self._markers = binary.flatten(0, 1).all(0) if seeds.dim() == 3 else binary.all()  # by channel
        is_binary = bool(self._markers.all()) and bool((seeds == 0).any()) and bool((seeds == 1).any())
        self._is_symbolic = self._is_integer or self._is_one_hot or is_binary
        if self._is_symbolic:
            self._symbols = (seeds.argmax(-1) if self._is_one_hot else seeds.real).unique()
        elif not seeds.is_complex():
            low, high = float(seeds.min()), float(seeds.max())
            self._low, self._high = (low, high) if high > low else (-torch.inf, torch.inf)
        self._scale = float((seeds - seeds.mean()).abs().max()) or 1.0 if seeds.is_complex() else 0.0

    def __call__(self, x: Tensor) -> Tensor:
        """Return one mutant of each case. Raises an error if the user's function returns something else."""
        if self._mutate is None:
            return self._symbols_replaced(x) if self._is_symbolic else self._noisy(x)
        mutants = self._mutate(x.transpose(0, self._axis), self._generator)
        if not isinstance(mutants, Tensor) or mutants.shape != x.transpose(0, self._axis).shape:
            got = f"shape {tuple(mutants.shape)}" if isinstance(mutants, Tensor) else type(mutants).__name__
            raise ShapeError(f"`mutate` needs to return cases of the shape that it is passed. Got {got}.")
        if not mutants.isfinite().all():
            raise NonFiniteError("`mutate` needs to return finite numbers. Got NaN or infinity. Lower its noise.")
        return mutants.transpose(0, self._axis).to(x)

    def choose(self, count: int, of: int) -> Tensor:
        """Return ``count`` different integers below ``of``, in random order."""
        return torch.randperm(of, generator=self._generator, device=self._generator.device)[:count]

    def _noisy(self, x: Tensor) -> Tensor:
        low, high = _VARIANCES
        shape = (len(x), *[1] * (x.dim() - 1))
        variance = low + (high - low) * torch.rand(shape, generator=self._generator, device=x.device)
        noise = torch.randn(x.shape, generator=self._generator, device=x.device, dtype=x.dtype)
        if not self._markers.all():  # otherwise the seeds are constant
            noise = noise.where(~self._markers, 0)
        if x.is_complex():
            return x + (self._scale * variance.sqrt()).to(x.real) * noise
        width = self._high - self._low if self._high < torch.inf else 1.0
        return (x + (width * variance.sqrt()).to(x) * noise).clamp(self._low, self._high)

    def _symbols_replaced(self, x: Tensor) -> Tensor:
        old = x.argmax(-1) if self._is_one_hot else x
        flat = old.flatten(1)
        chosen = torch.rand(flat.shape, generator=self._generator, device=x.device) < _RATE
        first = torch.randint(flat.shape[1], (len(flat), 1), generator=self._generator, device=x.device)
        chosen.scatter_(1, first, True)  # mutate at least one step of every case
        drawn = torch.randint(len(self._symbols), flat.shape, generator=self._generator, device=x.device)
        new = torch.where(chosen, self._symbols[drawn], flat).view_as(old)
        return torch.nn.functional.one_hot(new, x.shape[-1]).to(x) if self._is_one_hot else new


def _is_one_hot(x: Tensor) -> bool:
    return bool(((x == 0) | (x == 1)).all() and (x.sum(-1) == 1).all())
