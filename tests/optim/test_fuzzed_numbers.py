"""NaN and infinity at random places of gradients, weights and states: a refused step changes not one bit."""

import copy

import pytest
import torch
from support.optimizer_cases import OPTIMIZERS, bits, frozen, made, point, same
from support.seeds import seeded

import manifold_rnn as mr
from manifold_rnn import errors

KINDS = {
    "Orthogonal": (mr.Orthogonal("cayley"), (4, 4), torch.float32),
    "SpecialOrthogonal": (mr.SpecialOrthogonal("exp"), (3, 3), torch.float64),
    "Unitary": (mr.Unitary("polar"), (3, 3), torch.complex64),
    "UnitaryRealForm": (mr.UnitaryRealForm("qr"), (4, 4), torch.float32),
    "SpecialUnitary": (mr.SpecialUnitary("cayley"), (3, 3), torch.complex128),
    "Stiefel": (mr.Stiefel("qr"), (5, 3), torch.float32),
    "StiefelCanonical": (mr.Stiefel("exp", "canonical"), (4, 2), torch.complex64),
    "Blocks": (mr.manifolds.Blocks(mr.Orthogonal("cayley"), 3, which=(1,)), (9, 3), torch.float32),
    "BlockTriangular": (mr.BlockTriangular(mr.Orthogonal("polar"), mr.Contraction()), (4, 4), torch.float64),
    "Contraction": (mr.Contraction(), (3, 4), torch.float32),
    "UnitDisc": (mr.UnitDisc(), (3, 3), torch.float32),
}
UNSUPPORTED = {("Landing", kind) for kind in ("UnitaryRealForm", "SpecialUnitary", "BlockTriangular", "Contraction")}
UNSUPPORTED |= {("Landing", "UnitDisc")}
ROWS = [(name, kind) for name in OPTIMIZERS for kind in KINDS if (name, kind) not in UNSUPPORTED]
BAD = (torch.nan, torch.inf, -torch.inf)
POSITIONS = 12  # for each of the rows, of which there are about 50
WHERE = ("gradient", "gradient", "weight", "state")


def poisoned(tensor, generator):
    """Write NaN or infinity to a random place, of the real or of the imaginary part."""
    entries = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    place = torch.unravel_index(torch.randint(entries.numel(), (), generator=generator), entries.shape)
    entries[place] = BAD[int(torch.randint(3, (), generator=generator))]


def prepared(name, kind, generator, **options):
    """Two equal weights that are one batch, another, and a plain parameter, after two steps."""
    manifold, shape, dtype = KINDS[kind]
    params = [point(manifold, shape, dtype, generator) for _ in range(2)]
    params += [point(mr.Orthogonal("qr"), (2, 2), torch.float32, generator), torch.nn.Parameter(torch.ones(3))]
    optimizer = made(name, params, lr=0.01, **options)
    for _ in range(2):
        draw(params, generator)
        optimizer.step()
    return params, optimizer


def draw(params, generator):
    for p in params:
        p.grad = torch.randn(p.shape, dtype=p.dtype, generator=generator)


def choose(params, optimizer, where, generator):
    """Poison the gradient of any parameter, or a constrained one's weight or loaded state, if there is one."""
    among = params if where == "gradient" else params[:3]
    p = among[int(torch.randint(len(among), (), generator=generator))]
    if where == "state":
        states = [s for key, s in optimizer.state[p].items() if key != "step"]
        if not states:
            return False
        poisoned(states[int(torch.randint(len(states), (), generator=generator))], generator)
        optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    else:
        poisoned(p.grad if where == "gradient" else p.detach(), generator)
    return True


@pytest.mark.parametrize("positions", [POSITIONS, pytest.param(500, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("name", "kind"), ROWS)
def test_a_step_that_meets_what_is_not_finite_is_refused_and_changes_nothing(name, kind, positions):
    generator = seeded(sum(map(ord, name + kind)))
    params, optimizer = prepared(name, kind, generator)
    clean = [p.detach().clone() for p in params], copy.deepcopy(optimizer.state_dict())
    for k in range(positions):
        where = WHERE[k % len(WHERE)]
        draw(params, generator)
        if not choose(params, optimizer, where, generator):
            continue
        before = frozen(params, optimizer)
        with pytest.raises(errors.ManifoldError) as caught:
            optimizer.step()
        assert len(str(caught.value)) <= 400
        assert same(before, frozen(params, optimizer)), (where, k)
        if where != "gradient":
            with torch.no_grad():
                for p, value in zip(params, clean[0], strict=True):
                    p.copy_(value)
            optimizer.load_state_dict(copy.deepcopy(clean[1]))


@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_skipped_step_changes_nothing_and_the_next_one_is_as_if_it_had_not_been(name, capturable):
    for kind in ("Orthogonal", "Stiefel"):
        found = []
        for meets in (True, False):
            generator = seeded(3)
            params, optimizer = prepared(name, kind, generator, on_nonfinite="skip", capturable=capturable)
            if meets:
                for k in range(10):
                    draw(params, seeded(k))
                    poisoned(params[k % 4].grad, seeded(k))
                    optimizer.step()
                assert optimizer.skipped == 10
            draw(params, seeded(5))
            optimizer.step()
            found.append(frozen(params, optimizer))
        assert same(*found)


def test_bits_tell_zeros_and_numbers_that_are_none_apart():
    a, b = torch.tensor([0.0, torch.nan]), torch.tensor([-0.0, torch.nan])
    assert not bits(a).equal(bits(b)) and same(a, a.clone()) and not same(a, b)
