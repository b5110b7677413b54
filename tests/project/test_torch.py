"""Private names of torch: this version has all of them, and without any one of them the numbers are the same."""

import ast

import pytest
import torch
from support import ROOT

import manifold_rnn as mr
from manifold_rnn import _torch


def private_names():
    """The names in `_torch` that stand for a private one of torch: its dotted path, and the fallback."""
    tree = ast.parse((ROOT / "manifold_rnn" / "_torch.py").read_text())
    calls = [
        node for node in tree.body if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Call)
    ]
    found = {}
    for node in calls:
        if ast.unparse(node.value.func) == "_private":
            target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            path, fallback = node.value.args
            found[target.id] = (path.value, eval(ast.unparse(fallback), vars(_torch)))
    return found


NAMES = private_names()


def numbers(view):
    """What layers and their gradients, derivatives and steps compute."""
    torch.manual_seed(0)
    layer = mr.constrain(torch.nn.Linear(4, 4, dtype=torch.float64), "weight", mr.Orthogonal(), view=view)
    rnn = mr.nn.RNN(3, 4, constraint=mr.Orthogonal(), view=view, dtype=torch.float64)
    parameters = [*layer.parameters(), *rnn.parameters()]
    kind = mr.optim.RiemannianAdam if view == "update" else torch.optim.Adam
    optimizer = kind(parameters, lr=0.1)
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    for _ in range(2):
        optimizer.zero_grad()
        output, h = rnn(x)
        layer(output).square().sum().backward()
        optimizer.step()
    start = torch.eye(4, dtype=torch.float64)
    A = torch.randn(3, 4, 4, dtype=torch.float64)
    A = A - A.mT
    cayley = mr.retractions.Cayley().group_map
    return [
        *(p.detach().clone() for p in parameters),
        output.detach(),
        h.detach(),
        torch.func.grad(lambda a: (start @ cayley(a)).square().sin().sum())(A[0]),
        torch.func.vmap(cayley)(A),
        torch.func.functional_call(layer, dict(layer.state_dict()), (start,)).detach(),
    ]


@pytest.mark.parametrize("name", NAMES)
def test_this_version_of_torch_has_the_name(name):
    path, _ = NAMES[name]
    missing = object()
    assert _torch._private(path, missing) is not missing, f"torch {torch.__version__} has no {path}"


@pytest.mark.parametrize("view", ["update", "trivialized"])
@pytest.mark.parametrize("name", NAMES)
def test_without_the_name_the_numbers_are_the_same(name, view, monkeypatch):
    expected = numbers(view)
    monkeypatch.setattr(_torch, name, NAMES[name][1])
    torch.testing.assert_close(numbers(view), expected, atol=1e-12, rtol=0)
