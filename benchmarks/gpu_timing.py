"""Functions of the GPU benchmarks: a check for a GPU, medians of events, CUDA graphs, and limits of the device."""

import statistics
import sys
from collections.abc import Callable

import torch

Job = Callable[[], object]


def require_cuda() -> str:
    """Return the name of the GPU. Exits with a message of one line if there is none."""
    if not torch.cuda.is_available():
        sys.exit(f"{sys.argv[0]} needs a CUDA device, but torch {torch.__version__} finds none.")
    return torch.cuda.get_device_name()


def interleaved_events(jobs: dict[str, Job], rounds: int) -> dict[str, float]:
    """Return the seconds per call from device events, as the median over rounds that run every job in turn."""
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds + 1):
        for name, job in jobs.items():
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            job()
            end.record()
            end.synchronize()
            times[name].append(start.elapsed_time(end) / 1e3)
    return {name: statistics.median(values[1:]) for name, values in times.items()}  # the first round is a warm-up


def captured(job: Job) -> Job:
    """Return the replay of a job in one CUDA graph."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            job()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        job()
    return graph.replay


def ceilings() -> tuple[float, float]:
    """Return the bytes per second of a copy, and the operations per second of a product in single precision."""
    data, copy = torch.empty(1 << 29, device="cuda"), torch.empty(1 << 29, device="cuda")
    a, b = (torch.randn(8192, 8192, device="cuda") for _ in range(2))
    seconds = interleaved_events({"copy": lambda: copy.copy_(data), "product": lambda: a @ b}, 5)
    return 2 * data.nbytes / seconds["copy"], 2 * 8192**3 / seconds["product"]
