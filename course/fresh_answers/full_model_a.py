"""Answers to module 05's exercises on the loss, tying, counting and memory, written afresh."""

import math
import re
from itertools import chain

import torch
import torch.nn.functional as F
from my_transformer import transformer

from tiny_transformer.course.wrong_answers import mutant, rewrite

# ------------------------------------------------------------------------------- initial_loss


@mutant("initial_loss", "counts in bits, not in nats")
def in_bits(vocab_size, logit_std=0.0):
    return math.log2(vocab_size) + logit_std**2 / 2


@mutant("initial_loss", "adds s / 2, which is right for s = 1 only")
def half_of_s(vocab_size, logit_std=0.0):
    return math.log(vocab_size) + logit_std / 2


@mutant("initial_loss", "does not simplify: exp(s^2 / 2) overflows from s = 38 on")
def overflows_for_large_s(vocab_size, logit_std=0.0):
    return math.log(vocab_size * math.exp(logit_std**2 / 2))


@mutant("initial_loss", "returns a tensor")
def loss_as_a_tensor(vocab_size, logit_std=0.0):
    return torch.log(torch.tensor(float(vocab_size))) + logit_std**2 / 2


@mutant("initial_loss", "draws logits and measures, which is near but not it")
def measures_draws(vocab_size, logit_std=0.0):
    logits = torch.randn(1000, vocab_size) * logit_std
    return (logits.logsumexp(dim=-1) - logits[:, 0]).mean().item()


@rewrite("initial_loss")
def minus_log_of_the_probability(vocab_size, logit_std=0.0):
    return -math.log(1 / vocab_size) + 0.5 * logit_std * logit_std


@rewrite("initial_loss")
def through_torch_in_float64(vocab_size, logit_std=0.0):
    s = torch.tensor(logit_std, dtype=torch.float64)
    equal = torch.zeros(vocab_size, dtype=torch.float64)
    return (torch.logsumexp(equal, dim=0) + s.square() / 2).item()


# --------------------------------------------------------------------------------- perplexity


@mutant("perplexity", "takes the loss for bits")
def two_to_the_loss(loss):
    return 2.0**loss


@mutant("perplexity", "returns the probability of the right token, which is one over it")
def one_over_it(loss):
    return math.exp(-loss)


@mutant("perplexity", "rounds to a whole number of tokens")
def whole_tokens(loss):
    return float(round(math.exp(loss)))


@mutant("perplexity", "computes in float32, which overflows from a loss of 89 on")
def overflows_at_89(loss):
    return torch.tensor(loss, dtype=torch.float32).exp().item()


@mutant("perplexity", "never says more than the 99 tokens of the package's vocabulary")
def at_most_99(loss):
    return min(math.exp(loss), 99.0)


@rewrite("perplexity")
def power_of_e(loss):
    return math.e**loss


@rewrite("perplexity")
def exp_of_torch(loss):
    return torch.tensor(loss, dtype=torch.float64).exp().item()


# ------------------------------------------------------------------------------- compute_loss


@mutant("compute_loss", "takes the logarithm of the softmax, which is 0 far below the largest")
def logarithm_of_the_softmax(logits, targets, *, reduction="mean"):
    assert logits.shape[:-1] == targets.shape
    probabilities = logits.softmax(dim=-1).gather(-1, targets.unsqueeze(-1))
    losses = -probabilities.log()
    return losses.sum() if reduction == "sum" else losses.mean()


@mutant("compute_loss", "accepts as many targets in any shape")
def any_shape_of_targets(logits, targets, *, reduction="mean"):
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten(), reduction=reduction)


@mutant("compute_loss", "moves the targets by one, though they are the next tokens already")
def shifts_again(logits, targets, *, reduction="mean"):
    assert logits.shape[:-1] == targets.shape
    logits, targets = logits[:, :-1], targets[:, 1:]
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction=reduction)


@mutant("compute_loss", "subtracts the largest logit in what it was given")
def subtracts_the_largest_in_place(logits, targets, *, reduction="mean"):
    assert logits.shape[:-1] == targets.shape
    logits.data -= logits.data.amax(dim=-1, keepdim=True)
    losses = logits.exp().sum(dim=-1).log() - logits.gather(-1, targets[..., None])[..., 0]
    return losses.sum() if reduction == "sum" else losses.mean()


@mutant("compute_loss", "sums over the positions of a window where it should take their mean")
def mean_over_windows(logits, targets, *, reduction="mean"):
    assert logits.shape[:-1] == targets.shape
    total = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
    return total if reduction == "sum" else total / len(targets)


@rewrite("compute_loss")
def by_log_sum_exp(logits, targets, *, reduction="mean"):
    if tuple(targets.shape) != tuple(logits.shape[:-1]):
        raise ValueError("every position has one target")
    of_targets = torch.gather(logits, -1, targets.unsqueeze(-1)).squeeze(-1)
    losses = torch.logsumexp(logits, dim=-1) - of_targets
    return {"mean": losses.mean, "sum": losses.sum}[reduction]()


@rewrite("compute_loss")
def classes_in_the_middle(logits, targets, *, reduction="mean"):
    batch, length, _ = logits.shape
    assert targets.shape == (batch, length), "targets have another shape"
    log_probabilities = logits.log_softmax(dim=-1).permute(0, 2, 1)
    return F.nll_loss(log_probabilities, targets, reduction=reduction)


# ------------------------------------------------------------------------------------ is_tied


@mutant("is_tied", "compares numbers: two tables that are equal now are taken for one")
def equal_numbers(model):
    return torch.equal(model.lm_head.weight, model.embeddings.token.weight)


@mutant("is_tied", "asks the config, which says what was meant and not what is")
def trusts_the_config(model):
    return model.config.tie_weights


@mutant("is_tied", "asks if the head is listed: wrong where the head is the first to be listed")
def head_is_not_listed(model):
    return "lm_head.weight" not in dict(model.named_parameters())


@mutant("is_tied", "changes a number of the one to see it in the other, and leaves it changed")
def leaves_its_mark(model):
    before = model.embeddings.token.weight[0, 0].item()
    model.lm_head.weight.data[0, 0] += 1
    return model.embeddings.token.weight[0, 0].item() != before


@mutant("is_tied", "compares two `.data`, which are new tensors each time: always False")
def new_tensors_each_time(model):
    return model.lm_head.weight.data is model.embeddings.token.weight.data


@rewrite("is_tied")
def same_memory(model):
    return model.lm_head.weight.data_ptr() == model.embeddings.token.weight.data_ptr()


@rewrite("is_tied")
def among_all_names(model):
    names = {"lm_head.weight", "embeddings.token.weight"}
    found = model.named_parameters(remove_duplicate=False)
    return len({id(parameter) for name, parameter in found if name in names}) == 1


# -------------------------------------------------------------------------------- tie_weights


@mutant("tie_weights", "copies the numbers: two tables that are equal for now")
def copies_the_numbers(model):
    with torch.no_grad():
        model.lm_head.weight.copy_(model.embeddings.token.weight)


@mutant("tie_weights", "keeps the table of the head and forgets that of the embedding")
def keeps_the_head(model):
    model.embeddings.token.weight = model.lm_head.weight


@mutant("tie_weights", "shares the memory between two parameters, with a gradient each")
def two_parameters_in_one_memory(model):
    model.lm_head.weight.data = model.embeddings.token.weight.data


@mutant("tie_weights", "gives both a new parameter, which an optimizer does not know")
def new_parameter_for_both(model):
    table = torch.nn.Parameter(model.embeddings.token.weight.detach().clone())
    model.embeddings.token.weight = table
    model.lm_head.weight = table


@mutant("tie_weights", "fills the embedding's table with the numbers of the head")
def with_the_numbers_of_the_head(model):
    table = model.embeddings.token.weight
    table.data.copy_(model.lm_head.weight.data)
    model.lm_head.weight = table


@rewrite("tie_weights")
def registers_it_again(model):
    head, table = model.get_submodule("lm_head"), model.get_parameter("embeddings.token.weight")
    del head.weight
    head.register_parameter("weight", table)


@rewrite("tie_weights")
def swaps_the_entry(model):
    model.lm_head._parameters["weight"] = model.embeddings.token._parameters["weight"]


# ------------------------------------------------------------------------------ count_by_part


def _part(name):
    if "norm" in name:
        return "norms"
    if name.startswith(("embeddings.", "lm_head.")):
        return "head" if name.startswith("lm_head.") else "embeddings"
    return "attention" if ".attention." in name else "mlp"


def _sizes(named, part=_part):
    counts = {"embeddings": 0, "attention": 0, "mlp": 0, "norms": 0, "head": 0}
    for name, tensor in named:
        counts[part(name)] += tensor.numel()
    return counts


@mutant("count_by_part", "counts a tied table twice")
def tied_table_twice(model):
    return _sizes(model.named_parameters(remove_duplicate=False))


@mutant("count_by_part", "counts norms inside the attention as attention")
def norms_of_the_attention(model):
    def part(name):
        return "attention" if ".attention." in name else _part(name)

    return _sizes(model.named_parameters(), part)


@mutant("count_by_part", "counts buffers too, for instance a sinusoidal table")
def buffers_too(model):
    return _sizes(chain(model.named_parameters(), model.named_buffers()))


@mutant("count_by_part", "leaves out parameters that are frozen")
def trainable_only(model):
    return _sizes((name, p) for name, p in model.named_parameters() if p.requires_grad)


@mutant("count_by_part", "leaves a part out that has nothing: a tied model has no head")
def leaves_out_zeros(model):
    return {part: count for part, count in _sizes(model.named_parameters()).items() if count}


@rewrite("count_by_part")
def by_walking_through_modules(model):
    counts = dict.fromkeys(["head", "norms", "mlp", "attention", "embeddings"], 0)
    seen = []

    def walk(module, path):
        for own, parameter in module._parameters.items():
            if parameter is not None and not any(parameter is other for other in seen):
                seen.append(parameter)
                counts[kind([*path, own])] += math.prod(parameter.shape)
        for child, inner in module.named_children():
            walk(inner, [*path, child])

    def kind(path):
        for piece in reversed(path):
            if "norm" in piece:
                return "norms"
        top = {"embeddings": "embeddings", "lm_head": "head"}
        return top.get(path[0]) or path[2]

    walk(model, [])
    return counts


@rewrite("count_by_part")
def by_patterns(model):
    patterns = {
        "norms": r".*norm",
        "embeddings": r"embeddings\.",
        "attention": r"blocks\.\d+\.attention\.",
        "mlp": r"blocks\.\d+\.mlp\.",
        "head": r"lm_head\.",
    }
    left = dict(model.named_parameters())
    counts = {}
    for part, pattern in patterns.items():
        names = [name for name in left if re.match(pattern, name)]
        counts[part] = sum(left.pop(name).numel() for name in names)
    return counts


# --------------------------------------------------------------------------- count_by_formula


def _formula(config):
    L, C, F_, V = config.n_layers, config.d_model, config.feed_forward_width, config.vocab_size
    positions = config.context_length if config.position == "learned" else 0
    return {
        "embeddings": (V + positions) * C,
        "attention": L * (4 * C * C + (4 * C if config.bias else 0)),
        "mlp": L * (2 * C * F_ + (F_ + C if config.bias else 0)),
        "norms": (2 * L + 1) * C * (2 if config.bias else 1),
        "head": 0 if config.tie_weights else V * C,
    }


@mutant("count_by_formula", "takes the MLP to be four times as wide as the model, always")
def four_times_as_wide(config):
    C, biases = config.d_model, 5 * config.d_model if config.bias else 0
    return {**_formula(config), "mlp": config.n_layers * (8 * C * C + biases)}


@mutant("count_by_formula", "gives the norms shifts also in a model without biases")
def norms_always_shift(config):
    return {**_formula(config), "norms": (2 * config.n_layers + 1) * 2 * config.d_model}


@mutant("count_by_formula", "counts a table of positions where nothing is learned")
def table_for_every_position(config):
    rows = config.vocab_size + config.context_length
    return {**_formula(config), "embeddings": rows * config.d_model}


@mutant("count_by_formula", "gives the head a bias")
def head_with_a_bias(config):
    biases = config.vocab_size if config.bias and not config.tie_weights else 0
    return {**_formula(config), "head": _formula(config)["head"] + biases}


@mutant("count_by_formula", "gives both layers of the MLP as many biases as the model is wide")
def both_biases_as_wide_as_the_model(config):
    C, biases = config.d_model, 2 * config.d_model if config.bias else 0
    return {
        **_formula(config),
        "mlp": config.n_layers * (2 * C * config.feed_forward_width + biases),
    }


@rewrite("count_by_formula")
def layer_by_layer(config):
    def linear(n_in, n_out):
        return n_in * n_out + (n_out if config.bias else 0)

    width, inner = config.d_model, config.feed_forward_width
    norm = width + (width if config.bias else 0)
    counts = {"embeddings": config.vocab_size * width, "attention": 0, "mlp": 0}
    if config.position == "learned":
        counts["embeddings"] += config.context_length * width
    counts["norms"], counts["head"] = norm, 0
    for _ in range(config.n_layers):
        counts["attention"] += sum(linear(width, width) for _ in range(4))
        counts["mlp"] += linear(width, inner) + linear(inner, width)
        counts["norms"] += 2 * norm
    if not config.tie_weights:
        counts["head"] = width * config.vocab_size
    return counts


@rewrite("count_by_formula")
def from_a_list_of_shapes(config):
    C, inner = config.d_model, config.feed_forward_width
    weights = {
        "attention": [(C, C)] * 4 * config.n_layers,
        "mlp": [(inner, C), (C, inner)] * config.n_layers,
        "norms": [(C,)] * (2 * config.n_layers + 1),
        "embeddings": [(config.vocab_size, C)],
        "head": [] if config.tie_weights else [(config.vocab_size, C)],
    }
    if config.position == "learned":
        weights["embeddings"].append((config.context_length, C))
    if config.bias:
        for part in ("attention", "mlp", "norms"):
            weights[part] += [shape[:1] for shape in weights[part]]
    return {part: sum(math.prod(shape) for shape in shapes) for part, shapes in weights.items()}


# ---------------------------------------------------------------------------- training_memory


def _memory(config, batch_size):
    P = sum(transformer.count_by_formula(config).values())
    N, L, C = batch_size * config.context_length, config.n_layers, config.d_model
    norms = (2 * L + 1) * (N * C + 2 * N)
    attention = L * (5 * N * C + N * config.n_heads)
    mlp = L * (N * C + 2 * N * config.feed_forward_width)
    head = N * C + N * config.vocab_size
    activations = 4 * (norms + attention + mlp + head) + 2 * 8 * N
    return {"weights": 4 * P, "gradients": 4 * P, "optimizer": 8 * P, "activations": activations}


@mutant("training_memory", "counts gradients for every window of the batch")
def gradients_of_every_window(config, batch_size):
    memory = _memory(config, batch_size)
    return {**memory, "gradients": batch_size * memory["weights"]}


@mutant("training_memory", "has ids and targets of 4 bytes")
def ids_of_four_bytes(config, batch_size):
    memory = _memory(config, batch_size)
    memory["activations"] -= 2 * 4 * batch_size * config.context_length
    return memory


@mutant("training_memory", "forgets the number that attention keeps for each head")
def forgets_the_heads(config, batch_size):
    memory = _memory(config, batch_size)
    tokens = batch_size * config.context_length
    memory["activations"] -= 4 * config.n_layers * tokens * config.n_heads
    return memory


@mutant("training_memory", "counts the weights as if the head were always tied")
def head_weighs_nothing(config, batch_size):
    counts = transformer.count_by_formula(config)
    weights = 4 * (sum(counts.values()) - counts["head"])
    activations = _memory(config, batch_size)["activations"]
    return {
        "weights": weights,
        "gradients": weights,
        "optimizer": 2 * weights,
        "activations": activations,
    }


@mutant("training_memory", "forgets the norm at the end")
def forgets_the_last_norm(config, batch_size):
    memory = _memory(config, batch_size)
    memory["activations"] -= 4 * batch_size * config.context_length * (config.d_model + 2)
    return memory


@rewrite("training_memory")
def numbers_a_token(config, batch_size):
    width = config.d_model
    numbers = 2 + width  # the norm at the end
    for _ in range(config.n_layers):
        numbers += 2 * (width + 2)
        numbers += 5 * width + config.n_heads
        numbers += width + 2 * config.feed_forward_width
    numbers += width + config.vocab_size
    bytes_a_token = 4 * numbers + 8 + 8
    weights = sum(4 * count for count in transformer.count_by_formula(config).values())
    return {
        "activations": bytes_a_token * config.context_length * batch_size,
        "optimizer": weights + weights,
        "gradients": weights,
        "weights": weights,
    }


@rewrite("training_memory")
def from_shapes_of_what_is_kept(config, batch_size):
    B, T, C = batch_size, config.context_length, config.d_model
    stream, for_each_head = (B, T, C), (B, config.n_heads, T)
    norm = [stream, (B, T, 1), (B, T, 1)]
    block = [*norm, *[stream] * 5, for_each_head]
    block += [*norm, stream, *[(B, T, config.feed_forward_width)] * 2]
    kept = [*block * config.n_layers, *norm, stream, (B, T, config.vocab_size)]
    numbers = sum(math.prod(shape) for shape in kept)
    n_parameters = sum(transformer.count_by_formula(config).values())
    memory = {"weights": 1, "gradients": 1, "optimizer": 2}
    memory = {name: 4 * times * n_parameters for name, times in memory.items()}
    memory["activations"] = 4 * numbers + 8 * 2 * B * T
    return memory
