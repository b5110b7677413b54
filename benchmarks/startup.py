"""Time ``manifold-rnn inspect`` until its first output, and the imports that it needs.

The output is the error about a missing checkpoint. Times are those of whole processes, as medians of interleaved runs.
"""

import argparse
import subprocess
import sys
import time
from statistics import median

from timing import write

JOBS = {
    "inspect": [sys.executable, "-m", "manifold_rnn", "inspect", "no-such-checkpoint"],
    "import manifold_rnn": [sys.executable, "-c", "import manifold_rnn"],
    "import geoopt": [sys.executable, "-W", "ignore", "-c", "import geoopt"],
    "import torch": [sys.executable, "-c", "import torch"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    times: dict[str, list[float]] = {name: [] for name in JOBS}
    for _ in range(args.rounds):
        for name, command in JOBS.items():
            start = time.perf_counter()
            subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            times[name].append(time.perf_counter() - start)
    table = {name: {"seconds": median(found)} for name, found in times.items()}
    for name, row in table.items():
        print(f"{name:20} {row['seconds']:.2f} s")
    write("startup", table, rounds=args.rounds)


if __name__ == "__main__":
    main()
