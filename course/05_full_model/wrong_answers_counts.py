"""Module 05, wrong answers: where the parameters are, and what training holds in memory."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from my_transformer import transformer
from torch import nn

from tiny_transformer import Transformer
from tiny_transformer.config import ModelConfig
from tiny_transformer.course.wrong_answers import mutant, probes, rewrite

BASE = ModelConfig(n_layers=2, d_model=8, n_heads=2, vocab_size=11, context_length=6, dropout=0.0)


def of(**settings: Any) -> ModelConfig:
    return dataclasses.replace(BASE, **settings)


def ints(counts: Any) -> dict[str, Any]:
    """Return counts as they are, numbers of another type marked."""
    return {k: v if type(v) is int else [type(v).__name__, v] for k, v in counts.items()}


# count_by_part


@probes("count_by_part")
def _(f: Any) -> list[Any]:
    def frozen() -> nn.Module:
        model = Transformer(BASE)
        for parameter in model.embeddings.parameters():
            parameter.requires_grad_(False)
        return model

    def after() -> list[Any]:
        model = Transformer(BASE).train()
        f(model)
        return [
            model.training,
            model.lm_head.weight is model.get_parameter("embeddings.token.weight"),
        ]

    kinds: list[dict[str, Any]] = [
        {},
        {"n_layers": 5},
        {"bias": False},
        {"tie_weights": False},
        {"position": "sinusoidal"},
        {"qk_norm": True},
        {"norm": "rms_norm"},
        {"activation": "swiglu"},
        {"n_kv_heads": 1},
        {"position": "rotary", "vocab_size": 30},
    ]
    return [
        *(lambda k=k: ints(f(Transformer(of(**k)))) for k in kinds),
        *(lambda k=k: sum(f(Transformer(of(**k))).values()) for k in kinds[:4]),
        lambda: ints(f(frozen())),
        after,
    ]


def walk(
    model: nn.Module, named: Any = None, size: Any = lambda p: p.numel(), norms_first: bool = True
) -> dict[str, int]:
    """Count as the solution does, with steps that a variation can replace."""
    counts = dict.fromkeys(("embeddings", "attention", "mlp", "norms", "head"), 0)
    for name, parameter in named or model.named_parameters():
        if "norm" in name and (norms_first or "attention" not in name):
            kind = "norms"
        elif name.startswith("embeddings"):
            kind = "embeddings"
        elif ".attention." in name:
            kind = "attention"
        elif ".mlp." in name:
            kind = "mlp"
        else:
            kind = "head"
        counts[kind] += size(parameter)
    return counts


@mutant(
    "count_by_part",
    "You count a tied head a second time: its parameter has two names. `named_parameters()` gives "
    "each parameter once; `state_dict()` gives every name.",
)
def tied_head_twice(model: nn.Module) -> dict[str, int]:
    return walk(model, model.named_parameters(remove_duplicate=False))


@mutant(
    "count_by_part",
    "You leave the head out also where it is not tied and has a table of its own.",
)
def head_left_out(model: nn.Module) -> dict[str, int]:
    return {**walk(model), "head": 0}


@mutant(
    "count_by_part",
    "You count the shared table as the head's, and not as the embedding's, where it comes first.",
)
def table_counted_as_the_head(model: nn.Module) -> dict[str, int]:
    counts = walk(model)
    if counts["head"] == 0:
        table = model.get_parameter("lm_head.weight").numel()
        counts["head"], counts["embeddings"] = table, counts["embeddings"] - table
    return counts


@mutant(
    "count_by_part",
    "You count tensors, not the numbers in them: add `numel()` of each.",
)
def tensors_counted(model: nn.Module) -> dict[str, int]:
    return walk(model, size=lambda p: 1)


@mutant(
    "count_by_part",
    "You count the rows of each tensor alone: `len` or `shape[0]`. The number of numbers is "
    "`numel()`.",
)
def rows_counted(model: nn.Module) -> dict[str, int]:
    return walk(model, size=len)


@mutant("count_by_part", "You count bytes. Count numbers: `numel()`.")
def bytes_counted(model: nn.Module) -> dict[str, int]:
    return walk(model, size=lambda p: p.nbytes)


@mutant("count_by_part", "You count weights and leave the biases out.")
def biases_left_out(model: nn.Module) -> dict[str, int]:
    return walk(model, [(n, p) for n, p in model.named_parameters() if not n.endswith("bias")])


@mutant(
    "count_by_part",
    "You count matrices only, and leave out what has one axis: biases and norms.",
)
def matrices_alone(model: nn.Module) -> dict[str, int]:
    return walk(model, [(n, p) for n, p in model.named_parameters() if p.ndim > 1])


@mutant(
    "count_by_part",
    "You count the first block alone: every layer has its own parameters.",
)
def first_block_alone(model: nn.Module) -> dict[str, int]:
    named = model.named_parameters()
    return walk(model, [(n, p) for n, p in named if not n.startswith("blocks") or ".0." in n])


@mutant(
    "count_by_part",
    "Your norms lack the last one, `final_norm`.",
)
def without_the_final_norm(model: nn.Module) -> dict[str, int]:
    named = model.named_parameters()
    return walk(model, [(n, p) for n, p in named if not n.startswith("final_norm")])


@mutant(
    "count_by_part",
    "You leave the table of positions out: it belongs to the embeddings.",
)
def without_positions(model: nn.Module) -> dict[str, int]:
    return walk(model, [(n, p) for n, p in model.named_parameters() if "position" not in n])


@mutant(
    "count_by_part",
    "Norms inside the attention count as attention with you. Ask for `norm` in the name first.",
)
def norms_in_the_attention(model: nn.Module) -> dict[str, int]:
    return walk(model, norms_first=False)


@mutant(
    "count_by_part",
    "You leave out parameters that are frozen. They are parameters all the same.",
)
def frozen_left_out(model: nn.Module) -> dict[str, int]:
    return walk(model, [(n, p) for n, p in model.named_parameters() if p.requires_grad])


@mutant(
    "count_by_part",
    "You count buffers too, such as a table of sines: nothing learns them.",
)
def buffers_too(model: nn.Module) -> dict[str, int]:
    return walk(model, [*model.named_parameters(), *model.named_buffers()])


@rewrite("count_by_part")
def with_a_set_of_what_was_seen(model: nn.Module) -> dict[str, int]:
    counts, seen = {"embeddings": 0, "attention": 0, "mlp": 0, "norms": 0, "head": 0}, set()
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() in seen:
            continue
        seen.add(tensor.data_ptr())
        for key in ("norm", "embeddings", "attention", "mlp", "lm_head"):
            if key in name:
                counts[{"norm": "norms", "lm_head": "head"}.get(key, key)] += tensor.numel()
                break
    return counts


@rewrite("count_by_part")
def by_differences(model: Any) -> dict[str, int]:
    def total(chosen: Any) -> int:
        return sum(p.numel() for p in {id(p): p for p in chosen}.values())

    norms = [p for n, p in model.named_parameters() if "norm" in n]
    per_block = {
        kind: [
            p
            for block in model.blocks
            for n, p in getattr(block, kind).named_parameters()
            if "norm" not in n
        ]
        for kind in ("attention", "mlp")
    }
    embeddings = total(model.embeddings.parameters())
    everything = total(model.parameters())
    counts = {kind: total(chosen) for kind, chosen in per_block.items()}
    rest = everything - embeddings - total(norms) - sum(counts.values())
    return {**counts, "embeddings": embeddings, "norms": total(norms), "head": rest}


# count_by_formula

KINDS: list[dict[str, Any]] = [
    {},
    {"bias": False},
    {"tie_weights": False},
    {"position": "sinusoidal"},
    {"position": "none", "bias": False, "tie_weights": False},
    {"d_ff": 5},
    {"n_layers": 3},
    {"n_layers": 1, "vocab_size": 40, "context_length": 3},
    {"position": "rotary"},
    {"n_heads": 4},
]
GPT_2 = ModelConfig(n_layers=12, d_model=768, n_heads=12, vocab_size=50_257, context_length=1024)


@probes("count_by_formula")
def _(f: Any) -> list[Any]:
    return [
        *(lambda k=k: ints(f(of(**k))) for k in KINDS),
        lambda: ints(f(ModelConfig(n_layers=1, d_model=2, n_heads=1, vocab_size=5))),
        lambda: sum(f(GPT_2).values()),
        *(lambda k=k: f(BASE)[k] for k in ("embeddings", "attention", "mlp", "norms", "head")),
    ]


def formula(config: ModelConfig, **changes: Any) -> dict[str, Any]:
    """Return the right counts, with some put in the place of others."""
    C, F, L = config.d_model, config.feed_forward_width, config.n_layers
    V, T, bias = config.vocab_size, config.context_length, int(config.bias)
    counts = {
        "embeddings": V * C + (T * C if config.position == "learned" else 0),
        "attention": L * (4 * C * C + 4 * C * bias),
        "mlp": L * (2 * C * F + (F + C) * bias),
        "norms": (2 * L + 1) * (C + C * bias),
        "head": 0 if config.tie_weights else V * C,
    }
    return {**counts, **changes}


@mutant(
    "count_by_formula",
    "The head has a table of its own with you. Where `config.tie_weights`, it is the embedding's "
    "and counts there.",
)
def head_always(config: ModelConfig) -> dict[str, int]:
    return formula(config, head=config.vocab_size * config.d_model)


@mutant(
    "count_by_formula",
    "The head is always tied with you. Without `config.tie_weights` it has V C numbers of its own.",
)
def head_never(config: ModelConfig) -> dict[str, int]:
    return formula(config, head=0)


@mutant(
    "count_by_formula",
    "You give the untied head V biases. It never has any.",
)
def head_with_a_bias(config: ModelConfig) -> dict[str, int]:
    if config.tie_weights:
        return formula(config)
    return formula(config, head=config.vocab_size * (config.d_model + config.bias))


@mutant(
    "count_by_formula",
    "You count three projections in the attention. The output has one too, `o_proj`.",
)
def three_projections(config: ModelConfig) -> dict[str, int]:
    return formula(config, attention=formula(config)["attention"] * 3 // 4)


@mutant(
    "count_by_formula",
    "You multiply the attention by the number of heads. Heads share the width: together their "
    "projections are C wide.",
)
def heads_multiplied(config: ModelConfig) -> dict[str, int]:
    return formula(config, attention=formula(config)["attention"] * config.n_heads)


@mutant(
    "count_by_formula",
    "You leave the layers out: every block has its own parameters, L times as many.",
)
def one_layer(config: ModelConfig) -> dict[str, int]:
    L, counts = config.n_layers, formula(config)
    return {**counts, "attention": counts["attention"] // L, "mlp": counts["mlp"] // L}


@mutant(
    "count_by_formula",
    "You take the MLP to be 4 C wide inside. The config says how wide it is: `feed_forward_width`.",
)
def always_four_times_as_wide(config: ModelConfig) -> dict[str, int]:
    return formula(config, mlp=formula(dataclasses.replace(config, d_ff=None))["mlp"])


@mutant(
    "count_by_formula",
    "You count one of the MLP's two layers. There are two: up to F, and down again.",
)
def one_mlp_layer(config: ModelConfig) -> dict[str, int]:
    C, F, L = config.d_model, config.feed_forward_width, config.n_layers
    return formula(config, mlp=L * (C * F + F * config.bias))


@mutant(
    "count_by_formula",
    "The biases of the MLP are as many as its outputs: F in the first layer and C in the second.",
)
def mlp_biases_of_the_width(config: ModelConfig) -> dict[str, int]:
    C, F, L = config.d_model, config.feed_forward_width, config.n_layers
    return formula(config, mlp=L * (2 * C * F + 2 * C * config.bias))


@mutant(
    "count_by_formula",
    "You leave biases and shifts out. They are there where `config.bias` is True.",
)
def without_biases(config: ModelConfig) -> dict[str, int]:
    return formula(dataclasses.replace(config, bias=False))


@mutant(
    "count_by_formula",
    "You count biases and shifts always. Without `config.bias` there are none.",
)
def biases_always(config: ModelConfig) -> dict[str, int]:
    return formula(dataclasses.replace(config, bias=True))


@mutant(
    "count_by_formula",
    "The last norm is missing: two in each block, and one at the end.",
)
def without_the_last_norm(config: ModelConfig) -> dict[str, int]:
    norm = config.d_model * (1 + config.bias)
    return formula(config, norms=2 * config.n_layers * norm)


@mutant(
    "count_by_formula",
    "You count one norm in each block. There are two: before the attention, and before the MLP.",
)
def one_norm_a_block(config: ModelConfig) -> dict[str, int]:
    norm = config.d_model * (1 + config.bias)
    return formula(config, norms=(config.n_layers + 1) * norm)


@mutant(
    "count_by_formula",
    "You count the scales of the norms and leave their shifts out.",
)
def scales_alone(config: ModelConfig) -> dict[str, int]:
    return formula(config, norms=(2 * config.n_layers + 1) * config.d_model)


@mutant(
    "count_by_formula",
    "You leave the table of positions out: T C numbers more, where positions are learned.",
)
def positions_left_out(config: ModelConfig) -> dict[str, int]:
    return formula(config, embeddings=config.vocab_size * config.d_model)


@mutant(
    "count_by_formula",
    "You count a table of positions always. Only learned positions have parameters.",
)
def positions_always(config: ModelConfig) -> dict[str, int]:
    tables = (config.vocab_size + config.context_length) * config.d_model
    return formula(config, embeddings=tables)


@rewrite("count_by_formula")
def block_by_block(config: ModelConfig) -> dict[str, int]:
    def linear(a: int, b: int, bias: bool = config.bias) -> int:
        return a * b + (b if bias else 0)

    C, F = config.d_model, config.feed_forward_width
    norm = 2 * C if config.bias else C
    counts = dict.fromkeys(("embeddings", "attention", "mlp", "norms", "head"), 0)
    counts["embeddings"] = linear(config.vocab_size, C, False)
    if config.position == "learned":
        counts["embeddings"] += config.context_length * C
    for _ in range(config.n_layers):
        counts["attention"] += sum(linear(C, C) for _ in "qkvo")
        counts["mlp"] += linear(C, F) + linear(F, C)
        counts["norms"] += 2 * norm
    counts["norms"] += norm
    if not config.tie_weights:
        counts["head"] = linear(C, config.vocab_size, False)
    return counts


@rewrite("count_by_formula")
def by_shapes(config: ModelConfig) -> dict[str, int]:
    C, F, b = config.d_model, config.feed_forward_width, config.bias
    rows = config.vocab_size + (config.position == "learned") * config.context_length
    norm = [(C,), (C,)][: 1 + b]
    shapes = {
        "embeddings": [(rows, C)],
        "attention": ([(C, C)] * 4 + [(C,)] * 4 * b) * config.n_layers,
        "mlp": ([(C, F), (F, C)] + [(F,), (C,)] * b) * config.n_layers,
        "norms": norm * (2 * config.n_layers + 1),
        "head": [] if config.tie_weights else [(config.vocab_size, C)],
    }
    return {name: sum(math.prod(shape) for shape in each) for name, each in shapes.items()}


# training_memory


@probes("training_memory")
def _(f: Any) -> list[Any]:
    return [
        *(lambda k=k: ints(f(of(**k), 3)) for k in KINDS),
        lambda: ints(f(BASE, 1)),
        lambda: ints(f(BASE, 5)),
        *(
            lambda k=k: f(of(context_length=16), 2)[k]
            for k in ("weights", "gradients", "optimizer", "activations")
        ),
    ]


def memory(
    config: ModelConfig,
    batch_size: int,
    *,
    pieces: Any = None,
    n_tokens: int | None = None,
    ids: int | None = None,
    **changes: Any,
) -> dict[str, int]:
    """Return the right bytes, with some put in the place of others."""
    P = sum(transformer.count_by_formula(config).values())
    C, F, L, H = config.d_model, config.feed_forward_width, config.n_layers, config.n_heads
    V = config.vocab_size
    N = batch_size * config.context_length if n_tokens is None else n_tokens
    numbers = {
        "norms": (2 * L + 1) * (N * C + 2 * N),
        "attention": L * (5 * N * C + N * H),
        "mlp": L * (N * C + 2 * N * F),
        "head": N * C + N * V,
    }
    numbers |= pieces(N, C, F, L, H, V) if pieces else {}
    kept = 4 * sum(numbers.values()) + (16 * N if ids is None else ids)
    found = {"weights": 4 * P, "gradients": 4 * P, "optimizer": 8 * P, "activations": kept}
    return {**found, **{name: change(P) for name, change in changes.items()}}


@mutant(
    "training_memory",
    "AdamW keeps two averages for each parameter, of gradients and of their squares: 8 bytes.",
)
def one_average(config: ModelConfig, batch_size: int) -> dict[str, int]:
    return memory(config, batch_size, optimizer=lambda P: 4 * P)


@mutant(
    "training_memory",
    "You leave the gradients out: there is one for each parameter.",
)
def without_gradients(config: ModelConfig, batch_size: int) -> dict[str, int]:
    return memory(config, batch_size, gradients=lambda P: 0)


@mutant(
    "training_memory",
    "Your optimizer has 16 bytes a parameter: those are weights, gradients and averages together.",
)
def all_in_the_optimizer(config: ModelConfig, batch_size: int) -> dict[str, int]:
    return memory(config, batch_size, optimizer=lambda P: 16 * P)


@mutant("training_memory", "You return numbers, not bytes: float32 takes 4 each.")
def numbers_for_bytes(config: ModelConfig, batch_size: int) -> dict[str, int]:
    right = memory(config, batch_size)
    return {name: value // 4 for name, value in right.items()}


@mutant(
    "training_memory",
    "You count the gradients once for every window of the batch. They are added up: one for each "
    "parameter.",
)
def gradients_for_each_window(config: ModelConfig, batch_size: int) -> dict[str, int]:
    return memory(config, batch_size, gradients=lambda P: 4 * P * batch_size)


@mutant(
    "training_memory",
    "Your activations are those of one window. N is the batch times the length of the context.",
)
def one_window(config: ModelConfig, batch_size: int) -> dict[str, int]:
    return memory(config, batch_size, n_tokens=config.context_length)


@mutant(
    "training_memory",
    "Your activations are those of one token in each window. N is the batch times the length of "
    "the context.",
)
def one_token_a_window(config: ModelConfig, batch_size: int) -> dict[str, int]:
    return memory(config, batch_size, n_tokens=batch_size)


@mutant(
    "training_memory",
    "Your activations are those of one layer. Attention and MLP are there in each, and each keeps "
    "its own.",
)
def activations_of_one_layer(config: ModelConfig, batch_size: int) -> dict[str, int]:
    return memory(
        config,
        batch_size,
        pieces=lambda N, C, F, L, H, V: {
            "attention": 5 * N * C + N * H,
            "mlp": N * C + 2 * N * F,
        },
    )


@mutant(
    "training_memory",
    "You count 2 L norms, or L: there are two in each block and one at the end.",
)
def norms_without_the_last(config: ModelConfig, batch_size: int) -> dict[str, int]:
    return memory(
        config,
        batch_size,
        pieces=lambda N, C, F, L, H, V: {"norms": 2 * L * (N * C + 2 * N)},
    )


@mutant(
    "training_memory",
    "You leave out the two numbers that each norm keeps for a token: its mean, and one over its "
    "deviation.",
)
def norms_without_their_numbers(config: ModelConfig, batch_size: int) -> dict[str, int]:
    return memory(
        config, batch_size, pieces=lambda N, C, F, L, H, V: {"norms": (2 * L + 1) * N * C}
    )


@mutant(
    "training_memory",
    "You keep a (T, T) table of weights for each head. The fused attention keeps a number for each "
    "head and token in its place.",
)
def with_a_table_of_weights(config: ModelConfig, batch_size: int) -> dict[str, int]:
    T = config.context_length
    return memory(
        config,
        batch_size,
        pieces=lambda N, C, F, L, H, V: {"attention": L * (5 * N * C + N * H * T)},
    )


@mutant(
    "training_memory",
    "You leave out the number that the attention keeps for each head and token.",
)
def without_the_sums_of_the_heads(config: ModelConfig, batch_size: int) -> dict[str, int]:
    return memory(config, batch_size, pieces=lambda N, C, F, L, H, V: {"attention": L * 5 * N * C})


@mutant(
    "training_memory",
    "You count the inner vectors of the MLP once. They are kept before the GELU and after it.",
)
def inner_vectors_once(config: ModelConfig, batch_size: int) -> dict[str, int]:
    return memory(config, batch_size, pieces=lambda N, C, F, L, H, V: {"mlp": L * (N * C + N * F)})


@mutant(
    "training_memory",
    "You leave out the log-probabilities of the loss: N V numbers, much where V is large.",
)
def without_log_probabilities(config: ModelConfig, batch_size: int) -> dict[str, int]:
    return memory(config, batch_size, pieces=lambda N, C, F, L, H, V: {"head": N * C})


@mutant(
    "training_memory",
    "Ids and targets are int64: 8 bytes each, and you count 4.",
)
def ids_of_four_bytes(config: ModelConfig, batch_size: int) -> dict[str, int]:
    return memory(config, batch_size, ids=8 * batch_size * config.context_length)


@mutant(
    "training_memory",
    "You leave ids and targets out: 8 bytes each, N of both.",
)
def without_ids(config: ModelConfig, batch_size: int) -> dict[str, int]:
    return memory(config, batch_size, ids=0)


@mutant(
    "training_memory",
    "You count a tied table twice. It is one parameter: `count_by_formula` has it once.",
)
def tied_table_twice(config: ModelConfig, batch_size: int) -> dict[str, int]:
    table = config.vocab_size * config.d_model if config.tie_weights else 0
    return memory(
        config,
        batch_size,
        weights=lambda P: 4 * (P + table),
        gradients=lambda P: 4 * (P + table),
        optimizer=lambda P: 8 * (P + table),
    )


@rewrite("training_memory")
def number_by_number(config: ModelConfig, batch_size: int) -> dict[str, int]:
    C, F, V = config.d_model, config.feed_forward_width, config.vocab_size
    each = 0  # numbers that one token keeps
    for _ in range(config.n_layers):
        for _ in range(2):
            each += C + 2
        each += C + 3 * C + C + config.n_heads
        each += C + F + F
    each += C + 2 + C + V
    n_bytes = batch_size * config.context_length * (4 * each + 8 + 8)
    P = sum(transformer.count_by_formula(config).values())
    return {"activations": n_bytes, "optimizer": 2 * 4 * P, "gradients": 4 * P, "weights": 4 * P}


@rewrite("training_memory")
def by_tensors(config: ModelConfig, batch_size: int) -> dict[str, int]:
    P = sum(transformer.count_by_formula(config).values())
    N, C, L = batch_size * config.context_length, config.d_model, config.n_layers
    widths = [*[C, 1, 1] * (2 * L + 1), *[C] * 5 * L, *[config.n_heads] * L]
    widths += [C, config.feed_forward_width, config.feed_forward_width] * L
    widths += [C, config.vocab_size, 2, 2]  # ids and targets are as wide as two numbers each
    kept = sum(torch.empty(N, width, device="meta").nbytes for width in widths)
    return {"weights": P * 4, "gradients": P * 4, "optimizer": P * 8, "activations": kept}
