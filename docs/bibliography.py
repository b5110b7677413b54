"""How the list of references names its entries: by authors and year, as the pages do."""

from collections import Counter
from collections.abc import Iterator, Sequence

from pybtex.database import Entry
from pybtex.plugin import register_plugin
from pybtex.style.formatting.alpha import Style as AlphaStyle
from pybtex.style.labels import BaseLabelStyle


class Labels(BaseLabelStyle):
    """Authors and year, with a letter where several entries have the same."""

    def format_labels(self, sorted_entries: Sequence[Entry]) -> Iterator[str]:
        """Yield the label of each entry."""
        labels = [_label(entry) for entry in sorted_entries]
        total = Counter(labels)
        seen: Counter[str] = Counter()
        for label in labels:
            yield label + ("abcdefghij"[seen[label]] if total[label] > 1 else "")
            seen[label] += 1


class Style(AlphaStyle):
    """Pybtex's style with labels of authors and year."""

    default_label_style = Labels


def register() -> str:
    """Make the style known to the extension, and return its name."""
    register_plugin("pybtex.style.formatting", "authors_and_year", Style)
    return "authors_and_year"


def _label(entry: Entry) -> str:
    people = entry.persons.get("author") or entry.persons["editor"]
    names = [" ".join(map(str, [*person.rich_prelast_names, *person.rich_last_names])) for person in people]
    if len(names) > 2:
        names = [f"{names[0]} et al."]
    return f"{' and '.join(names)}, {entry.fields['year']}"
