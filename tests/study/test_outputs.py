"""What the file of a comparison says is text in every output, and no secret of a URL is in any."""

import csv
import io
import json
import os
import re
import subprocess
import sys
from xml.etree import ElementTree

import pytest

pytest.importorskip("optuna")
pytest.importorskip("matplotlib")
import optuna
from rich.console import Console
from support import ROOT
from support.study_cases import ABOUT, BASE, GRID, SMALL, epoch_scores, open_study, record

from manifold_rnn.errors import OptionError
from manifold_rnn.study import CompareSettings, Grid, store
from manifold_rnn.study.report import print_table, write_report
from manifold_rnn.study.results import Results
from manifold_rnn.study.store import open_store

MARKUP = [
    *(
        "$x^2$",
        r"\$a\frac$",
        "[/x]",
        "[bold]b",
        "<b>&\"'",
        "</script><!--",
        "a_b*c*`d`",
        "# a | b",
        "%s {0} {{ a }}",
    ),
    *("=1+1", "@a,b", "q\"u'o", "two\nlines\r", "n\0ul", "\x1b[31mred", "\ud800", "汉字 ☃ µ", "long" * 2000, "#010203"),
]


@pytest.fixture(autouse=True)
def _quiet():
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def reported(texts, **changes):
    about = {**ABOUT, "task": texts[0], "metric": f"bits {texts[0]}", **changes}
    grid = Grid(BASE, {"network.cell": texts, f"a.{texts[0]}": [1, 2]})
    runs = [record([epoch_scores(0.9, 1), epoch_scores(0.9, 2)], choices=case.choices) for case in grid.cases()]
    for run in runs[::3]:
        run.failure = f"why: {run.choices['network.cell']}"
    runs[1].spectrum_end, runs[1].matrix = [[0.5, 0.5]], texts[0]
    return Results(texts[0], about, grid, len(runs), runs)


@pytest.mark.parametrize("higher", [True, False])
@pytest.mark.parametrize("text", MARKUP, ids=lambda text: ascii(text)[:20])
def test_what_a_file_says_is_text_in_every_output(text, higher, tmp_path):
    report = reported([text, "plain"], higher_is_better=higher)
    write_report(report, tmp_path)
    for path in tmp_path.glob("*.svg"):
        root = ElementTree.fromstring(path.read_bytes())
        words = {"".join(node.itertext()).strip() for node in root.iter() if node.tag.endswith("text")}
        assert "plain" in " ".join(words) or path.stem in ("eigenvalues", "time")
        if text.isprintable() and len(text) < 20 and path.stem == "heatmap":
            assert text in words
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("<script") == 1 and "<b>" not in page and "\0" not in page and "\x1b" not in page
    lines = (tmp_path / "table.md").read_text(encoding="utf-8").splitlines()
    cells = {len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in lines if line.startswith("|")}
    assert len(cells) == 1 and sum(line.startswith("|") for line in lines) == 2 + len(report.rows)
    assert not any(re.search(r"(?<!\\)[<$`#]", line) for line in lines)
    rows = list(csv.reader(io.StringIO((tmp_path / "table.csv").read_text(encoding="utf-8"))))
    assert len(rows) == 1 + len(report.rows) and len({len(row) for row in rows}) == 1
    assert not any(cell.startswith(("=", "@")) for row in rows for cell in row)
    json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    stream = io.StringIO()
    print_table(report, Console(file=stream, width=200))
    assert "\x1b" not in stream.getvalue() and "\0" not in stream.getvalue()
    if text.isprintable() and len(text) < 20:
        assert text in stream.getvalue()


def test_a_terminal_of_ascii_does_not_end_a_comparison(tmp_path):
    (tmp_path / "grid.yaml").write_text(GRID)
    script = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'tests')!r}); from support import study_cases as c\n"
        "from manifold_rnn.study import CompareSettings, compare\n"
        "about = {**c.ABOUT, 'task': '\\xb5 \\u2713', 'metric': 'accuracy \\xb1'}\n"
        "sys.exit(compare(CompareSettings('grid.yaml', output='out'), objective=c.train, about=about))"
    )
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii", "LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0"}
    run = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=ascii_only, capture_output=True)
    assert run.returncode == 0, run.stderr
    assert b"4/4" in run.stdout and (tmp_path / "out" / "report.html").exists()


SECRET = "s3cr3t-w0rd"
URLS = [
    f"postgresql://u:{SECRET}@127.0.0.1:1/d", f"postgresql://127.0.0.1:1/d?password={SECRET}",
    f"postgresql://127.0.0.1:1/d?user=u&sslpassword={SECRET}&sslmode=disable", f"postgresql://u:a@{SECRET}@h/d",
    f"postgresql://u:{SECRET}@h:port/d", f"postgresql+{SECRET}", f"mysql://u:{SECRET}@h/d",
    f"postgresql://127.0.0.1:1/d?nosuch={SECRET}", f"sqlite:////none/such/a.db?password={SECRET}",
    f"postgresql+psycopg://u:{SECRET}@127.0.0.1:1/d", f"postgresql://u:p@ss/{SECRET}@127.0.0.1:1/d",
    f"postgresql://u@127.0.0.1:1/d#{SECRET}", f"postgresql://u%3A{SECRET}@127.0.0.1:1/d",
]  # fmt: skip


@pytest.mark.parametrize("url", URLS)
def test_no_part_of_a_url_in_which_drivers_take_secrets_is_shown(url, tmp_path):
    settings = CompareSettings("grid.yaml", storage=url)
    assert SECRET not in repr(settings)
    with pytest.raises(OptionError) as refusal:
        open_store(url, tmp_path, "study")
    import traceback

    assert SECRET not in "".join(traceback.format_exception(refusal.value)) and len(str(refusal.value)) <= 400


def test_a_driver_that_repeats_the_password_while_a_study_runs_is_not_quoted(tmp_path):
    one = open_study(tmp_path, f"sqlite:///{tmp_path / 'a.db'}?timeout=60", axes=SMALL)
    hide = store._without_secrets_of
    url = store.make_url(f"postgresql://u:{SECRET}@h/d?sslpassword=other-{SECRET}")
    assert SECRET not in hide(url, f"connection failed: password {SECRET} and other-{SECRET}")
    one.close()
