"""How the libraries get into an installation: by the compiler alone, or not at all, which one line says."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest
from hatchling.bridge.app import Application
from support import ROOT

from manifold_rnn._kernels import building

IN_A_CHECKOUT = ("manifold_rnn", "hatch_build.py", "pyproject.toml", "README.md", "LICENSE", ".gitignore")
NO_COMPILER = "/no/such/compiler"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no compiled library for Windows")


@pytest.fixture
def compiler(tmp_path):
    """A command that stands for a compiler: it writes an empty library, but for AVX-512 it fails when asked to."""
    path = tmp_path / "compiler"
    path.write_text(
        '#!/bin/sh\ncase "$OLD $*" in "old "*avx512*) echo "unknown option" >&2; exit 1;; esac\n'
        'for last; do :; done\ntouch "$last"\n'
    )
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def checkout(tmp_path):
    """The files of the repository that an installation uses, without libraries."""
    place = tmp_path / "checkout"
    place.mkdir()
    for name in filter(lambda name: (ROOT / name).exists(), IN_A_CHECKOUT):  # an unpacked sdist may lack .gitignore
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, place / name)
    for path in libraries(place):
        path.unlink()
    return place


def libraries(place):
    return sorted((place / "manifold_rnn" / "_kernels").glob("*.so"))


def build(place, target, compiler, into):
    """Build by hatchling and return the file it made, and what it printed."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(into)]
    environment = {**os.environ, "CXX": compiler, "NO_COLOR": "1"}
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    (made,) = into.iterdir()
    return made, done.stdout + done.stderr


@pytest.mark.parametrize(("command", "reason"), [(NO_COMPILER, "cannot be run"), ("false", "status 1")])
def test_without_a_compiler_no_library_is_left_and_one_line_says_why(command, reason, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", command)
    (tmp_path / building.file_name("baseline")).write_text("of an earlier build")
    failure = building.compile_libraries(tmp_path)
    assert reason in failure and "\n" not in failure
    assert not list(tmp_path.iterdir())


def test_a_stopped_build_leaves_the_libraries_that_were_there(tmp_path, monkeypatch):
    old = tmp_path / building.file_name("baseline")
    old.write_text("of an earlier build")

    def stopped(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(building.subprocess, "Popen", stopped)
    with pytest.raises(KeyboardInterrupt):
        building.compile_libraries(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [old.name]


def test_a_compiler_that_lacks_an_option_makes_the_other_libraries(compiler, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", compiler)
    monkeypatch.setenv("OLD", "old")
    into = tmp_path / "libraries"
    into.mkdir()
    failure = building.compile_libraries(into)
    made = {path.name for path in into.iterdir()}
    assert made == {building.file_name(variant) for variant in building.variants() if variant != "avx512"}
    assert bool(failure) == ("avx512" in building.variants()) and "\n" not in failure


def test_the_options_of_the_compiler_may_be_part_of_its_name(compiler, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", f"env OLD=new {compiler}")
    into = tmp_path / "libraries"
    into.mkdir()
    assert building.compile_libraries(into) == ""
    assert len(list(into.iterdir())) == len(building.variants())


def test_a_wheel_without_a_compiler_is_pure_and_one_line_says_so(checkout, tmp_path):
    wheel, printed = build(checkout, "wheel", NO_COMPILER, tmp_path / "dist")
    assert wheel.name.endswith("-py3-none-any.whl")
    assert not [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".so")]
    assert len([line for line in printed.splitlines() if "torch alone" in line and NO_COMPILER in line]) == 1


def test_the_wheel_of_the_sdist_has_the_libraries_and_the_tag_of_the_platform(checkout, compiler, tmp_path):
    names = {building.file_name(variant) for variant in building.variants()}
    build(checkout, "wheel", compiler, tmp_path / "checkout_wheel")  # leaves them there, which the sdist must not take
    sdist, _ = build(checkout, "sdist", compiler, tmp_path / "sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (source,) = (tmp_path / "unpacked").iterdir()
    assert not libraries(source) and {path.name for path in building.SOURCES.iterdir()} == {
        path.name for path in (source / "manifold_rnn" / "_kernels" / "cpp").iterdir()
    }
    wheel, printed = build(source, "wheel", compiler, tmp_path / "wheel")
    platform = re.sub(r"[-.]", "_", sysconfig.get_platform())
    assert wheel.name.endswith(f"-py3-none-{platform}.whl") and "torch alone" not in printed
    inside = zipfile.ZipFile(wheel).namelist()
    assert sorted(name for name in inside if name.endswith(".so")) == sorted(
        f"manifold_rnn/_kernels/{name}" for name in names
    )


def test_an_editable_install_has_the_libraries_in_the_checkout(checkout, compiler, monkeypatch):
    monkeypatch.setenv("CXX", compiler)
    spec = importlib.util.spec_from_file_location("hatch_build", checkout / "hatch_build.py")
    hook = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hook)
    build_data = {"artifacts": [], "pure_python": True}
    hook.CompiledLibraries(str(checkout), {}, None, None, "", "wheel", Application()).initialize("editable", build_data)
    assert {path.name for path in libraries(checkout)} == {building.file_name(v) for v in building.variants()}
    assert build_data == {"artifacts": [], "pure_python": True}


def test_every_source_is_included_and_part_of_the_name_of_a_library(monkeypatch, tmp_path):
    files = list(building.SOURCES.iterdir())
    included = {name for file in files for name in re.findall(r'#include "(.+)"', file.read_text())}
    assert included == {file.name for file in files if file.suffix == ".h"}
    assert {file.suffix for file in files} == {".h", ".cpp"}  # every .cpp is compiled
    names = {building.file_name(variant) for variant in building.variants()}
    assert len(names) == len(building.variants())
    monkeypatch.setattr(building, "SOURCES", Path(shutil.copytree(building.SOURCES, tmp_path / "cpp")))
    assert {building.file_name(variant) for variant in building.variants()} == names
    (tmp_path / "cpp" / "sums.h").write_text("changed")
    assert not {building.file_name(variant) for variant in building.variants()} & names
