"""Settings from files, pipes and Python: checked where they enter, with one message, and nothing unbounded."""

import dataclasses
import itertools
import math
import os
import threading
import typing
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("lightning")
import manifold_rnn as mr
from manifold_rnn.errors import OptionError
from manifold_rnn.tasks import memory
from manifold_rnn.training import (
    NetworkSettings,
    OptimizerSettings,
    RunSettings,
    ScheduleSettings,
    build,
    read_run,
)
from manifold_rnn.training.build import build_network, require_run_in_memory
from manifold_rnn.training.mapping import as_mapping, resolved
from manifold_rnn.training.values import presentable, read_yaml, without_secrets

LETTERS = "abcdefghi"
BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in itertools.pairwise(LETTERS)
)
FILES = {
    "a key twice": (b"epochs: 1\nclip: 2\nepochs: 3\n", "`epochs` twice in a mapping, again in line 3"),
    "a key twice below": (b"network:\n  zoo: lem\n  'zoo': lru\n", "`zoo` twice in a mapping, again in line 3"),
    "a key twice in a flow": (b"task: {name: Digits, seed: 1, seed: 2}\n", "`seed` twice"),
    "a bomb of aliases": (BOMB.encode(), "more than 100,000 values"),
    "an alias inside of itself": (b"a: &a [*a]\n", "an alias `a` of nothing that is complete"),
    "deep nesting": (b"a: " + b"[" * 100_000, "more than 50 levels"),
    "a large file": (b"#" * 2**20 + b"\na: 1", "at most 1,048,576 bytes"),
    "a number of many digits": (b"epochs: " + b"9" * 5000, "needs to be a YAML file"),
    "another encoding": ("clip: é".encode("latin-1"), "byte 0xe9 at 6, which is not UTF-8"),
    "UTF-16": ("epochs: 1".encode("utf-16"), "byte 0xff at 0, which is not UTF-8"),
    "NUL": (b"epochs: 1\0", "needs to be a YAML file"),
}


@pytest.mark.parametrize(("content", "answer"), FILES.values(), ids=FILES)
def test_a_file_that_is_not_plain_is_refused_by_what_is_wrong(content, answer, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_bytes(content)
    with pytest.raises(OptionError) as refusal:
        read_yaml(path)
    assert answer in str(refusal.value) and "run.yaml" in str(refusal.value)
    assert len(str(refusal.value)) <= 400 + len(str(path)) and "\n" not in str(refusal.value)


def test_a_mark_of_the_byte_order_other_ends_of_lines_and_merged_keys_are_read(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbfbase: &b {clip: 1, epochs: 2}\r\nrun: {<<: *b, epochs: 3}\r\n")
    assert read_yaml(tmp_path / "a.yaml")["run"] == {"clip": 1, "epochs": 3}


def test_a_pipe_is_read_once_and_a_device_is_not_read_for_ever(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=("epochs: 3",))
    writer.start()
    assert read_yaml(tmp_path / "pipe") == {"epochs": 3}
    writer.join()
    with pytest.raises(OptionError, match="at most"):
        read_yaml("/dev/zero")
    with pytest.raises(OptionError, match="cannot be read"):
        read_yaml("a\0b")


HINTS = typing.get_type_hints(RunSettings)
PARTS = {name: kind for name, kind in HINTS.items() if dataclasses.is_dataclass(kind) and name != "task"}
VALID = {name: {"zoo": "lem"} if name == "network" else {} for name in PARTS}
WRONG = ["no such thing", 1.5, -1, math.nan, math.inf, True, None, [3], {"a": 1}, 10**30, b"bytes", object()]
CASES = [("", field.name) for field in dataclasses.fields(RunSettings) if field.name not in ("task", *PARTS)]
CASES += [(part, field.name) for part, kind in PARTS.items() for field in dataclasses.fields(kind)]


def outcome(make):
    try:
        made = make()
    except OptionError as error:
        return str(error)
    return {name: getattr(made, name) for name in ("epochs", *PARTS)}


@pytest.mark.parametrize(("part", "name"), CASES)
def test_settings_made_from_python_answer_as_those_of_a_file(part, name):
    for value in WRONG:
        mapping = {"task": {"name": "Digits"}, **VALID}
        mapping = {**mapping, part: {**VALID[part], name: value}} if part else {**mapping, name: value}

        def build_from_python(mapping=mapping):
            parts = {key: kind(**mapping[key]) for key, kind in PARTS.items()}
            rest = {key: entry for key, entry in mapping.items() if key not in (*parts, "task")}
            return RunSettings(mr.tasks.Digits(), **parts, **rest)

        ends = [outcome(build_from_python), outcome(lambda mapping=mapping: read_run(mapping))]
        if name in ("zoo", "cell") and not isinstance(value, str):  # the names are listed, or a text is asked for
            ends = [end.partition(" needs ")[0] if isinstance(end, str) else end for end in ends]
        assert ends[0] == ends[1], value


def test_near_types_are_converted_and_parts_of_another_type_are_refused():
    settings = RunSettings(mr.tasks.Digits(), NetworkSettings("lem", hidden_size=np.int64(8)), output=Path("a"))
    assert settings.output == "a" and type(settings.network.hidden_size) is int
    assert type(OptimizerSettings(lr=1).lr) is float
    for changes in ({"network": {"zoo": "lem"}}, {"task": "Digits"}, {"optimizer": None}):
        with pytest.raises(OptionError, match=f"`{next(iter(changes))}` needs a"):
            RunSettings(**{"task": mr.tasks.Digits(), "network": NetworkSettings("lem"), **changes})


OPTIONS = {
    "maximize": "maybe",
    "amsgrad": [1],
    "capturable": 2,
    "eps": math.inf,
    "polish_every": True,
    "betas": [True, 1],
}


@pytest.mark.parametrize(("option", "value"), OPTIONS.items())
def test_options_of_an_optimizer_have_the_types_of_its_parameters(option, value):
    with pytest.raises(OptionError, match=f"`optimizer.options.{option}` needs"):
        OptimizerSettings(options={option: value})
    for key in ("lr", "name"):
        with pytest.raises(OptionError, match=f"`optimizer.groups.a.{key}` needs"):
            OptimizerSettings(groups={"a": {key: True}})


def test_numbers_of_numpy_are_those_of_python_at_every_depth():
    task = mr.tasks.Copying(delay=np.int64(3), sizes=(np.int64(9), 4, 4), seed=np.int64(1))
    network = NetworkSettings("lem", options={"time_step": np.float64(0.5)})
    options = {"betas": (np.float32(0.5), 0.9)}
    optimizer = OptimizerSettings(options=options, groups={"weight_hh": {"lr": np.float32(0.5)}})
    settings = RunSettings(task, network, optimizer)
    same = RunSettings(
        mr.tasks.Copying(delay=3, sizes=(9, 4, 4), seed=1),
        NetworkSettings("lem", options={"time_step": 0.5}),
        OptimizerSettings(options={"betas": (0.5, 0.9)}, groups={"weight_hh": {"lr": 0.5}}),
    )
    assert as_mapping(settings) == as_mapping(same) and read_run(as_mapping(settings)) == settings
    mapping = {**as_mapping(same), "epochs": np.int64(2), "output": Path("a")}
    assert read_run(mapping).epochs == 2 and read_run(mapping).output == "a"


@pytest.mark.parametrize("fields", [
    {"delay": math.nan}, {"delay": 3.5}, {"delay": True}, {"delay": "3"}, {"fresh": "maybe"}, {"seed": 0.5},
    {"sizes": (1, 2.5, 3)},
], ids=str)  # fmt: skip
def test_fields_of_a_task_made_from_python_are_checked(fields):
    with pytest.raises(OptionError):
        RunSettings(mr.tasks.Copying(**fields), NetworkSettings("lem"))


@pytest.mark.parametrize("build", [
    *(lambda v=v: mr.Rotations(layers=v) for v in (10**11, 2.0, math.inf, 1.5, True)),
    *(lambda v=v: mr.Reflections(count=v) for v in (1.5, math.nan, True)),
    lambda: mr.nn.cells.NRU(heads=True), lambda: mr.nn.cells.Momentum(momentum=True),
    lambda: mr.nn.cells.Momentum(host=3), lambda: mr.nn.cells.Momentum(period=True),
])  # fmt: skip
def test_counts_of_constraints_and_cells_are_integers_within_bounds(build):
    with pytest.raises(OptionError):
        build()


def test_a_schedule_that_exceeds_every_number_is_refused():
    growing = ScheduleSettings("step", factor=1e200)
    with pytest.raises(OptionError, match=r"`schedule.factor` needs"):
        RunSettings(mr.tasks.Digits(), NetworkSettings("lem"), schedule=growing, epochs=4)
    RunSettings(mr.tasks.Digits(), NetworkSettings("lem"), schedule=growing, epochs=1)


def test_a_text_for_a_truth_value_or_a_number_is_read_as_one():
    settings = OptimizerSettings(options={"maximize": "false", "eps": "1e-8", "betas": ["0.5", 0.9]})
    assert settings.options == {"maximize": False, "eps": 1e-8, "betas": (0.5, 0.9)}
    run = RunSettings(mr.tasks.Digits(), NetworkSettings("lem"), settings)
    assert read_run(as_mapping(run)) == run


@pytest.mark.parametrize(
    "network", [{"cell": name} for name in ("Elman", "LSTM", "LRU")] + [{"zoo": "scornn"}], ids=str
)
def test_a_network_beyond_memory_is_refused_before_it_is_built(network, monkeypatch):
    monkeypatch.setattr(build, "_LARGE", 1024)  # maps of larger matrices take minutes
    settings = NetworkSettings(**network, hidden_size=1024)
    held = sum(weight.nbytes for weight in build_network(settings, 3, 2).state_dict().values())
    monkeypatch.setattr(memory, "machine_memory", lambda: held)
    with pytest.raises(OptionError, match=r"`network.hidden_size` needs a network that fits into memory. Got 1024"):
        build_network(settings, 3, 2)
    monkeypatch.setattr(memory, "machine_memory", lambda: 3 * held)
    build_network(settings, 3, 2)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"network": {"cell": "Elman", "hidden_size": 10**9}}, "network.hidden_size"),
        ({"network": {"zoo": "lru", "hidden_size": 10**9}}, "network.hidden_size"),
        ({"task": {"name": "Copying", "delay": 10**9, "sizes": [1, 1, 1]}}, "batch_size"),
        ({"batch_size": 10**8, "task": {"name": "Copying", "delay": 10**4}}, "batch_size"),
    ],
)
def test_a_run_beyond_memory_is_refused_by_an_estimate(changes, key):
    settings = read_run({"task": "Digits", "network": {"cell": "Elman"}, **changes})
    with pytest.raises(OptionError, match=f"`{key}` needs"):
        require_run_in_memory(settings, 10**6)


SECRET = "hunter2"


@pytest.mark.parametrize("text", [
    f"postgresql://u:{SECRET}@h:5432/d", f"at postgresql+psycopg://u:{SECRET}@h failed", f"https://:{SECRET}@h/a b",
    f"https://h/d?password={SECRET}&x=1", f"https://h?sslpassword={SECRET}", f"token: {SECRET}",
    f'{{"api_key": "{SECRET}"}}', f"PGPASSWORD={SECRET} psql", f"user=u password={SECRET} host=h",
    f"postgresql://u:{SECRET}@{SECRET}@h/d", f"postgresql://u:p@ss/{SECRET}@h/d", f"postgresql://u%3A{SECRET}@h/d",
    f"got postgresql://u:a {SECRET} b@h/d", f"postgresql://u:a {SECRET}@{SECRET}@h/d",
])  # fmt: skip
def test_secrets_of_urls_and_keys_are_not_shown(text):
    assert SECRET not in without_secrets(text) and "***" in without_secrets(text)


def test_ordinary_text_is_shown_as_it_is_and_no_character_controls_a_terminal():
    for text in ("Orthogonal · lr 0.001", "password authentication failed", "https://a.org/b:c", "µ ± é 中", "a:b@c"):
        assert presentable(text) == text
    assert presentable("a\x1b[31m\n\0\ud800\u202e") == "a\\x1b[31m\\n\\x00\\ud800\\u202e"


def test_runs_are_equal_whatever_is_left_out_or_written_otherwise():
    base = {"task": "Digits", "network": {"cell": "Elman", "constraint": "Orthogonal"}}
    same = [
        {**base, "epochs": 10, "optimizer": {"lr": 0.001}},
        {**base, "task": {"name": "Digits", "seed": 0}},
        {**base, "network": {**base["network"], "constraint": {"name": "Orthogonal"}, "retraction": "cayley"}},
        {**base, "network": {**base["network"], "hidden_size": 128}, "optimizer": {"constrained": "Adam"}},
    ]
    assert all(resolved(read_run(other)) == resolved(read_run(base)) for other in same)
    assert resolved(read_run({**base, "epochs": 11})) != resolved(read_run(base))
