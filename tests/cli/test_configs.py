"""The configurations of published rows: every one is read, says where its numbers are from, and has the right size."""

import re
import textwrap

import pytest
from support import ROOT

pytest.importorskip("jsonargparse")
import manifold_rnn as mr
from manifold_rnn.constraints import degrees_of_freedom
from manifold_rnn.training import as_mapping, build_network, build_optimizer, read_run

FOLDER = ROOT / "examples" / "configs"
CONFIGS = {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}
RUNS = {name: read_run(path) for name, path in CONFIGS.items()}
ROWS = [
    row
    for task in (mr.tasks.PixelMNIST(), mr.tasks.PixelMNIST(permuted=True), mr.tasks.Characters("any"))
    for row in task.published()
    if row.network in ("urnn", "full_urnn", "scornn", "exprnn", "dtriv", "eurnn", "ornn")
]


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_says_what_it_is_and_keeps_every_value(name):
    head = CONFIGS[name].read_text().split("\ntask:")[0]
    assert all(line.startswith("# ") for line in head.splitlines())
    text = " ".join(head.replace("\n# ", " ").split())
    assert "Paper: " in text or "it is not published" in text
    settings = RUNS[name]
    assert settings.output == f"runs/{name}"
    assert read_run(as_mapping(settings)) == settings


@pytest.mark.parametrize(
    "name", [n for n, run in RUNS.items() if run.network.hidden_size <= 200 and not n.startswith("characters")]
)
def test_the_network_has_the_parameters_that_its_config_says(name):
    settings = RUNS[name]
    network = build_network(settings.network, settings.task.input_size, settings.task.output_size)
    said = re.search(r"units, ([\d,]+)(k?) parameters", CONFIGS[name].read_text())
    if said:
        count = degrees_of_freedom(network) / (1000 if said[2] else 1)
        assert round(count) == int(said[1].replace(",", ""))
    groups = build_optimizer(network, settings.optimizer).param_groups
    wanted = settings.optimizer.constrained_lr
    assert wanted is None or any(group["lr"] == wanted for group in groups)


def as_published(row):
    """The names that the configs of a row begin with."""
    steps = re.search(r"(\d+) / (\d+) steps", row.setting)
    if steps:
        return [f"characters-{length}-{row.network}-{row.units}" for length in steps.groups()]
    kind = "permuted" if row.setting.startswith("permuted") else "pixels"
    base = re.search(r"K = (\w+)", row.setting)
    return [f"{kind}-{row.network}-{row.units}" + (f"-K{base[1].replace('None', 'inf')}" if base else "")]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.setting}, {row.network}, {row.units}")
def test_every_published_row_has_a_config_that_quotes_it(row):
    for name, result in zip(as_published(row), row.result.split(" / "), strict=True):
        text = " ".join(CONFIGS[name].read_text().replace("\n# ", " ").split())
        assert result in text, (name, result)


@pytest.mark.parametrize(
    ("page", "pattern"),
    [("README.md", r"```yaml\n(.*?)```"), ("docs/guide/runs.rst", r"code-block:: yaml\n\n(.*?)\n\n\.\.")],
    ids=["readme", "guide"],
)
def test_the_settings_in_the_documentation_are_read(page, pattern, tmp_path):
    (text,) = re.findall(pattern, (FOLDER.parent.parent / page).read_text(), flags=re.DOTALL)
    (tmp_path / "run.yaml").write_text(textwrap.dedent(text))
    settings = read_run(tmp_path / "run.yaml")
    assert settings.output == "runs/copying" and settings.schedule.name == "cosine"


def test_there_are_enough_rows():
    assert len(ROWS) >= 35
