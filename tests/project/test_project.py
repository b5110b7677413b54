import dataclasses
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
import tomllib
from types import ModuleType

import pytest
from support import ROOT

import manifold_rnn
from manifold_rnn import errors

PACKAGE = ROOT / "manifold_rnn"
SOURCES = sorted(PACKAGE.rglob("*.py"))


def _public_modules():
    below = [m.name for m in pkgutil.iter_modules([PACKAGE]) if not m.name.startswith("_")]
    found = [manifold_rnn, *(importlib.import_module(f"manifold_rnn.{name}") for name in below)]
    for module in found:
        members = (getattr(module, name) for name in module.__all__)
        found += [m for m in members if isinstance(m, ModuleType) and m not in found]
    return found


MODULES = _public_modules()
MEMBERS = {
    f"{module.__name__}.{name}": getattr(module, name)
    for module in MODULES
    for name in module.__all__
    if callable(getattr(module, name))
}


@pytest.mark.parametrize("module", MODULES, ids=lambda m: m.__name__)
def test_public_module_says_what_it_holds_and_lists_it_in_order(module):
    assert module.__doc__
    assert len(module.__all__) == len(set(module.__all__))
    assert all(hasattr(module, name) for name in module.__all__)


@pytest.mark.parametrize("name", MEMBERS)
def test_public_name_is_documented_with_an_example_that_asserts(name):
    text = inspect.getdoc(MEMBERS[name]) or ""
    assert re.search(r"^Examples\n-+\n", text, flags=re.MULTILINE), "no Examples section"
    assert re.search(r"^(>>>|\.\.\.) .*\bassert\b", text, flags=re.MULTILINE), "the example asserts nothing"


def described(text):
    """The first lines of the entries of sections that describe parameters, and options that are described elsewhere."""
    sections = re.findall(r"^(?:Parameters|Attributes)\n-+\n(.*?)(?=\n\n[A-Z][a-z ]+\n-+\n|\Z)", text, re.S | re.M)
    lines = "\n".join(sections).splitlines()
    others = re.findall(r"^\*\*options\n((?:    .*\n?)+)", "\n".join(lines), re.M)
    return set(re.findall(r"\w+", " ".join([*(line for line in lines if re.match(r"\S", line)), *others])))


@pytest.mark.parametrize("name", [name for name, m in MEMBERS.items() if inspect.isclass(m) or inspect.isfunction(m)])
def test_public_parameter_is_described(name):
    member = MEMBERS[name]
    fields = dataclasses.fields(member) if dataclasses.is_dataclass(member) else ()
    measured = {f.name for f in fields if "meaning" in f.metadata}  # numbers of a report, whose meaning it prints
    inherited = [inspect.getdoc(kind) or "" for kind in (member.__mro__ if inspect.isclass(member) else [member])]
    found = set().union(*map(described, inherited))
    no_error = [] if inspect.isclass(member) and issubclass(member, Exception) else [member]
    parameters = [p for each in no_error for p in inspect.signature(each).parameters.values()]
    needed = {p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    assert not needed - found - measured


@pytest.mark.parametrize("name", [name for name, member in MEMBERS.items() if inspect.isclass(member)])
def test_public_method_is_documented(name):
    lines = [vars(base) for base in MEMBERS[name].__mro__]  # an overriding method inherits its documentation
    methods = {key for key, value in lines[0].items() if inspect.isroutine(value) or isinstance(value, property)}
    public = {key for key in methods if not key.startswith("_")}
    assert not {key for key in public if not any(getattr(line.get(key), "__doc__", None) for line in lines)}


def test_every_error_of_the_package_is_exported():
    kinds = {name for name, value in vars(errors).items() if inspect.isclass(value) and issubclass(value, Exception)}
    assert kinds == set(errors.__all__)
    assert all(issubclass(getattr(errors, name), errors.ManifoldError) for name in kinds)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_file_is_short_enough_to_read(path):
    assert len(path.read_text().splitlines()) <= 350


def test_importing_the_package_leaves_the_training_stack_alone():
    heavy = [
        "torch._dynamo",
        "lightning",
        "sklearn",
        "matplotlib",
        "jsonargparse",
        "manifold_rnn.training",
        "manifold_rnn.study",
    ]
    code = f"import sys, manifold_rnn; print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["", ".training", ".study", ".cli"])
def test_importing_gives_no_warning_and_filters_none_of_others(name):
    code = (
        "import warnings, torch, scipy, scipy.optimize; before = list(warnings.filters)\n"
        f"import manifold_rnn; assert list(warnings.filters) == before\nimport manifold_rnn{name}"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=ROOT)


def test_versions_agree():
    citation = (ROOT / "CITATION.cff").read_text()
    changes = (ROOT / "CHANGELOG.md").read_text()
    assert f"version: {manifold_rnn.__version__}\n" in citation
    assert f"## [{manifold_rnn.__version__}]" in changes


def lower_bounds(*left_out):
    """The lower bound of every requirement of the package and its extras; all bounds of one name agree."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [group for name, group in project["optional-dependencies"].items() if name not in left_out]
    bounds = {}
    for requirement in [*project["dependencies"], *(d for group in groups for d in group)]:
        name, bound = re.fullmatch(r"([\w-]+)(?:\[[\w,]+\])?(?:>=([\d.]+))?(?:;.*)?", requirement).groups()
        if name != "manifold-rnn":
            assert bound and bounds.setdefault(name, bound) == bound, requirement
    return bounds


def pins(file):
    return dict(line.split("==") for line in (ROOT / file).read_text().splitlines() if "==" in line)


def test_every_dependency_has_a_tested_pin():
    assert lower_bounds().keys() <= pins("constraints.txt").keys()


def test_the_lowest_versions_that_are_tested_are_those_that_are_declared():
    assert pins("constraints-lowest.txt") == lower_bounds("docs")


def test_private_names_of_torch_have_one_room():
    private = re.compile(r"torch\._C|ops\.mkldnn|forward_ad\._|torch\.compiler\.(disable|assume_constant_result)")
    found = [str(path.relative_to(ROOT)) for path in SOURCES if private.search(path.read_text())]
    assert found == ["manifold_rnn/_torch.py"]
