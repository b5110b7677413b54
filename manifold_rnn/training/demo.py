"""``manifold-rnn demo``: an LSTM and every network of the zoo at equal budget, on handwritten digits."""

import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from inspect import signature
from pathlib import Path

import torch
from rich.console import Console
from torch import nn

from .. import __version__, zoo
from ..constraints import degrees_of_freedom
from ..tasks import Digits, Task
from .baseline import LSTMClassifier, closest_hidden_size
from .data import SequenceData
from .files import open_folder
from .fitting import fit
from .plots import plot_curves, plot_eigenvalues
from .progress import Display, display, stop_on_interrupt
from .report import Result, print_table, write_results
from .settings import DemoSettings

_VARIANTS: dict[str, dict[str, dict[str, object]]] = {
    "dtriv": {
        "dtriv, K=1": {"rebase_every": 1},
        "dtriv, K=100": {"rebase_every": 100},
        "dtriv, K=inf": {"rebase_every": None},
    }
}
_FILES = ("results.json", "curves.png", "eigenvalues.png")


def run_demo(settings: DemoSettings | None = None, console: Console | None = None) -> int:
    """Train all networks, print the table, and leave ``results.json`` and two pictures in the output folder.

    ``results.json`` is brought up to date after every network; Ctrl-C stops after the current batch and reports what
    there is.

    Parameters
    ----------
    settings : DemoSettings, optional
        What to run; the defaults take about two minutes on two cores.
    console : rich.console.Console, optional
        Where to print; bars on a terminal, else one line an epoch.

    Returns
    -------
    int
        Exit status: 0; 1 if a network failed; 130 if interrupted.

    Raises
    ------
    OptionError
        If the output folder can't be written.

    Examples
    --------
    >>> import rich.console, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     settings = mr.training.DemoSettings(epochs=1, hidden_size=2, batch_size=512, output=folder)
    ...     assert mr.training.run_demo(settings, rich.console.Console(quiet=True)) == 0
    """
    settings, console = settings or DemoSettings(), console or Console()
    run = _Run(settings, Digits(settings.seed), open_folder(settings.output))
    with stop_on_interrupt(console) as stop, _one_thread():
        entries = run.plan()
        console.print(_headline(entries, settings, run.task), highlight=False, soft_wrap=True)
        with display(console) as show:
            results = run.train(entries, show, stop)
        run.save(results, interrupted=stop())
    run.draw(results)
    print_table(results, run.task, console)
    console.print(f"Written to {run.folder}: {', '.join(_FILES)}", highlight=False, soft_wrap=True)
    return 130 if stop() else int(any(result.failure for result in results))


@dataclass(frozen=True)
class _Entry:
    name: str
    build: Callable[[int], nn.Module]
    hidden_size: int


@dataclass(frozen=True)
class _Run:
    settings: DemoSettings
    task: Task
    folder: Path

    def plan(self) -> list[_Entry]:
        """Choose hidden sizes: the first network has the one asked for and sets the budget."""
        builders = {
            label: self._builder(name, **options)
            for name in self.settings.chosen()
            for label, options in _VARIANTS.get(name, {name: {}}).items()
        }
        size = self.settings.hidden_size
        with self._seeded():
            budget = degrees_of_freedom(next(iter(builders.values()))(size))
            return [
                _Entry(name, build, closest_hidden_size(build, budget, guess=size))
                for name, build in {"lstm": self._lstm, **builders}.items()
            ]

    def train(self, entries: list[_Entry], show: Display, stop: Callable[[], bool]) -> list[Result]:
        """Train one after another, saving after each."""
        results: list[Result] = []
        for entry in entries:
            if stop():
                break
            with self._seeded():  # here, so that no network depends on those before it
                result = self._fit(entry, show, stop)
            if result.history or not stop():
                results.append(result)
                self.save(results, interrupted=stop())
        return results

    def save(self, results: list[Result], interrupted: bool) -> None:
        """Write ``results.json``."""
        about = {
            "command": "demo",
            "interrupted": interrupted,
            "task": {
                "name": self.task.name,
                "metric": self.task.metric_name,
                "baseline": self.task.baseline()._asdict(),
            },
            "settings": asdict(self.settings),
            "versions": {"manifold_rnn": __version__, "torch": torch.__version__, "python": platform.python_version()},
        }
        write_results(self.folder / _FILES[0], results, about)

    def draw(self, results: list[Result]) -> None:
        """Write the pictures."""
        plot_curves(self.folder / _FILES[1], results, self.task)
        plot_eigenvalues(self.folder / _FILES[2], results)

    def _fit(self, entry: _Entry, show: Display, stop: Callable[[], bool]) -> Result:
        network = entry.build(entry.hidden_size)
        data = SequenceData(self.task, self.settings.batch_size, self.settings.seed)
        epochs, lr = self.settings.epochs, self.settings.lr
        return fit(entry.name, network, entry.hidden_size, data, epochs=epochs, lr=lr, show=show, stop=stop)

    def _builder(self, name: str, **options: object) -> Callable[[int], nn.Module]:
        builder = getattr(zoo, name)
        if self.settings.retraction is not None and "retraction" in signature(builder).parameters:
            options["retraction"] = self.settings.retraction

        def build(size: int) -> nn.Module:
            network: nn.Module = builder(self.task.input_size, size, self.task.output_size, **options)
            return network

        return build

    def _lstm(self, size: int) -> nn.Module:
        return LSTMClassifier(self.task.input_size, size, self.task.output_size)

    @contextmanager
    def _seeded(self) -> Iterator[None]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.settings.seed)
            yield


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the matrices are small: a second thread only waits, for long if the machine is busy
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _headline(entries: list[_Entry], settings: DemoSettings, task: Task) -> str:
    names = ", ".join(f"{entry.name} ({entry.hidden_size})" for entry in entries)
    return f"{task.name}, {settings.epochs} epochs, seed {settings.seed}; networks and hidden sizes: {names}"
