"""Every file of a released format loads for ever, with its numbers; a file of a later format is refused by name."""

import json
import shutil
from pathlib import Path

import pytest

pytest.importorskip("lightning")
import torch
import yaml
from formats.write import GRID, RUNS, outputs

from manifold_rnn.cli import main
from manifold_rnn.errors import OptionError
from manifold_rnn.study import CompareSettings, compare
from manifold_rnn.training import RunRecord, evaluate, read_run, run
from manifold_rnn.training.checkpoint import BEST, LAST, RUN, read_checkpoint, write_checkpoint
from manifold_rnn.training.formats import CHECKPOINT, KEY, RECORD, SETTINGS, STUDY, TABLE

SETS = sorted(folder for folder in Path(__file__).parent.iterdir() if folder.name.isdigit())
NEWEST = SETS[-1]
TOLERANCE = 1e-9  # the runs are in double precision
views = pytest.mark.parametrize("view", RUNS)
sets = pytest.mark.parametrize("kept", SETS, ids=lambda folder: folder.name)


def copied(source, tmp_path):
    """A copy of a kept folder, to work in."""
    return Path(shutil.copytree(source, tmp_path / source.name))


def results(folder):
    document = json.loads((folder / "results.json").read_text())
    return [(run["choices"], run["seed"], run["test_loss"], run["history"]) for run in document["runs"]]


@sets
@views
def test_a_kept_checkpoint_computes_what_it_computed(kept, view):
    expected = json.loads((kept / "outputs.json").read_text())[view]
    torch.testing.assert_close(outputs(kept / view), expected, atol=TOLERANCE, rtol=TOLERANCE)


@sets
@views
def test_a_kept_result_is_that_of_its_checkpoint(kept, view):
    record = RunRecord.from_dict(json.loads((kept / view / "result.json").read_text()))
    scores = evaluate(read_run(kept / view / "run.yaml"), stage="test", checkpoint=kept / view / BEST)
    assert record.state == "complete" and record.epochs == 2
    assert abs(scores["test_loss"] - record.test_loss) < TOLERANCE


@sets
@views
@pytest.mark.filterwarnings("ignore:The run resumes with")  # other versions than those that wrote it
def test_a_kept_run_is_resumed(kept, view, tmp_path):
    folder = copied(kept / view, tmp_path)
    before = json.loads((folder / "result.json").read_text())["history"]
    values = yaml.safe_load((folder / "run.yaml").read_text())
    record = run(read_run({**values, "epochs": 3}), folder=folder, resume=True)
    assert record.failure is None and record.epochs == 3 and record.history[:2] == before


@sets
def test_a_kept_comparison_is_read_and_extended(kept, tmp_path, capsys):
    folder = copied(kept / "comparison", tmp_path)
    expected = results(folder)
    assert len(expected) == 4
    (folder / "results.json").unlink()
    settings = CompareSettings(str(folder / "grid.yaml"), output=str(folder))
    assert compare(settings) == 0 and "4 have ended before" in capsys.readouterr().out
    assert results(folder) == expected
    grid = yaml.safe_load((folder / "grid.yaml").read_text())
    (folder / "grid.yaml").write_text(yaml.safe_dump({**grid, "seeds": [0, 1, 2]}))
    assert compare(CompareSettings(str(folder / "grid.yaml"), output=str(folder), extend=True)) == 0
    assert [row for row in results(folder) if row[1] != 2] == expected


def test_the_newest_set_has_the_formats_that_are_written():
    assert read_checkpoint(NEWEST / "update" / LAST)[RUN][KEY] == CHECKPOINT.current
    assert yaml.safe_load((NEWEST / "update" / "run.yaml").read_text())[KEY] == SETTINGS.current
    assert json.loads((NEWEST / "update" / "result.json").read_text())[KEY] == RECORD.current
    assert json.loads((NEWEST / "comparison" / "results.json").read_text())[KEY] == TABLE.current
    assert f'"user_attr":{{"{KEY}":{STUDY.current}}}' in (NEWEST / "comparison" / "study.journal").read_text()


def later_checkpoint(folder):
    content = read_checkpoint(folder / "update" / LAST)
    write_checkpoint(folder / "update" / LAST, {**content, RUN: {**content[RUN], KEY: CHECKPOINT.current + 1}})
    return ["inspect", str(folder / "update" / LAST)]


def later_settings(folder):
    values = {**RUNS["update"], KEY: SETTINGS.current + 1, "a_key_of_tomorrow": 1, "output": str(folder / "new")}
    (folder / "run.yaml").write_text(yaml.safe_dump(values))
    return ["fit", "--config", str(folder / "run.yaml")]


def later_grid(folder):
    (folder / "grid.yaml").write_text(yaml.safe_dump({**GRID, KEY: SETTINGS.current + 1, "a_key_of_tomorrow": 1}))
    return ["compare", str(folder / "grid.yaml"), "--output", str(folder / "new")]


def later_study(folder):
    journal = folder / "comparison" / "study.journal"
    own = f'"user_attr":{{"{KEY}":'
    journal.write_text(journal.read_text().replace(f"{own}{STUDY.current}", f"{own}{STUDY.current + 1}"))
    return ["compare", str(folder / "comparison" / "grid.yaml"), "--output", str(folder / "comparison")]


def later_table(folder):
    table = folder / "comparison" / "results.json"
    table.write_text(json.dumps({**json.loads(table.read_text()), KEY: TABLE.current + 1}))
    return ["compare", str(folder / "comparison" / "grid.yaml"), "--output", str(folder / "comparison")]


@pytest.mark.parametrize("later", [later_checkpoint, later_settings, later_grid, later_study, later_table])
def test_a_file_of_a_later_format_is_refused_by_name(later, tmp_path, capsys):
    folder = Path(shutil.copytree(NEWEST, tmp_path / "kept"))
    command = later(folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and ".lock" not in path.name}
    assert main(command) == 2
    message = capsys.readouterr().err
    assert "newer version" in message and "Upgrade" in message and message.count("\n") == 1
    assert {path: path.read_bytes() for path in before} == before
    assert not (folder / "new").exists()


def test_a_result_of_a_later_format_is_refused_by_name():
    values = json.loads((NEWEST / "update" / "result.json").read_text())
    with pytest.raises(OptionError, match="newer version"):
        RunRecord.from_dict({**values, KEY: RECORD.current + 1})


@pytest.mark.parametrize("number", [0, -1, "1", 1.0, True, None, [1]], ids=repr)
def test_a_format_is_a_number_that_was_written_once(number):
    with pytest.raises(OptionError, match="format"):
        read_run({**RUNS["update"], KEY: number})


def test_settings_need_no_format():
    assert read_run(RUNS["update"]) == read_run({**RUNS["update"], KEY: SETTINGS.current})
