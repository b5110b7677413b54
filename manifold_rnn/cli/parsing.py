"""Command lines and YAML files of settings, parsed by jsonargparse. Errors name the nearest known key."""

import re
from argparse import Action
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import is_dataclass
from itertools import zip_longest
from pathlib import Path
from shlex import quote
from typing import NoReturn, get_origin, get_type_hints

from jsonargparse import ArgumentParser, DefaultHelpFormatter, set_loader
from yaml import YAMLError  # type: ignore[import-untyped]

from ..errors import OptionError
from ..tasks import Task
from ..training.choices import did_you_mean, require_folder, task_class
from ..training.fields import Hint, checked
from ..training.folder import BEST, CONFIG, LAST
from ..training.formats import KEY, SETTINGS
from ..training.mapping import check_keys, hints_by_key
from ..training.values import Value, Values, load_yaml, merged, parse_yaml, read_text, without_secrets

_MODE = "manifold_rnn"
_MARKUP = (  # of docstrings, which become help texts
    (re.compile(r":math:`([^`]*)`"), lambda found: found[1].replace("\\", " ").strip()),
    (re.compile(r"(?::[a-z:]+:)?`+~?([^`]*)`+"), lambda found: found[1]),
)


class _HelpFormatter(DefaultHelpFormatter):
    """Formats help texts without the markup of docstrings."""

    def _expand_help(self, action: Action) -> str:
        return _plain(super()._expand_help(action))

    def start_section(self, heading: str | None) -> None:
        super().start_section(None if heading is None else _plain(heading))


def _plain(text: str) -> str:
    for pattern, replacement in _MARKUP:
        text = pattern.sub(replacement, text)
    return text


class CommandParser:
    """The parser of one subcommand.

    Every field of the dataclass ``settings``, and of the dataclasses in it, is a flag. If one of the fields is a task,
    the fields are also keys of the files that ``--config`` reads. Fields in ``skip`` are left out.
    """

    def __init__(self, description: str, settings: type | None = None, skip: Sequence[str] = ()) -> None:
        options: Values = {"description": description, "exit_on_error": False, "allow_abbrev": False}
        self.parser = ArgumentParser(parser_mode=_MODE, print_config=None, formatter_class=_HelpFormatter, **options)
        self.config: Values = {}  # merged content of the files of --config
        self._outputs: Values = {}  # the value of `output` in each of these files
        self.settings, self.known = settings, {k: h for k, h in hints_by_key(settings).items() if k not in skip}
        self.has_files = "task" in self.known
        if settings is None:
            return
        hints = get_type_hints(settings)
        parts = {key: hint for key, hint in hints.items() if is_dataclass(hint)}
        if self.has_files:
            self.parser.add_argument(
                "--config", action="config", help="YAML file with settings. Repeat the flag to merge several files."
            )
            self.parser.add_argument(
                "--task", type=Task, help="Task that the network learns. --task.KEY sets its options."
            )
        for key, hint in parts.items():
            self.parser.add_class_arguments(hint, key)
        self.parser.add_class_arguments(settings, skip={*skip, "task", *parts})

    def add_flag(self, name: str, hint: Hint, help_text: str) -> None:
        """Add a flag that is not a field of the settings. A flag of type bool takes no value."""
        kind: Values = {"action": "store_true"} if hint is bool else {"type": hint}
        self.parser.add_argument(f"--{name}", help=help_text, **kind)
        self.known[name] = hint

    def parse(self, arguments: Sequence[str]) -> Values:
        """Return the flags and files as one nested mapping, in the form of a settings file."""
        namespace = self.parser.parse_args(self._with_files(arguments), defaults=False)
        values: Values = {key: value for key, value in namespace.as_dict().items() if key not in ("config", "help")}
        if task := values.get("task"):
            values["task"] = {"name": task["class_path"], **task.get("init_args", {})}
        uses_run = values.get("resume") or values.get("restart")
        uses_run = uses_run or ("checkpoint" in self.known and values.get("checkpoint") is None)
        if uses_run and not any(flag == "--output" for flag, _ in _pairs(arguments)):
            self._require_own_folder(values.get("output"))
        return values

    def _require_own_folder(self, output: Value) -> None:
        """Raise `OptionError` if settings are in the folder of their run, but `output` is another folder."""
        for path, named in self._outputs.items():
            folder = Path(path).parent
            has_run = Path(path).name == CONFIG and any((folder / name).exists() for name in (LAST, BEST))
            if has_run and isinstance(named, str) and named == output and _resolved(named) != folder.resolve():
                raise OptionError(
                    f"`output` in '{path}' is not the folder of this file. The run may have been moved.\n"
                    f"Expected '{folder}'. Got '{named}'.\nAdd --output {quote(str(folder))} to use the run in the "
                    f"folder of this file, or --output {quote(named)}."
                )

    def _with_files(self, arguments: Sequence[str]) -> list[str]:
        """Replace the path of every file by its content. Each file is read only once, because it may be a pipe."""
        replaced, rest = [], list(arguments)
        while rest:
            argument = rest.pop(0)
            flag, equals, path = argument.partition("=")
            if flag != "--config" or not self.has_files:
                replaced.append(argument)
                continue
            if not equals and rest and not rest[0].startswith("--"):
                path = rest.pop(0)
            text = read_text(path)
            content = SETTINGS.checked(parse_yaml(text, path), f"'{path}'")
            self.config, self._outputs[path] = merged(self.config, content), content.get("output")
            replaced.append(f"--config=\n{text}")
        return replaced

    def explain(self, error: Exception, arguments: Sequence[str]) -> NoReturn:
        """Raise an `OptionError` that names the key or flag that the parser refused."""
        flags = _pairs(arguments)
        if self.config:
            check_keys(self.settings, self.config)
        task = next((value for flag, value in flags if flag == "--task"), self.config.get("task"))
        name = task["name"] if isinstance(task, Mapping) else task
        known = dict(self.known)
        if name and "task" in known:
            known |= {f"task.{key}": hint for key, hint in hints_by_key(task_class(name)).items()}
        for flag, value in flags:
            key = flag.removeprefix("--")
            above = {".".join(key.split(".")[:depth]) for depth in range(1, key.count(".") + 1)}
            if key in ("config", "help", "task") or any(get_origin(known.get(part)) is not None for part in above):
                continue
            if key == "task.name":
                raise OptionError("Unknown flag `--task.name`. Pass the name of the task as `--task NAME`. See --help.")
            if key not in known:
                raise OptionError(
                    f"Unknown flag `{flag}`.{did_you_mean(key, known, '--')} Run the command with --help to list all."
                )
            if known[key] is not bool:
                with suppress(YAMLError):
                    value = load_yaml(value)
                checked(known[key], value, key)
        for path in arguments if self.has_files else ():
            if str(error).endswith(f"unrecognized arguments: {path}"):
                raise OptionError(f"'{path}' belongs to no flag. Pass a file of settings as `--config {path}`.")
        raise OptionError(without_secrets(" ".join(str(error).split()))[:400])


def _resolved(folder: str) -> Path:
    return require_folder("output", folder).resolve()


def _pairs(arguments: Sequence[str]) -> list[tuple[str, str]]:
    """Every flag with its value, which follows the flag or an equals sign. The value of a bare flag is ""."""
    pairs = []
    for argument, following in zip_longest(arguments, arguments[1:], fillvalue=""):
        if argument.startswith("--"):
            flag, equals, value = argument.partition("=")
            pairs.append((flag, value if equals else "" if following.startswith("--") else following))
    return pairs


def _load_settings(text: str) -> Value:
    """Load YAML, and rewrite the task in the form that jsonargparse needs for a subclass."""
    content = load_yaml(text)
    if isinstance(content, dict) and KEY in content:
        content = SETTINGS.checked(content, "A file of settings")
    if isinstance(content, dict) and isinstance(task := content.get("task"), dict) and "name" in task:
        options = {key: value for key, value in task.items() if key != "name"}
        content["task"] = {"class_path": task["name"], "init_args": options}
    return content


set_loader(_MODE, _load_settings, exceptions=(YAMLError,))
