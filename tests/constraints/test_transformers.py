"""The pattern tables of the guide page on transformers, on models of other libraries."""

import ast
import copy

import pytest
import torch
from support import ROOT

import manifold_rnn as mr

PAGE = ROOT / "docs" / "guide" / "transformers.rst"
VIEWS = pytest.mark.parametrize("view", ["update", "trivialized"])


def table(name):
    """The dict that the page assigns to a name."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    start = lines.index(f">>> {name} = {{")
    code = [lines[start][4:]]
    for line in lines[start + 1 :]:
        if not line.startswith("..."):
            break
        code.append(line[4:])
    value = ast.parse("\n".join(code)).body[0].value
    return eval(compile(ast.Expression(value), PAGE.name, "eval"), {"mr": mr})


def llama():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=11, num_hidden_layers=2, **sizes))


def gpt2():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    tokens = {"vocab_size": 11, "bos_token_id": 0, "eos_token_id": 0}
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(n_embd=16, n_layer=2, n_head=4, n_positions=8, **tokens)
    )


def matrices(model):
    """Every matrix that the table makes orthonormal, with as many rows as columns or more."""
    for name, module in model.named_modules():
        if name.endswith(("self_attn.q_proj", "self_attn.o_proj")):
            yield module.weight
        elif name.endswith(("self_attn.k_proj", "self_attn.v_proj")):
            yield module.weight.mT
        elif name.endswith("attn.c_attn"):
            yield from module.weight.chunk(3, dim=1)
        elif name.endswith("attn.c_proj"):
            yield module.weight


def logits(model, tokens):
    return model(tokens).logits


@VIEWS
@pytest.mark.parametrize(("build", "count"), [(llama, 8), (gpt2, 8)])
def test_tables_make_attention_orthogonal_and_leave_the_rest(build, count, view):
    model = build()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    mr.constrain_matching(model, table(build.__name__), view=view)
    found = list(matrices(model))
    assert len(found) == count and max(float(mr.linalg.defect(W.detach())) for W in found) < 1e-5
    rest = {name: p for name, p in model.named_parameters() if "attn" not in name}
    assert rest and all(torch.equal(p, before[name]) for name, p in rest.items())


@VIEWS
@pytest.mark.parametrize("build", [llama, gpt2])
def test_models_train_copy_save_and_release(build, view):
    model = mr.constrain_matching(build(), table(build.__name__), view=view)
    tokens = torch.randint(11, (4, 8), generator=torch.Generator().manual_seed(0))
    kind = mr.optim.RiemannianAdam if view == "update" else torch.optim.Adam
    optimizer = kind(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(logits(model, tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.05
    assert max(float(mr.linalg.defect(W.detach())) for W in matrices(model)) < 1e-5
    model.eval()
    with torch.no_grad():
        expected = logits(model, tokens)
        torch.testing.assert_close(logits(copy.deepcopy(model), tokens), expected)
        other = mr.constrain_matching(build(), table(build.__name__), view=view).eval()
        other.load_state_dict(model.state_dict())
        torch.testing.assert_close(logits(other, tokens), expected)
        names = [n for n, m in model.named_modules() for entry in [getattr(m, "constraints", None)] if entry]
        for path in names:
            mr.release(model, f"{path}.weight")
        assert len(names) == {llama: 8, gpt2: 4}[build]
        assert mr.degrees_of_freedom(model) == sum(p.numel() for p in model.parameters())
        torch.testing.assert_close(logits(model, tokens), expected)


@VIEWS
def test_a_model_of_torch_gives_the_same_with_its_fast_path(view):
    layer = torch.nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, dropout=0.0)
    stacked = mr.manifolds.Blocks(mr.Orthogonal(), blocks=3)
    patterns = {"*.in_proj_weight": stacked, "*.out_proj.weight": mr.Orthogonal(), "*.linear?.weight": mr.Stiefel()}
    model = mr.constrain_matching(torch.nn.TransformerEncoder(layer, 2), patterns, view=view)
    x = torch.randn(2, 5, 16)
    slow = model(x)  # gradients keep torch from its fused kernels
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(x), slow, atol=1e-5, rtol=1e-5)


def test_a_logit_of_attention_is_bounded():
    """The bound of the page: |x| |y| over the root of the size of a head."""
    q, k = (mr.Orthogonal().random(16, 16) for _ in range(2))
    x, y = torch.randn(2, 100, 16)
    heads = [(x @ w.mT).unflatten(-1, (4, 4)) for w, x in ((q, x), (k, y))]
    largest = (heads[0] * heads[1]).sum(-1).abs().amax(-1) / 2
    assert (largest <= x.norm(dim=-1) * y.norm(dim=-1) / 2 * (1 + 1e-6)).all()
