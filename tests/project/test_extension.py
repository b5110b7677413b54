"""One more of each kind of thing: a file, and the line by which its package exports it. It is then found everywhere."""

import os
import shutil
import subprocess
import sys

import pytest
from support import ROOT

# The package that each file is put in, and the file. Every class has the name of its kind.
FILES = {
    "manifolds": """
        from .orthogonal import SpecialOrthogonal

        class DummyManifold(SpecialOrthogonal):
            pass
    """,
    "retractions": """
        from .cayley import Cayley

        class DummyRetraction(Cayley):
            name = "dummy"
    """,
    "constraints": """
        from dataclasses import dataclass
        from torch import nn
        from .constraint import Constraint
        from .parametrization import Parametrization

        @dataclass(frozen=True, eq=False)
        class DummyConstraint(Constraint):
            scale: float = 2.0

            def trivialize(self, like):
                return DummyParametrization(self.scale, like)

        class DummyParametrization(Parametrization):
            def __init__(self, scale, like):
                super().__init__()
                self.scale, self.free = scale, nn.Parameter(like.detach() / scale)

            def forward(self):
                return self.scale * self.free

            def assign(self, weight):
                self.free.data.copy_(weight / self.scale)
    """,
    "optim": """
        from .sgd import RiemannianSGD

        class DummyOptimizer(RiemannianSGD):
            pass
    """,
    "nn/cells": """
        from .elman import Elman

        class DummyCell(Elman):
            '''An Elman cell. Learning rate: 1e-2.'''
    """,
    "tasks": """
        from dataclasses import dataclass
        from .adding import Adding

        @dataclass(frozen=True)
        class DummyTask(Adding):
            steps: int = 7
    """,
    "diagnostics": """
        from dataclasses import dataclass

        @dataclass(frozen=True)
        class Dummy:
            parameters: int

            def table(self) -> str:
                return f"dummy: {self.parameters} tensors"

        def dummy_diagnostic(network) -> Dummy:
            return Dummy(len(list(network.parameters())))
    """,
}
NAMES = {package: "Dummy" + package.rstrip("s").capitalize() for package in FILES}
NAMES |= {"optim": "DummyOptimizer", "nn/cells": "DummyCell", "diagnostics": "dummy_diagnostic"}


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """A copy of the project with one more of each."""
    root = tmp_path_factory.mktemp("extended")
    skip = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "manifold_rnn", root / "manifold_rnn", ignore=skip)
    shutil.copytree(ROOT / "tests" / "support", root / "tests" / "support", ignore=skip)
    for name in ("tests/project/test_pairing.py", "docs/api_pages.py", "conftest.py", "pyproject.toml"):
        (root / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    for package, text in FILES.items():
        folder, name = root / "manifold_rnn" / package, NAMES[package]
        lines = text.strip("\n").splitlines()
        (folder / "dummy.py").write_text("\n".join(line[8:] for line in lines) + "\n")
        with open(folder / "__init__.py", "a") as file:
            file.write(f'from .dummy import {name}; __all__ += ["{name}"]\n')
    return root


def run(root, *command):
    """The output of Python in the copy."""
    path = os.pathsep.join(map(str, (root, root / "tests", root / "docs")))
    result = subprocess.run(
        [sys.executable, *command],
        cwd=root,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


CONSTRAIN = """
import torch
import manifold_rnn as mr

for view in ("update", "trivialized"):
    layer = torch.nn.Linear(4, 4)
    mr.constrain(layer, "weight", mr.manifolds.DummyManifold("dummy"), view=view)
    optimizer = mr.optim.DummyOptimizer(layer.parameters(), lr=0.1)
    layer(torch.ones(4)).sum().backward()
    before = layer.weight.detach().clone()
    optimizer.step()
    assert mr.linalg.defect(layer.weight) < 1e-5 and not torch.equal(layer.weight, before)
    mr.set_retraction(layer, "weight", "qr")
    mr.set_retraction(layer, "weight", mr.retractions.DummyRetraction())
layer = torch.nn.Linear(4, 4)
before = layer.weight.detach().clone()
mr.constrain(layer, "weight", mr.constraints.DummyConstraint(), view="trivialized")
assert torch.equal(layer.weight, before) and mr.constraints.Parametrization in type(layer.constraints["weight"]).__mro__
rnn = mr.nn.Layer(mr.nn.cells.DummyCell(), 2, 4, constraint=mr.constraints.DummyConstraint(), view="trivialized")
assert rnn(torch.zeros(3, 1, 2))[0].shape == (3, 1, 4)
"""


def test_constrain_and_layers_take_each(extended):
    run(extended, "-c", CONSTRAIN)


COMMAND_LINE = """
import contextlib, io, sys
from pathlib import Path
import yaml
import manifold_rnn as mr

def output(*arguments):
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        assert mr.cli.main(arguments) == 0
    return text.getvalue()

offered = output("fit", "--help")
assert all(name in offered for name in sys.argv[1:]), offered
network = {"cell": "DummyCell", "hidden_size": 4}
constraints = [
    {"constraint": "DummyManifold", "retraction": "dummy"},
    {"constraint": {"name": "DummyConstraint", "scale": 3.0}},
]
for k, constraint in enumerate(constraints):
    values = {
        "task": {"name": "DummyTask", "steps": 5, "sizes": [8, 4, 4]},
        "network": {**network, **constraint},
        "optimizer": {"name": "DummyOptimizer", "lr": 0.01},
        "epochs": 1,
    }
    Path("config.yaml").write_text(yaml.safe_dump(values))
    assert "test loss" in output("fit", "--config", "config.yaml", "--output", f"run{k}")
    assert "dummy: " in output("inspect", f"run{k}/last.ckpt")
    chosen = output("inspect", f"run{k}/last.ckpt", "--diagnostics", "[dummy_diagnostic]")
    assert "dummy: " in chosen and "spectrum" not in chosen
"""


def test_the_command_line_offers_and_trains_each(extended):
    pytest.importorskip("lightning", reason="needs the extra `train`")
    run(extended, "-c", COMMAND_LINE, *(NAMES[kind] for kind in NAMES if kind not in ("retractions", "diagnostics")))
    assert NAMES["diagnostics"] in run(extended, "-m", "manifold_rnn", "inspect", "--help")


def test_the_pairing_has_each(extended):
    collected = run(extended, "-m", "pytest", "tests/project/test_pairing.py", "--collect-only", "-m", "")
    every = [line for line in collected.splitlines() if "test_every_cell_learns_under_every_constraint" in line]
    assert any("DummyCell" in line for line in every)
    assert any("DummyConstraint" in line for line in every)
    for retraction in ("dummy", "qr"):
        for view in ("update", "trivialized"):
            assert any(f"DummyManifold {retraction} {view}" in line for line in every)
    assert any("Stiefel dummy" in line or "Orthogonal dummy" in line for line in every)
    chosen = "everything_that_is_exported or (every_cell and DummyCell and (DummyConstraint or DummyManifold))"
    run(extended, "-m", "pytest", "tests/project/test_pairing.py", "-m", "", "-k", chosen)


def test_the_documentation_lists_each(extended):
    pages = run(extended, "-c", "import api_pages; print('\\n'.join(api_pages.public_names()))").splitlines()
    assert {f"manifold_rnn.{package.replace('/', '.')}.{name}" for package, name in NAMES.items()} <= set(pages)
