"""Every cell with every constraint: forward, backward, ten steps of an optimizer. Both lists are what is exported."""

import inspect
import math
import re
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from support.counting import evaluations
from torch import nn

import manifold_rnn as mr
from manifold_rnn import constraints, manifolds, retractions
from manifold_rnn.linalg import defect, spectral_radius
from manifold_rnn.nn import Layer, cells, real_features

N, T, B, SEEDS, STEPS = 8, 6, 5, (0, 1, 2), 10
BOUND = 1e-5
REAL, COMPLEX = torch.float32, torch.complex64

CELLS = {name: getattr(cells, name)() for name in cells.__all__ if not inspect.isabstract(getattr(cells, name))}
CELLS |= {f"Elman {f}": cells.Elman(f) for f in ("relu", "modrelu")}
CELLS |= {
    f"Momentum {kind} {type(host).__name__}": cells.Momentum(host, kind)
    for kind in ("momentum", "adam", "rmsprop", "restart")
    for host in (cells.Elman(), cells.LSTM(), cells.GRU())
}


def orthonormal(W):
    return float(defect(W).max())


def in_disc(W):
    return float((spectral_radius(W) - 1).clamp(min=0).max())


def contracting(W):
    return float((torch.linalg.matrix_norm(W, 2) - 1).clamp(min=0).max())


def long_and_short(W):
    k = N // 2
    return orthonormal(W[..., :k, :k]) + float(W[..., k:, :k].abs().max())


def unit_rows(W):
    return float((torch.linalg.vector_norm(W, dim=-1) - 1).abs().max())


def mixing(W):
    return float(torch.cat([(W.sum(-1) - 1).abs(), (W.sum(-2) - 1).abs(), (-W).clamp(min=0).amax(-1)]).max())


def anything(W):
    return 0.0


@dataclass(frozen=True)
class Pair:
    """A constraint in one of its views, and how far a matrix is off; without a measure, what it says of itself."""

    constraint: Any
    view: str
    dtype: torch.dtype
    off: Any = None


BOTH, TRIVIALIZED = ("update", "trivialized"), ("trivialized",)
# What a class is tested with, and how a matrix is measured by other means than its own. What is not in here
# is tested by being exported.
ROWS = {
    "Adapted": [],
    "Assembled": [
        (mr.block_triangular(mr.FixedBase(mr.Orthogonal()), mr.StickyDisc()), REAL, long_and_short),
    ],
    "Birkhoff": [
        (mr.Birkhoff(), REAL, mixing),
        (mr.Birkhoff("sinkhorn", sweeps=100), REAL, mixing),
    ],
    "BlockTriangular": [(mr.BlockTriangular(mr.Orthogonal(), mr.UnitDisc()), REAL, long_and_short)],
    "Blocks": [],
    "Contraction": [(mr.Contraction(), REAL, contracting), (mr.Contraction(), COMPLEX, contracting)],
    "DampedSkew": [
        (mr.DampedSkew(), REAL, anything),
        (mr.DampedSkew(method="exp"), REAL, contracting),
        (mr.DampedSkew(method="cayley"), COMPLEX, contracting),
    ],
    "DiagonalDisc": [(mr.DiagonalDisc(), COMPLEX, in_disc)],
    "DiagonalGram": [(mr.DiagonalGram(), REAL, None), (mr.DiagonalGram("polar"), COMPLEX, None)],
    "Euclidean": [],
    "FixedBase": [
        (mr.FixedBase(mr.Orthogonal(), 3), REAL, orthonormal),
        (mr.FixedBase(mr.Unitary("exp")), COMPLEX, orthonormal),
    ],
    "FixedSpectrum": [(mr.FixedSpectrum(), REAL, None), (mr.FixedSpectrum("exp"), COMPLEX, None)],
    "IdentityPlusLowRank": [(mr.IdentityPlusLowRank(2), REAL, anything), (mr.IdentityPlusLowRank(), COMPLEX, anything)],
    "LipschitzMixture": [(mr.LipschitzMixture(), REAL, anything), (mr.LipschitzMixture(), COMPLEX, anything)],
    "Oblique": [
        (mr.Oblique(), REAL, unit_rows),
        (mr.Oblique(-2, 2.0, "polar"), REAL, None),
        (mr.Oblique(), COMPLEX, unit_rows),
    ],
    "OrthogonalAdapter": [
        (mr.OrthogonalAdapter(4), REAL, None),
        (mr.OrthogonalAdapter(2, "exp", factors=3, side="output"), REAL, None),
        (mr.OrthogonalAdapter(4), COMPLEX, None),
    ],
    "OrthogonalConv": [],
    "PhaseScaled": [(mr.PhaseScaled(mr.Unitary()), COMPLEX, orthonormal)],
    "ReflectionAdapter": [(mr.ReflectionAdapter(4), REAL, None), (mr.ReflectionAdapter(2), COMPLEX, None)],
    "Reflections": [(mr.Reflections(), REAL, orthonormal), (mr.Reflections(3), COMPLEX, orthonormal)],
    "Rotations": [
        (mr.Rotations(), REAL, orthonormal),
        (mr.Rotations(layers=2), COMPLEX, orthonormal),
        (mr.Rotations("fft"), REAL, orthonormal),
        (mr.Rotations("fft"), COMPLEX, orthonormal),
    ],
    "SPD": [(mr.SPD(), REAL, None), (mr.SPD("log-cholesky"), REAL, None), (mr.SPD("log-cholesky"), COMPLEX, None)],
    "SchurDisc": [
        (mr.SchurDisc(), REAL, in_disc),
        (mr.SchurDisc(blocks="rotation"), REAL, in_disc),
        (mr.SchurDisc(), COMPLEX, in_disc),
    ],
    "SchurForm": [(mr.SchurForm(), REAL, anything), (mr.SchurForm(), COMPLEX, anything)],
    "SpectralScaled": [
        (mr.SpectralScaled(), REAL, in_disc),
        (mr.SpectralScaled("norm"), REAL, contracting),
        (mr.SpectralScaled("norm"), COMPLEX, contracting),
    ],
    "Stiefel": [],
    "Sphere": [
        (mr.Sphere(), REAL, unit_rows),
        (mr.Sphere((-2, -1), 3.0), COMPLEX, None),
        (mr.Sphere((-2, -1), radius="init"), REAL, None),
    ],
    "StiefelAdapter": [(mr.StiefelAdapter(3), REAL, None), (mr.StiefelAdapter(3), COMPLEX, None)],
    "StickyDisc": [(mr.StickyDisc(), REAL, in_disc)],
    "SubspaceAdapter": [(mr.SubspaceAdapter(4), REAL, None), (mr.SubspaceAdapter(4), COMPLEX, None)],
    "UnitDisc": [(mr.UnitDisc(), REAL, in_disc)],
    "UnitaryProduct": [(mr.UnitaryProduct(), COMPLEX, orthonormal)],
}


def exported(module, base):
    named = {name: getattr(module, name) for name in module.__all__}
    classes = {name: kind for name, kind in named.items() if isinstance(kind, type) and issubclass(kind, base)}
    return {name: kind for name, kind in classes.items() if not inspect.isabstract(kind)}


def rows(name, kind):
    """The constraints of a class, each with its dtype and measure."""
    if name in ROWS:
        return [(f"{name} {k}", *row) for k, row in enumerate(ROWS[name])]
    dtype = COMPLEX if kind.is_complex else REAL
    if issubclass(kind, manifolds.Manifold) and kind().retraction is not None:
        made = [kind(r) for r in retractions.names()]
        return [(f"{name} {m.retraction.name}", m, dtype, lambda W, m=m: float(m.defect(W).max())) for m in made]
    return [(name, kind(), dtype, None)]


def pairs():
    for module, base, views in (
        (manifolds, manifolds.Manifold, BOTH),
        (constraints, constraints.Constraint, TRIVIALIZED),
    ):
        for name, kind in exported(module, base).items():
            for label, constraint, dtype, off in rows(name, kind):
                for view in views:
                    yield f"{label} {view}", Pair(constraint, view, dtype, off)
    yield "none", Pair(None, "update", REAL, anything)
    yield "none complex", Pair(None, "update", COMPLEX, anything)


PAIRS = dict(pairs())
EVERY = [(cell, pair) for cell in CELLS if CELLS[cell].gates for pair in PAIRS]
# each cell and each constraint several times, in changing company
SOME = sorted({*(EVERY[k] for k in range(0, len(EVERY), 7)), *((c, p) for c in ("Elman", "LSTM") for p in PAIRS)})


def made(name, pair, **options):
    return Layer(CELLS[name], 2, N, dtype=pair.dtype, constraint=pair.constraint, view=pair.view, **options)


def rate(cell):
    """The learning rate that the cell's docstring names."""
    return float(re.search(r"Learning rate:\s+([0-9.e-]+[0-9])", type(cell).__doc__)[1])


def blocks(layer):
    return [W for suffix in layer.suffixes for W in getattr(layer, "weight_hh" + suffix).detach().split(N)]


@torch.no_grad()
def inputs(layer, x):
    """The inputs, scaled to the largest that the cell takes under a matrix of norm 1."""
    if layer.cell.largest_input == math.inf:
        return x
    first = [suffix for suffix in layer.suffixes if suffix.startswith("_l0")]
    projected = [layer.cell.bind(layer.weights(suffix)).project(x.to(layer.weight_ih_l0.dtype)) for suffix in first]
    largest = max(float(torch.linalg.vector_norm(u, dim=-1).max()) for u in projected)
    return x * min(1.0, layer.cell.largest_input / largest)


def train(layer, seed):
    width = N * len(layer.directions) * (2 if layer.weight_ih_l0.is_complex() else 1)
    readout = nn.Linear(width, 2)
    generator = torch.Generator().manual_seed(100 + seed)
    x, target = inputs(layer, torch.randn(T, B, 2, generator=generator)), torch.randn(B, 2, generator=generator)
    parameters = [*layer.parameters(), *readout.parameters()]
    optimizer = mr.optim.RiemannianAdam(parameters, lr=rate(layer.cell))
    losses = []
    for _ in range(STEPS + 1):
        optimizer.zero_grad()
        with evaluations(layer) as counts:
            y, _ = layer(x)
        loss = (readout(real_features(y[-1])) - target).square().mean()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in parameters)
        optimizer.step()
        losses.append(loss.item())
        assert set(counts.values()) <= {1}
    return losses


def off(layer, pair):
    """How far the matrices are off their set."""
    if pair.off is not None:
        return max(map(pair.off, blocks(layer)))
    defects = [entry.defect() for _, entry in constraints.parametrizations(layer)]
    return max((float(d) for d in defects if d is not None), default=0.0)


def check(name, pair, seeds=SEEDS, **options):
    for seed in seeds:
        torch.manual_seed(seed)
        layer = made(name, pair, **options)
        losses = train(layer, seed)
        assert losses[-1] < losses[0], (seed, losses)
        assert off(layer, pair) <= BOUND


def test_everything_that_is_exported_is_paired():
    paired = {type(pair.constraint).__name__ for pair in PAIRS.values()}
    left_out = {name for name, made in ROWS.items() if not made}
    everything = {**exported(manifolds, manifolds.Manifold), **exported(constraints, constraints.Constraint)}
    assert set(everything) == (paired - {"NoneType"}) | left_out
    assert {type(cell).__name__ for cell in CELLS.values()} == {*cells.__all__} - {"Cell"}


@pytest.mark.parametrize("name", [name for name, cell in CELLS.items() if not cell.gates])
def test_a_cell_without_a_matrix_learns_without_a_constraint_and_refuses_each(name):
    for pair in PAIRS.values():
        if pair.constraint is not None:
            with pytest.raises(mr.errors.OptionError, match=f"no constraint for {name}"):
                made(name, pair)
    for pair in ("none", "none complex"):
        torch.manual_seed(0)
        layer = made(name, PAIRS[pair], num_layers=2, bidirectional=True)
        losses = train(layer, 0)
        assert losses[-1] < losses[0]


@pytest.mark.parametrize(("name", "pair"), SOME)
def test_learns_under_its_constraint(name, pair):
    check(name, PAIRS[pair], seeds=SEEDS[:1])


HAVE_UNITS = [k for k, cell in CELLS.items() if cell.separates_units() and cell.steps_match("separates_units")]
GATED = [(cell, pair) for cell in HAVE_UNITS for pair in PAIRS]


@pytest.mark.parametrize(("name", "pair"), GATED[::4])
def test_learns_with_gates_over_its_units_and_loses_closed_ones(name, pair):
    check_gates(name, PAIRS[pair])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "pair"), GATED)
def test_every_cell_with_units_learns_with_gates_under_every_constraint(name, pair):
    check_gates(name, PAIRS[pair], num_layers=2)


def check_gates(name, pair, **options):
    torch.manual_seed(0)
    layer = mr.nn.gate_units(made(name, pair, **options))
    losses = train(layer, 0)  # one sample of gates in each step, so they need not fall
    assert all(map(math.isfinite, losses)) and off(layer, pair) <= BOUND
    with torch.no_grad():
        for gates in layer.unit_gates.values():
            gates.log_alpha[: N // 2] = -5.0
    smaller, x = mr.nn.prune(layer.eval()), torch.randn(T, B, 2)
    assert smaller.hidden_size == N // 2 and not constraints.registry.entries(smaller)
    torch.testing.assert_close(smaller(x)[0], layer(x)[0][..., N // 2 :], atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "pair"), EVERY)
def test_every_cell_learns_under_every_constraint(name, pair):
    check(name, PAIRS[pair])


TWICE = [
    *((c, p) for c in ("Elman", "GRU") for p in PAIRS),
    *((c, p) for c in CELLS if CELLS[c].gates for p in ("Orthogonal qr update", "Unitary exp trivialized")),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "pair"), sorted(set(TWICE)))
def test_two_levels_in_both_directions(name, pair):
    check(name, PAIRS[pair], num_layers=2, bidirectional=True)


def test_what_cannot_be_says_so_at_construction():
    with pytest.raises(mr.errors.ShapeError, match="even"):
        Layer(cells.Elman(), 2, 7, constraint=mr.UnitaryRealForm())
    with pytest.raises(mr.errors.OptionError, match="power of 2"):
        Layer(cells.LSTM(), 2, 6, constraint=mr.Rotations("fft"), view="trivialized")
