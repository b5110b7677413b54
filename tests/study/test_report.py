"""What a comparison leaves for a reader: tables, pictures, and a page that opens without anything else."""

import csv
import io
import json
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser
from statistics import mean, stdev
from xml.etree import ElementTree

import pytest

pytest.importorskip("optuna")
pytest.importorskip("matplotlib")
from rich.console import Console
from support.study_cases import ABOUT, AXES, BASE, epoch_scores, record

from manifold_rnn.study import Grid
from manifold_rnn.study.report import draw, page, print_table, write_report
from manifold_rnn.study.report.tables import comma_separated, document, markdown
from manifold_rnn.study.results import Results, shown_duration
from manifold_rnn.training import RunRecord

FILES = {"report.html", "table.md", "table.csv", "results.json"}
FILES |= {f"{name}.svg" for name in ("heatmap", "curves", "time", "eigenvalues", "ranges")}
VOID = {"meta", "link", "br", "img"}


def run(choices, seed, top, epochs=8, **changes):
    history = [epoch_scores(top, epoch) for epoch in range(1, epochs + 1)]
    spectrum = {"spectrum_start": [[0.0, 1.0], [1.0, 0.0]], "spectrum_end": [[0.5, 0.5], [0.1, 0.0]], "matrix": "W_hh"}
    values = {"choices": choices, "seed": seed, "test_metric": top, "defect": 1e-7, **spectrum}
    return record(history, **{**values, **changes})


def results(
    axes=AXES, seeds=(0, 1), about=ABOUT, height=lambda place, seed: 0.9 - 0.02 * place + 0.005 * seed, **changes
):
    grid = Grid(BASE, axes, seeds=list(seeds)) if isinstance(axes, dict) else axes
    cases = grid.cases()
    points = list(dict.fromkeys(case.point for case in cases))
    runs = [run(case.choices, case.seed, height(points.index(case.point), case.seed)) for case in cases]
    return Results("study", about, grid, len(cases), changes.get("runs", lambda all_runs: all_runs)(runs))


def broken(runs):
    """Of the first combination one seed failed, of the second all did, of the third one was pruned."""
    first = RunRecord(failure="the loss is <not> finite", choices=runs[0].choices, seed=0)
    second = [RunRecord(failure="RuntimeError: a & b", choices=runs[k].choices, seed=runs[k].seed) for k in (1, 7)]
    pruned = RunRecord(runs[2].history[:2], pruned=True, choices=runs[2].choices, seed=0)
    return [first, second[0], pruned, *runs[3:7], second[1], *runs[8:]]


SEARCH = Grid(
    BASE,
    search={"optimizer.lr": {"low": 1e-4, "high": 1e-1, "log": True}, "network.retraction": {"choices": ["exp", "qr"]}},
    trials=6,
)


def searched():
    drawn = [{"optimizer.lr": 10 ** -(1 + k / 3), "network.retraction": ("exp", "qr")[k % 2]} for k in range(6)]
    return Results("study", ABOUT, SEARCH, 6, [run(choices, 0, 0.9 - k / 50) for k, choices in enumerate(drawn)])


STATES = {
    "complete": results,
    "one seed": lambda: results(seeds=[0]),
    "failures": lambda: results(runs=broken),
    "nothing yet": lambda: results(runs=lambda runs: []),
    "one run": lambda: results(runs=lambda runs: runs[:1]),
    "one axis": lambda: results({"network.cell": ["Elman", "LSTM", "GRU"]}),
    "four axes": lambda: results({**AXES, "optimizer.lr": [0.1, 0.01], "network.view": [None, "update"]}),
    "axes of mappings": lambda: results({"network": [{"zoo": "scornn"}, {"cell": "LSTM", "hidden_size": 4}]}),
    "many values": lambda: results({"network.hidden_size": list(range(2, 14)), "epochs": [1, 2, 3, 4, 5]}),
    "an error as metric": lambda: results(
        about={**ABOUT, "metric": "bits", "higher_is_better": False, "baseline": None}
    ),
    "a search": searched,
    "markup": lambda: results({"network.cell": ["<b>&\"'", "</script>"]}),
}


def page_of(report):
    return page(report, draw(report))


class Page(HTMLParser):
    """Collects a page's elements, and sees that they are closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.texts = [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


@pytest.mark.parametrize("state", STATES.values(), ids=STATES.keys())
def test_every_state_of_a_study_has_a_whole_report_that_asks_nothing_of_a_network(state, tmp_path):
    report = state()
    write_report(report, tmp_path)
    written = {path.name for path in tmp_path.iterdir()}
    assert written <= FILES and {"report.html", "table.md", "table.csv", "results.json"} <= written
    text = (tmp_path / "report.html").read_text()
    for tag, attributes in Page(text).elements:
        assert tag not in ("img", "iframe", "object", "base") and "src" not in attributes
        assert attributes.get("href", "data:,").startswith(("data:,", "#"))
        assert attributes.get("xlink:href", "#").startswith("#")
    assert not re.search(r"url\((?!#)|@import|fetch\(|XMLHttpRequest", text)
    assert text.count("<h1>") == 1 and "default-src 'none'" in text
    for path in tmp_path.glob("*.svg"):
        assert ElementTree.fromstring(path.read_text()).tag.endswith("svg")
        assert "var(--" not in path.read_text()
    json.loads((tmp_path / "results.json").read_text())


def test_pictures_on_a_page_have_names_of_their_own():
    names = [
        attributes["id"]
        for _, attributes in Page(page_of(results())).elements
        if attributes.get("id", "").startswith("p")
    ]
    clips = [name for name in names if not name.startswith("patch")]
    assert clips and len(clips) == len(set(clips))


def test_the_best_by_validation_comes_first_and_with_its_heat_map():
    report = results(height=lambda place, seed: (0.90, 0.80, 0.95, 0.70, 0.60, 0.5)[place] + 0.001 * seed)
    assert report.rows[0].choices == {"network.constraint": "Orthogonal", "network.retraction": "polar"}
    text = page_of(report)
    order = [
        text.index(part) for part in ("Orthogonal · polar", "Test accuracy by", "Learning curves", "All combinations")
    ]
    assert order == sorted(order)
    assert "within the standard deviations" not in text
    assert "within the standard deviations" in page_of(
        results(height=lambda place, seed: 0.9 - 0.001 * place + 0.01 * seed)
    )


def test_rows_are_the_means_over_seeds():
    report = results()
    for row in report.rows:
        tests = [r.test_metric for r in row.runs]
        assert (row.test_mean, row.test_best) == (pytest.approx(mean(tests)), max(tests))
        assert row.test_deviation == pytest.approx(stdev(tests))
        assert row.seconds == pytest.approx(8 * 0.2) and row.seconds_per_step == 0.01 and row.parameters == 100
    means = [row.validation_mean for row in report.rows]
    assert means == sorted(means, reverse=True)


def test_an_error_is_best_where_it_is_smallest():
    report = STATES["an error as metric"]()
    means = [row.validation_mean for row in report.rows]
    assert means == sorted(means) and report.rows[0].test_best == min(r.test_metric for r in report.rows[0].runs)


def test_failed_and_pruned_runs_are_rows_with_their_reason():
    report = results(runs=broken)
    remarks = {row.label: row.remark for row in report.rows}
    assert remarks["Orthogonal · cayley"] == "seed 0: the loss is <not> finite"
    assert remarks["Orthogonal · exp"] == "seed 0: RuntimeError: a & b; seed 1: RuntimeError: a & b"
    assert remarks["Orthogonal · polar"] == "seed 0: pruned after epoch 2"
    assert len(report.rows) == 6 and report.rows[-1].test_mean is None
    counts = {row.label: len(row.complete) for row in report.rows}
    assert counts["Orthogonal · cayley"] == 1 and counts["Orthogonal · exp"] == 0


def test_a_pruned_run_whose_beginning_is_lost_is_remarked_by_its_epoch():
    (lost,) = (run for run in broken(results().runs) if run.state == "pruned")
    lost = RunRecord(lost.history[1:], pruned=True, choices=lost.choices)
    (row,) = results(runs=lambda runs: [lost]).rows
    assert row.remark == "seed 0: pruned after epoch 2"


def test_the_table_is_the_same_in_all_forms():
    report = results(runs=broken)
    rows = list(csv.DictReader(comma_separated(report).splitlines()))
    plain = document(report)
    lines = [line for line in markdown(report).splitlines() if line.startswith("|")]
    assert len(rows) == len(plain["rows"]) == len(lines) - 2 == 6
    for row, entry, line in zip(rows, plain["rows"], lines[2:], strict=True):
        assert row["network.retraction"] == entry["network.retraction"] and entry["network.retraction"] in line
        if row["test_mean"]:
            assert float(row["test_mean"]) == entry["test_mean"]
            assert f"{100 * entry['test_mean']:.1f}" in line
    assert len(plain["runs"]) == 12 and lines[2].count("**") == 2 * lines[0].count(" | ") + 2


def test_the_printed_table_has_a_row_for_each_combination_and_cuts_nothing_at_80_columns():
    report = results(
        runs=broken, axes={"network.constraint": ["Orthogonal", "Unitary", "Rotations"]}, seeds=[0, 1, 2, 3]
    )
    stream = io.StringIO()
    print_table(report, Console(file=stream, width=80))
    text = stream.getvalue()
    assert "…" not in text and "baseline: 10.0%" in text and all(len(line) <= 80 for line in text.splitlines())
    assert any("Rotations" in line and "1e-07" in line for line in text.splitlines())
    assert "Orthogonal: seed 0: the loss is <not> finite" in text


def test_a_record_survives_json():
    kept = run({"network.cell": "LSTM"}, 3, 0.5, failure="why")
    assert RunRecord.from_dict(json.loads(json.dumps(kept.as_dict()))) == kept


def test_a_combination_has_the_same_line_in_every_panel_and_in_the_legend():
    axes = {**AXES, "optimizer.lr": [0.1, 0.01]}
    report = results(axes, height=lambda place, seed: 0.5 + 0.04 * (7 * place % 11))
    curves = draw(report)["curves"]
    legend = {(line.get_color(), line.get_linestyle()) for line in curves.legends[0].get_lines()}
    for panel in curves.axes:
        assert {(line.get_color(), line.get_linestyle()) for line in panel.get_lines()} == legend
    assert len(legend) == len(curves.legends[0].get_lines()) == 6


def test_pictures_leave_no_global_state():
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    assert "eigenvalues" in draw(results())
    assert plt.get_fignums() == before


def test_durations_are_readable():
    shown = {None: "-", 0.0042: "4.20 ms", 3.3: "3.30 s", 42: "42.0 s", 200: "3.33 min", 36000: "10.0 h"}
    assert {seconds: shown_duration(seconds) for seconds in shown} == shown


@pytest.mark.slow
def test_the_page_opens_in_a_browser_without_errors_and_sorts(tmp_path):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium is installed")
    write_report(results(runs=broken), tmp_path)
    click = (
        "<script>const heads = document.querySelectorAll('th button'); heads[2].click();"
        "const first = (c) => document.querySelector('tbody').rows[0].cells[c].textContent;"
        "const low = first(2); heads[2].click(); document.title = low + ' ' + first(2);</script></body>"
    )
    path = tmp_path / "clicked.html"
    path.write_text((tmp_path / "report.html").read_text().replace("</body>", click))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    options += ["--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    shown = subprocess.run(
        [chromium, *options, path.as_uri()], capture_output=True, text=True, timeout=1200, check=True
    )
    assert "CONSOLE" not in shown.stderr
    low, high = (float(part.split(" ")[0]) for part in re.search("<title>(.*)%</title>", shown.stdout)[1].split("% "))
    tests = [100 * row.test_mean for row in results(runs=broken).rows if row.test_mean is not None]
    assert (low, high) == (pytest.approx(min(tests), abs=0.06), pytest.approx(max(tests), abs=0.06))
    assert not math.isnan(low)
