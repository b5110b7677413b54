"""Time the package in the working tree against another revision, row by row in one run.

Each revision has its own process. The processes run the jobs of the benchmarks ``optimizer_step``, ``scan``,
``constraint_cost`` and ``retractions`` in turn, on one thread. A ratio is the time of the working tree divided by that
of the other revision in the same round, as the median over the rounds. A row above the limit is measured again with ten
times as many rounds, and the second ratio counts. Example: ``python benchmarks/revisions.py 3d2f27a``.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import torch

HERE = Path(__file__).parent
Job = Callable[[], object]


def rows() -> dict[str, tuple[Callable[[], Job], int]]:
    """Return, for each row, a function that builds its job, and the number of calls in a turn."""
    import constraint_cost
    import optimizer_step
    import retractions
    import scan

    import manifold_rnn as mr

    def adam(name: str) -> Job:
        return optimizer_step.optimizer(mr.optim.RiemannianAdam, mr.Orthogonal(name), 64, 32).step

    def group_map(name: str, n: int, *, gradient: bool) -> Job:
        phi, A, g = mr.retractions.get(name).group_map, retractions.random_skew(n, 1.0), torch.randn(n, n)
        return lambda: retractions._map_and_gradient(phi, A, g) if gradient else phi(A)

    def scanned(shape: tuple[int, int, int], nonlinearity: str, who: str, loss: str) -> Job:
        T, B, n = shape
        return scan.train(scan.layers(n, nonlinearity)[who], torch.rand(T, B, 1), loss)

    made: dict[str, tuple[Callable[[], Job], int]] = {}
    for name in ("qr", "cayley"):
        made[f"optimizer_step {name}"] = (lambda name=name: adam(name)), 5
    for name in retractions.NAMES:
        for n in (32, 128, 512):
            for gradient in (False, True):
                label = f"retractions {name} n={n}{' with gradient' if gradient else ''}"
                made[label] = (lambda a=(name, n), g=gradient: group_map(*a, gradient=g)), {32: 100, 128: 10, 512: 1}[n]
    for n in constraint_cost.SIZES:
        turn = 10 if n < 512 else 1
        for name in retractions.NAMES:
            made[f"constraint_cost trivialized {name} n={n}"] = (
                (lambda a=(n, name): constraint_cost.map_and_adjoint(*a)),
                turn,
            )
            made[f"constraint_cost update {name} n={n}"] = (lambda a=(n, name): constraint_cost.update(*a)), turn
        made[f"constraint_cost K=1 n={n}"] = (lambda n=n: constraint_cost.train(n, moving_base=True)), turn
    for shape in scan.SHAPES:
        for nonlinearity in ("modrelu", "relu", "tanh"):
            for who in ("ours", "native", "loop"):
                for loss in ("last", "all"):
                    label = f"scan {who} T={shape[0]} B={shape[1]} n={shape[2]} {nonlinearity} {loss}"
                    made[label] = (lambda a=(shape, nonlinearity, who, loss): scanned(*a)), 1
    return made


def work() -> None:
    """Read names of rows from the input, and print the seconds of a turn for each."""
    torch.set_num_threads(1)
    made, current, job = rows(), "", None
    print(*made, sep="|", flush=True)
    for line in sys.stdin:
        if (name := line.strip()) != current:
            job = None
            torch.manual_seed(0)
            current, job = name, made[name][0]()
            job()
        turn = made[name][1]
        assert job is not None
        start = time.perf_counter()
        for _ in range(turn):
            job()
        print((time.perf_counter() - start) / turn, flush=True)


@contextlib.contextmanager
def worker(tree: Path) -> Iterator[Callable[[str], float]]:
    """Start a process with the package of ``tree``, and yield a function that times a turn of a row in it."""
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    command = [sys.executable, __file__, "--work"]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True, env=environment, cwd=tree) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdout.readline()

        def seconds(name: str) -> float:
            print(name, file=process.stdin, flush=True)
            return float(process.stdout.readline())

        yield seconds
        process.stdin.close()


@contextlib.contextmanager
def checkout(revision: str) -> Iterator[Path]:
    """Check a revision out into a temporary folder."""
    root = HERE.parent
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        subprocess.run(["git", "-C", root, "worktree", "add", "--quiet", "--detach", tree, revision], check=True)
        try:
            yield tree
        finally:
            subprocess.run(["git", "-C", root, "worktree", "remove", "--force", tree], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("revision", nargs="?", help="Revision to compare the working tree with.")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--limit", type=float, default=1.05, help="Ratio above which a row is measured again.")
    parser.add_argument("--rows", default="", help="Measure only rows whose name contains this text.")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work()
        return
    with checkout(args.revision) as tree, worker(HERE.parent) as ours, worker(tree) as theirs:
        slower = []

        def ratio(name: str, rounds: int) -> float:
            pairs = []
            # the first round is a warm-up; the order changes, because the second job finds a warm cache
            for k in range(rounds + 1):
                first, second = (ours, theirs) if k % 2 else (theirs, ours)
                a, b = first(name), second(name)
                pairs.append(a / b if k % 2 else b / a)
            return median(pairs[1:])

        names = [name for name in rows() if args.rows in name]
        for name in names:
            found = ratio(name, args.rounds)
            again = ""
            if found > args.limit:
                again = f"  (first {found:.3f})"
                found = ratio(name, 10 * args.rounds)
            slower += [name] if found > args.limit else []
            print(f"{name:60} {found:.3f}{again}", flush=True)
        print(f"{len(names)} rows, {len(slower)} above {args.limit}: {', '.join(slower) or 'none'}")


if __name__ == "__main__":
    main()
