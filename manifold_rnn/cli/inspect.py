"""``manifold-rnn inspect``: describe a checkpoint; imports neither Lightning nor matplotlib."""

from pathlib import Path

from ..constraints import degrees_of_freedom
from ..errors import ManifoldError
from ..training import choices
from ..training.checkpoint import RUN
from ..training.folder import resume_command
from ..training.mapping import as_mapping
from ..training.record import shown_progress
from ..training.settings import RunSettings
from ..training.values import Values, dump_yaml
from .parsing import CommandParser
from .trained import trained_network


def build_parser(command: str, description: str) -> CommandParser:
    """Return the parser of the command."""
    parser = CommandParser(description)
    parser.parser.add_argument("checkpoint", type=str, help="The file, such as runs/a/last.ckpt.")
    known = ", ".join(choices.diagnostics())
    parser.add_flag(
        "diagnostics", list[str] | None, f"A list of functions in manifold_rnn.diagnostics. Default: {known}."
    )
    return parser


def execute(command: str, values: Values) -> int:
    """Print progress, diagnostics and settings of a checkpoint, and the command that resumes its run."""
    known = choices.diagnostics()
    chosen = values.get("diagnostics") or [*known]
    for name in chosen:
        choices.require_choice("diagnostics", name, known)
    network, settings, content = trained_network(values["checkpoint"])
    print(_progress(content, settings))
    print(f"network: {degrees_of_freedom(network):,} trained degrees of freedom")
    for name in chosen:
        try:
            table = known[name](network).table()
        except ManifoldError as error:  # such as weights that are not finite
            table = f"{name}: {str(error).splitlines()[0]}"
        if table:
            print(table)
    text = dump_yaml(_non_empty(as_mapping(settings)))
    print("settings:", *(f"  {line}" for line in text.splitlines()), sep="\n")
    print(f"resume with:\n  {resume_command(Path(values['checkpoint']).parent)}", flush=True)
    return 0


def _progress(content: Values, settings: RunSettings) -> str:
    history = content[RUN]["history"]
    text = f"progress: {shown_progress(content[RUN], settings.epochs)}; {content['global_step']:,} steps"
    for environment in content[RUN].get("environments", []):
        text += f"\ntrained with {', '.join(f'{key} {value}' for key, value in environment.items() if key != 'data')}"
        text += f", on data with the digest {environment['data'][:12]}"
    if history:
        last, lowest = history[-1], min(epoch["val_loss"] for epoch in history)
        text += f"\nlast epoch: training loss {last['train_loss']:.4g}, validation loss {last['val_loss']:.4g}, "
        text += f"{settings.task.metric_name} {last['val_metric']:.4g}; lowest validation loss {lowest:.4g}"
    return text


def _non_empty(mapping: Values) -> Values:
    nested = {key: _non_empty(value) if isinstance(value, dict) else value for key, value in mapping.items()}
    return {key: value for key, value in nested.items() if value not in (None, {})}
