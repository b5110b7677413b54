"""Checkpoints of OFT: both conventions of peft from fixed numbers, beside the installed library."""

import copy
import json

import pytest
import torch
from torch import nn

import manifold_rnn as mr
from manifold_rnn import errors
from manifold_rnn.interop.peft import read_oft, write_oft

peft = pytest.importorskip("peft", reason="peft is not installed")
safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")

Q = [0.1, -0.3, 0.2, 0.5, -0.4, 0.6]  # entries above the diagonal of a 4 x 4 matrix, row by row


class Net(nn.Module):
    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.q, self.v = nn.Linear(8, 6), nn.Linear(8, 6)

    def forward(self, x):
        return self.q(x) + self.v(x)


def x():
    return torch.randn(5, 8, generator=torch.Generator().manual_seed(1))


def theirs(tmp_path, targets=("q",), **options):
    """A model of peft with fixed numbers, and its folder."""
    config = peft.OFTConfig(oft_block_size=4, target_modules=list(targets), **options)
    model = peft.get_peft_model(Net(), config)
    with torch.no_grad():
        for name in targets:
            weight = model.get_submodule(f"base_model.model.{name}.oft_R.default").weight
            scale = torch.tensor([[1.0], [-0.7]], dtype=torch.float64)[: len(weight)]
            weight.copy_(scale * torch.tensor(Q, dtype=torch.float64))
    model.save_pretrained(tmp_path)
    return model


def skew():
    matrix = torch.zeros(4, 4, dtype=torch.float64)
    matrix[tuple(torch.triu_indices(4, 4, 1))] = torch.tensor(Q, dtype=torch.float64)
    return matrix - matrix.mT


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize(("series", "terms"), [(False, 5), (True, 3), (True, 4), (True, 5), (True, 8)])
def test_both_conventions_are_reproduced_and_written_back(tmp_path, series, terms, share):
    model = theirs(tmp_path, use_cayley_neumann=series, num_cayley_neumann_terms=terms, block_share=share)
    ours = read_oft(Net(), tmp_path)
    expected = model(x()).detach()
    assert (expected - Net()(x())).abs().max() > 0.1
    torch.testing.assert_close(ours(x()).detach(), expected, atol=1e-6, rtol=1e-6)
    write_oft(ours, tmp_path / "back", base_model="some/base")
    again = peft.PeftModel.from_pretrained(Net(), tmp_path / "back")
    torch.testing.assert_close(again(x()).detach(), expected, atol=1e-6, rtol=1e-6)
    key = "base_model.model.q.oft_R.weight"
    one, two = (safetensors.load_file(folder / "adapter_model.safetensors") for folder in (tmp_path, tmp_path / "back"))
    torch.testing.assert_close(one[key], two[key], atol=1e-7, rtol=1e-6)
    assert json.loads((tmp_path / "back" / "adapter_config.json").read_text())["base_model_name_or_path"] == "some/base"
    merged = again.merge_and_unload()
    mr.release(ours, "q.weight")
    torch.testing.assert_close(ours.q.weight, merged.q.weight, atol=1e-6, rtol=1e-6)


def test_the_conventions_are_transposes_of_each_other(tmp_path):
    eye = torch.eye(4, dtype=torch.float64)
    exact = (eye - skew()) @ torch.linalg.inv(eye + skew())
    sums = sum(2 * torch.linalg.matrix_power(skew(), k) for k in range(1, 4))
    series = eye + sums + torch.linalg.matrix_power(skew(), 4)
    long = eye + sum(2 * torch.linalg.matrix_power(0.1 * skew(), k) for k in range(1, 40))
    small = (eye - 0.1 * skew()) @ torch.linalg.inv(eye + 0.1 * skew())
    torch.testing.assert_close(long, small.mT, atol=1e-12, rtol=0)  # the limit of the series is the transpose
    for flag, peft_block in ((False, exact), (True, series)):
        model = theirs(tmp_path / str(flag), use_cayley_neumann=flag)
        rotation = model.base_model.model.q.oft_R.default.get_weight().detach()[:4, :4].double()
        torch.testing.assert_close(rotation, peft_block, atol=1e-6, rtol=0)
        own = read_oft(Net(), tmp_path / str(flag)).q.constraints["weight"]
        torch.testing.assert_close(own.blocks()[0, 0].detach().double(), peft_block.mT, atol=1e-6, rtol=0)


def test_another_retraction_is_written_as_the_same_rotation(tmp_path):
    ours = mr.constrain_matching(Net(), {"*.weight": mr.OrthogonalAdapter(4, "exp")}, freeze_others=True)
    with torch.no_grad():
        for p in ours.parameters():
            if p.requires_grad:
                p.normal_()
    write_oft(ours, tmp_path)
    again = peft.PeftModel.from_pretrained(Net(), tmp_path)
    torch.testing.assert_close(again(x()).detach(), ours(x()).detach(), atol=1e-5, rtol=1e-5)


def test_old_files_are_read_and_the_rest_is_frozen(tmp_path):
    theirs(tmp_path, ("q", "v"), use_cayley_neumann=False)
    state = safetensors.load_file(tmp_path / "adapter_model.safetensors")
    expected = read_oft(Net(), tmp_path)
    (tmp_path / "adapter_model.safetensors").unlink()
    torch.save(state, tmp_path / "adapter_model.bin")
    ours = read_oft(Net(), tmp_path)
    assert torch.equal(ours(x()), expected(x()))
    assert all(p.requires_grad == name.endswith("coordinates") for name, p in ours.named_parameters())


def edit(tmp_path, **changes):
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def rewrite(tmp_path, change):
    file = tmp_path / "adapter_model.safetensors"
    safetensors.save_file(change(safetensors.load_file(file)), file)


KEY = "base_model.model.q.oft_R.weight"
BAD = {
    "nothing": (lambda d: (d / "adapter_config.json").unlink(), errors.OptionError, "save_pretrained"),
    "kind": (lambda d: edit(d, peft_type="LORA"), errors.OptionError, "'LORA'"),
    "coft": (lambda d: edit(d, coft=True), errors.UnsupportedError, "'coft': True"),
    "old series": (lambda d: edit(d, peft_version="0.17.1"), errors.UnsupportedError, "0.18"),
    "two terms": (lambda d: edit(d, num_cayley_neumann_terms=2), errors.UnsupportedError, "at least 3 terms"),
    "no layer": (lambda d: rewrite(d, lambda s: {KEY.replace("q", "k"): s[KEY]}), errors.OptionError, "'k'"),
    "other key": (lambda d: rewrite(d, lambda s: {"head.weight": s[KEY]}), errors.UnsupportedError, "head.weight"),
    "empty": (lambda d: rewrite(d, lambda s: {}), errors.OptionError, "empty"),
    "shape": (lambda d: rewrite(d, lambda s: {KEY: s[KEY][:1].clone()}), errors.ShapeError, "2 rows"),
    "count": (lambda d: rewrite(d, lambda s: {KEY: s[KEY][:, :5].clone()}), errors.ShapeError, r"\(2, 5\)"),
    "number": (lambda d: rewrite(d, lambda s: {KEY: torch.ones(())}), errors.ShapeError, r"shape \(\)"),
    "no terms": (lambda d: edit(d, num_cayley_neumann_terms=None), errors.UnsupportedError, "at least 3 terms"),
    "config": (lambda d: (d / "adapter_config.json").write_text("{"), errors.OptionError, "adapter_config.json cannot"),
    "file": (lambda d: (d / "adapter_model.safetensors").write_text("x"), errors.OptionError, "safetensors cannot"),
    "NaN": (lambda d: rewrite(d, lambda s: {KEY: s[KEY] * torch.nan}), errors.NonFiniteError, "12 of 12"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_checkpoint_that_cannot_be_read_is_named_and_changes_nothing(tmp_path, name):
    theirs(tmp_path)
    damage, kind, words = BAD[name]
    damage(tmp_path)
    model = Net()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(kind, match=words) as raised:
        read_oft(model, tmp_path)
    assert len(str(raised.value)) <= 400
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items()) and type(model.q) is nn.Linear
    assert all(p.requires_grad for p in model.parameters())


UNWRITABLE = {
    "none": ({}, errors.OptionError, "at least one"),
    "side": ({"q.weight": mr.OrthogonalAdapter(3, side="output")}, errors.UnsupportedError, "input side"),
    "factors": ({"q.weight": mr.OrthogonalAdapter(4, factors=2)}, errors.UnsupportedError, "one factor"),
    "terms": ({"q.weight": mr.OrthogonalAdapter(4, series_terms=3)}, errors.UnsupportedError, "at least 4 terms"),
    "sizes": (
        {"q.weight": mr.OrthogonalAdapter(4), "v.weight": mr.OrthogonalAdapter(2)},
        errors.UnsupportedError,
        "one block size",
    ),
    "another kind": (
        {"q.weight": mr.OrthogonalAdapter(4), "v.weight": mr.ReflectionAdapter(2)},
        errors.UnsupportedError,
        "OrthogonalAdapter only",
    ),
    "sharing": (
        {"q.weight": mr.OrthogonalAdapter(4), "v.weight": mr.OrthogonalAdapter(4, share=True)},
        errors.UnsupportedError,
        "all layers or in none",
    ),
}


@pytest.mark.parametrize("name", UNWRITABLE)
def test_adapters_that_peft_does_not_have_are_named_and_nothing_is_written(tmp_path, name):
    constraints, kind, words = UNWRITABLE[name]
    model = mr.constrain_matching(Net(), constraints) if constraints else Net()
    with pytest.raises(kind, match=words) as raised:
        write_oft(model, tmp_path / "out")
    assert len(str(raised.value)) <= 400 and not (tmp_path / "out").exists()


def test_a_model_that_is_one_layer_is_not_written(tmp_path):
    layer = mr.constrain(nn.Linear(8, 6), "weight", mr.OrthogonalAdapter(4))
    with pytest.raises(errors.UnsupportedError, match="the model itself"):
        write_oft(layer, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_convolution_is_refused(tmp_path):
    theirs(tmp_path)
    model = Net()
    model.q = nn.Conv1d(8, 6, 1)
    with pytest.raises(errors.UnsupportedError, match="convolution"):
        read_oft(model, tmp_path)
