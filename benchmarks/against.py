"""Time update steps, trivialized steps and scans, and compare them with an earlier revision of the repository.

Both revisions run in turn, each time in a new process with one thread. The table has the shortest time of each. A ratio
above 1.05 is a step that has become slower.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
KERNELS = Path("manifold_rnn", "_kernels")


def fastest(job: Callable[[], object], count: int) -> float:
    """Return the microseconds of a call, in the fastest of nine groups of calls."""
    for _ in range(20):
        job()
    times = []
    for _ in range(9):
        start = time.perf_counter()
        for _ in range(count):
            job()
        times.append((time.perf_counter() - start) / count)
    return 1e6 * min(times)


def jobs() -> dict[str, tuple[Callable[[], object], int]]:
    """Return the steps and scans, with the number of calls in a group."""
    import manifold_rnn as mr  # here, because the process that compares does not need it

    def layers(constraint: object, shape: tuple[int, int], view: str, count: int, complex_: bool) -> list:
        dtype = torch.complex64 if complex_ else torch.float32
        linear = (torch.nn.Linear(shape[1], shape[0], bias=False, dtype=dtype) for _ in range(count))
        return [mr.constrain(layer, "weight", constraint, view=view) for layer in linear]

    def update(constraint, kind, shape, count=1, complex_=False, **options):
        weights = [layer.weight for layer in layers(constraint, shape, "update", count, complex_)]
        for w in weights:
            w.grad = 1e-3 * torch.randn_like(w)
        return kind(weights, lr=1e-3, **options).step, 60

    def trivialized(constraint, shape):
        (layer,) = layers(constraint, shape, "trivialized", 1, False)
        optimizer, x = torch.optim.Adam(layer.parameters(), lr=1e-3), torch.randn(4, shape[1])

        def step():
            optimizer.zero_grad()
            layer(x).square().sum().backward()
            optimizer.step()

        return step, 30

    def scan(nonlinearity, complex_=False, **options):
        dtype = torch.complex64 if complex_ else torch.float32
        layer = mr.nn.RNN(16, 64, nonlinearity=nonlinearity, dtype=dtype, **options)
        x = torch.randn(50, 8, 16, dtype=dtype)

        def step():
            layer.zero_grad()
            layer(x)[0].abs().sum().backward()

        return step, 8

    optim = mr.optim
    return {
        "Adam, Orthogonal 8": update(mr.Orthogonal(), optim.RiemannianAdam, (8, 8)),
        "Adam, Orthogonal 64": update(mr.Orthogonal(), optim.RiemannianAdam, (64, 64)),
        "Adam, 8 of Orthogonal 128, QR": update(mr.Orthogonal("qr"), optim.RiemannianAdam, (128, 128), 8),
        "SGD with momentum, Unitary 32": update(
            mr.Unitary(), optim.RiemannianSGD, (32, 32), complex_=True, momentum=0.9
        ),
        "Adam, Stiefel 64 x 16": update(mr.Stiefel(), optim.RiemannianAdam, (64, 16)),
        "Adam, Stiefel 64 x 16, polar": update(mr.Stiefel("polar"), optim.RiemannianAdam, (64, 16)),
        "Muon, Orthogonal 64": update(mr.Orthogonal(), optim.RiemannianMuon, (64, 64)),
        "Muon, Unitary 64": update(mr.Unitary(), optim.RiemannianMuon, (64, 64), complex_=True),
        "Adam, Oblique 256": update(mr.Oblique(), optim.RiemannianAdam, (256, 256)),
        "Adam, SPD 16": update(mr.SPD(), optim.RiemannianAdam, (16, 16)),
        "SGD, Contraction 16": update(mr.Contraction(), optim.RiemannianSGD, (16, 16)),
        "trivialized, Cayley 64": trivialized(mr.Orthogonal(), (64, 64)),
        "trivialized, exponential 128": trivialized(mr.Orthogonal("exp"), (128, 128)),
        "trivialized, polar 64 x 32": trivialized(mr.Stiefel("polar"), (64, 32)),
        "scan, tanh": scan("tanh"),
        "scan, complex modReLU": scan("modrelu", complex_=True),
        "plain loop, complex modReLU": scan("modrelu", complex_=True, backend="reference"),
    }


def measured(root: Path) -> dict[str, float]:
    """Return the times of the package in a folder, from a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", str(Path(__file__).resolve()), "--here"]
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def earlier(revision: str, folder: Path) -> Path:
    """Write the package of a revision to a folder, with its compiled libraries."""
    archive = subprocess.run(["git", "archive", revision, "manifold_rnn"], cwd=ROOT, capture_output=True, check=True)
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)
    for library in (ROOT / KERNELS).glob("kernels_*.so"):  # used if their sources are the same
        shutil.copy(library, folder / KERNELS)
    find = "import building; print(building.file_name('baseline'))"
    name = subprocess.run(
        [sys.executable, "-c", find], cwd=folder / KERNELS, capture_output=True, text=True, check=True
    )
    if not (folder / KERNELS / name.stdout.strip()).exists():
        subprocess.run([sys.executable, "building.py"], cwd=folder / KERNELS, check=True)
    return folder


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("revision", nargs="?", default="HEAD~1", help="Commit, branch or tag to compare with.")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.here:
        torch.set_num_threads(1)
        torch.manual_seed(0)
        print(json.dumps({name: fastest(*job) for name, job in jobs().items()}))
        return
    with tempfile.TemporaryDirectory() as folder:
        roots = {"before": earlier(arguments.revision, Path(folder)), "now": ROOT}
        found = [{name: measured(root) for name, root in roots.items()} for _ in range(arguments.rounds)]
    for job in found[0]["now"]:
        before, now = (min(row[name][job] for row in found) for name in roots)
        print(f"{job:32} {before:9.1f} {now:9.1f} us  {now / before:.3f}")


if __name__ == "__main__":
    main()
