"""Adapters on models of transformers, trained by its own Trainer; random weights, nothing is downloaded."""

import copy

import pytest
import torch

import manifold_rnn as mr
from manifold_rnn.interop.peft import read_oft, write_oft

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

# peft 0.21 asks transformers for a name that version 6 removes
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

IDS = torch.randint(50, (16, 12), generator=torch.Generator().manual_seed(3))


def llama(**options):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
        use_cache=False,
        **options,
    )
    return transformers.LlamaForCausalLM(config)


def gpt2():
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2, n_positions=16, use_cache=False)
    return transformers.GPT2LMHeadModel(config).eval()


def adapt(model, constraint=mr.OrthogonalAdapter(4)):  # noqa: B008 - a frozen value
    return mr.constrain_matching(
        model, {"*.q_proj.weight": constraint, "*.v_proj.weight": constraint}, freeze_others=True
    )


def loss(model):
    return model(input_ids=IDS, labels=IDS).loss


@pytest.mark.parametrize("constraint", [mr.OrthogonalAdapter(4), mr.ReflectionAdapter(2), mr.StiefelAdapter(2)])
def test_the_trainer_trains_and_saves_the_adapters(tmp_path, constraint):
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    model = adapt(llama(), constraint)
    base, start = llama(), loss(model).item()
    assert start == loss(base).item()
    rows = [{"input_ids": row, "labels": row} for row in IDS]
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=8,
        per_device_train_batch_size=16,
        learning_rate=0.03,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        logging_strategy="no",
        save_strategy="no",
    )
    trainer = transformers.Trainer(model=model, args=arguments, train_dataset=rows)
    trainer.train()
    end = loss(model).item()
    assert end < start
    frozen, own = dict(base.named_parameters()), dict(model.named_parameters())
    shared = set(frozen) & set(own)
    assert shared and all(torch.equal(frozen[k], own[k]) for k in shared)
    trainer.save_model(str(tmp_path / "model"))
    saved = pytest.importorskip("safetensors.torch").load_file(tmp_path / "model" / "model.safetensors")
    fresh = adapt(llama(), constraint)
    assert not mr.load_checked(fresh, saved, strict=False).unexpected_keys
    assert loss(fresh).item() == end
    torch.save(mr.constraints.adapter_state_dict(model), tmp_path / "adapter.pt")
    fresh = adapt(llama(), constraint)
    fresh.load_state_dict(torch.load(tmp_path / "adapter.pt"), strict=False)
    assert loss(fresh).item() == end
    for name, _ in list(mr.constraints.parametrizations(fresh)):
        mr.release(fresh, name)
    assert abs(loss(fresh).item() - end) < 1e-6 and set(fresh.state_dict()) == set(base.state_dict())


def test_a_half_precision_base():
    model = llama().to(torch.bfloat16)
    before = loss(model).item()
    adapt(model)
    assert loss(model).item() == before
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.02)
    for _ in range(5):
        optimizer.zero_grad()
        loss(model).backward()
        optimizer.step()
    assert loss(model).item() < before
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}


def test_activation_checkpointing_gives_the_same_gradients():
    model = adapt(llama()).train()
    found = []
    for checkpointed in (False, True):
        if checkpointed:
            model.activation_checkpointing_enable({"use_reentrant": False})
        model.zero_grad()
        loss(model).backward()
        found.append([p.grad.clone() for p in model.parameters() if p.requires_grad])
    torch.testing.assert_close(*found)


def test_weights_stored_the_other_way_are_read_with_matrix_dims(tmp_path):
    model, start = gpt2(), loss(gpt2()).item()
    W0 = model.transformer.h[0].attn.c_attn.weight.detach().double()
    mr.constrain_matching(model, {"*c_attn.weight": mr.OrthogonalAdapter(4)}, freeze_others=True, matrix_dims=(1, 0))
    assert loss(model).item() == start
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.03)
    for _ in range(5):
        optimizer.zero_grad()
        loss(model).backward()
        optimizer.step()
    W = model.transformer.h[0].attn.c_attn.weight.detach().double()
    assert loss(model).item() < start
    torch.testing.assert_close(W.mT @ W, W0.mT @ W0, atol=1e-6, rtol=0)  # of the columns, one for each output
    with pytest.raises(mr.errors.UnsupportedError, match="linear layers"):
        write_oft(model, tmp_path)


def test_a_checkpoint_of_peft_goes_onto_a_llama_and_back(tmp_path):
    peft = pytest.importorskip("peft", reason="peft is not installed")
    config = peft.OFTConfig(oft_block_size=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    theirs = peft.get_peft_model(llama(), config)
    with torch.no_grad():
        for p in theirs.parameters():
            if p.requires_grad:
                p.normal_(std=0.1)
    theirs.save_pretrained(tmp_path)
    ours = read_oft(llama(), tmp_path)
    torch.testing.assert_close(loss(ours), loss(theirs))
    write_oft(ours, tmp_path / "back")
    torch.testing.assert_close(loss(peft.PeftModel.from_pretrained(llama(), tmp_path / "back")), loss(theirs))
    assert torch.equal(loss(copy.deepcopy(ours)), loss(ours))


class Configuration(transformers.PretrainedConfig):
    model_type = "one layer"


class OneLayer(transformers.PreTrainedModel):
    config_class = Configuration

    def __init__(self, config):
        super().__init__(config)
        self.layer = torch.nn.Linear(4, 4)
        mr.constrain(self.layer, "weight", mr.Orthogonal(), view=config.view, rebase_every=config.every)
        self.post_init()

    def _init_weights(self, module):
        pass


@pytest.mark.parametrize(("view", "every"), [("update", None), ("trivialized", None), ("trivialized", 2)])
def test_a_saved_model_is_loaded_with_its_weight_and_its_steps(view, every, tmp_path):
    model = OneLayer(Configuration(view=view, every=every))
    kind = mr.optim.RiemannianSGD if view == "update" else torch.optim.SGD
    optimizer = kind(model.parameters(), lr=0.1)
    for _ in range(3):
        model.layer.weight.sum().backward()
        optimizer.step()
    model.save_pretrained(tmp_path)
    loaded = OneLayer.from_pretrained(tmp_path)
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in loaded.state_dict().items())
