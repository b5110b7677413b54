"""Pictures of the cells of the zoo, each drawn from a few lines of text.

A picture has a grid of nodes and chains of arrows. A row of the grid has nodes between bars, as `kind name label;
caption`, and an empty place is nothing. A chain names nodes; an arrow between two rows first runs along its own row. A
node of the kind `dot` is a bend. Above the grid may be the factors of the recurrent matrix.
"""

import tomllib
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

COLUMN, ROW, HIGH = 1.12, 0.8, 0.42
INK, FAINT = "#333333", "#666666"
FILL = {"state": "#e8e8e8", "held": "#cfe3f7", "free": "#fde9c9", "fixed": "#ffffff", "op": "#ffffff"}
EDGE = {"state": "#888888", "held": "#1f5fa8", "free": "#a8701f", "fixed": "#888888", "op": INK}
MEANING = {"held": "constrained and trained", "free": "free and trained", "fixed": "fixed"}


@dataclass(frozen=True)
class Picture:
    """What is drawn: rows of nodes, chains of their names, and the factors of a matrix as `kind label; caption`."""

    rows: list[str]
    chains: str
    factors: str = ""
    product: str = "W"


@dataclass(frozen=True)
class Node:
    kind: str
    label: str
    caption: str
    x: float
    y: float

    @property
    def width(self) -> float:
        if self.kind == "dot":
            return 0.0
        plain = self.label.replace("$", "").replace("{", "").replace("}", "").replace("\\,", "")
        for command in (r"\exp", r"\times", r"\sigma", r"\Delta", r"\epsilon", r"\gamma", r"\Lambda", r"\lambda"):
            plain = plain.replace(command, "MM" if command in (r"\exp", r"\times") else "M")
        for command in (r"\nabla", r"\cdots", r"\beta", r"\rho", r"\mu", r"\eta", r"\alpha", r"\circ"):
            plain = plain.replace(command, "M")
        return max(HIGH, 0.24 + 0.092 * len(plain.replace("_", "").replace("^", "")))

    @property
    def height(self) -> float:
        return HIGH if self.width else 0.0


def parse(text: str, x: float, y: float, named: bool = True) -> tuple[str, Node]:
    kind, rest = text.split(maxsplit=1)
    name, _, rest = rest.partition(" ") if named else ("", "", rest)
    label, _, caption = rest.partition(";")
    return name, Node(kind, label.strip(), caption.strip(), x, y)


def draw_node(ax: Axes, node: Node) -> None:
    if not node.width:
        return
    x, y = node.x - node.width / 2, node.y - HIGH / 2
    rounding = HIGH / 2 - 0.01 if node.kind in ("state", "op") else 0.05
    shape = f"round,pad=0,rounding_size={rounding}"
    dashes = "--" if node.kind == "fixed" else "-"
    colours = {"facecolor": FILL[node.kind], "edgecolor": EDGE[node.kind], "linestyle": dashes, "zorder": 3}
    ax.add_patch(FancyBboxPatch((x, y), node.width, HIGH, boxstyle=shape, linewidth=1.1, **colours))
    size = 10.5 if "$" in node.label else 9
    ax.text(node.x, node.y - 0.01, node.label, ha="center", va="center", fontsize=size, color=INK, zorder=4)
    ax.text(node.x, node.y - 0.31, node.caption, ha="center", va="center", fontsize=7.5, color=FAINT, zorder=4)


def draw_arrow(ax: Axes, a: Node, b: Node) -> None:
    """From one node to the next: along the row first, then along the column."""
    sx, sy = (b.x > a.x) - (b.x < a.x), (b.y > a.y) - (b.y < a.y)
    x, y = (a.x + sx * a.width / 2, a.y) if sx else (a.x, a.y + sy * a.height / 2)
    end = (b.x, b.y - sy * b.height / 2) if sy else (b.x - sx * b.width / 2, b.y)
    xs, ys = ([x, b.x, end[0]], [y, a.y, end[1]]) if sx and sy else ([x, end[0]], [y, end[1]])
    ax.plot(xs, ys, color=INK, linewidth=1.0, solid_capstyle="butt", zorder=1)
    if b.width:
        head = {"arrowstyle": "-|>", "color": INK, "linewidth": 1.0, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 8}
        before = (end[0], end[1] - 0.12 * sy) if sy else (end[0] - 0.12 * sx, end[1])
        ax.annotate("", xy=end, xytext=before, arrowprops=head, zorder=2)


def draw_factors(ax: Axes, picture: Picture, y: float) -> list[Node]:
    """The product that the matrix is, in one line."""
    if not picture.factors:
        return []
    ax.text(-0.3, y, f"${picture.product}\\;=$", ha="left", va="center", fontsize=10.5, color=INK)
    nodes, x = [], 0.22 + 0.1 * len(picture.product)
    for text in picture.factors.split("|"):
        _, node = parse(text, x, y, named=False)
        wide = 0.3 if node.kind == "op" else max(node.width, 0.062 * len(node.caption) + 0.06)
        nodes.append(Node(node.kind, node.label, node.caption, x + wide / 2, y))
        x += wide + 0.08
        if node.kind == "op":
            ax.text(nodes[-1].x, y, node.label, ha="center", va="center", fontsize=10.5, color=INK)
        else:
            draw_node(ax, nodes[-1])
    return nodes


def draw(picture: Picture, path: Path) -> None:
    nodes: dict[str, Node] = {}
    for j, row in enumerate(picture.rows):
        for i, text in enumerate(row.split("|")):
            if text.strip():
                name, node = parse(text, i * COLUMN, -j * ROW)
                assert name not in nodes, f"two nodes are called {name}"
                nodes[name] = node
    top = 1.05 * ROW if picture.factors else 0.0
    figure, ax = plt.subplots()
    everything = [*nodes.values(), *draw_factors(ax, picture, top)]
    for chain in picture.chains.split(","):
        for a, b in pairwise(chain.split()):
            draw_arrow(ax, nodes[a], nodes[b])
    for node in nodes.values():
        draw_node(ax, node)
    low = min(node.y for node in everything) - 0.62
    x = -0.25
    for kind, meaning in MEANING.items():
        if any(node.kind == kind for node in everything):
            style = "--" if kind == "fixed" else "-"
            square = {"facecolor": FILL[kind], "edgecolor": EDGE[kind], "linestyle": style}
            ax.add_patch(FancyBboxPatch((x, low - 0.06), 0.14, 0.12, boxstyle="square,pad=0", linewidth=0.9, **square))
            ax.text(x + 0.22, low, meaning, ha="left", va="center", fontsize=7, color=FAINT)
            x += 0.45 + 0.068 * len(meaning)
    right = max(x - 0.2, *(node.x + node.width / 2 for node in everything))
    left = min(node.x - node.width / 2 for node in everything) - 0.1
    ax.set(xlim=(left, right + 0.1), ylim=(low - 0.15, top + 0.35), aspect="equal")
    ax.axis("off")
    figure.set_size_inches(right + 0.1 - left, top + 0.5 - low)
    figure.subplots_adjust(0, 0, 1, 1)
    with plt.rc_context({"svg.hashsalt": path.stem, "svg.fonttype": "path"}):
        figure.savefig(path, metadata={"Date": None}, facecolor="white")
    plt.close(figure)


def read(path: Path) -> dict[str, Picture]:
    """Return the described pictures by the names of their networks."""
    return {name: Picture(**description) for name, description in tomllib.loads(path.read_text()).items()}


def write(descriptions: Path, folder: Path) -> None:
    """Draw every picture that is older than its description."""
    folder.mkdir(parents=True, exist_ok=True)
    changed = max(path.stat().st_mtime for path in (descriptions, Path(__file__)))
    for name, picture in read(descriptions).items():
        path = folder / f"{name}.svg"
        if not path.exists() or path.stat().st_mtime < changed:
            with plt.rc_context({"mathtext.fontset": "cm", "font.family": "DejaVu Sans"}):
                draw(picture, path)
