"""Properties of a step of every optimizer: any finite gradient leads to a point, or everything is left as it was."""

import torch
from hypothesis import strategies as st
from support import naive
from support.optimizer_cases import OPTIMIZERS, frozen, made, same
from support.properties import LENGTHS, OURS, PATTERNS, ambient, assert_point, law, may_overflow, points

from manifold_rnn import errors


def longest_step(drawn, name, params, lr):
    """A bound of a step's length in the metric of a cone, with what momentum makes of it later; elsewhere 0."""
    if not drawn.case.cone:
        return 0.0
    c = torch.stack([drawn.manifold.egrad2coordinates(p.detach(), p.grad) for p in params])
    if name != "RiemannianSGD":  # others divide the gradient by an average that may be a tenth of it
        return 100 * lr * c.shape[-1] ** 0.5
    return 10 * lr * float(torch.linalg.vector_norm(c, dim=-1).max())


@law(
    drawn=points(rows=OURS, batches=((), (2,))),
    name=st.sampled_from(OPTIMIZERS),
    lengths=st.lists(st.tuples(LENGTHS, PATTERNS), min_size=1, max_size=3),
    lr=st.sampled_from([1e-3, 0.1, 1.0, 1e3]),
    polish_every=st.sampled_from([None, 1, 3]),
)
def test_a_step_along_any_finite_gradient_ends_on_the_manifold_or_changes_nothing(
    drawn, name, lengths, lr, polish_every
):
    params = [torch.nn.Parameter(drawn.x.clone()), torch.nn.Parameter(drawn.x.clone())]
    for p in params:
        p.manifold = drawn.manifold
    params.append(torch.nn.Parameter(torch.ones(2)))
    options = {} if name == "Landing" else {"polish_every": polish_every}
    try:
        optimizer = made(name, params, lr=lr, **options)
    except errors.UnsupportedError:
        assert name == "Landing"
        return
    travelled = steepest = 0.0  # the largest gradient so far, which momentum may carry
    for length, pattern in lengths:
        for p in params[:2]:
            p.grad = ambient(drawn, pattern, length)
        params[2].grad = torch.ones(2)
        steepest = max(steepest, float(params[0].grad.abs().max()) if params[0].numel() else 0.0)
        travelled += longest_step(drawn, name, params[:2], lr)
        before = frozen(params, optimizer)
        message = ""
        try:
            optimizer.step()
        except errors.NonFiniteError as error:
            message = str(error)
        if message:
            assert len(message) <= 400 and same(before, frozen(params, optimizer))
            assert steepest * max(lr, 1) > 1e10 or may_overflow(drawn, travelled)
        for p in params[:2]:
            assert bool(p.isfinite().all())
            if name != "Landing":
                assert_point(drawn, p.detach())
        if name == "Landing":
            assert optimizer.distance <= 0.5 + 1e-3
    for state in optimizer.state.values():
        assert all(bool(torch.as_tensor(s).isfinite().all()) for s in state.values())


@law(
    drawn=points(rows=OURS, batches=((),)),
    name=st.sampled_from([name for name in OPTIMIZERS if name != "Landing"]),
    pattern=PATTERNS,
)
def test_equal_weights_are_stepped_as_one_batch_exactly_as_alone(drawn, name, pattern):
    gradients = [ambient(drawn, pattern, 1.0) for _ in range(3)]
    found = []
    for together in (True, False):
        params = [torch.nn.Parameter(drawn.x.clone()) for _ in gradients]
        for p in params:
            p.manifold = drawn.manifold
        groups = [params] if together else [[p] for p in params]
        optimizers = [made(name, group) for group in groups]
        for _ in range(2):
            for p, g in zip(params, gradients, strict=True):
                p.grad = g
            for optimizer in optimizers:
                optimizer.step()
        found.append(torch.stack([p.detach() for p in params]))
    slack = 1e-4 if drawn.x.dtype in (torch.float32, torch.complex64) else 1e-10
    torch.testing.assert_close(
        naive.wide(found[0]), naive.wide(found[1]), atol=slack * (1 + float(found[1].abs().max())), rtol=0
    )
