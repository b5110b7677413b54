"""One page for each public name, made from the `__all__` of every public module, and the check that none is missing."""

import importlib
import pkgutil
import pydoc
from pathlib import Path
from types import ModuleType

import manifold_rnn

ROOT = manifold_rnn.__name__


def public_modules() -> list[ModuleType]:
    """Every module directly below the package, and every module that one of these names in its `__all__`."""
    below = [m.name for m in pkgutil.iter_modules(manifold_rnn.__path__) if not m.name.startswith("_")]
    found = [importlib.import_module(f"{ROOT}.{name}") for name in below]
    for module in found:  # grows while it is read
        members = (getattr(module, name) for name in module.__all__)
        found += [m for m in members if isinstance(m, ModuleType) and m not in found]
    return found


def public_members() -> dict[str, object]:
    """Everything public by its full name, modules left out."""
    return {
        f"{module.__name__}.{name}": getattr(module, name)
        for module in [*public_modules(), manifold_rnn]
        for name in module.__all__
        if not isinstance(getattr(module, name), (ModuleType, str))
    }


def public_names() -> dict[str, str]:
    """Map every public name to the name under which it has its page: a re-export shares the page of its origin."""
    members, home = public_members(), {}
    for full, member in sorted(members.items(), key=lambda item: not _is_defined_in(item[1], item[0])):
        home.setdefault(id(member), full)
    return {full: home[id(member)] for full, member in members.items()}


def write(folder: Path) -> list[str]:
    """Write one listing for each module, from which autosummary makes the page of each name; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    pages, listings = public_names(), {}
    for module in [manifold_rnn, *public_modules()]:
        prefix = f"{module.__name__}."
        names = [pages[prefix + name] for name in module.__all__ if prefix + name in pages]
        own = [name for name in names if name.rpartition(".")[0] == module.__name__]
        lent = [name for name in names if name not in own]
        title = f"{module.__name__}\n{'=' * len(module.__name__)}\n"
        body = _listing(own, prefix, "   :toctree: .\n") + _listing(lent, prefix, "")
        listings[module.__name__] = f"{title}\n.. automodule:: {module.__name__}\n{body}"
    for stale in {path.stem for path in folder.glob("*.rst")} - listings.keys() - set(pages.values()):
        (folder / f"{stale}.rst").unlink()
    for name, text in listings.items():
        write_if_new(folder / f"{name}.rst", text)
    rows = "".join(f"   generated/{name}\n" for name in listings)
    write_if_new(folder / "modules.txt", f".. toctree::\n   :maxdepth: 1\n\n{rows}")
    return [str(folder / f"{name}.rst") for name in listings]


def check(app: object, env: object) -> None:
    """Warn, and so fail a strict build, about every public name without a page."""
    from sphinx.util import logging  # here, because the names are also listed where Sphinx is not installed

    documented = env.domains.python_domain.objects
    for name, page in public_names().items():
        if page not in documented:
            logging.getLogger(__name__).warning("public name without a page: %s", name)


def resolve(app: object, env: object, node: object, contnode: object) -> object:
    """Lead an annotation, which names the file of a class, to its public name; leave helpers without a link."""
    target, pages = node.get("reftarget", ""), public_names()
    for full, member in public_members().items():
        if target == f"{getattr(member, '__module__', '')}.{getattr(member, '__qualname__', '')}":
            where = (node["refdoc"], app.builder, "obj", pages[full], node, contnode)
            return env.domains.python_domain.resolve_xref(env, *where)
    return contnode if target.startswith(ROOT) and pydoc.locate(target) else None


def _is_defined_in(member: object, full: str) -> bool:
    package = full.rpartition(".")[0]
    return package != ROOT and f"{getattr(member, '__module__', '')}.".startswith(f"{package}.")


def _listing(names: list[str], prefix: str, options: str) -> str:
    rows = "".join(f"   {name.removeprefix(prefix)}\n" for name in names)
    return f"\n.. autosummary::\n{options}\n{rows}" if rows else ""


def write_if_new(path: Path, text: str) -> None:
    if not path.exists() or path.read_text() != text:  # an untouched file need not be read again
        path.write_text(text)
