"""Perturbations for `robustness` other than of inputs: of the recurrent matrix and the states."""

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..constraints import parametrizations, release
from ..linalg import spectral_radius
from .attacks import Judge
from .lipschitz import LipschitzBound, lipschitz_bound
from .sources import RecurrentLayer, has_recurrent_matrix, hidden_states, layer_calls, matrix_of, recurrent_matrix
from .worst_case import worst_perturbation


def plain_copy(network: nn.Module) -> nn.Module:
    """A copy in evaluation mode. Its constrained weights are plain parameters that can be overwritten."""
    plain = copy.deepcopy(network)
    for name in [name for name, _ in parametrizations(plain)]:
        path, _, leaf = name.rpartition(".")
        release(plain.get_submodule(path), leaf)
    return plain.requires_grad_(False).eval()


def drawn(x: Tensor, seed: int, *, uniform: bool = False) -> Tensor:
    """Noise with the shape of ``x``, equal on every device: normal with variance 1, or uniform in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    shape = torch.view_as_real(x).shape if x.is_complex() else x.shape
    draw = torch.rand(shape, generator=generator) * 2 - 1 if uniform else torch.randn(shape, generator=generator)
    real = draw.to(x.device, x.real.dtype)
    return torch.view_as_complex(real) if x.is_complex() else real


class PerturbedWeights(NamedTuple):
    """Scores with a perturbed recurrent matrix, the reason if there are none, and spectral numbers of the matrix."""

    scores: dict[str, float]
    reason: str
    spectral: dict[str, float]


def perturbed_weights(judge: Judge, size: float, draws: int, seed: int) -> PerturbedWeights:
    """Score the copy of a network with a perturbed recurrent matrix, and restore the matrix at the end."""
    if not has_recurrent_matrix(judge.network):
        return PerturbedWeights({}, "the input determines the matrix of each step", {})
    shape = tuple(recurrent_matrix(judge.network).weight.shape)
    if len(shape) != 2 or shape[0] != shape[1]:
        return PerturbedWeights({}, f"the recurrent matrix has shape {shape}, which is not square", {})
    W = matrix_of(judge.network, "robustness").weight.clone()
    spectral = {"radius": float(spectral_radius(W)), "norm": float(torch.linalg.matrix_norm(W, 2))}
    if not size:
        return PerturbedWeights({}, "the weight radius is 0", spectral)
    if not _is_writable(judge.network, W):
        return PerturbedWeights({}, "another tool computes the recurrent matrix", spectral)
    generator = torch.Generator().manual_seed(seed)
    random = []
    for _ in range(draws):
        E = torch.randn(W.shape, dtype=W.dtype, generator=generator).to(W.device)
        random.append(_score_at(judge, W, E * (size / torch.linalg.matrix_norm(E, 2))))
    worst = worst_perturbation(W, eps=size)
    scores = {"random": sum(random) / draws, "worst case": _score_at(judge, W, worst.E)}
    return PerturbedWeights(scores, "", {**spectral, "perturbed radius": abs(worst.z)})


@torch.no_grad()
def _is_writable(network: nn.Module, W: Tensor) -> bool:
    """Whether the recurrent matrix can be overwritten. The result of a parametrization cannot."""
    stored = recurrent_matrix(network).weight
    stored.copy_(2 * W + 1)
    replaced = torch.equal(recurrent_matrix(network).weight, (2 * W + 1).to(stored.dtype))
    stored.copy_(W)
    return replaced


@torch.no_grad()
def _score_at(judge: Judge, W: Tensor, E: Tensor) -> float:
    """The score with ``W + E`` for the recurrent matrix."""
    stored = recurrent_matrix(judge.network).weight
    kept = stored.clone()
    stored.copy_(W + E)
    score = judge.score(judge.x)
    stored.copy_(kept)
    return score


def growth_curves(judge: Judge, layer: RecurrentLayer, radius: float, seed: int) -> dict[str, tuple[float, ...]]:
    """The largest ratio of state change to input change at each step, for two kinds of changes.

    It is empty if the network does not call the layer exactly once with all steps.
    """
    with torch.no_grad():
        if judge.network is not layer and len(layer_calls(judge.network, layer, judge.x[:1])) != 1:
            return {}
    random = radius * drawn(judge.x, seed)
    curves: dict[str, list[Tensor]] = {"random": [], "gradient": []}
    for x, y, d in judge.batches(judge.x, judge.y, random):
        with torch.no_grad():
            before = hidden_states(judge.network, x)
            step = judge.gradient(x, y)
            step = step / torch.where(step.abs() > 0, step.abs(), 1)
            for kind, change in (("random", d), ("gradient", radius * step)):
                after = hidden_states(judge.network, x + change)
                moved = torch.linalg.vector_norm(after - before, dim=-1).double()
                length = torch.linalg.vector_norm((x + change - x).flatten(1), dim=1).double()
                curves[kind].append((moved / length[:, None])[length > 0])
    found = {kind: torch.cat(parts) for kind, parts in curves.items()}
    return {kind: tuple(ratios.amax(0).tolist()) for kind, ratios in found.items() if len(ratios)}


def bound_for_inputs(network: nn.Module, layer: RecurrentLayer, x: Tensor) -> LipschitzBound:
    """The certified bound for the inputs of a network, if its layer receives them unchanged.

    Two tests with noise check that the network does not transform its inputs, for example by clamping.
    """
    for probe in (x[:1], x[:1] + drawn(x[:1], 0), x[:1] + 10 * drawn(x[:1], 1)) if network is not layer else ():
        reason = _changed_inputs(network, layer, probe)
        if reason:
            return LipschitzBound(None, reason)
    return lipschitz_bound(layer, x.shape[1])


def _changed_inputs(network: nn.Module, layer: RecurrentLayer, x: Tensor) -> str:
    """The reason why the layer does not receive the inputs of the network unchanged, or "" if it does."""
    calls = layer_calls(network, layer, x)
    if len(calls) != 1:
        return (
            "the network calls the recurrent layer more than once" if calls else "the network calls no recurrent layer"
        )
    received = [*calls[0].args, *calls[0].kwargs.values()]
    first = received[0]
    if not isinstance(first, Tensor) or first.dim() != 3:
        return "the layer receives packed inputs"
    first = first if layer.batch_first else first.transpose(0, 1)
    if not (first.shape == x.shape and torch.equal(first, x.to(first.dtype))):
        return "the network transforms its inputs before the recurrent layer"
    if any(isinstance(part, (Tensor, tuple)) for part in received[1:]):
        return "the network computes the initial state"
    return ""
