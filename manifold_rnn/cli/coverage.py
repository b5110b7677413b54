"""``manifold-rnn coverage``: test a checkpoint with mutants of its test set. Only a report needs matplotlib."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from .. import __version__
from ..diagnostics import Campaign, campaign, coverage
from ..diagnostics.campaigns import largest_output
from ..tasks import Task
from ..training.checkpoint import require_same_data
from ..training.choices import require, require_choice, require_folder
from ..training.environment import environment
from ..training.folder import open_folder, replacing
from ..training.formats import COVERAGE, KEY
from ..training.record import write_json
from ..training.values import Value, Values, dump_yaml, presentable, print_result, say
from .parsing import CommandParser
from .trained import (
    Trained,
    in_its_precision,
    presentable_lines,
    require_replaceable,
    required_report,
    trained_network,
    write_page,
)

Show: TypeAlias = Callable[[str, float, str], None]  # called with the phase, the completed fraction of it, and a text
_BATCH = 256
_FLAGS: dict[str, tuple[Value, Value, str]] = {  # type, default and help
    "cases": (int, 1000, "Number of random mutants of the seeds. Searches run further cases."),
    "seeds": (int, 100, "Number of test sequences to mutate. All are used if the test set has fewer."),
    "rounds": (int, 10, "Number of rounds of mutants. A search for uncovered features follows each round."),
    "generations": (int, 10, "Number of generations of a search. 0 turns searches off."),
    "offspring": (int, 50, "Number of mutants of each survivor in a generation."),
    "radius": (float, 0.2, "Largest root mean square difference between an adversarial input and its seed."),
    "window": (
        list[int] | None,
        None,
        "First and last time step that are counted, such as [4, 24]. Default: all steps.",
    ),
    "boundary": (float, 0.8, "Threshold of boundary coverage."),
    "change": (float, 0.6, "Threshold of stepwise coverage."),
    "symbols": (int, 3, "Number of letters in the alphabet of temporal coverage."),
    "pieces": (
        int | None,
        None,
        "Number of letters in a word of temporal coverage. Default: 5, or fewer for short sequences.",
    ),
    "signal": (
        str,
        "output",
        "Signal to measure: output for the hidden states, forget for the forget gates of an LSTM.",
    ),
    "seed": (int, 0, "Random seed for choosing the sequences and the mutants."),
}
RECORD, EXAMPLES = "coverage.json", "examples.pt"


def build_parser(command: str, description: str) -> CommandParser:
    """Return the parser of the command."""
    parser = CommandParser(description)
    parser.parser.add_argument("checkpoint", type=str, help="Checkpoint file, such as runs/a/best.ckpt.")
    for name, (hint, default, about) in _FLAGS.items():
        parser.add_flag(name, hint, about if default is None else f"{about} Default: {default}.")
    parser.add_flag(
        "output", str | None, f"Folder for {RECORD} and for {EXAMPLES}, which contains the adversarial inputs."
    )
    parser.add_flag("report", str | None, "HTML file to write, with the table and a figure.")
    return parser


def execute(command: str, values: Values) -> int:
    """Run the campaign, print its table, and write the record and the report."""
    options: Values = {name: values.get(name, default) for name, (_, default, _) in _FLAGS.items()}
    _check(options)
    output, report = _output(values.get("output")), required_report(values.get("report"))
    trained = trained_network(values["checkpoint"])
    task, splits = trained.settings.task, trained.settings.task.splits()
    require_same_data(trained.path, trained.content, environment(splits))
    generator = torch.Generator().manual_seed(options["seed"])
    numbers = torch.randperm(len(splits.test), generator=generator)[: options["seeds"]].sort().values.tolist()
    seeds, classifies = _inputs(trained, splits.test, numbers), _classifies(task, splits.test)
    with _progress() as show:
        folders = {"output": output, "report": report and report.parent}
        start = coverage(trained.network, _known(trained, splits.train, show, folders), **_scale(options, task.length))
        result = campaign(
            trained.network,
            start,
            seeds,
            **{key: options[key] for key in ("cases", "rounds", "generations", "offspring", "radius", "seed")},
            classify=largest_output if classifies else None,
            progress=lambda fraction, cases: show("testing", fraction, f"{cases:,} cases"),
        )
    scale = result.coverage.calibration
    used = {**options, "window": list(scale.window), "pieces": scale.pieces}
    about = {"checkpoint": str(trained.path), "task": task.name, **used}
    if output:  # before anything is printed, because nobody may read it
        _write_record(output, result, about, numbers)
    if report:
        _write_report(report, result, about)
    (say if output or report else print_result)(result.table())
    if not classifies:
        say("The task does not classify sequences. Coverage was measured, but answers were not compared.")
    if task.carried:
        say("The task is one long stream. Each piece of it was run separately, from the initial state.")
    for path in (output and output / RECORD, report):
        if path:
            say(f"Written to {path}")
    return 0


def _check(options: Values) -> None:
    """Raise `OptionError` for an option that can be checked before anything is read."""
    least = {"cases": 0, "seeds": 1, "rounds": 1, "generations": 0, "offspring": 1, "seed": 0}
    for key, smallest in least.items():
        require(options[key] >= smallest, key, f"an integer of at least {smallest}", options[key])
    require(options["seed"] < 2**63, "seed", "an integer below 2^63", options["seed"])
    require(0 < options["radius"] < float("inf"), "radius", "a positive number", options["radius"])
    require(len(options["window"] or (0, 0)) == 2, "window", "a first and a last time step", options["window"])
    require_choice("signal", options["signal"], ("output", "forget"))


def _output(path: str | None) -> Path | None:
    """The output folder, if one is wanted. Raises `OptionError` if it contains other files of the same names."""
    if path is None:
        return None
    folder = require_folder("output", path)
    for name, start in {RECORD: f'{{\n  "{KEY}":'.encode(), EXAMPLES: b"PK"}.items():
        require_replaceable("output", folder / name, start, "one of an earlier campaign")
    return folder


def _classifies(task: Task, part: TensorDataset) -> bool:
    """Whether a network gives one of several classes to each sequence."""
    target = part[0][1]
    return not task.every_step and task.output_size > 1 and target.dim() == 0 and not target.is_floating_point()


def _inputs(trained: Trained, part: TensorDataset, numbers: Sequence[int]) -> Tensor:
    """Sequences of a set in the precision of the network."""
    return in_its_precision(trained.network, part[numbers][0])


def _scale(options: Values, length: int) -> Values:
    """The options of `coverage` for sequences of this length."""
    window = (0, length - 1) if options["window"] is None else tuple(options["window"])
    pieces = options["pieces"] if options["pieces"] is not None else max(1, min(5, window[1] - window[0] + 1))
    same = {key: options[key] for key in ("boundary", "change", "symbols", "signal")}
    return {"window": window, "pieces": pieces, **same}


def _known(trained: Trained, train: TensorDataset, show: Show, folders: Mapping[str, Path | None]) -> Iterator[Tensor]:
    """The training set in batches, with a call of ``show`` after each.

    `coverage` checks its options with the first batch. The folders, by the option of each, are opened only after it.
    """
    for start in range(0, len(train), _BATCH):
        numbers = range(start, min(start + _BATCH, len(train)))
        yield _inputs(trained, train, [*numbers])
        for key, folder in folders.items() if start == 0 else ():
            if folder is not None:
                open_folder(folder, key)
        show("calibrating", numbers.stop / len(train), f"{numbers.stop:,} of {len(train):,} sequences")


@contextmanager
def _progress() -> Iterator[Show]:
    """Show the progress: a bar on a terminal, one line for each phase elsewhere."""
    if not (sys.stdout and sys.stdout.isatty()):
        yield lambda phase, fraction, text: say(f"{phase}: {text}") if fraction == 1 else None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    texts = TextColumn("{task.description:<11}"), BarColumn(), TextColumn("{task.fields[text]}")
    with Progress(*texts, TimeElapsedColumn(), TimeRemainingColumn(), transient=True) as bars:
        phases = {phase: bars.add_task(phase, total=1.0, text="") for phase in ("calibrating", "testing")}
        yield lambda phase, fraction, text: bars.update(phases[phase], completed=fraction, text=text)


def _write_record(folder: Path, result: Campaign, about: Values, numbers: Sequence[int]) -> None:
    """Write the adversarial inputs, then the record with their number."""
    broken = [numbers[k] for k in result.broken]
    content = {"test_sequences": broken, "inputs": result.examples.contiguous()}
    with replacing(folder / EXAMPLES) as temporary:
        torch.save(content, temporary)
    document = {KEY: COVERAGE.current, "version": __version__, "settings": about, **result.record()}
    write_json(folder / RECORD, {**document, "broken_test_sequences": broken})


def _write_report(path: Path, result: Campaign, about: Values) -> None:
    """Write the report as an HTML page."""
    from .._pages import Section, page, picture

    scale = result.coverage
    tiles = {
        name: f"{value:.1%}" for name, value in scale.by_metric.items() if name in ("boundary", "change", "temporal")
    }
    tiles |= {"cases": f"{result.cases:,}", "seeds": f"{result.seeds:,}"}
    if result.adversarial is not None:
        tiles |= {"adversarial": f"{result.adversarial:,}", "seeds broken": f"{len(result.broken):,}"}
    lead = "Coverage counts which features of the states the test cases have reached. " + (
        "Answers were not compared, because the task does not classify sequences."
        if result.adversarial is None
        else f"A case is adversarial if its answer differs from that of its seed, within distance {result.radius:g}."
    )
    caption = "Thick lines are sums over all units, by time step and word. Dashed lines are single units."
    searches = "\n".join(
        f"{found.feature!s:<16}  {'reached' if found.reached else 'not reached':<12}  "
        f"fitness {found.fitness[0]:8.4f} to {found.fitness[-1]:8.4f}  {found.cases:>6,} cases"
        for found in result.searches
    )
    note = (
        "Fitness is the distance to the feature, of the seeds, then of the best case. A failed search is not a defect."
    )
    sections = [
        Section("Coverage by cases", picture=picture(scale.plot), caption=caption),
        Section("Table", text=result.table()),
        Section("Searches", note=note, text=searches or "none"),
    ]
    details = presentable_lines(dump_yaml(about))
    write_page(path, page("Test coverage", presentable(str(about["task"])), lead, tiles, sections, details))
