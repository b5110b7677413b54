"""Measure the drift of a weight from its manifold over many optimizer steps, and write a row for each combination.

A row has one manifold, retraction, optimizer and dtype. Four weights are optimized as one batch, with four kinds of
gradients. The gradients are random, constant, alternating in sign, or small with a spike of norm 1000 every fifty
steps. The worst defect is measured in double precision. Rows are appended to a file. Rows in the file are not measured
again, so you can interrupt the command and continue it later.
"""

import argparse
import itertools
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from fnmatch import fnmatch
from pathlib import Path

import torch
from timing import RESULTS, machine

import manifold_rnn as mr
from manifold_rnn import manifolds, optim, retractions
from manifold_rnn.manifolds import Manifold

GRADIENTS = 64
WEIGHTS = 4
OWN, NONE, LANDING = "its own", "none", "Landing"
LANDED = ("Orthogonal", "SpecialOrthogonal", "Unitary", "Stiefel", "Stiefel canonical", "Blocks")
DTYPES = {"float32": (torch.float32, torch.complex64), "float64": (torch.float64, torch.complex128)}
BOUNDS = {"float32": 1e-5, "float64": 1e-12}


@dataclass(frozen=True)
class Family:
    """A manifold with any retraction, the shape of its points for a size ``n``, and whether they are complex."""

    make: Callable[[str], Manifold]
    shape: Callable[[int], tuple[int, int]]
    is_complex: bool = False
    has_retraction: bool = True


def _square(n: int) -> tuple[int, int]:
    return n, n


def _region(kind: type[Manifold], **options: object) -> Family:
    return Family(lambda _: kind(**options), _square, has_retraction=False)


FAMILIES = {
    "Orthogonal": Family(mr.Orthogonal, _square),
    "SpecialOrthogonal": Family(mr.SpecialOrthogonal, _square),
    "Unitary": Family(mr.Unitary, _square, True),
    "SpecialUnitary": Family(mr.SpecialUnitary, _square, True),
    "UnitaryRealForm": Family(mr.UnitaryRealForm, _square),
    "Stiefel": Family(mr.Stiefel, lambda n: (n, n // 2)),
    "Stiefel canonical": Family(lambda r: mr.Stiefel(r, "canonical"), lambda n: (n, n // 2), True),
    "Grassmann": Family(mr.Grassmann, lambda n: (n, n // 2)),
    "Oblique": Family(lambda r: mr.Oblique(retraction=r), _square),
    "Sphere": Family(lambda r: mr.Sphere((-2, -1), retraction=r), _square),
    "Blocks": Family(lambda r: manifolds.Blocks(mr.Orthogonal(r), 3), lambda n: (3 * n, n)),
    "BlockTriangular": Family(lambda r: mr.BlockTriangular(mr.Orthogonal(r), mr.Contraction()), _square),
    "Contraction": _region(mr.Contraction),
    "UnitDisc": _region(mr.UnitDisc),
    "SpectralScaled radius": _region(mr.SpectralScaled, measure="radius"),
    "SpectralScaled norm": _region(mr.SpectralScaled, measure="norm"),
}
OPTIMIZERS = {
    "RiemannianSGD": {"lr": 1.0},
    "RiemannianSGD, momentum": {"lr": 0.2, "momentum": 0.9},
    "RiemannianAdam": {"lr": 0.02},
    "RiemannianRMSprop": {"lr": 0.02, "momentum": 0.5, "centered": True},
    "RiemannianAdagrad": {"lr": 0.2},
    "RiemannianMuon": {"lr": 0.02},
    "Landing": {"lr": 0.1, "momentum": 0.9},
}


@dataclass(frozen=True)
class Row:
    """One combination of manifold, retraction, optimizer and dtype."""

    manifold: str
    retraction: str
    optimizer: str
    dtype: str

    def __str__(self) -> str:
        return "/".join(asdict(self).values())

    def bound(self, n: int) -> float:
        """Return the largest defect that the documentation allows."""
        return BOUNDS[self.dtype] * max(1, n / 128)


def rows() -> Iterator[Row]:
    """Yield every combination, single precision first."""
    for dtype, (name, family), optimizer in itertools.product(DTYPES, FAMILIES.items(), OPTIMIZERS):
        if optimizer == LANDING:
            choices = (NONE,) if name in LANDED else ()
        else:
            choices = tuple(retractions.names()) if family.has_retraction else (OWN,)
        for retraction in choices:
            yield Row(name, retraction, optimizer, dtype)


def measured(row: Row, n: int, steps: int, *, looks: int = 200, **options: object) -> dict[str, float]:
    """Return the worst defect in double precision over ``looks`` measurements of a run, and the seconds per step.

    Landing keeps a distance from the manifold until `project` is called. So the defect of the projected weights is
    measured.
    """
    family = FAMILIES[row.manifold]
    dtype = DTYPES[row.dtype][family.is_complex]
    generator = torch.Generator().manual_seed(0)
    manifold = family.make("cayley" if row.retraction in (OWN, NONE) else row.retraction)
    shape = family.shape(n)
    weights = [torch.nn.Parameter(manifold.random(*shape, dtype=dtype, generator=generator)) for _ in range(WEIGHTS)]
    for w in weights:
        w.manifold = manifold
    name = row.optimizer.partition(",")[0]
    optimizer = getattr(optim, name)(weights, **OPTIMIZERS[row.optimizer], **options)
    gradients = _gradients(shape, dtype, generator)
    worst = distance = 0.0
    start = time.perf_counter()
    for step in range(1, steps + 1):
        for w, g in zip(weights, gradients[step % GRADIENTS], strict=True):
            w.grad = g
        optimizer.step()
        if step % max(1, steps // looks) == 0:
            points = torch.stack([w.detach().to(torch.promote_types(dtype, torch.float64)) for w in weights])
            if name == LANDING:
                distance = max(distance, optimizer.distance)
                points = manifold.projx(points.to(dtype)).to(points.dtype)
            worst = max(worst, float(manifold.defect(points).max()))
    seconds = (time.perf_counter() - start) / steps
    return {"worst": worst, **({"distance": distance} if name == LANDING else {}), "microseconds": round(1e6 * seconds)}


def _gradients(shape: tuple[int, int], dtype: torch.dtype, generator: torch.Generator) -> list[list[torch.Tensor]]:
    """Gradients for the weights, which are repeated: random, constant, alternating in sign, and with a rare spike."""

    def drawn(norm: float) -> torch.Tensor:
        g = torch.randn(shape, dtype=dtype, generator=generator)
        return g * (norm * 2**0.5 / torch.linalg.matrix_norm(g))  # about half of a square gradient is tangent

    constant, back = drawn(0.3), drawn(1.0)
    found = []
    for k in range(GRADIENTS):
        norm = 10 ** -float(torch.rand((), generator=generator))
        found.append([drawn(norm), constant, back * (-1) ** k, drawn(1e3 if k % 50 == 49 else 1e-3)])
    return found


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--n", type=int, default=16, help="Number of rows of the matrices.")
    parser.add_argument(
        "--only",
        nargs="+",
        default=["*"],
        help="Patterns of the rows to measure, such as 'Stiefel/*/RiemannianAdam/float32'.",
    )
    parser.add_argument(
        "--every", type=int, default=1, help="Measure only every k-th row. With 5, all pairs of options occur."
    )
    parser.add_argument(
        "--output", type=Path, default=RESULTS / "drift.jsonl", help="File for the results, with one row in each line."
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    about = {"machine": machine(), "torch": torch.__version__.partition("+")[0]}
    lines = arguments.output.read_text().splitlines() if arguments.output.exists() else []
    names = [field.name for field in fields(Row)]
    done = {(Row(**{key: old[key] for key in names}), old["n"], old["steps"]) for old in map(json.loads, lines)}
    for row in itertools.islice(rows(), 0, None, arguments.every):
        wanted = any(fnmatch(str(row), pattern) for pattern in arguments.only)
        if not wanted or (row, arguments.n, arguments.steps) in done:
            continue
        result = measured(row, arguments.n, arguments.steps)
        with arguments.output.open("a") as file:
            file.write(
                json.dumps({**asdict(row), "n": arguments.n, "steps": arguments.steps, **result, **about}) + "\n"
            )
        print(f"{row!s:<60} {result['worst']:.1e}", flush=True)


if __name__ == "__main__":
    main()
