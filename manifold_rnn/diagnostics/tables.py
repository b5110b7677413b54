"""Tables of results as plain text."""


def aligned(title: str, rows: list[tuple[str, str, str]]) -> str:
    """Return a title and aligned lines, each with a name, a number and an explanation."""
    names, values = max(len(row[0]) for row in rows), max(len(row[1]) for row in rows)
    lines = [f"  {name:<{names}}  {value:>{values}}  {meaning}".rstrip() for name, value, meaning in rows]
    return "\n".join([title, *lines])
