"""Measured numbers for the pages: substitutions such as `|cayley cost 128|`, and tables to include."""

import itertools
import json
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

PUBLISHED = Path(__file__).parent.parent / "manifold_rnn" / "tasks" / "published.toml"
TASKS = {"copying": "copying, delay 100", "adding": "adding, 200 steps"}


def substitutions(path: Path) -> str:
    """Return reStructuredText that defines one substitution for each number of the benchmark's result."""
    result = json.loads(path.read_text())
    lines = [f".. |measured {key}| replace:: {value}" for key, value in result["settings"].items()]
    for retraction, numbers in result["retractions"].items():
        lines += [f".. |{retraction} {key}| replace:: {value}" for key, value in numbers.items()]
    return "\n".join(lines) + "\n"


def write_tables(results: Path, networks: Path, into: Path) -> None:
    """Write every table that a page includes; one whose benchmark was not run says so."""
    into.mkdir(parents=True, exist_ok=True)
    makers = {
        "adapters": adapters,
        "cells": cells,
        "cells_2_threads": cells,
        "constraint_cost": constraint_cost,
        "loop": loop,
        "moments": moments,
        "muon": muon,
        "muon_training": muon_training,
        "online": online,
        "online_cost": online_cost,
        "peers": peers,
        "plain_parameters": plain_parameters,
        "recipe": recipe,
        "scaling": scaling,
        "scan": scan,
        "scan_2_threads": scan,
        "small_weights": small_weights,
        "spheres": spheres,
        "transformer": transformer,
        "transformer_2_threads": transformer,
        "tree_search": tree_search,
    }
    for name, make in makers.items():
        file = name.removesuffix("_cost") if name.startswith("online") else name
        path = results / f"{file}.json"
        script, of_threads, _ = file.partition("_2_threads")
        command = f"{script}.py --threads 2" if of_threads else f"{script}.py"
        missing = f"*Not measured yet: run* ``python benchmarks/{command}``.\n"
        result = json.loads(path.read_text()) if path.exists() else None
        write_if_new(into / f"{name}.rst", make(result[file]) + _about(result["settings"]) if result else missing)
    path = results / "learning.json"
    result = json.loads(path.read_text()) if path.exists() else {"learning": [], "settings": {}}
    learning = result["learning"]
    published = tomllib.loads(PUBLISHED.read_text(encoding="utf-8"))
    texts = {page.stem: page.read_text("utf-8") for page in sorted(networks.glob("*.rst"))}
    pages = {name: _field(text, "Made for") for name, text in texts.items() if f"networks/{name}.rst" in text}
    for name in pages:
        write_if_new(into / "networks" / f"{name}.rst", _of_network(name, learning, published))
    settings = result["settings"]
    size = f"\n{settings['steps']} steps on batches of {settings['batch']}.\n" if "steps" in settings else ""
    write_if_new(into / "learning.rst", overview(learning, pages) + size)


def muon(rows: list[dict]) -> str:
    """Gain and time of each way to a steepest descent direction, for every shape."""
    head = ("shape", "way", "gain", "milliseconds", "times ours")
    cells = []
    for row in rows:
        ways = {name: value for name, value in row.items() if name != "shape"}
        for name, value in ways.items():
            ratio = value["ms"] / ways["closed form"]["ms"]
            cells.append((row["shape"], name, f"{value['gain']:.6f}", f"{value['ms']:.1f}", f"{ratio:.1f}"))
    return list_table(head, cells)


def muon_training(rows: list[dict]) -> str:
    """Steps and seconds of each optimizer to the loss of a problem, smallest to largest of the seeds."""
    cells = []
    reported = [row for row in rows if row["run for"] == "reported"]
    for problem, optimizer in dict.fromkeys((row["problem"], row["optimizer"]) for row in reported):
        found = [row for row in reported if (row["problem"], row["optimizer"]) == (problem, optimizer)]
        arrived = [row for row in found if row["steps"] is not None]
        steps = _span([row["steps"] for row in arrived], ",d") if arrived else "not reached"
        steps += f" ({len(arrived)} of {len(found)} seeds)" if 0 < len(arrived) < len(found) else ""
        seconds = _span([row["seconds"] for row in arrived], ".1f") if arrived else ""
        last = _span([row["last loss"] for row in found], ".3g")
        cells.append((problem, optimizer, f"{found[0]['rate']:g}", steps, seconds, last))
    return list_table(("problem", "optimizer", "rate", "steps", "seconds", "last loss"), cells)


def recipe(rows: list[dict]) -> str:
    """Losses, time and memory of each recipe, for training and for fine-tuning."""
    head = ("weights", "rate", "validation loss", "degrees of freedom", "ms per step", "memory, KB")
    tables = []
    for kind in dict.fromkeys(row["kind"] for row in rows):
        reported = [row for row in rows if row["kind"] == kind and row["run for"] == "reported"]
        cells = []
        for name in dict.fromkeys(row["recipe"] for row in reported):
            found = [row for row in reported if row["recipe"] == name]
            first = found[0]
            size = f"{first['degrees of freedom']:,}", _span([row["ms per step"] for row in found], ".0f")
            losses = _span([row["loss"] for row in found], ".3f")
            cells.append((name, f"{first['rate']:g}", losses, *size, f"{first['kilobytes']:,}"))
        before = next((f" Before: {row['loss before']:.3f}." for row in reported if "loss before" in row), "")
        tables.append(f"{kind.capitalize()}.{before}\n\n{list_table(head, cells)}")
    return "\n".join(tables)


def _span(values: list[float], form: str) -> str:
    low, high = (format(value, form) for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def write_promises(results: Path, into: Path) -> None:
    """Write the tables of the page on reliability: drift, memory, and faults that the tests must find."""
    rows = _lines(results / "drift.jsonl")
    write_if_new(into / "drift.rst", drift(rows) if rows else _missing("python benchmarks/drift.py"))
    rows = _lines(results / "memory.jsonl")
    write_if_new(into / "memory.rst", memory(rows) if rows else _missing("python benchmarks/memory.py"))
    path = results / "mutations.json"
    faults = json.loads(path.read_text())["mutations"] if path.exists() else {}
    cells = ((name, f"``{row['file']}``", _found(row)) for name, row in faults.items())
    table = list_table(("fault", "file", "found by"), cells)
    write_if_new(into / "mutations.rst", table if faults else _missing("python benchmarks/mutations.py"))


def _lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _missing(command: str) -> str:
    return f"*Not measured yet: run* ``{command}``.\n"


def _found(row: dict) -> str:
    return f"``{row['test'].partition('[')[0].partition('::')[2]}``" if row["found"] else "**no quick test**"


def drift(rows: list[dict]) -> str:
    """The worst defect of every manifold, size and number of steps, and how many combinations were measured."""
    groups: dict[tuple[str, str, int, int], list[dict]] = {}
    for row in rows:
        groups.setdefault((row["dtype"], row["manifold"], row["n"], row["steps"]), []).append(row)
    head = ("precision", "manifold", "n", "steps", "combinations", "worst defect", "bound")
    cells = []
    for (dtype, manifold, n, steps), found in sorted(groups.items(), key=lambda item: (item[0][0], -item[0][3])):
        bound = {"float32": 1e-5, "float64": 1e-12}[dtype] * max(1, n / 128)
        worst = max(row["worst"] for row in found)
        cells.append((dtype, manifold, str(n), f"{steps:,}", str(len(found)), f"{worst:.1e}", f"{bound:.0e}"))
    return list_table(head, cells) + f"\n{rows[-1]['machine']}, one thread, torch {rows[-1]['torch']}.\n"


def memory(rows: list[dict]) -> str:
    """What was alive after the first half of the steps, and after all of them."""
    cases = dict.fromkeys(row["case"] for row in rows)
    head = ("training", "steps", "tensors", "objects", "resident memory, KB")
    cells = []
    for case in cases:
        found = [row for row in rows if row["case"] == case]
        half, last = found[len(found) // 2 - 1], found[-1]
        pairs = (f"{half[key]:,} → {last[key]:,}" for key in ("step", "tensors", "objects", "kilobytes"))
        cells.append((case.replace("_", " "), *pairs))
    return list_table(head, cells) + f"\n{rows[-1]['machine']}, one thread, torch {rows[-1]['torch']}.\n"


def write_runs(results: Path, into: Path) -> None:
    """Write the table of the long runs, and draw their curves."""
    path = results / "runs.json"
    found = {row["run"]: row for row in json.loads(path.read_text())["runs"]} if path.exists() else {}
    listed = re.findall(r'^    "(.+)",$', (results.parent / "runs.py").read_text(), re.MULTILINE)
    rows = [(name, *_run(found[name])) for name in listed if name in found]
    head = ("configuration", "baseline", "test loss", "metric", "parameters", "minutes")
    write_if_new(into / "runs.rst", list_table(head, rows))
    if found:
        draw_runs([found[name] for name in listed if name in found], into / "runs.svg")


def _run(row: dict) -> Sequence[str]:
    losses = f"{row['guessing']:.3g}", f"{row['test loss']:.2g}"
    return *losses, f"{row['test metric']:.4f}", f"{row['parameters']:,}", f"{row['minutes']:.0f}"


def draw_runs(rows: list[dict], path: Path) -> None:
    """Draw the validation loss over the minutes, a panel for each task, the baseline dotted."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    tasks = dict.fromkeys(row["task"] for row in rows)
    figure, panels = plt.subplots(1, len(tasks), figsize=(3.4 * len(tasks), 3.2), layout="constrained", squeeze=False)
    for task, axes in zip(tasks, panels[0], strict=True):
        for row in (row for row in rows if row["task"] == task):
            losses = row["validation loss"]
            minutes = [row["minutes"] * epoch / len(losses) for epoch in range(1, len(losses) + 1)]
            axes.plot(minutes, losses, marker=".", label=row["network"])
            axes.axhline(row["guessing"], color="0.6", linestyle=":", linewidth=1.2)
        axes.set(title=task, xlabel="minutes", yscale="log")
        axes.legend(fontsize=8)
    panels[0][0].set_ylabel("validation loss")
    figure.savefig(path)
    plt.close(figure)


def _about(settings: dict) -> str:
    """The line below a table: on what it was measured."""
    threads = f"{settings['threads']} thread{'s' if settings['threads'] > 1 else ''}"
    return f"\n{settings.get('machine', 'A CPU')}, {threads}, torch {settings['torch']}.\n"


def peers(table: dict) -> str:
    """Steps of this package and of others, in products of the same size."""
    shapes = list(table)
    jobs = [name for name in table[shapes[0]] if name != "matmul" and not name.startswith(("faster", "to one"))]
    return list_table(("step", *shapes), ((job, *(_short(table[shape][job]) for shape in shapes)) for job in jobs))


def scan(table: dict) -> str:
    """Times of a training step, as multiples of the times of others."""
    others = ("torch", "loop", "floor")
    rows = []
    for name, ratios in table.items():
        *shape, nonlinearity, loss = name.split()
        sizes = (part.partition("=")[2] for part in shape)
        native = f"{ratios['native to torch']:.2f}" if "native to torch" in ratios else ""
        rows.append((*sizes, nonlinearity, loss, *(f"{ratios[f'to {other}']:.2f}" for other in others), native))
    heads = (*(f"to {other}" for other in others), "native to torch")
    return list_table(("T", "B", "n", "nonlinearity", "outputs", *heads), rows)


def constraint_cost(table: dict) -> str:
    """Shares of a training step that the constraint takes, and how a moving base compares with the update view."""
    key = "share of "
    jobs = [name.removeprefix(key) for name in next(iter(table.values())) if name.startswith(key)]
    rows = [(job, *(f"{100 * numbers[key + job]:.1f} %" for numbers in table.values())) for job in sorted(jobs)]
    ratios = [name for name in next(iter(table.values())) if not name.startswith(key)]
    rows += [(name, *(f"{numbers[name]:.2f}" for numbers in table.values())) for name in ratios]
    return list_table(("share of a training step", *table), rows)


def scaling(table: dict) -> str:
    """Exponents of the time, and memory in units of the states."""
    return list_table(("measured", ""), ((name, f"{value:.2f}") for name, value in table.items()))


def loop(table: dict) -> str:
    """Times of a loop with a constrained weight, as multiples of that with a free one."""
    return list_table(("weight", "to free"), ((name, f"{ratio:.2f}") for name, ratio in table.items()))


def cells(table: dict) -> str:
    """Times of a training step of gated cells, as multiples of that of torch's LSTM."""
    names = [name for name in next(iter(table.values())) if not name.endswith((", loop", ", ms"))]
    columns = [(row, suffix) for row in table for suffix in ("", ", loop")]
    rows = (
        (name, *(f"{table[row][name + suffix]:.2f}" if name + suffix in table[row] else "" for row, suffix in columns))
        for name in names
    )
    return list_table(("cell", *(row + suffix for row, suffix in columns)), rows)


def transformer(table: dict) -> str:
    """Times of a training step of a transformer, as multiples of that without a constraint."""
    return list_table(("constraint", "to free"), ((name, f"{ratio:.2f}") for name, ratio in table.items()))


def plain_parameters(table: dict) -> str:
    """Times of a step on plain parameters, as multiples of torch's fastest."""
    columns = list(dict.fromkeys(name for row in table.values() for name in row))
    rows = ((name, *(f"{row[c]:.2f}" if c in row else "" for c in columns)) for name, row in table.items())
    return list_table(("optimizer", *columns), rows)


def adapters(table: dict) -> str:
    """Times of a step of fine-tuning, as multiples of that with LoRA."""
    names = list(dict.fromkeys(name for row in table.values() for name in row))
    rows = ((name, *(f"{row[name]:.2f}" if name in row else "" for row in table.values())) for name in names)
    return list_table(("adapter", *table), rows)


def online(table: dict) -> str:
    """Accuracies on digits, and losses and alignments of the periodic task, by seed."""
    rows = {name: row for name, row in table.items() if name.startswith("digits")}
    cells = [(f"{name}: accuracy", *(f"{row[f'seed {s}']:.3f}" for s in range(3))) for name, row in rows.items()]
    kinds = dict.fromkeys(name.rpartition(", seed")[0] for name in table if name.startswith("periodic"))
    for kind in kinds:
        seeds = [table[f"{kind}, seed {s}"] for s in range(3)]
        cells += [(f"{kind}: {key}", *(f"{row[key]:.3f}" for row in seeds)) for key in seeds[0]]
    return list_table(("measured", "seed 0", "seed 1", "seed 2"), cells)


def online_cost(table: dict) -> str:
    """What an online step costs."""
    rows = ((key, f"{value:,.0f}" if "bytes" in key else f"{value:.2f}") for key, value in table["cost"].items())
    return list_table(("an online step", ""), rows)


def tree_search(table: list[dict]) -> str:
    """Losses of searches, of the trees that they found, and of GRUs beside them; margins and trees of the searches."""
    head = ("network", "seed", "parameters", "loss, soft", "loss, hard", "mean margin", "different trees")
    keys = (("soft", ".3f"), ("hard", ".3f"), ("margin", ".2f"), ("different trees", ",d"))
    rows = []
    for row in table:
        numbers = (format(row[key], form) if key in row else "" for key, form in keys)
        rows.append((row["network"], row["seed"], f"{row['parameters']:,}", *numbers))
    searches = [row for row in table if row["network"] == "search"]
    trees = ((row["seed"], f"{100 * row['share of the first']:.0f} %", f"``{row['tree']}``") for row in searches)
    frequent = list_table(("seed", "share", "most frequent tree"), trees)
    return f"{list_table(head, rows)}\nThe most frequent tree of each search, and its share:\n\n{frequent}"


def small_weights(table: dict) -> str:
    """Times of a step for each retraction, in units of torch's step of unconstrained weights; geoopt's in ours."""
    head = ("weights and optimizer", "retraction", "microseconds", "to torch", "geoopt to ours")
    cells = []
    for case, row in table.items():
        for name in ("cayley", "exp", "polar", "qr"):
            ratios = (f"{row[f'{name} / torch']:.1f}", f"{row[f'geoopt / {name}']:.1f}")
            cells.append((case, name, f"{row[name]:.0f}", *ratios))
    return list_table(head, cells)


def spheres(table: dict) -> str:
    """Time of a step of each kind in units of torch's fused Adam."""
    rows = ((case, f"{row['ours']:.1f}", f"{row['ours / fused']:.1f}") for case, row in table.items())
    return list_table(("step", "milliseconds", "to torch's fused Adam"), rows)


def moments(rows: list[dict]) -> str:
    """Errors of fits by the number of sequences, and losses of networks that started from one."""
    fits, starts = ([row for row in rows if (key in row)] for key in ("sequences", "variance"))
    spans = []
    for count in sorted({row["sequences"] for row in fits}):
        of = {key: [row[key] for row in fits if row["sequences"] == count] for key in fits[0]}
        cells = (f"{min(of['cosine']):.5f}", f"{min(of['error of U']):.3f} to {max(of['error of U']):.3f}")
        spans.append((f"{count:,}", *cells, f"{min(of['R2']):.5f}", f"{min(of['seconds']):.1f}"))
    head = ("sequences", "cosine of the worst direction", "relative error of U", "smallest R²", "seconds")
    keys = ("variance", "moments, 0 steps", "moments, 200 steps", "random, 2,000 steps")
    losses = list_table(("seed", *keys), ((row["seed"], *(f"{row[key]:.2g}" for key in keys)) for row in starts))
    return f"{list_table(head, spans)}\nLosses on new sequences without noise:\n\n{losses}"


def overview(learning: list[dict], pages: Mapping[str, str]) -> str:
    """What each network was made for, and its parameters and results on the tasks that it was trained on here."""
    rows = []
    for name, made_for in pages.items():
        found = {row["task"]: row for row in learning if row["network"] == name}
        cells = [
            (f"{r['parameters']:,}", _short(r["times better"])) if (r := found.get(t)) else ("", "") for t in TASKS
        ]
        rows += [(f":doc:`{name} </networks/{name}>`", made_for, *itertools.chain(*cells))] if found else []
    heads = (f"{task}: {head}" for task in TASKS for head in ("parameters", "times better"))
    return list_table(("network", "made for", *heads), rows, widths=(15, 37, 12, 12, 12, 12))


def _field(page: str, name: str) -> str:
    """The text of a field of the page of a network, such as "Source"."""
    text = re.search(rf"^:{name}: (.*(?:\n   .*)*)", page, flags=re.MULTILINE)
    return " ".join(text[1].split()) if text else ""


def _of_network(name: str, learning: list[dict], published: dict) -> str:
    """The tables of one network: what was measured here, and what was published."""
    tables = []
    if here := [row for task in TASKS for row in learning if (row["network"], row["task"]) == (name, task)]:
        head = ("measured here", "units", "parameters", "test loss", "times smaller than the baseline's")
        cells = ((TASKS[r["task"]], r["hidden size"], f"{r['parameters']:,}", *_loss(r)) for r in here)
        tables.append(list_table(head, cells))
    if rows := [(*row, source["read"]) for source in published.get(name, ()) for row in source["rows"]]:
        tables.append(list_table(("published", "units", "parameters", "result", "read in"), rows))
    return "\n".join(tables)


def _loss(row: dict) -> tuple[str, str]:
    return f"{row['loss']:.2g}", _short(row["times better"])


def list_table(head: Sequence[str], rows: Iterable[Sequence[str]], widths: Sequence[int] = ()) -> str:
    lines = [
        ".. list-table::",
        "   :header-rows: 1",
        *([f"   :widths: {' '.join(map(str, widths))}"] if widths else []),
        "",
    ]
    for row in (head, *rows):
        lines += [f"   {'*' if not i else ' '} - {cell}".rstrip() for i, cell in enumerate(row)]
    return "\n".join(lines) + "\n"


def _short(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def write_if_new(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text() != text:  # an untouched file need not be read again
        path.write_text(text)
