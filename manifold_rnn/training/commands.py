"""What the subcommands of ``manifold-rnn`` do with their arguments; imports nothing heavy before it is needed."""

import json
from argparse import ArgumentParser as PlainParser
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import OptionError
from .catalogue import TASKS
from .flags import Flag, add_flags, flags_of
from .run_parts import require
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
    return _add_run(parser, arguments, Flag("resume", bool, False, words, switch=True))


def fit(values: Values) -> int:
    """Train a network, test it, and say how it went."""
    from .building import constrains
    from .progress import shown_metric
    from .running import run
    from .sessions import go_on

    resume = values.pop("resume", False)
    settings = settings_from(values)
    for key in ("constrained", "constrained_lr") if not resume else ():  # what a comparison ignored may be there
        given = getattr(settings.optimizer, key)
        usable = given is None or constrains(settings.network)
        require(usable, f"optimizer.{key}", "a network with constrained weights", given)
    record = run(settings, folder=settings.output, resume=resume, quiet=False)
    if record.failure is not None:
        print(f"{record.failure}{f'; go on with: {go_on(settings.output)}' if record.stopped else ''}")
        return 130 if record.stopped else 1
    if record.test_loss is not None and record.test_metric is not None:
        print(f"test loss {record.test_loss:.4g}   {shown_metric(settings.task, record.test_metric)}")
    print(f"Written to {settings.output}")
    return 0


def add_evaluation(parser: "ArgumentParser", arguments: Sequence[str]) -> list[Flag]:
    """Add the flags of a run, and ``--checkpoint``."""
    words = "Which one. Default: best.ckpt in the output folder."
    return _add_run(parser, arguments, Flag("checkpoint", str | None, None, words))


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


def _read_configs(given: Sequence[str]) -> Values:
    """The files of all ``--config`` as one mapping; each names a file, or several as a list."""
    from jsonargparse import get_loader

    mapping: Values = {}
    for text in given:
        try:
            paths = get_loader("yaml")(text) if text.startswith("[") else [text]
        except Exception as error:  # the loader's own kinds are not public
            raise OptionError(f"--config needs a YAML file, or a list of them. Got {text!r}.") from error
        for path in paths:
            mapping = _merged(mapping, read_yaml(str(path)))
    return mapping


def _add_run(parser: "ArgumentParser", arguments: Sequence[str], own: Flag) -> list[Flag]:
    about = "YAML file with settings, or a list of them, of which the last holds; may be repeated."
    parser.add_argument("--config", action="append", type=str, default=[], help=about)
    name = _task_named(arguments)
    task: dict[str, type] = {"task": TASKS[name]} if name in TASKS else {}
    words = f"One of {', '.join(TASKS)}; with it, --help shows its own flags."
    choice = [] if task else [Flag("task.name", str | None, None, words)]
    flags = add_flags(parser, [*choice, *flags_of({**task, **PARTS, "": RunSettings}), own])
    return [Flag("config", str, [], about), *flags]


def _task_named(arguments: Sequence[str]) -> str:
    """The task of the flags or the configs, if it can be found: its fields are flags too."""
    scan = PlainParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    scan.add_argument("--task.name", dest="task")
    scan.add_argument("--config", action="append", default=[])
    try:
        found, _ = scan.parse_known_args([str(argument) for argument in arguments])
        if found.task:
            return str(found.task)
        return str(_read_configs(found.config)["task"]["name"])
    except Exception:  # whatever is wrong is said when the arguments are read in earnest
        return ""


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> Values:
    """Nested mappings as one; where both have a value, that of ``above``."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merged(old, value) if isinstance(value, Mapping) and isinstance(old, Mapping) else value
    return merged
