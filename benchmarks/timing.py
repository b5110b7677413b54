"""Functions of all benchmarks: interleaved medians on one thread, a result file, and its figure."""

import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

RESULTS = Path(__file__).parent / "results"


def interleaved_medians(
    jobs: dict[str, Callable[[], object]], rounds: int, turn: int = 1, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Return the seconds per call, as the median over rounds that run every job for ``turn`` calls."""
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds + 1):
        for name, job in jobs.items():
            for _ in range(turn):
                start = clock()
                job()
                times[name].append(clock() - start)
    return {name: median(values[turn:]) for name, values in times.items()}  # the first round is a warm-up


def write(name: str, table: object, **settings: object) -> None:
    """Write the numbers as a JSON file, and as a bar chart next to it."""
    RESULTS.mkdir(exist_ok=True)
    about = {"machine": machine(), "torch": torch.__version__.partition("+")[0], "threads": torch.get_num_threads()}
    (RESULTS / f"{name}.json").write_text(json.dumps({"settings": {**about, **settings}, name: table}, indent=2) + "\n")
    if isinstance(table, dict):
        draw(name, table)


def machine() -> str:
    """Return the name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def draw(name: str, table: dict[str, float | dict[str, float]]) -> None:
    """Draw the bars, with a panel for each row of the table, if matplotlib is installed."""
    try:
        from matplotlib import pyplot as plt
    except ImportError:
        return
    rows = {k: v for k, v in table.items() if isinstance(v, dict)} or {name: table}
    columns = 1 + (len(rows) - 1) // 8
    lines = -(-len(rows) // columns)
    height = lines * (0.6 + 0.22 * max(map(len, rows.values())))
    figure, panels = plt.subplots(lines, columns, figsize=(8 * columns, height), squeeze=False, layout="constrained")
    for axes in panels.flat[len(rows) :]:
        axes.set_axis_off()
    for axes, (title, row) in zip(panels.flat, rows.items(), strict=False):
        values = [float(value) for value in row.values()]
        bars = axes.barh(list(row), values)
        axes.bar_label(bars, fmt="%.3g", padding=3, fontsize=7)
        axes.set_xscale("log" if min(values) > 0 else "linear")
        axes.margins(x=0.15)
        axes.invert_yaxis()
        axes.tick_params(labelsize=7)
        axes.set_title(title, fontsize=8, loc="left")
    figure.savefig(RESULTS / f"{name}.png", dpi=100)
    plt.close(figure)
