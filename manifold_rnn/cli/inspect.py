"""``manifold-rnn inspect``: describe a checkpoint. It needs no Lightning, and matplotlib only for a report."""

import inspect
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from torch.utils.data import TensorDataset

from ..constraints import degrees_of_freedom
from ..errors import ManifoldError
from ..training import choices
from ..training.checkpoint import RUN, is_resumable, require_same_data
from ..training.environment import environment
from ..training.folder import open_folder, resume_command
from ..training.mapping import as_mapping
from ..training.record import shown_progress
from ..training.settings import RunSettings
from ..training.values import Value, Values, dump_yaml, presentable, print_result, say
from .parsing import CommandParser
from .trained import Trained, in_its_precision, presentable_lines, required_report, trained_network, write_page

_TILES = (  # a diagnostic, one of its numbers, and the label
    ("spectrum", "radius", "spectral radius"),
    ("spectrum", "norm", "largest singular value"),
    ("defects", "largest", "largest defect"),
)


class Result(NamedTuple):
    """The result of a diagnostic, or the reason why it does not apply."""

    name: str
    found: Value | None
    text: str
    about: str


def build_parser(command: str, description: str) -> CommandParser:
    """Return the parser of the command."""
    parser = CommandParser(description)
    parser.parser.add_argument("checkpoint", type=str, help="Checkpoint file, such as runs/a/last.ckpt.")
    known = ", ".join(choices.diagnostics())
    default = f"{', '.join(_quick())}, or all of them with --report"
    parser.add_flag("diagnostics", list[str] | None, f"Diagnostics to run: {known}. Default: {default}.")
    parser.add_flag("sequences", int, "Number of test sequences for the diagnostics that need data. Default: 100.")
    parser.add_flag("report", str | None, "HTML file to write, with all tables and figures.")
    return parser


def execute(command: str, values: Values) -> int:
    """Print progress, diagnostics and settings of a checkpoint, and the command that resumes its run."""
    known, sequences = choices.diagnostics(), values.get("sequences", 100)
    report = required_report(values.get("report"))
    chosen = values.get("diagnostics") or (_quick() if report is None else [*known])
    for name in chosen:
        choices.require_choice("diagnostics", name, known)
    choices.require(sequences >= 1, "sequences", "an integer of at least 1", sequences)
    trained = trained_network(values["checkpoint"])
    if report is not None:
        open_folder(report.parent, "report")  # after all checks, but before hours of work
    show = print_result if report is None else say  # a report is written, whether or not the lines can be printed
    show(_progress(trained.content, trained.settings))
    show(f"network: {degrees_of_freedom(trained.network):,} trained degrees of freedom")
    for method in trained.settings.methods():
        for name, number in method.numbers(trained.network).items():
            show(f"{name}: {number:g}")
    results = []
    for result in _results(trained, chosen, sequences):
        results.append(result)
        if result.text:
            show(result.text)
    text = dump_yaml(_non_empty(as_mapping(trained.settings)))
    show("\n".join(["settings:", *(f"  {line}" for line in text.splitlines())]))
    if is_resumable(trained.content):
        show(f"Resume with:\n  {resume_command(trained.path.parent)}")
    if report is not None:
        _write_report(report, trained, results, f"checkpoint: {trained.path}\n{text}", sequences)
        say(f"Written to {report}")
    return 0


def _quick() -> list[str]:
    """Return the fast diagnostics: those that need no data and have no ``progress`` parameter."""
    known = choices.diagnostics().items()
    return [name for name, f in known if not choices.needs_data(f) and not choices.takes(f, "progress")]


def _results(trained: Trained, chosen: Sequence[str], sequences: int) -> Iterator[Result]:
    """Run the chosen diagnostics one by one, with the test set where they need data."""
    known = choices.diagnostics()
    data = _data(trained, sequences) if any(choices.needs_data(known[name]) for name in chosen) else None
    for name in chosen:
        diagnostic = known[name]
        about = (inspect.getdoc(diagnostic) or "").partition("\n\n")[0].replace("\n", " ")
        given: Values = {}
        if choices.needs_data(diagnostic):
            given["data"] = data
            if choices.takes(diagnostic, "loss"):
                given["loss"] = trained.settings.task.loss
        try:
            found = diagnostic(trained.network, **given)
        except ManifoldError as error:  # such as weights that are not finite
            yield Result(name, None, f"{name}: {' '.join(str(error).split())}", about)
        else:
            yield Result(name, found, found.table(), about)


def _data(trained: Trained, sequences: int) -> TensorDataset:
    """The first sequences of the test set, in the precision of the network."""
    splits = trained.settings.task.splits()
    require_same_data(trained.path, trained.content, environment(splits))
    inputs, targets = splits.test[:sequences]
    return TensorDataset(in_its_precision(trained.network, inputs), in_its_precision(trained.network, targets))


def _write_report(path: Path, trained: Trained, results: Sequence[Result], settings: str, sequences: int) -> None:
    """Write the report: a page with a section for each diagnostic."""
    from .._pages import Section, page, picture

    task, history = trained.settings.task, trained.content[RUN]["history"]
    tiles = {"degrees of freedom": f"{degrees_of_freedom(trained.network):,}"}
    if history:
        tiles[f"validation {task.metric_name}"] = f"{history[-1]['val_metric']:.4g}"
        tiles["validation loss"] = f"{history[-1]['val_loss']:.4g}"
    found = {result.name: result.found for result in results}
    for name, field, shown in _TILES:
        if (value := getattr(found.get(name), field, None)) is not None:
            tiles[shown] = f"{value:.4g}"
    sections = [
        Section(
            result.name.replace("_", " ").capitalize(),
            note=_note(result),
            picture=None if result.found is None else picture(result.found.plot),
            text="" if result.found is None else result.text,
        )
        for result in results
        if result.text
    ]
    progress = _progress(trained.content, trained.settings).split("\n")[-1]
    lead = f"{progress[0].upper()}{progress[1:]}. Diagnostics with data used at most {sequences} test sequences"
    lead += ", each from the initial state." if task.carried else "."
    write_page(
        path, page("Report of a checkpoint", presentable(task.name), lead, tiles, sections, presentable_lines(settings))
    )


def _note(result: Result) -> str:
    """Return what a diagnostic does, and why it does not apply if it does not, without the marks of code."""
    reason = "" if result.found is not None else f" {result.text.removeprefix(f'{result.name}: ')}"
    return f"{result.about}{reason}".replace("`", "")


def _progress(content: Values, settings: RunSettings) -> str:
    history = content[RUN]["history"]
    text = f"progress: {shown_progress(content[RUN], settings.epochs)}; {content['global_step']:,} steps"
    for known in content[RUN].get("environments", []):
        text += f"\ntrained with {', '.join(f'{key} {value}' for key, value in known.items() if key != 'data')}"
        text += f", on data with the digest {known['data'][:12]}"
    if history:
        last, lowest = history[-1], min(epoch["val_loss"] for epoch in history)
        text += f"\nlast epoch: training loss {last['train_loss']:.4g}, validation loss {last['val_loss']:.4g}, "
        text += f"{settings.task.metric_name} {last['val_metric']:.4g}; lowest validation loss {lowest:.4g}"
    return text


def _non_empty(mapping: Values) -> Values:
    nested = {key: _non_empty(value) if isinstance(value, dict) else value for key, value in mapping.items()}
    return {key: value for key, value in nested.items() if value not in (None, {})}
