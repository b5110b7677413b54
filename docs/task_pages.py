"""What the page on tasks includes: a table, an example of each task as a picture, and the published results."""

import inspect
import os
import re
import tomllib
from pathlib import Path

import matplotlib
from measured import PUBLISHED, list_table, write_if_new

import manifold_rnn as mr

matplotlib.use("Agg")
from matplotlib import pyplot as plt

ROOT = Path(__file__).parent.parent
PROBLEMS = ("copying", "pixels in order", "permuted pixels", "Penn Treebank, bits per character", "spectra of speech")
SEQUENCES = {  # where they are not an option
    "Characters": "pieces of a text",
    "Digits": "1,257 / 180 / 360",
    "PixelMNIST": "55,000 / 5,000 / 10,000",
    "Speech": "3,640 / 400 / 192",
}
SIZES = {
    "Adding": "T; 2 to 1",
    "Characters": "``length``; symbols to symbols",
    "Copying": "T + 20; 10 to 9",
    "GroupWords": "``length``; elements to elements",
    "QuadraticSystem": "T; ``features`` to ``outputs``",
}


def write(into: Path) -> None:
    """Write the tables, and draw the pictures that are missing or older than the tasks."""
    into.mkdir(parents=True, exist_ok=True)
    write_if_new(into / "overview.rst", overview())
    write_if_new(into / "baselines.rst", baselines())
    write_if_new(into / "published.rst", published())
    folder = os.environ.get("MANIFOLD_RNN_DATA")
    mnist = folder is not None and (Path(folder) / "mnist").is_dir()
    write_if_new(into / "mnist.rst", MNIST if mnist else NO_MNIST)
    sources = [Path(__file__), *Path(inspect.getfile(mr.tasks)).parent.glob("*.py")]
    changed = max(path.stat().st_mtime for path in sources)
    for name, examples in pictures(mnist).items():
        path = into / f"{name}.svg"
        if not path.exists() or path.stat().st_mtime < changed:
            draw(examples, path)


def overview() -> str:
    """What every task has and asks for."""
    rows = []
    for name in mr.tasks.available():
        task = getattr(mr.tasks, name)
        sequences = SEQUENCES.get(name) or " / ".join(f"{size:,}" for size in task.sizes)
        size = SIZES.get(name) or f"{task.length}; {task.input_size} to {task.output_size}"
        answers = "every step" if task.every_step else "the last step"
        metric = f"{task.metric_name}; {'higher' if task.higher_is_better else 'lower'} is better"
        rows.append((link(name), sequences, size, answers, metric))
    head = ("task", "training / validation / test", "steps; inputs to outputs", "answers at", "metric")
    return list_table(head, rows)


def baselines() -> str:
    """The baseline of each task, in the words of its documentation."""
    rows = [(link(name), baseline(getattr(mr.tasks, name))) for name in mr.tasks.available()]
    return list_table(("task", "baseline"), rows)


def link(name: str) -> str:
    return f":class:`~manifold_rnn.tasks.{name}`"


def baseline(task: type) -> str:
    """The paragraph on the baseline, on one line."""
    text = inspect.getdoc(task) or ""
    found = re.search(r"\*\*Baseline\*\*: (.*?)(?=\n\n|\n\*\*|\Z)", text, flags=re.DOTALL)
    assert found, f"{task.__name__} does not say what its baseline is"
    sentence = " ".join(found[1].split())
    return sentence[0].upper() + sentence[1:]


def published() -> str:
    """The verified rows on the problems of the tasks, and where each was read."""
    content = tomllib.loads(PUBLISHED.read_text(encoding="utf-8"))
    del content["sources"]
    rows = [
        (f":doc:`/networks/{network}`", setting, units, parameters, result, entry["read"])
        for problem in PROBLEMS
        for network, entries in content.items()
        for entry in entries
        for setting, units, parameters, result in entry["rows"]
        if setting.startswith(problem)
    ]
    return list_table(("network", "task and metric", "units", "parameters", "result", "read in"), rows)


def pictures(mnist: bool) -> dict[str, list[mr.tasks.Task]]:
    """What is drawn: one picture for each list."""
    drawn = {
        "memory": [mr.tasks.Copying(30), mr.tasks.Adding(60)],
        "groups": [mr.tasks.GroupWords("S3", length=40)],
        "characters": [mr.tasks.Characters(ROOT / "README.md", length=50, unknown="map")],
        "speech": [mr.tasks.SyntheticSpeech(sizes=(1, 1, 1))],
        "digits": [mr.tasks.Digits()],
    }
    return drawn | ({"mnist": [mr.tasks.PixelMNIST(), mr.tasks.PixelMNIST(permuted=True)]} if mnist else {})


def draw(examples: list[mr.tasks.Task], path: Path) -> None:
    square = isinstance(examples[0], (mr.tasks.Digits, mr.tasks.PixelMNIST))
    width = 2.6 * len(examples) if square else 8
    with plt.rc_context({"svg.hashsalt": path.stem, "font.size": 9}):
        figure, panels = plt.subplots(1, len(examples), figsize=(width, 2.7), layout="constrained", squeeze=False)
        for task, axes in zip(examples, panels.flat, strict=True):
            task.plot(axes)
        figure.savefig(path, metadata={"Date": None}, facecolor="white")
        plt.close(figure)


MNIST = """\
.. figure:: ../_build/tasks/mnist.svg
   :alt: A handwritten seven, and the same pixels in the permuted order.

   ``PixelMNIST().plot(axes)``, and permuted.
"""
NO_MNIST = "*This copy of the page was made without MNIST, so there is no picture of it here.*\n"
