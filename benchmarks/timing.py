"""What the benchmarks share: interleaved medians on one thread, and a result file."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

RESULTS = Path(__file__).parent / "results"


def interleaved_medians(jobs: dict[str, Callable[[], object]], rounds: int, turn: int = 1) -> dict[str, float]:
    """Return seconds a call, the median over rounds in each of which every job has a turn of so many calls."""
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds + 1):
        for name, job in jobs.items():
            for _ in range(turn):
                start = time.perf_counter()
                job()
                times[name].append(time.perf_counter() - start)
    return {name: median(values[turn:]) for name, values in times.items()}  # the first round warms up


def write(name: str, table: object, **settings: object) -> None:
    """Write the numbers as JSON beside the benchmarks."""
    RESULTS.mkdir(exist_ok=True)
    settings = {"torch": torch.__version__.partition("+")[0], "threads": torch.get_num_threads(), **settings}
    (RESULTS / f"{name}.json").write_text(json.dumps({"settings": settings, name: table}, indent=2) + "\n")
