"""Time a fine-tuning step of a Llama with adapters on its attention, against adapters of peft of equal size.

The model of transformers has random weights. A step is a forward and a backward pass and a step of AdamW, in float32 on
one thread. Times are medians of interleaved runs, as multiples of a step with peft's LoRA. The benchmark needs
transformers and peft.
"""

import argparse
import copy
import warnings
from collections.abc import Callable

import peft
import torch
import transformers
from timing import interleaved_medians, write

import manifold_rnn as mr

LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj")
BLOCK, RANK = 32, 8  # 496 n / 32 = 15.5 n parameters, and 16 n


def pretrained(size: int, layers: int) -> torch.nn.Module:
    """Return a Llama with random weights."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=size,
        intermediate_size=3 * size,
        num_hidden_layers=layers,
        num_attention_heads=size // 64,
        vocab_size=1000,
        max_position_embeddings=512,
        use_cache=False,
    )
    return transformers.LlamaForCausalLM(config)


def adapted(size: int) -> dict[str, Callable[[torch.nn.Module], torch.nn.Module]]:
    """Return a function for each kind of adapter that adds it to a model."""
    common = {"target_modules": list(LAYERS)}
    # columns of PSOFT with the same number of parameters
    columns = next(r for r in range(1, size) if r * (r + 3) // 2 >= 16 * size - size // 2)
    theirs = {
        "peft LoRA": peft.LoraConfig(r=RANK, **common),
        "peft OFT, exact": peft.OFTConfig(oft_block_size=BLOCK, use_cayley_neumann=False, **common),
        "peft OFT, series": peft.OFTConfig(oft_block_size=BLOCK, **common),
        "peft BOFT": peft.BOFTConfig(boft_block_size=BLOCK, boft_n_butterfly_factor=1, **common),
        "peft HRA": peft.HRAConfig(r=2 * RANK, **common),
        "peft PSOFT": peft.PsoftConfig(r=columns, **common),
    }
    ours = {
        "OrthogonalAdapter": mr.OrthogonalAdapter(BLOCK),
        "OrthogonalAdapter, exp": mr.OrthogonalAdapter(BLOCK, "exp"),
        "OrthogonalAdapter, series": mr.OrthogonalAdapter(BLOCK, series_terms=5),
        "OrthogonalAdapter, 2 factors": mr.OrthogonalAdapter(BLOCK // 2, factors=2),
        "ReflectionAdapter": mr.ReflectionAdapter(2 * RANK),
        "SubspaceAdapter": mr.SubspaceAdapter(columns),
        "StiefelAdapter": mr.StiefelAdapter(RANK),
    }
    makers = {name: lambda m, config=config: peft.get_peft_model(m, config) for name, config in theirs.items()}
    makers |= {
        name: lambda m, c=c: mr.constrain_matching(m, {f"*.{k}.weight": c for k in LAYERS}, freeze_others=True)
        for name, c in ours.items()
    }
    return makers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--tokens", type=int, nargs="+", default=[512, 2048])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--only", nargs="+", help="Names of the adapters to measure in addition to LoRA.")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # peft warns about a kernel that only runs on GPUs
    base, models, rows = pretrained(args.size, args.layers), {}, {}
    for name, make in adapted(args.size).items():
        if not args.only or name in ("peft LoRA", *args.only):
            models[name] = make(copy.deepcopy(base)).train()
    counts = {}
    for name, model in models.items():
        trained = [p for p in model.parameters() if p.requires_grad]
        counts[name] = sum(p.numel() for p in trained)
        with torch.no_grad():  # move away from the initial value, where some maps are faster
            for p in trained:
                p.add_(torch.randn_like(p), alpha=0.01)
    for tokens in args.tokens:
        ids = torch.randint(1000, (max(1, tokens // 256), min(tokens, 256)))
        seconds = interleaved_medians({name: step(model, ids) for name, model in models.items()}, args.rounds)
        best = seconds["peft LoRA"]
        rows[f"{tokens} tokens"] = {who: value / best for who, value in seconds.items()}
        print(f"{tokens} tokens, LoRA {1e3 * best:.1f} ms")
        for who, value in seconds.items():
            print(f"  {who:30} {counts[who]:7} numbers  {value / best:.3f}")
    about = {"peft": peft.__version__, "transformers": transformers.__version__, "numbers": counts}
    write("adapters", rows, size=args.size, layers=args.layers, rounds=args.rounds, **about)


def step(model: torch.nn.Module, ids: torch.Tensor) -> Callable[[], None]:
    """Return a step of fine-tuning."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, weight_decay=0.0)

    def run() -> None:
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


if __name__ == "__main__":
    main()
