"""``manifold-rnn fit``, ``validate`` and ``test``: train a network, or evaluate a checkpoint."""

import json
from pathlib import Path

from .. import zoo
from ..training import choices
from ..training.folder import BEST, resume_command
from ..training.mapping import read_run
from ..training.record import shown_metric
from ..training.settings import RunSettings
from ..training.signals import StopRequested, StopSignal
from ..training.values import Values, print_result, say
from .parsing import CommandParser


def build_parser(command: str, description: str) -> CommandParser:
    """Return the parser of ``fit``, ``validate`` or ``test``."""
    names = {"network.zoo": zoo.available(), "network.cell": choices.cells()}
    names |= {"network.constraint": choices.constraints_by_name(), "optimizer.name": choices.optimizers()}
    epilog = "; ".join(f"{key}: {', '.join(known)}" for key, known in names.items())
    parser = CommandParser(description, RunSettings)
    parser.parser.epilog = f"Names: {epilog}."
    if command == "fit":
        parser.add_flag(
            "resume", bool, "Resume the run from the last checkpoint in the output folder, if there is one."
        )
        parser.add_flag(
            "restart", bool, "Start again in the output folder. The files of the previous run are kept in a subfolder."
        )
    else:
        parser.add_flag("checkpoint", str | None, f"Checkpoint to evaluate. Default: {BEST} in the output folder.")
    return parser


def execute(command: str, values: Values) -> int:
    """Run the command and return its exit status."""
    with StopSignal() as stop:
        from ..training import evaluate, run  # here, because Lightning takes seconds to import

        resume, restart = values.pop("resume", False), values.pop("restart", False)
        checkpoint = values.pop("checkpoint", None)
        settings = read_run(values)
        if command != "fit":
            path = Path(settings.output, BEST) if checkpoint is None else checkpoint
            try:
                print_result(json.dumps(evaluate(settings, stage=command, checkpoint=path, stop=stop)))
            except StopRequested:
                say("The run was stopped before its end.")
                return 130
            return 0
        record = run(settings, folder=settings.output, resume=resume, restart=restart, stop=stop, quiet=False)
    if record.failure is not None:
        verb, flag = ("resume", "--resume") if record.stopped else ("start again", "--restart")
        say(f"{record.failure.rstrip('.')}; {verb} with: {resume_command(settings.output, flag)}")
        return 130 if record.stopped else 1
    if record.test_loss is not None and record.test_metric is not None:
        say(f"test loss {record.test_loss:.4g}   {shown_metric(settings.task, record.test_metric)}")
    say(f"Written to {settings.output}")
    return 0
