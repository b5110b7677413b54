"""What the subcommands of ``manifold-rnn`` do with their arguments; imports nothing heavy before it is needed."""

import json
import shlex
from argparse import ArgumentParser as PlainParser
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import OptionError
from .catalogue import TASKS
from .flags import Flag, add_flags, flags_of
from .run_settings import PARTS, RunSettings, read_run
from .settings import DemoSettings

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

Values = dict[str, Any]


def add_demo(parser: "ArgumentParser", arguments: Sequence[str]) -> list[Flag]:
    """Add the demo's flags."""
    return add_flags(parser, flags_of({"": DemoSettings}))


def demo(values: Values) -> int:
    """Run the demo."""
    from .demo import run_demo

    return run_demo(DemoSettings(**values))


def add_fit(parser: "ArgumentParser", arguments: Sequence[str]) -> list[Flag]:
    """Add the flags of a run, and ``--resume``."""
    words = "Go on from the last checkpoint in the output folder, if there is one."
    return add_flags(parser, [*_run_flags(arguments), Flag("resume", bool, False, words, switch=True)])


def fit(values: Values) -> int:
    """Train a network, test it, and say how it went."""
    from .progress import shown_metric
    from .running import run

    resume = values.pop("resume", False)
    settings = settings_from(values)
    record = run(settings, folder=settings.output, resume=resume, quiet=False)
    if record.failure is not None:
        again = f"manifold-rnn fit --config {shlex.quote(f'{settings.output}/run.yaml')} --resume"
        print(f"{record.failure}{f'; go on with: {again}' if record.stopped else ''}")
        return 130 if record.stopped else 1
    if record.test_loss is not None and record.test_metric is not None:
        print(f"test loss {record.test_loss:.4g}   {shown_metric(settings.task, record.test_metric)}")
    print(f"Written to {settings.output}")
    return 0


def add_evaluation(parser: "ArgumentParser", arguments: Sequence[str]) -> list[Flag]:
    """Add the flags of a run, and ``--checkpoint``."""
    words = "Which one. Default: best.ckpt in the output folder."
    return add_flags(parser, [*_run_flags(arguments), Flag("checkpoint", str | None, None, words)])


def score(stage: str, values: Values) -> int:
    """Print loss and metric of a checkpoint on the set of a stage, "validate" or "test"."""
    from .running import evaluate

    checkpoint = values.pop("checkpoint", None)
    settings = settings_from(values)
    path = Path(settings.output, "best.ckpt") if checkpoint is None else checkpoint
    print(json.dumps(evaluate(settings, stage=stage, checkpoint=path)))
    return 0


def add_inspect(parser: "ArgumentParser", arguments: Sequence[str]) -> list[Flag]:
    """Add the checkpoint."""
    parser.add_argument("checkpoint", type=str, help="The file, such as runs/a/last.ckpt.")
    return []


def inspect(values: Values) -> int:
    """Print what is in a checkpoint, and how to go on."""
    from .description import describe

    print(describe(Path(values["checkpoint"])))
    return 0


def settings_from(values: Values) -> RunSettings:
    """Read the configs that are named, put the flags on top, and return the settings.

    Raises
    ------
    OptionError
        If a file cannot be read, or a key or a value is wrong.
    """
    return read_run(_merged(_read_configs(values.pop("config", [])), values))


def read_yaml(path: str | Path) -> Values:
    """Read a YAML file that holds a mapping.

    Raises
    ------
    OptionError
        If it can't be read, or holds something else.
    """
    from jsonargparse import get_loader

    try:
        content = get_loader("yaml")(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise OptionError(f"--config needs a YAML file. Got '{path}': {error.strerror}.") from error
    except Exception as error:  # the loader's own kinds, and text that is not UTF-8
        reason = " ".join(str(error).split())[:200]
        raise OptionError(f"--config needs a YAML file. Got '{path}', which is none: {reason}.") from error
    if not isinstance(content, Mapping):
        raise OptionError(f"--config needs a mapping of settings. Got '{path}', which holds {content!r:.80}.")
    return dict(content)


def _read_configs(paths: str | list[str]) -> Values:
    mapping: Values = {}
    for path in [paths] if isinstance(paths, str) else paths:
        mapping = _merged(mapping, read_yaml(path))
    return mapping


def _run_flags(arguments: Sequence[str]) -> list[Flag]:
    name = _task_named(arguments)
    task: dict[str, type] = {"task": TASKS[name]} if name in TASKS else {}
    words = f"One of {', '.join(TASKS)}; with it, --help shows its own flags."
    choice = [] if task else [Flag("task.name", str | None, None, words)]
    config = Flag("config", str | list[str], [], "YAML file with settings, or a list of them, of which the last holds.")
    return [config, *choice, *flags_of({**task, **PARTS, "": RunSettings})]


def _task_named(arguments: Sequence[str]) -> str:
    """The task of the flags or the configs, if it can be found: its fields are flags too."""
    from jsonargparse import get_loader

    scan = PlainParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    scan.add_argument("--task.name", dest="task")
    scan.add_argument("--config")
    try:
        found, _ = scan.parse_known_args([str(argument) for argument in arguments])
        if found.task:
            return str(found.task)
        return str(_read_configs(get_loader("yaml")(found.config))["task"]["name"])
    except Exception:  # whatever is wrong is said when the arguments are read in earnest
        return ""


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> Values:
    """Nested mappings as one; where both have a value, that of ``above``."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merged(old, value) if isinstance(value, Mapping) and isinstance(old, Mapping) else value
    return merged
