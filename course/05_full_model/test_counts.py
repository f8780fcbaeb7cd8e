"""Module 05, what is promised: where the parameters are, and what training holds in memory."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from my_transformer import transformer
from torch import nn

from tiny_transformer import Transformer
from tiny_transformer.config import ModelConfig
from tiny_transformer.course.expect import expect, expect_equal, expect_unchanged
from tiny_transformer.model.loss import compute_loss
from tiny_transformer.viz.memory import estimate_memory, measure_saved_bytes

SMALL = ModelConfig(n_layers=2, d_model=8, n_heads=2, vocab_size=11, context_length=6, dropout=0.0)
KINDS = {
    "a small model": {},
    "one without biases": {"bias": False},
    "one with an untied head": {"tie_weights": False},
    "one without a table of positions": {"position": "sinusoidal"},
    "one with rotary positions": {"position": "rotary"},
    "one with a narrow MLP": {"d_ff": 5},
    "one with three layers": {"n_layers": 3},
    "one with many tokens and a short context": {"vocab_size": 40, "context_length": 3},
    "one without biases, ties and positions": {
        "bias": False,
        "tie_weights": False,
        "position": "none",
    },
}


def expect_counts(got: Any, wanted: dict[str, int], what: str) -> None:
    expect(isinstance(got, dict), f"{what} should be a dict, and is {type(got).__name__}.")
    expect_keys(got, wanted, what)
    for name, number in wanted.items():
        expect(
            isinstance(got[name], int) and not isinstance(got[name], bool),
            f"{name} of {what} should be a plain int, and is {type(got[name]).__name__}.",
        )
        expect_equal(got[name], number, f"{name} of {what}", tolerance=0)


def expect_keys(got: dict[str, int], wanted: dict[str, int], what: str) -> None:
    missing, more = sorted(set(wanted) - set(got)), sorted(set(got) - set(wanted))
    expect(not missing, f"{what} lacks {', '.join(missing)}.")
    expect(not more, f"{what} has keys that were not asked for: {', '.join(map(str, more))}.")


def by_names(model: nn.Module) -> dict[str, int]:
    """Count with a list of what each name may be, and a set of what was seen."""
    counts = {"embeddings": 0, "attention": 0, "mlp": 0, "norms": 0, "head": 0}
    kinds = {"norm1": "norms", "norm2": "norms", "final_norm": "norms", "q_norm": "norms",
             "k_norm": "norms", "q_proj": "attention", "k_proj": "attention",
             "v_proj": "attention", "o_proj": "attention", "up_proj": "mlp", "down_proj": "mlp",
             "gate_proj": "mlp", "token": "embeddings", "position": "embeddings",
             "lm_head": "head"}  # fmt: skip
    seen = set()
    for path, module in model.named_modules():
        for own in module.parameters(recurse=False):
            if id(own) not in seen:
                seen.add(id(own))
                counts[kinds[path.split(".")[-1]]] += own.numel()
    return counts


# count_by_part


def test_count_by_part__counts_the_smallest_model():
    """C = 2, V = 5, T = 3: tables 10 + 6, attention 4 (4 + 2), MLP 16 + 8 and 16 + 2."""
    config = ModelConfig(n_layers=1, d_model=2, n_heads=1, vocab_size=5, context_length=3)
    got = transformer.count_by_part(Transformer(config))
    wanted = {"embeddings": 16, "attention": 24, "mlp": 42, "norms": 12, "head": 0}
    expect_counts(got, wanted, "count_by_part of a model of one layer, 2 wide")


def test_count_by_part__counts_every_block():
    for n_layers in (1, 2, 5):
        model = Transformer(dataclasses.replace(SMALL, n_layers=n_layers))
        got = transformer.count_by_part(model)
        expect_counts(got, by_names(model), f"count_by_part of a model of {n_layers} layers")


def test_count_by_part__counts_a_tied_head_once():
    for tie in (True, False):
        model = Transformer(dataclasses.replace(SMALL, tie_weights=tie))
        got = transformer.count_by_part(model)
        what = f"count_by_part of a model with tie_weights={tie}"
        expect_counts(got, by_names(model), what)
        expect_equal(sum(got.values()), model.n_parameters(), f"the sum of {what}", tolerance=0)


def test_count_by_part__knows_parts_of_every_kind():
    for kind, settings in [
        ("without biases", {"bias": False}),
        ("with sinusoidal positions, a buffer", {"position": "sinusoidal"}),
        ("with norms inside the attention", {"qk_norm": True}),
        ("with RMSNorm", {"norm": "rms_norm"}),
        ("with a gate in the MLP", {"activation": "swiglu"}),
        ("with fewer keys than queries", {"n_kv_heads": 1}),
    ]:
        model = Transformer(dataclasses.replace(SMALL, **settings))
        got = transformer.count_by_part(model)
        expect_counts(got, by_names(model), f"count_by_part of a model {kind}")


def test_count_by_part__counts_frozen_parameters_too():
    model = Transformer(SMALL)
    for parameter in model.embeddings.parameters():
        parameter.requires_grad_(False)
    expect_counts(
        transformer.count_by_part(model), by_names(model), "count_by_part of a half frozen model"
    )


def test_count_by_part__leaves_the_model_as_it_is():
    model = Transformer(SMALL).train()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    transformer.count_by_part(model)
    for name, parameter in model.named_parameters():
        expect_unchanged(before[name], parameter.detach(), name)
    expect(model.training, "count_by_part left the model in another mode.")
    expect(
        model.lm_head.weight is model.get_parameter("embeddings.token.weight"),
        "count_by_part has untied the model.",
    )


# count_by_formula


def test_count_by_formula__counts_the_smallest_model():
    config = ModelConfig(n_layers=1, d_model=2, n_heads=1, vocab_size=5, context_length=3)
    wanted = {"embeddings": 16, "attention": 24, "mlp": 42, "norms": 12, "head": 0}
    expect_counts(
        transformer.count_by_formula(config), wanted, "count_by_formula of one layer, 2 wide"
    )


def test_count_by_formula__is_what_walking_through_the_model_finds():
    for kind, settings in KINDS.items():
        config = dataclasses.replace(SMALL, **settings)
        got = transformer.count_by_formula(config)
        expect_counts(got, by_names(Transformer(config)), f"count_by_formula of {kind}")


def test_count_by_formula__counts_gpt_2():
    """The smallest GPT-2: 124,439,808 parameters, as everybody says."""
    config = ModelConfig(
        n_layers=12, d_model=768, n_heads=12, vocab_size=50_257, context_length=1024
    )
    got = transformer.count_by_formula(config)
    expect_keys(got, dict.fromkeys(("embeddings", "attention", "mlp", "norms", "head"), 0),
                "count_by_formula of GPT-2")  # fmt: skip
    expect_equal(sum(got.values()), 124_439_808, "the sum of the counts of GPT-2", tolerance=0)


def test_count_by_formula__reads_the_width_of_the_mlp_from_the_config():
    for d_ff in (1, 7, 64):
        config = dataclasses.replace(SMALL, d_ff=d_ff)
        got = transformer.count_by_formula(config)
        wanted = 2 * (2 * 8 * d_ff + d_ff + 8)
        expect_equal(got["mlp"], wanted, f"mlp of a model with d_ff={d_ff}", tolerance=0)


# training_memory


def expect_memory(config: ModelConfig, batch_size: int, what: str) -> dict[str, int]:
    got = transformer.training_memory(config, batch_size)
    wanted = dataclasses.asdict(estimate_memory(config, batch_size=batch_size))
    del wanted["kv_cache"]
    expect_counts(got, wanted, what)
    return got


def test_training_memory__takes_16_bytes_a_parameter_and_the_activations():
    config = ModelConfig(n_layers=1, d_model=2, n_heads=1, vocab_size=5, context_length=3,
                         dropout=0.0)  # fmt: skip
    wanted = {
        "weights": 4 * 94,
        "gradients": 4 * 94,
        "optimizer": 8 * 94,
        # 3 tokens: norms 3 (6 + 6), attention 30 + 3, MLP 6 + 48, head 6 + 15; ids and targets
        "activations": 4 * (36 + 33 + 54 + 21) + 16 * 3,
    }
    got = transformer.training_memory(config, 1)
    expect_counts(got, wanted, "training_memory of one window of a model of one layer, 2 wide")


def test_training_memory__counts_every_window_for_the_activations_alone():
    one = expect_memory(SMALL, 1, "training_memory of one window")
    five = expect_memory(SMALL, 5, "training_memory of five windows")
    for name in ("weights", "gradients", "optimizer"):
        expect_equal(five[name], one[name], f"{name} of five windows", tolerance=0)
    expect_equal(
        five["activations"], 5 * one["activations"], "activations of five windows", tolerance=0
    )


def test_training_memory__holds_for_models_of_every_kind():
    for kind, settings in KINDS.items():
        config = dataclasses.replace(SMALL, **settings)
        expect_memory(config, 3, f"training_memory of three windows of {kind}")
    expect_memory(
        dataclasses.replace(SMALL, n_heads=4), 3, "training_memory of three windows with four heads"
    )
    long = dataclasses.replace(SMALL, context_length=50, n_layers=5, d_model=12)
    expect_memory(long, 2, "training_memory of two windows of 50 tokens")


def test_training_memory__is_what_a_step_really_keeps():
    config = dataclasses.replace(SMALL, context_length=16, d_model=32, vocab_size=50)
    model = Transformer(config).train()
    optimizer = torch.optim.AdamW(model.parameters())
    ids = torch.randint(50, (4, 17), generator=torch.Generator().manual_seed(0))
    x, y = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
    kept = measure_saved_bytes(
        lambda: compute_loss(model(x), y), [*model.parameters(), *model.buffers()]
    )
    compute_loss(model(x), y).backward()
    optimizer.step()
    averages = sum(
        tensor.nbytes
        for state in optimizer.state.values()
        for name, tensor in state.items()
        if name != "step"
    )
    got = transformer.training_memory(config, 4)
    weights = sum(p.nbytes for p in model.parameters())
    gradients = sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
    expect_equal(got["weights"], weights, "weights, beside those of a real model,", tolerance=0)
    expect_equal(got["gradients"], gradients, "gradients, beside those of a step,", tolerance=0)
    expect_equal(got["optimizer"], averages, "optimizer, beside what AdamW holds,", tolerance=0)
    expect(
        abs(got["activations"] / kept - 1) < 0.1,
        f"A real forward pass kept {kept:,} bytes, and training_memory says "
        f"{got['activations']:,} of activations.",
    )
