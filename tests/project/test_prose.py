import ast
import inspect
import re
import statistics

import pytest
from support import ROOT

DOCS = ROOT / "docs"
PAGES = [DOCS / "start.rst", *sorted((DOCS / "guide").glob("*.rst")), *sorted((DOCS / "networks").glob("*.rst"))]
PACKAGE = ROOT / "manifold_rnn"
FOLDERS = sorted(path for path in PACKAGE.iterdir() if any(path.glob("*.py")))
MARKUP = re.compile(r"\s*(>>>|\.\.\.|\.\. |=====|:)|\s{3,}", flags=re.MULTILINE)  # examples, directives, tables, cells
TITLE = re.compile(r"^[-=~*^]{3,}$", flags=re.MULTILINE)
CODE = re.compile(r"``[^`]*``|:[a-z:]+:`[^`]*`|`[^`]*`_?")
END = re.compile(r"(?<=[.!?:])\s+(?=[A-Z*`x])|\s*[-*] ")  # of a sentence or of an item of a list
HEADING = re.compile(r"^.+\n-{3,}$", flags=re.MULTILINE)
ENTRY = re.compile(r"[\w*., ]+ : ")  # a parameter and its type, or an item of See Also
INDENT = re.compile(r" *")
TWICE = re.compile(r"\b([a-z]{2,}) \1\b", flags=re.IGNORECASE)


def sentences_of(paragraphs):
    """The sentences of at least three words, and their numbers of words; code counts as one word."""
    for part in paragraphs:
        for sentence in END.split(CODE.sub("x", " ".join(part.split()))):
            count = len(re.findall(r"[\w'-]+", sentence))
            if count >= 3:
                yield sentence, count


def page_sentences(page):
    """The sentences in the paragraphs and lists of a page, and their numbers of words."""
    paragraphs = [part for part in re.split(r"\n\s*\n", page) if not TITLE.search(part)]
    return sentences_of(part for part in paragraphs if not any(MARKUP.match(line) for line in part.splitlines()))


def sentence_lengths(page):
    return [count for _, count in page_sentences(page)]


def docstring_paragraphs(docstring):
    """The prose of a docstring: without headings, names of parameters, examples, tables, directives and formulas.

    A blank line, another indentation and an item of a list each begin a new paragraph.
    """
    paragraph, indent, left_out = [], 0, None  # `left_out`: the indentation of a directive or of a formula's paragraph
    for block in re.split(r"\n\s*\n", HEADING.sub("\n", docstring)):
        lines = [line for line in block.splitlines() if line.strip()]
        if not lines or lines[0].lstrip().startswith((">>>", "===")):  # an example, up to its output, or a table
            continue
        for line in lines:
            depth = INDENT.match(line).end()
            if left_out is not None and depth > left_out:
                continue
            left_out = depth if line.lstrip().startswith(".. ") else None
            if left_out is None and not ENTRY.match(line):
                is_item = line.lstrip().startswith("- ")
                if is_item or depth != indent:
                    yield "\n".join(paragraph)
                    paragraph, indent = [], depth + 2 * is_item
                paragraph.append(line)
            if line.endswith("::"):  # a block of code follows
                left_out = depth
        yield "\n".join(paragraph)
        paragraph = []


def docstring_sentences(folder):
    """Where each docstring of a folder of the package stands, its sentences, and their numbers of words."""
    for path in sorted(folder.rglob("*.py") if folder != PACKAGE else folder.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                place = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}"
                for sentence, count in sentences_of(docstring_paragraphs(ast.get_docstring(node) or "")):
                    yield place, sentence, count


def test_lengths_of_a_page():
    page = "Title\n=====\n\nUse ``f(a, b)`` here. Two\nlines are one sentence.\n\n>>> f(1, 2)\n\n- one item of it\n"
    assert sentence_lengths(page) == [3, 5, 4]


def test_lengths_of_a_docstring():
    docstring = """Return the largest entry.

    Two facts, of ``f(x)``:

    - the first of them, which goes
      on here;
    - the second one.

    .. math:: \\max_i x_i

    ===  =====
    key  value
    ===  =====

    Parameters
    ----------
    x : Tensor, shape (..., n)
        Real numbers. NaN is an
        error here.

    Examples
    --------
    >>> maximum(torch.ones(3))
    1.0
    """
    paragraphs = docstring_paragraphs(inspect.cleandoc(docstring))
    assert [count for _, count in sentences_of(paragraphs)] == [4, 4, 8, 3, 5]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_sentences_are_short(path):
    assert max(sentence_lengths(path.read_text())) <= 25


def test_the_average_sentence_is_short():
    assert statistics.mean(length for path in PAGES for length in sentence_lengths(path.read_text())) < 15


@pytest.mark.parametrize("folder", [PACKAGE, *FOLDERS], ids=lambda folder: folder.name)
def test_docstrings_have_short_sentences(folder):
    assert [(place, sentence) for place, sentence, count in docstring_sentences(folder) if count > 30] == []
    assert statistics.mean(count for *_, count in docstring_sentences(folder)) < 16


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_no_sentence_of_a_page_repeats_a_word(path):
    assert [sentence for sentence, _ in page_sentences(path.read_text()) if TWICE.search(sentence)] == []


@pytest.mark.parametrize("folder", [PACKAGE, *FOLDERS], ids=lambda folder: folder.name)
def test_no_docstring_repeats_a_word(folder):
    assert [(place, sentence) for place, sentence, _ in docstring_sentences(folder) if TWICE.search(sentence)] == []
