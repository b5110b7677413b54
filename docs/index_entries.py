"""Where the entries of the index lead: to the section below a directive, and not to an empty mark above it."""

from collections.abc import Set

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.transforms import SphinxTransform


class Sections(SphinxTransform):
    """Let the entries of an index directive in front of a section lead to it, or to the page if it is its first one.

    The search shows the text of the place to which an entry leads. An empty mark has none.
    """

    default_priority = 800  # the section has its name, and the entries are not collected yet

    def apply(self, **options: object) -> None:
        for index in list(self.document.findall(addnodes.index)):
            mark = index.next_node(descend=False, siblings=True)
            section = mark and mark.next_node(ascend=True)
            if isinstance(mark, nodes.target) and isinstance(section, nodes.section):
                name = "" if section.parent is self.document else section["ids"][0]
                index["entries"] = [(kind, value, name, *rest) for kind, value, _, *rest in index["entries"]]
                mark.parent.remove(mark)


def outdated(app: Sphinx, env: BuildEnvironment, added: Set[str], changed: Set[str], removed: Set[str]) -> list[str]:
    """Return the pages with entries that matter for the search, so that each build reads them.

    The search loses the entries of a page that a later build does not read again (Sphinx 9.0).
    """
    return sorted(name for name in env.found_docs if name.startswith("guide/") or name == "glossary")
