"""Adapters in models: one line for many layers, the state dict, copies, merging, and what is refused."""

import copy
import io
import pickle

import pytest
import torch
from support.adapter_cases import ALL, INPUTS, disturb, entry, inputs, layer
from support.seeds import seeded
from torch import nn

import manifold_rnn as mr
from manifold_rnn import errors


class Net(nn.Module):
    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.q_proj, self.up = nn.Linear(16, 16), nn.Linear(16, 24)
        self.norm = nn.LayerNorm(24)

    def forward(self, x):
        return self.norm(self.up(torch.tanh(self.q_proj(x))))


PATTERNS = {"*q_proj.weight": mr.OrthogonalAdapter(4), "*up.weight": mr.ReflectionAdapter(2)}


def adapted(seed=0, patterns=PATTERNS, **options):
    return mr.constrain_matching(Net(seed), patterns, freeze_others=True, **options)


def trained(module, steps=5):
    optimizer = torch.optim.Adam([p for p in module.parameters() if p.requires_grad], lr=0.02)
    x = torch.randn(8, 16, generator=seeded())
    for _ in range(steps):
        optimizer.zero_grad()
        module(x).square().mean().add(module(x).sum()).backward()
        optimizer.step()
    return module


def test_one_line_adapts_chosen_weights_and_freezes_the_rest():
    torch.manual_seed(0)
    module, x = adapted(), torch.randn(5, 16, generator=seeded(1))
    assert torch.equal(module(x), Net()(x))
    names = {name for name, p in module.named_parameters() if p.requires_grad}
    assert names == {"q_proj.constraints.weight.coordinates", "up.constraints.weight.vectors"}
    frozen = {k: p.detach().clone() for k, p in module.named_parameters() if not p.requires_grad}
    bases = [module.q_proj.constraints["weight"].base.clone(), module.up.constraints["weight"].base.clone()]
    trained(module)
    assert all(torch.equal(dict(module.named_parameters())[k], p) for k, p in frozen.items())
    assert torch.equal(bases[0], module.q_proj.constraints["weight"].base)
    assert float((module(x) - Net()(x)).detach().abs().max()) > 1e-3


def test_adapters_are_trained_on_a_model_that_was_frozen_before():
    module = mr.constrain_matching(Net().requires_grad_(False), PATTERNS)
    assert {p.requires_grad for p in module.q_proj.constraints.parameters()} == {True}
    assert not module.q_proj.bias.requires_grad
    fixed = mr.constrain(nn.Linear(4, 4).requires_grad_(False), "weight", mr.Rotations(), view="trivialized")
    assert not any(p.requires_grad for p in fixed.parameters())


def test_freezing_goes_with_any_constraint_and_view():
    for view in ("update", "trivialized"):
        module = mr.constrain_matching(Net(), {"q_proj.weight": mr.Orthogonal()}, freeze_others=True, view=view)
        names = [name for name, p in module.named_parameters() if p.requires_grad]
        assert names == ["q_proj.weight" if view == "update" else "q_proj.constraints.weight.coordinates"]
    mixed = {"q_proj.weight": mr.Orthogonal(), "up.weight": mr.OrthogonalAdapter()}
    module = mr.constrain_matching(Net(), mixed)
    assert "q_proj.weight" in dict(module.named_parameters()) and "up.weight" not in dict(module.named_parameters())
    gru = mr.constrain_matching(
        nn.GRU(4, 4), {"weight_hh_l0": mr.OrthogonalAdapter(2)}, freeze_others=True, blocks=3, which=(2,)
    )
    names = [name for name, p in gru.named_parameters() if p.requires_grad]
    assert len(names) == 1 and names[0].endswith("coordinates")


def test_the_state_dict_has_the_adapter_alone_and_loads_into_a_fresh_model():
    source, x = trained(adapted()), torch.randn(5, 16, generator=seeded(1))
    state = mr.constraints.adapter_state_dict(source)
    assert set(state) == {
        f"{name}.constraints.weight.{key}"
        for name, parameter in (("q_proj", "coordinates"), ("up", "vectors"))
        for key in (parameter, "fingerprint")
    }
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    fresh = adapted()
    result = mr.load_checked(fresh, torch.load(file), strict=False)
    assert not result.unexpected_keys and torch.equal(fresh(x), source(x))
    whole = adapted()
    whole.load_state_dict(source.state_dict())
    assert torch.equal(whole(x), source(x))


def test_free_rows_that_are_frozen_are_not_saved():
    options = {"blocks": 3, "which": (2,)}
    for freeze in (False, True):
        gru = mr.constrain_matching(
            nn.GRU(4, 4), {"weight_hh_l0": mr.OrthogonalAdapter(2)}, freeze_others=freeze, **options
        )
        keys = [key.rpartition(".")[2] for key in mr.constraints.adapter_state_dict(gru) if "weight_hh" in key]
        assert keys == ["coordinates", "fingerprint", *([] if freeze else ["value"])]


@pytest.mark.parametrize("convert", [torch.bfloat16, torch.float64])
def test_another_frozen_weight_is_noticed_and_another_precision_is_not(convert):
    source = trained(adapted())
    state = mr.constraints.adapter_state_dict(source)
    same = adapted().to(convert)
    same.load_state_dict(state, strict=False)
    other = adapted(seed=1)
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(errors.OffManifoldError, match="another frozen weight") as raised:
        mr.load_checked(other, state, strict=False)
    assert len(str(raised.value)) <= 400
    assert all(torch.equal(v, before[k]) for k, v in other.state_dict().items())
    near = adapted()
    with torch.no_grad():
        near.q_proj.constraints["weight"].base[3, 5] += 1e-3
    with pytest.raises(errors.OffManifoldError, match=r"q_proj\.constraints\.weight"):
        mr.load_checked(near, state, strict=False)


def test_a_checkpoint_that_was_rounded_as_a_whole_is_of_the_same_frozen_weight():
    state = {k: v.bfloat16() for k, v in mr.constraints.adapter_state_dict(trained(adapted())).items()}
    assert not mr.load_checked(adapted(), state, strict=False).unexpected_keys
    with pytest.raises(errors.OffManifoldError, match="another frozen weight"):
        mr.load_checked(adapted(seed=1), state, strict=False)


def test_a_saved_frozen_weight_that_is_not_loaded_is_compared():
    state = trained(adapted(patterns={"q_proj.weight": mr.OrthogonalAdapter(4, save_base=True)})).state_dict()
    plain = {"q_proj.weight": mr.OrthogonalAdapter(4)}
    mr.load_checked(adapted(patterns=plain), state, strict=False)
    with pytest.raises(errors.OffManifoldError, match="another frozen weight"):
        mr.load_checked(adapted(1, plain), state, strict=False)


def test_the_frozen_weight_is_saved_where_asked_for():
    patterns = {"q_proj.weight": mr.OrthogonalAdapter(4, save_base=True)}
    state, other = trained(adapted(patterns=patterns)).state_dict(), adapted(1, patterns)
    assert "q_proj.constraints.weight.base" in state and "q_proj.constraints.weight.fingerprint" not in state
    other.load_state_dict(state)
    assert torch.equal(other.q_proj.weight, trained(adapted(patterns=patterns)).q_proj.weight)


@pytest.mark.parametrize("name", ALL)
def test_copies_and_pickles_are_the_same_and_independent(name):
    module, x = layer(ALL[name]), inputs(5)
    for same in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(same(x), module(x)) and type(same) is type(module)
        disturb(same)
        assert not torch.equal(same(x), module(x))


@pytest.mark.parametrize("name", ALL)
def test_release_merges(name):
    module, x = layer(ALL[name], torch.float32), inputs(50, torch.float32)
    unmerged = module(x).detach()
    assert type(mr.release(module, "weight")) is nn.Linear
    torch.testing.assert_close(module(x).detach(), unmerged, atol=1e-6, rtol=1e-6)
    assert list(module.state_dict()) == ["weight", "bias"]


def test_a_frozen_weight_is_frozen_again_after_its_release():
    for frozen in (False, True):
        module = mr.constrain(nn.Linear(4, 4).requires_grad_(not frozen), "weight", mr.StiefelAdapter(2))
        copied = pickle.loads(pickle.dumps(module))
        assert mr.release(module, "weight").weight.requires_grad is mr.release(copied, "weight").weight.requires_grad
        assert module.weight.requires_grad is not frozen
    module = adapted()
    for name in ("q_proj.weight", "up.weight"):
        mr.release(module, name)
    assert not any(p.requires_grad for p in module.parameters())
    module = mr.constrain(nn.GRU(4, 4).requires_grad_(False), "weight_hh_l0", mr.OrthogonalAdapter(2), blocks=3)
    assert not mr.release(module, "weight_hh_l0").weight_hh_l0.requires_grad


@pytest.mark.parametrize("name", sorted(ALL.keys() - {"stiefel"}))
def test_numbers_in_half_precision_are_computed_with_after_a_load_that_assigns(name):
    module, x = layer(ALL[name], torch.float32), inputs(3, torch.float32)
    before = module(x).detach()
    rounded = {k: v.bfloat16() if k in dict(module.named_parameters()) else v for k, v in module.state_dict().items()}
    module.load_state_dict({**rounded, "bias": module.bias}, assign=True)
    torch.testing.assert_close(module(x).detach(), before, atol=0.1, rtol=0.1)
    torch.testing.assert_close(nn.functional.linear(x, module.weight, module.bias), module(x), atol=1e-5, rtol=1e-5)
    module(x).sum().backward()


KINDS = {
    "convolution": (lambda: nn.Conv2d(4, 8, 3), "weight", {}, (2, 4, 9, 9)),
    "grouped": (lambda: nn.Conv1d(4, 8, 4, groups=2), "weight", {}, (2, 4, 9)),
    "embedding": (lambda: nn.Embedding(7, 8), "weight", {}, None),
    "recurrent": (lambda: nn.GRU(8, 8), "weight_hh_l0", {"blocks": 3}, (5, 2, 8)),
    "recurrent input": (lambda: nn.LSTM(8, 4), "weight_ih_l0", {}, (5, 2, 8)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("constraint", [mr.OrthogonalAdapter(4), mr.ReflectionAdapter(2), mr.SubspaceAdapter(2)])
def test_layers_of_every_kind_start_as_they_were(kind, constraint):
    make, name, options, shape = KINDS[kind]
    torch.manual_seed(0)
    module = make()
    x = torch.arange(7) if shape is None else torch.randn(shape, generator=seeded())
    first = lambda y: y[0] if isinstance(y, tuple) else y  # noqa: E731
    before = first(module(x)).detach()
    mr.constrain(module, name, constraint, **options)
    assert torch.equal(first(module(x)), before)
    first(module(x)).pow(3).sum().backward()
    gradients = [p.grad for p in module.constraints.parameters()]
    assert any(g is not None and g.abs().max() > 0 for g in gradients)


def test_attention_by_blocks():
    torch.manual_seed(0)
    attention, x = nn.MultiheadAttention(16, 4, batch_first=True), torch.randn(2, 5, 16, generator=seeded())
    before = attention(x, x, x)[0].detach()
    mr.constrain(attention, "in_proj_weight", mr.OrthogonalAdapter(8), blocks=3)
    mr.constrain(attention, "out_proj.weight", mr.OrthogonalAdapter(8))
    assert torch.equal(attention(x, x, x)[0], before)
    attention(x, x, x)[0].square().sum().backward()
    assert all(p.grad is not None for p in attention.constraints.parameters())
    assert attention.out_proj.constraints["weight"].coordinates.grad is not None


@pytest.mark.parametrize("name", ALL)
def test_a_retraction_is_changed_with_the_same_weight_where_there_is_one(name):
    module = layer(ALL[name])
    before = module.weight.detach().clone()
    if entry(module).retraction is None:
        with pytest.raises(errors.UnsupportedError):
            mr.set_retraction(module, "weight", "exp")
        return
    mr.set_retraction(module, "weight", "exp")
    torch.testing.assert_close(module.weight.detach(), before, atol=1e-10, rtol=0)
    assert entry(module).retraction.name == "exp"


BAD = {
    "side": (lambda: mr.OrthogonalAdapter(side="left"), errors.OptionError, '"input" for W0 R'),
    "size": (lambda: mr.OrthogonalAdapter(0), errors.OptionError, "from 1 to 2147483648, got 0"),
    "factors": (lambda: mr.OrthogonalAdapter(factors=1.5), errors.OptionError, "factors"),
    "retraction": (lambda: mr.OrthogonalAdapter(retraction="caley"), errors.OptionError, "cayley"),
    "terms": (lambda: mr.OrthogonalAdapter(series_terms=1), errors.OptionError, "from 2 to 1024"),
    "many terms": (lambda: mr.OrthogonalAdapter(series_terms=10**12), errors.OptionError, "from 2 to 1024"),
    "many factors": (lambda: mr.OrthogonalAdapter(factors=10**12), errors.OptionError, "from 1 to 64"),
    "no factors": (lambda: mr.OrthogonalAdapter(factors=None), errors.OptionError, "from 1 to 64"),
    "terms of exp": (lambda: mr.OrthogonalAdapter(retraction="exp", series_terms=5), errors.OptionError, "'exp'"),
    "divisor": (lambda: layer(mr.OrthogonalAdapter(5)), errors.OptionError, "Use 4"),
    "odd block": (lambda: layer(mr.OrthogonalAdapter(1, factors=2), torch.complex64), errors.OptionError, "even block"),
    "block of one": (lambda: layer(mr.OrthogonalAdapter(1)), errors.OptionError, "got 1"),
    "prime": (lambda: mr.OrthogonalAdapter().trivialize(torch.ones(4, 37)), errors.OptionError, "here 37; got none"),
    "too many factors": (lambda: layer(mr.OrthogonalAdapter(4, factors=4)), errors.OptionError, "4 blocks"),
    "odd count": (lambda: mr.ReflectionAdapter(3), errors.OptionError, "even count"),
    "side of reflections": (lambda: mr.ReflectionAdapter(2, side="out"), errors.OptionError, "'out'"),
    "rank": (lambda: mr.SubspaceAdapter(0), errors.OptionError, "at least 1"),
    "rank of factors": (lambda: mr.StiefelAdapter(True), errors.OptionError, "at least 1"),
    "alpha": (lambda: mr.StiefelAdapter(2, alpha=-1.0), errors.OptionError, "positive"),
    "steps": (lambda: mr.StiefelAdapter(2, rebase_every=0), errors.OptionError, "rebase_every of"),
    "vector": (lambda: mr.OrthogonalAdapter().trivialize(torch.ones(4)), errors.ShapeError, r"\(4,\)"),
    "empty": (lambda: mr.SubspaceAdapter().trivialize(torch.ones(0, 4)), errors.ShapeError, r"\(0, 4\)"),
    "NaN": (lambda: mr.ReflectionAdapter().trivialize(torch.full((4, 4), torch.nan)), errors.NonFiniteError, "16 of"),
    "view": (lambda: layer(mr.OrthogonalAdapter(), view="update"), errors.UnsupportedError, "trivialized"),
    "rebase": (lambda: layer(mr.OrthogonalAdapter(), rebase_every=1), errors.UnsupportedError, "no base to move"),
    "freeze": (lambda: mr.constrain_matching(Net(), PATTERNS, freeze_others=1), errors.OptionError, "True or False"),
    "assign": (
        lambda: setattr(layer(mr.OrthogonalAdapter()), "weight", torch.ones(12, 16)),
        errors.UnsupportedError,
        "cannot be solved",
    ),
    "haar": (lambda: layer(mr.OrthogonalAdapter(), init="haar"), errors.UnsupportedError, "keep"),
    "series map": (
        lambda: mr.set_retraction(layer(mr.OrthogonalAdapter(series_terms=5)), "weight", "exp"),
        errors.UnsupportedError,
        "series_terms=None",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named(name):
    act, kind, words = BAD[name]
    with pytest.raises(kind, match=words) as raised:
        act()
    assert len(str(raised.value)) <= 400


@pytest.mark.parametrize("name", ALL)
def test_what_is_not_finite_is_not_loaded(name):
    module = layer(ALL[name])
    before = copy.deepcopy(module.state_dict())
    key = next(k for k in before if k.startswith("constraints") and not k.endswith("fingerprint"))
    with pytest.raises(errors.NonFiniteError, match="constraints"):
        module.load_state_dict({**before, key: torch.full_like(before[key], torch.nan)})
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())


def test_a_subspace_that_is_none_is_not_loaded():
    module = layer(ALL["subspace"])
    state = module.state_dict()
    with pytest.raises(errors.OffManifoldError, match="orthonormal rows"):
        module.load_state_dict({**state, "constraints.weight.subspace": 2 * state["constraints.weight.subspace"]})
    assert entry(module).subspace.shape == (5, INPUTS)
