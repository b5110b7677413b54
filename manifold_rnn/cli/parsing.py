"""Command lines and YAML files of settings, parsed by jsonargparse; mistakes are answered with the nearest right key."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from typing import Any, NoReturn, get_origin, get_type_hints

from jsonargparse import ArgumentParser, set_loader
from yaml import YAMLError  # type: ignore[import-untyped]

from ..errors import OptionError
from ..tasks import Task
from ..training.choices import did_you_mean, task_class
from ..training.mapping import check_keys, checked, keys_of, load_yaml, merged, read_yaml

Values = dict[str, Any]
_MODE = "manifold_rnn"


@dataclass
class CommandParser:
    """The parser of one subcommand.

    Parameters
    ----------
    description : str
        What the subcommand does.
    settings : type
        A dataclass whose fields, and those of the dataclasses in it, are flags and keys of the configuration files.
    files : bool
        Whether ``--config`` reads settings from YAML files.
    skip : set of str
        Fields that are no flags.
    epilog : str
        Shown at the end of the help.
    """

    description: str
    settings: type
    files: bool = False
    skip: frozenset[str] = frozenset()
    epilog: str = ""
    parser: ArgumentParser = field(init=False)
    known: dict[str, Any] = field(init=False)  # type hints by dotted key

    def __post_init__(self) -> None:
        options: Values = {"description": self.description, "epilog": self.epilog, "exit_on_error": False}
        self.parser = ArgumentParser(allow_abbrev=False, parser_mode=_MODE, print_config=None, **options)
        self.known = {key: hint for key, hint in keys_of(self.settings).items() if key not in self.skip}
        if self.files:
            self.parser.add_argument("--config", action="config", help="YAML file with settings; may be repeated.")
        hints = get_type_hints(self.settings)
        parts = {key: hint for key, hint in hints.items() if is_dataclass(hint) and key not in self.skip}
        if "task" in hints:
            self.parser.add_argument("--task", type=Task, help="What the network learns; --task.KEY sets its options.")
            parts.pop("task", None)
        for key, hint in parts.items():
            self.parser.add_class_arguments(hint, key)
        self.parser.add_class_arguments(self.settings, skip={*self.skip, "task", *parts})

    def add_flag(self, name: str, hint: Any, help_text: str) -> None:
        """Add a flag that is no field of the settings; without a value if it is a bool."""
        kind: Values = {"action": "store_true"} if hint is bool else {"type": hint}
        self.parser.add_argument(f"--{name}", help=help_text, **kind)
        self.known[name] = hint

    def values(self, namespace: Any) -> Values:
        """Return what was parsed as a nested mapping, with a task as files write it."""
        values: Values = {key: value for key, value in namespace.as_dict().items() if key not in ("config", "help")}
        if "task" in values:
            task = values["task"]
            values["task"] = {"name": task["class_path"], **task.get("init_args", {})}
        return values

    def explain(self, error: Exception, arguments: Sequence[str]) -> NoReturn:
        """Raise `OptionError` that names the key or the flag which the parser could not accept."""
        flags = _pairs(arguments)
        mapping: Mapping[str, Any] = {}
        for path in [value for flag, value in flags if flag == "--config"]:
            mapping = merged(mapping, read_yaml(path))
            check_keys(self.settings, mapping)
        task = next((value for flag, value in flags if flag == "--task"), mapping.get("task"))
        name = task["name"] if isinstance(task, Mapping) else task
        known = self.known if name is None or "task" not in self.known else self.known | _task_keys(name)
        for flag, value in flags:
            key = flag.removeprefix("--")
            above = {".".join(key.split(".")[:depth]) for depth in range(1, key.count(".") + 1)}
            if key in ("config", "help", "task") or any(get_origin(known.get(part)) is not None for part in above):
                continue
            if key not in known:
                raise OptionError(f"Unknown flag `{flag}`.{did_you_mean(key, known, '--')} See --help.")
            if known[key] is not bool:
                checked(known[key], load_yaml(value), key)
        raise OptionError(" ".join(str(error).split())[:400])


def _task_keys(name: str) -> dict[str, Any]:
    return {f"task.{key}": hint for key, hint in keys_of(task_class(name)).items()}


def _pairs(arguments: Sequence[str]) -> list[tuple[str, str]]:
    """Every flag and its value, which follows it or an equals sign; a flag without a value has none."""
    pairs = []
    for place, argument in enumerate(arguments):
        if argument.startswith("--"):
            flag, equals, value = argument.partition("=")
            following = arguments[place + 1] if place + 1 < len(arguments) else ""
            pairs.append((flag, value if equals else "" if following.startswith("--") else following))
    return pairs


def _load_settings(text: str) -> Any:
    """Load YAML, and write a task as jsonargparse expects an object of a subclass."""
    content = load_yaml(text)
    if isinstance(content, dict) and isinstance(task := content.get("task"), dict) and "name" in task:
        options = {key: value for key, value in task.items() if key != "name"}
        content["task"] = {"class_path": task["name"], "init_args": options}
    return content


set_loader(_MODE, _load_settings, exceptions=(YAMLError,))
