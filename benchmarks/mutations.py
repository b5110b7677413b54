"""Check that the quick tests find faults: apply each fault below to a copy of the package, and run its tests.

A fault replaces a piece of source that occurs once in its file. Its tests must fail with the fault, and pass without
it. The second condition is checked first. ``--no-control`` skips this check.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from timing import RESULTS

ROOT = Path(__file__).parent.parent
PACKAGE = "manifold_rnn"
RESULT = RESULTS / "mutations.json"
COPIED = (PACKAGE, "tests", "benchmarks", "conftest.py", "pyproject.toml")


@dataclass(frozen=True)
class Fault:
    """A piece of one file of the package, its replacement, and the quick tests that must fail."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def apply(self, folder: Path) -> None:
        """Write the fault into a copy of the package. Raises `ValueError` unless the piece occurs exactly once."""
        path = folder / PACKAGE / self.file
        text = path.read_text()
        if text.count(self.old) != 1:
            raise ValueError(f"{self.name}: the piece occurs {text.count(self.old)} times in {self.file}.")
        path.write_text(text.replace(self.old, self.new))


MANIFOLDS = "tests/manifolds/test_laws.py"
OPTIMIZERS = "tests/optim/test_laws.py"
RETRACTIONS = "tests/retractions/test_retractions.py"
LINALG = "tests/linalg/test_laws.py"

FAULTS = [
    Fault(
        "transpose without conjugate in the projection of a group",
        "manifolds/group.py",
        "return x @ self._lie(x.mH @ u)",
        "return x @ self._lie(x.mT @ u)",
        (MANIFOLDS, "-k", "projections and Unitary"),
    ),
    Fault(
        "inner product of complex matrices without conjugate",
        "manifolds/orthonormal.py",
        "(u.conj() * v).real.sum((-2, -1))",
        "(u * v).real.sum((-2, -1))",
        (MANIFOLDS, "-k", "coordinates and Unitary"),
    ),
    Fault(
        "wrong sign in the Cayley transform",
        "linalg/cayley.py",
        "return multiply_add(P, B, P, beta=1, alpha=1)",
        "return multiply_add(P, B, P, beta=1, alpha=-1)",
        ("tests/linalg/test_translation.py",),
    ),
    Fault(
        "factor 2 in the skew-Hermitian part",
        "linalg/skew.py",
        "return torch.sub(x * 0.5, x.mH, alpha=0.5)",
        "return torch.sub(x, x.mH)",
        (LINALG, "-k", "skew"),
    ),
    Fault(
        "half of the canonical gradient",
        "manifolds/stiefel.py",
        "return multiply_add(g, x, g.mH @ x, beta=scale, alpha=-scale)",
        "return multiply_add(g, x, g.mH @ x, beta=scale, alpha=-0.5 * scale)",
        (MANIFOLDS, "-k", "StiefelCanonical"),
    ),
    Fault(
        "polish never called",
        "optim/batch.py",
        "return self.manifold.polish(y) if due else y",
        "return y",
        ("tests/optim/test_drift.py", "-k", "many_steps and cayley"),
    ),
    Fault(
        "arguments of the logarithm swapped",
        "manifolds/group.py",
        "return x @ self._log(x.mH @ y)",
        "return x @ self._log(y.mH @ x)",
        (MANIFOLDS, "-k", "Orthogonal and projections"),
    ),
    Fault(
        "bias correction one step late",
        "optim/adam.py",
        "denominator.mul_(1 - beta1**steps)",
        "denominator.mul_(1 - beta1 ** (steps + 1))",
        ("tests/optim/test_small.py", "-k", "Adam"),
    ),
    Fault(
        "epsilon under the root",
        "optim/adam.py",
        '.sqrt_().add_(group["eps"])',
        '.add_(group["eps"]).sqrt_()',
        ("tests/optim/test_small.py", "-k", "Adam"),
    ),
    Fault(
        "moments not transported on tall matrices",
        "manifolds/stiefel.py",
        "self.to_coordinates(y, tangent(y, self._vector(x, v)))",
        "self.to_coordinates(y, self._vector(x, v))",
        (OPTIMIZERS, "-k", "carried"),
    ),
    Fault(
        "dampening of the first momentum",
        "optim/sgd.py",
        'fresh = 1 - group["dampening"] * (1 - first)',
        'fresh = 1 - group["dampening"]',
        ("tests/optim/test_small.py", "-k", "momentum"),
    ),
    Fault(
        "wrong branch of the logarithm of special unitary matrices",
        "manifolds/special_unitary.py",
        "above = torch.where(turns > 0, n - turns, -turns)",
        "above = torch.where(turns > 0, turns, -turns)",
        ("tests/properties/test_manifolds.py", "-k", "whole_turn"),
    ),
    Fault(
        "one squaring fewer in the logarithm",
        "linalg/logarithm.py",
        "return skew(total) * 2.0 ** (_ROOTS + 1)",
        "return skew(total) * 2.0**_ROOTS",
        (LINALG, "-k", "logarithm"),
    ),
    Fault(
        "coordinates in the default dtype",
        "constraints/trivialized.py",
        "nn.Parameter(base.real.new_zeros(manifold.coordinate_shape(tuple(base.shape), base.dtype)))",
        "nn.Parameter(torch.zeros(manifold.coordinate_shape(tuple(base.shape), base.dtype)))",
        ("tests/constraints/test_moving_base.py",),
    ),
    Fault(
        "base attached to the graph of the weight that it was made from",
        "constraints/trivialized.py",
        "base = base.detach().clone(memory_format=torch.contiguous_format)",
        "base = base.clone(memory_format=torch.contiguous_format)",
        ("tests/constraints/test_moving_base.py", "-k", "graph"),
    ),
    Fault(
        "base and factor in the wrong order",
        "retractions/base.py",
        "return multiply(x, self.group_map(A))",
        "return multiply(self.group_map(A), x)",
        ("tests/testing/test_checks.py", "-k", "abstract"),
    ),
    Fault(
        "base never moves",
        "constraints/trivialized.py",
        "            self._move(weight)\n            self.coordinates.zero_()\n            return",
        "            return",
        ("tests/constraints/test_moving_base.py", "tests/constraints/test_optimizer_hooks.py"),
    ),
    Fault(
        "rebase one step late",
        "constraints/trivialized.py",
        "count % self.rebase_every == 0",
        "count % (self.rebase_every + 1) == 0",
        ("tests/constraints/test_optimizer_hooks.py",),
    ),
    Fault(
        "input and forget gate swapped",
        "nn/cells/lstm.py",
        "i, f, _, o = gate(a).chunk(4, -1)",
        "f, i, _, o = gate(a).chunk(4, -1)",
        ("tests/nn/test_gated_scan.py", "-k", "LSTM"),
    ),
    Fault(
        "update gate of the GRU inverted",
        "nn/cells/gru.py",
        "h = n + gate(u_z + v_z) * (h - n)",
        "h = h + gate(u_z + v_z) * (n - h)",
        ("tests/nn/test_cells.py", "-k", "is_its_recurrence and GRU"),
    ),
    Fault(
        "longer sequences of a packed batch go on from a running state",
        "nn/scan/sequences.py",
        "running = _join_rows([running, _take_rows(state, previous_size, size)])",
        "running = _join_rows([running, _take_rows(running, 0, size - previous_size)])",
        ("tests/nn/test_layer.py", "-k", "packed"),
    ),
    Fault(
        "gradient of the weight from the states of the same step",
        "nn/scan/elman/backward.py",
        "add_outer(self.W, rows, _flatten_steps(self.H[:-1][part]))",
        "add_outer(self.W, rows, _flatten_steps(self.H[1:][part]))",
        ("tests/nn/test_engines.py", "-k", "equals_the_loop and fused"),
    ),
    Fault(
        "adjoint of the parallel scan without conjugate",
        "nn/scan/associative.py",
        "d = diag.conj().resolve_conj()",
        "d = diag",
        ("tests/nn/test_associative.py", "-k", "gradients_equal"),
    ),
    Fault(
        "adjoint of the exponential without transpose",
        "linalg/exponential.py",
        "K = _where_due(s, k, multiply_add(K, multiply(E, K), E.mH, beta=0.5, alpha=0.5), K)",
        "K = _where_due(s, k, multiply_add(K, multiply(E, K), E, beta=0.5, alpha=0.5), K)",
        ("tests/linalg/test_maps.py", "-k", "expm_skew"),
    ),
    Fault(
        "signs of the diagonal of R left to LAPACK",
        "linalg/qr.py",
        "return Q * phase.unsqueeze(-2), R * phase.conj().unsqueeze(-1)",
        "return Q, R",
        (LINALG, "-k", "qr_factors"),
    ),
    Fault(
        "determinant not returned to 1",
        "manifolds/special_unitary.py",
        "return w * _phase(-angle)[..., None, None]",
        "return w",
        (MANIFOLDS, "-k", "component and SpecialUnitary"),
    ),
    Fault(
        "moments of a refused step kept",
        "optim/batch.py",
        "            self.spares[name] = self._replace(name, held)\n        for s, steps",
        "            self.spares[name] = held\n        for s, steps",
        ("tests/optim/test_fuzzed_numbers.py", "tests/optim/test_refused_steps.py", "-k", "Orthogonal or error"),
    ),
    Fault(
        "results of a step not looked at",
        "optim/base.py",
        "self._require_sound(batch, y := self._moved(batch, g, group), size)",
        "y = self._moved(batch, g, group)",
        ("tests/properties/test_optimizers.py", "-k", "any_finite"),
    ),
]


def prepare(folder: Path) -> None:
    """Copy the files that the tests need."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "results"))
        else:
            shutil.copy(source, folder / name)


def failing_test(folder: Path, tests: tuple[str, ...]) -> str | None:
    """Run tests on the copy and return the name of the first test that fails, or None."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *_paths()]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--tb=no", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode == 0:
        return None
    named = re.search(r"^FAILED (.*?)(?: - .*)?$", done.stdout, re.MULTILINE)
    if done.returncode != 1 or named is None:
        raise RuntimeError(f"pytest ended with {done.returncode}.\n{done.stdout[-1000:]}{done.stderr[-1000:]}")
    return named[1]


def _paths() -> list[str]:
    """Return the entries of PYTHONPATH except this checkout."""
    return [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and Path(path) != ROOT]


def main() -> None:
    """Run the check. The exit status is 1 if a fault was not found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="Apply only faults whose name contains this text.")
    parser.add_argument("--no-control", action="store_true", help="Do not run the tests without a fault first.")
    arguments = parser.parse_args()
    rows = json.loads(RESULT.read_text())["mutations"] if RESULT.exists() else {}
    chosen = [fault for fault in FAULTS if arguments.only in fault.name]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prepare(folder)
        for tests in [] if arguments.no_control else dict.fromkeys(fault.tests for fault in chosen):
            if (failed := failing_test(folder, tests)) is not None:
                raise SystemExit(f"{failed} fails without a fault.")
        for fault in chosen:
            path = folder / PACKAGE / fault.file
            before = path.read_text()
            fault.apply(folder)
            found = failing_test(folder, fault.tests)
            path.write_text(before)
            rows[fault.name] = {"file": fault.file, "found": found is not None, "test": found or ""}
            write(rows)
            print(f"{'red  ' if found else 'GREEN'} {fault.name:<68} {found or ''}", flush=True)
    raise SystemExit(not all(rows[fault.name]["found"] for fault in chosen))


def write(rows: dict[str, dict[str, object]]) -> None:
    """Write the rows of all existing faults in order."""
    known = {fault.name: rows[fault.name] for fault in FAULTS if fault.name in rows}
    RESULT.write_text(json.dumps({"mutations": known}, indent=2) + "\n")


if __name__ == "__main__":
    main()
