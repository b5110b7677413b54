import re
import statistics

import pytest
from support import ROOT

DOCS = ROOT / "docs"
PAGES = [DOCS / "start.rst", *sorted((DOCS / "guide").glob("*.rst")), *sorted((DOCS / "networks").glob("*.rst"))]
MARKUP = re.compile(r"\s*(>>>|\.\.\.|\.\. |=====|:)|\s{3,}", flags=re.MULTILINE)  # examples, directives, tables, cells
TITLE = re.compile(r"^[-=~*^]{3,}$", flags=re.MULTILINE)
CODE = re.compile(r"``[^`]*``|:[a-z:]+:`[^`]*`")
END = re.compile(r"(?<=[.!?:])\s+(?=[A-Z*`x])|\s*[-*] ")  # of a sentence or of an item of a list


def sentence_lengths(text):
    """The number of words of each sentence in the paragraphs and lists of a page; code counts as one word."""
    paragraphs = [part for part in re.split(r"\n\s*\n", text) if not TITLE.search(part)]
    prose = [part for part in paragraphs if not any(MARKUP.match(line) for line in part.splitlines())]
    sentences = [sentence for part in prose for sentence in END.split(CODE.sub("x", " ".join(part.splitlines())))]
    counts = [len(re.findall(r"[\w'-]+", sentence)) for sentence in sentences]
    return [count for count in counts if count >= 3]


def test_lengths_of_a_page():
    page = "Title\n=====\n\nUse ``f(a, b)`` here. Two\nlines are one sentence.\n\n>>> f(1, 2)\n\n- one item of it\n"
    assert sentence_lengths(page) == [3, 5, 4]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_sentences_are_short(path):
    assert max(sentence_lengths(path.read_text())) <= 25


def test_the_average_sentence_is_short():
    assert statistics.mean(length for path in PAGES for length in sentence_lengths(path.read_text())) < 15
