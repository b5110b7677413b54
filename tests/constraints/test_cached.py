"""`cached` and torch's own: a trivialized weight is computed once inside, with the numbers of a loop without it."""

import contextlib
import copy
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from support.counting import evaluations
from support.loop_cells import Cell, N, inputs, unrolled
from torch import nn
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint

import manifold_rnn as mr

CONTEXTS = {"ours": mr.cached, "torch": parametrize.cached}
BOTH = pytest.mark.parametrize("context", CONTEXTS.values(), ids=CONTEXTS)
KINDS = {
    "orthogonal": (lambda: mr.Orthogonal("exp"), torch.float64),
    "unitary": (lambda: mr.Unitary("cayley"), torch.complex128),
    "disc": (lambda: mr.SchurDisc(), torch.float64),
    "reflections": (lambda: mr.Reflections(2), torch.float32),
}


def gradients(cell):
    return [p.grad.clone() for p in cell.parameters()]


def quiet(cell, u):
    """The naive loop, which computes the weight in each step."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return unrolled(cell, u)


def naive(cell, u):
    reference = copy.deepcopy(cell)
    reference.zero_grad()
    value = quiet(reference, u)
    value.backward()
    return value.detach(), gradients(reference)


@BOTH
@pytest.mark.parametrize("kind", KINDS)
def test_numbers_and_gradients_are_those_of_the_naive_loop(context, kind):
    make, dtype = KINDS[kind]
    cell, u = Cell(make(), dtype), inputs(dtype)
    value, expected = naive(cell, u)
    loss = unrolled(cell, u, context)
    loss.backward()
    torch.testing.assert_close((loss.detach(), gradients(cell)), (value, expected))


@BOTH
def test_the_weight_is_computed_once_however_it_is_read(context):
    cell, u = Cell(), inputs()
    with evaluations(cell) as counts:
        unrolled(cell, u, context)
        assert counts.total() == 1
        unrolled(cell, u, context, step=lambda x, h: torch.tanh(x + h @ cell.inner.weight.mT))
        assert counts.total() == 2
        with context():
            unrolled(cell, u, context)
            cell.inner(u[0])
            assert cell.inner.weight is cell.inner.weight
        assert counts.total() == 3


def test_contexts_of_both_kinds_nest_and_the_outermost_drops():
    cell = Cell()
    with mr.cached():
        first = cell.inner.weight
        with parametrize.cached(), mr.cached():
            assert cell.inner.weight is first
        assert cell.inner.weight is first
    assert cell.inner.weight is not first
    with parametrize.cached():
        first = cell.inner.weight
        with mr.cached():
            assert cell.inner.weight is first
        assert cell.inner.weight is first
    assert cell.inner.weight is not first


@BOTH
def test_values_end_with_the_context_also_after_an_error(context):
    cell = Cell()
    seen = []

    def read_and_fail(action):
        with context():
            seen.append(cell.inner.weight)
            action()

    for action, error in ((lambda: [][0], IndexError), (lambda: cell.inner(torch.ones(3, 7)), RuntimeError)):
        with pytest.raises(error):
            read_and_fail(action)
        assert cell.inner.weight is not seen[-1]
    first = seen[-1]
    with context():
        assert cell.inner.weight is not first


def step_of(make):
    def change(cell):
        optimizer = make(cell.parameters())
        for p in cell.parameters():
            p.grad = torch.ones_like(p)
        optimizer.step()

    return change


def edited(cell):
    with torch.no_grad():
        cell.entry.coordinates.add_(0.1)


def replaced(cell):
    cell.entry.coordinates.data = cell.entry.coordinates.data + 0.1


def loaded(cell, **options):
    other = Cell()
    edited(other)
    edited(other)
    cell.load_state_dict(other.state_dict(), **options)


def assigned(cell):
    cell.inner.weight = mr.Orthogonal().random(N, N, dtype=torch.float64, generator=torch.Generator().manual_seed(7))


CHANGES = {
    "SGD": step_of(lambda p: torch.optim.SGD(p, lr=0.1)),
    "Adam": step_of(lambda p: torch.optim.Adam(p, lr=0.1)),
    "foreach": step_of(lambda p: torch.optim.Adam(p, lr=0.1, foreach=True)),
    "fused": step_of(lambda p: torch.optim.Adam(p, lr=0.1, fused=True)),
    "ours": step_of(lambda p: mr.optim.RiemannianAdam(p, lr=0.1)),
    "no_grad edit": edited,
    "data=": replaced,
    "load": loaded,
    "load assign": lambda cell: loaded(cell, assign=True),
    "assign": assigned,
    "retraction": lambda cell: (edited(cell), mr.set_retraction(cell.inner, "weight", "cayley")),
}


@BOTH
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_is_seen_inside_the_context(context, change):
    cell = Cell()
    edited(cell)
    with context():
        before = cell.inner.weight
        change(cell)
        after = cell.inner.weight
    assert not torch.equal(before, after)
    assert torch.equal(after, cell.inner.weight)


@BOTH
@pytest.mark.parametrize("grad", [False, True])
def test_a_value_that_was_written_in_place_is_not_kept(context, grad):
    cell = Cell()
    expected = cell.inner.weight.detach()
    with context(), torch.set_grad_enabled(grad):
        cell.inner.weight.mul_(2)
        assert torch.equal(cell.inner.weight, expected) and cell.inner.weight is cell.inner.weight


@BOTH
def test_rebasing_moves_the_base_inside_the_context(context):
    cell = Cell(rebase_every=1)
    with context():
        before = cell.inner.weight
        CHANGES["fused"](cell)
        assert not torch.equal(cell.inner.weight, before)
        assert not cell.entry.coordinates.any()


@BOTH
def test_conversion_and_copies_compute_their_own(context):
    cell = Cell()
    with context():
        before = cell.inner.weight
        copied = copy.deepcopy(cell)
        assert copied.inner.weight is not before
        edited(copied)
        assert not torch.equal(copied.inner.weight, cell.inner.weight)
        assert cell.inner.weight is before
        cell.float()
        assert cell.inner.weight.dtype == torch.float32
        cell.double()
        assert cell.inner.weight.dtype == torch.float64
        cell.to("meta")
        assert cell.inner.weight.is_meta


@BOTH
def test_a_second_backward_pass_adds_as_for_any_graph(context):
    cell, u = Cell(), inputs()
    _, expected = naive(cell, u)
    with context():
        loss = unrolled(cell, u)
        loss.backward(retain_graph=True)
        loss.backward()
        torch.testing.assert_close(gradients(cell), [2 * g for g in expected])
        cell.zero_grad()
        unrolled(cell, u).backward()
    torch.testing.assert_close(gradients(cell), expected)


@BOTH
def test_two_losses_of_one_value_need_retain_graph(context):
    cell, u = Cell(), inputs()
    _, expected = naive(cell, u)
    with context():
        first, second = unrolled(cell, u), unrolled(cell, u)
        first.backward(retain_graph=True)
        second.backward()
        torch.testing.assert_close(gradients(cell), [2 * g for g in expected])
        first, second = unrolled(cell, u), unrolled(cell, u)
        first.backward()
        with pytest.raises(RuntimeError, match="second time"):
            second.backward()


@BOTH
def test_reads_with_and_without_gradients_do_not_mix(context):
    cell, u = Cell(), inputs()
    value, expected = naive(cell, u)
    with context(), evaluations(cell) as counts:
        with torch.no_grad():
            assert not cell.inner.weight.requires_grad
            torch.testing.assert_close(unrolled(cell, u), value)
        loss = unrolled(cell, u)
        with torch.no_grad():
            assert not cell.inner.weight.requires_grad
        with torch.inference_mode():
            assert cell.inner.weight.is_inference()
        assert cell.inner.weight.requires_grad
        loss.backward()
        assert counts.total() == 3
    torch.testing.assert_close(gradients(cell), expected)


@BOTH
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_steps(context, reentrant):
    cell, u = Cell(), inputs()
    _, expected = naive(cell, u)
    u = u.requires_grad_()
    with context():
        outside = cell.inner.weight
        loss = unrolled(cell, u, step=lambda x, h: checkpoint(cell, x, h, use_reentrant=reentrant))
        (loss + outside.sum()).backward()
    extra = copy.deepcopy(cell)
    extra.zero_grad()
    extra.inner.weight.sum().backward()
    torch.testing.assert_close(gradients(cell), [a + b for a, b in zip(expected, gradients(extra), strict=True)])


@BOTH
def test_transforms_inside_and_outside(context):
    cell, u = Cell(), inputs()
    _, expected = naive(cell, u)
    name, c = next(iter(cell.named_parameters()))

    def loss(c, within=contextlib.nullcontext):
        class Loop(nn.Module):
            def __init__(self):
                super().__init__()
                self.cell = cell

            def forward(self):
                return unrolled(self.cell, u, within)

        return torch.func.functional_call(Loop(), {f"cell.{name}": c}, ())

    with context():
        kept = cell.inner.weight
        torch.testing.assert_close(torch.func.grad(loss)(c.detach()), expected[0])
        assert cell.inner.weight is kept
    torch.testing.assert_close(torch.func.grad(lambda c: loss(c, context))(c.detach()), expected[0])
    many = torch.func.vmap(torch.func.grad(lambda c: loss(c, context)))(c.detach().expand(3, -1))
    torch.testing.assert_close(many, expected[0].expand(3, -1))


@BOTH
def test_threads_keep_their_own_values(context):
    cell, u = Cell(), inputs()
    value, expected = naive(cell, u)
    with context(), ThreadPoolExecutor(2) as pool:
        first = cell.inner.weight
        assert pool.submit(lambda: cell.inner.weight).result() is not first
        losses = list(pool.map(lambda _: unrolled(cell, u, context), range(4)))
        assert cell.inner.weight is first
    for loss in losses:
        torch.testing.assert_close(loss.detach(), value)
        cell.zero_grad()
        loss.backward(retain_graph=True)
        torch.testing.assert_close(gradients(cell), expected)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own, while tracing
def test_a_compiled_function_enters_it_or_stands_inside():
    cell, u = Cell(mr.Orthogonal("cayley")), inputs()[:2]  # every read is traced
    value, expected = naive(cell, u)
    inside = torch.compile(lambda: unrolled(cell, u, mr.cached), backend="eager")
    outside = torch.compile(lambda: unrolled(cell, u), backend="eager")
    for context, call in ((contextlib.nullcontext, inside), (mr.cached, outside)):
        cell.zero_grad()
        with context():
            loss = call()
        loss.backward()
        torch.testing.assert_close((loss.detach(), gradients(cell)), (value, expected))
