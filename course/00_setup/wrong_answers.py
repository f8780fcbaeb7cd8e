"""Module 00: mistakes by name, right answers in other words, and probes that tell them apart."""

import math

import torch
from torch import nn

from tiny_transformer.course.wrong_answers import mutant, probes, rewrite

# --- axis_sizes ---------------------------------------------------------------------------


@probes("axis_sizes")
def _(axis_sizes):
    x = torch.zeros(2, 5, 8)
    return [
        lambda: list(axis_sizes(x, "B T C").items()),
        lambda: list(axis_sizes(torch.zeros(3, 4), "T d_model").items()),
        lambda: list(axis_sizes(torch.zeros(3, 4).T, "A B").items()),
        lambda: axis_sizes(x, "B T"),
        lambda: axis_sizes(x, "B T C D"),
    ]


@mutant(
    "axis_sizes",
    "Fewer or more names than axes pass without a word: zip stops at the shorter of the two. "
    "Ask it to be strict, or compare the lengths first.",
)
def no_check_of_the_number(x, names):
    return dict(zip(names.split(), x.shape, strict=False))


@mutant(
    "axis_sizes",
    "Fewer names than axes pass without a word, and more are an IndexError. Compare the two "
    "lengths first and raise ValueError, or pair them with `zip(..., strict=True)`.",
)
def one_index_after_another(x, names):
    return {name: x.shape[i] for i, name in enumerate(names.split())}


@mutant(
    "axis_sizes",
    "Your names are single letters: `d_model` came apart. Separate the names at spaces.",
)
def letters_for_names(x, names):
    return dict(zip(names.replace(" ", ""), x.shape, strict=True))


@mutant(
    "axis_sizes",
    "Names and sizes are paired from the end: the first name belongs to the first axis.",
)
def from_the_end(x, names):
    return dict(zip(names.split(), reversed(x.shape), strict=True))


@mutant(
    "axis_sizes",
    "These are strides, the steps in memory from one entry to the next. Sizes are in `x.shape`.",
)
def strides_for_sizes(x, names):
    return dict(zip(names.split(), x.stride(), strict=True))


@mutant("axis_sizes", "Names and sizes are exchanged: the name is the key, the size its value.")
def sizes_for_keys(x, names):
    return dict(zip(x.shape, names.split(), strict=True))


@rewrite("axis_sizes")
def with_a_loop(x, names):
    words = names.split()
    if len(words) != x.ndim:
        raise ValueError(f"{len(words)} names for {x.ndim} axes")
    sizes = {}
    for i, name in enumerate(words):
        sizes[name] = x.size(i)
    return sizes


@rewrite("axis_sizes")
def with_a_comprehension(x, names):
    return {name: size for name, size in zip(names.split(), list(x.size()), strict=True)}  # noqa: C416


# --- count_parameters ---------------------------------------------------------------------


@probes("count_parameters")
def _(count_parameters):
    tied = nn.Sequential(nn.Embedding(11, 4), nn.Linear(4, 11, bias=False))
    tied[1].weight = tied[0].weight
    frozen = nn.Linear(3, 4)
    frozen.bias.requires_grad_(False)
    own = nn.Sequential(nn.Linear(2, 3))
    own.scale = nn.Parameter(torch.ones(7))
    return [
        lambda: count_parameters(nn.Linear(3, 4)),
        lambda: count_parameters(nn.Embedding(9, 5)),
        lambda: count_parameters(nn.Sequential(nn.Sequential(nn.Linear(2, 3)), nn.Linear(3, 5))),
        lambda: count_parameters(own),
        lambda: count_parameters(tied),
        lambda: count_parameters(nn.BatchNorm1d(5)),
        lambda: count_parameters(frozen),
    ]


@mutant(
    "count_parameters",
    "You count parameter tensors: a weight of 4 by 3 is one of them, and holds 12 numbers. Add up "
    "`numel()`.",
)
def tensors_for_numbers(module):
    return len(list(module.parameters()))


@mutant(
    "count_parameters",
    "Buffers are counted, and shared parameters twice: that is what `state_dict()` holds. Walk "
    "over `parameters()`.",
)
def of_the_state_dict(module):
    return sum(value.numel() for value in module.state_dict().values())


@mutant(
    "count_parameters",
    "Only the module's own parameters are counted, not those of the modules inside it: look at "
    "`recurse`, or at what `__dict__` holds.",
)
def without_what_is_inside(module):
    return sum(p.numel() for p in module.parameters(recurse=False))


@mutant(
    "count_parameters",
    "A parameter that two modules share is counted twice. `parameters()` of the whole module gives "
    "each once.",
)
def shared_ones_twice(module):
    return sum(p.numel() for m in module.modules() for p in m.parameters(recurse=False))


@mutant(
    "count_parameters",
    "Frozen parameters are left out: count also those with `requires_grad=False`.",
)
def without_frozen_ones(module):
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


@mutant("count_parameters", "Biases, and all else with one axis, are left out.")
def matrices_only(module):
    return sum(p.numel() for p in module.parameters() if p.ndim > 1)


@rewrite("count_parameters")
def by_shapes(module):
    return sum(math.prod(parameter.shape) for _, parameter in module.named_parameters())


@rewrite("count_parameters")
def by_identity(module):
    found = {}
    for part in module.modules():
        for parameter in part.parameters(recurse=False):
            found[id(parameter)] = parameter.numel()
    return sum(found.values())


# --- seeded_normal ------------------------------------------------------------------------


@probes("seeded_normal")
def _(seeded_normal):
    def after(draws):
        torch.rand(draws)
        return seeded_normal((4, 5), 3)

    def then(draws):
        torch.rand(draws)
        return seeded_normal((3,), 2), torch.rand(4)  # what the next one draws

    return [
        lambda: seeded_normal((4, 5), 0),
        lambda: seeded_normal((2,), 1),
        lambda: after(1),
        lambda: after(2),
        lambda: then(0)[1],
        lambda: then(3)[1],
    ]


@mutant(
    "seeded_normal",
    "`torch.manual_seed` reseeds the global generator: from then on everybody draws other numbers, "
    "dropout too. Make a `torch.Generator` of your own and seed that.",
)
def reseeds_the_global_generator(shape, seed):
    torch.manual_seed(seed)
    return torch.randn(shape)


@mutant(
    "seeded_normal",
    "The seed is not used: a new `torch.Generator()` begins at the same place each time. Seed it.",
)
def the_same_for_every_seed(shape, seed):
    return torch.randn(shape, generator=torch.Generator())


@mutant(
    "seeded_normal",
    "The numbers come from the global generator, so they depend on what was drawn before. Give "
    "`torch.randn` a generator of your own.",
)
def from_the_global_generator(shape, seed):
    return torch.randn(shape)


@mutant(
    "seeded_normal",
    "A generator of your own is seeded and not used: `torch.randn` must be given it.",
)
def seeds_a_generator_and_uses_another(shape, seed):
    torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        return torch.randn(shape)


@mutant(
    "seeded_normal",
    "These lie between 0 and 1, evenly: `rand`. The normal distribution is `randn`, with an n.",
)
def evenly_distributed(shape, seed):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@mutant(
    "seeded_normal",
    "Afterwards you seed the global generator as it once was seeded. That brings it back to its "
    "beginning, not to where it had come to. A generator of your own leaves it alone.",
)
def seeds_again_afterwards(shape, seed):
    before = torch.initial_seed()
    torch.manual_seed(seed)
    x = torch.randn(shape)
    torch.manual_seed(before)
    return x


@rewrite("seeded_normal")
def in_a_forked_generator(shape, seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return torch.randn(shape)


@rewrite("seeded_normal")
def by_keeping_the_state(shape, seed):
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    x = torch.randn(shape)
    torch.set_rng_state(state)
    return x


@rewrite("seeded_normal")
def filled_in_place(shape, seed):
    generator = torch.Generator()
    generator.manual_seed(seed)
    return torch.empty(shape).normal_(generator=generator)


# --- look_up ------------------------------------------------------------------------------


@probes("look_up")
def _(look_up):
    table = torch.arange(20.0).view(5, 4)
    learned = nn.Parameter(table.clone())
    return [
        lambda: look_up(table, torch.tensor([2, 0, 3])),
        lambda: look_up(table, torch.tensor([[1, 3, 2], [0, 2, 1]])),
        lambda: look_up(table, torch.tensor(2)),
        lambda: look_up(table, torch.tensor([[4, 4]])),
        lambda: look_up(learned, torch.tensor([1])),
        lambda: look_up(table.double(), torch.tensor([1])),
    ]


@mutant(
    "look_up",
    "You take columns of the table: a token's vector is a row. The ids index the first axis.",
)
def columns_for_rows(table, ids):
    return table[:, ids]


@mutant("look_up", "Ids begin at 0: your rows are one too early (row 0 for id 1).")
def ids_that_begin_at_one(table, ids):
    return table[ids - 1]


@mutant(
    "look_up",
    "The axes of the ids are flattened into one: keep them, and put the channels behind.",
)
def flat(table, ids):
    return table[ids.flatten()]


@mutant(
    "look_up",
    "The result is cut off from the table, so no gradient would reach it and it would never learn: "
    "look for `.data`, `.detach()`, `no_grad` or `torch.tensor(...)`.",
)
def cut_off(table, ids):
    return table.detach()[ids]


@mutant("look_up", "The result is float32 whatever the table is: keep its dtype.")
def always_float32(table, ids):
    return table[ids].float()


@mutant("look_up", "The rows come in the order of the table, each once; keep the order of the ids.")
def sorted_and_unique(table, ids):
    return table[ids.unique()]


@rewrite("look_up")
def by_embedding(table, ids):
    return nn.functional.embedding(ids, table)


@rewrite("look_up")
def by_index_select(table, ids):
    return table.index_select(0, ids.reshape(-1)).view(*ids.shape, table.shape[1])


@rewrite("look_up")
def by_a_one_hot_product(table, ids):
    return nn.functional.one_hot(ids, table.shape[0]).to(table.dtype) @ table


@rewrite("look_up")
def by_gather(table, ids):
    places = ids.reshape(-1, 1).expand(-1, table.shape[1])
    return table.gather(0, places).view(*ids.shape, table.shape[1])


# --- inputs_and_targets -------------------------------------------------------------------


@probes("inputs_and_targets")
def _(inputs_and_targets):
    return [
        lambda: inputs_and_targets(torch.tensor([[5, 6, 7, 8]])),
        lambda: inputs_and_targets(torch.tensor([[1, 2, 3], [4, 5, 6], [7, 8, 9]])),
        lambda: inputs_and_targets(torch.tensor([[3, 4]])),
    ]


@mutant(
    "inputs_and_targets",
    "The shift goes the wrong way: your target is the token before, which the model has read "
    "already. x has all but the last token, y all but the first.",
)
def the_wrong_way(windows):
    return windows[:, 1:], windows[:, :-1]


@mutant(
    "inputs_and_targets",
    "Inputs and targets are the same tokens: a model would only learn to repeat what it reads. "
    "Shift y by one.",
)
def no_shift(windows):
    return windows[:, :-1], windows[:, :-1]


@mutant(
    "inputs_and_targets",
    "`roll` carries the first token around to the end, where it is no true target. Cut off, do not "
    "roll.",
)
def rolled(windows):
    return windows, windows.roll(-1, dims=1)


@mutant("inputs_and_targets", "The target is two tokens ahead: shift by one.")
def two_ahead(windows):
    return windows[:, :-2], windows[:, 2:]


@mutant(
    "inputs_and_targets",
    "The shift runs along the batch: your target is another text. Shift along time, the second "
    "axis.",
)
def along_the_batch(windows):
    return windows[:-1], windows[1:]


@mutant(
    "inputs_and_targets",
    "There is a target for the last position only. Each position has one: that is T exercises in "
    "one pass.",
)
def only_the_last(windows):
    return windows[:, :-1], windows[:, -1]


@rewrite("inputs_and_targets")
def by_narrowing(windows):
    T = windows.shape[1] - 1
    return windows.narrow(1, 0, T), windows.narrow(1, 1, T)


@rewrite("inputs_and_targets")
def by_unfolding(windows):
    pairs = windows.unfold(1, 2, 1)
    return pairs[..., 0], pairs[..., 1]


# --- windows_at ---------------------------------------------------------------------------


@probes("windows_at")
def _(windows_at):
    ids = torch.arange(100, 140)
    return [
        lambda: windows_at(ids, torch.tensor([0, 4]), 3),
        lambda: windows_at(ids, torch.tensor([7, 3, 5]), 3),
        lambda: windows_at(ids, torch.tensor([7, 3, 5, 12]), 2),
        lambda: windows_at(ids, torch.tensor([36]), 4),
        lambda: windows_at(ids.to(torch.uint8), torch.tensor([2]), 2),
        lambda: windows_at(ids, torch.tensor([8, 2]), 1),
    ]


@mutant(
    "windows_at", "Each window is one token too long: T tokens begin at `start` and end before "
    "`start + length`.",
)  # fmt: skip
def one_too_long(ids, starts, length):
    return ids[starts[:, None] + torch.arange(length + 1)]


@mutant("windows_at", "Each window begins one token late: the first offset is 0.")
def one_too_late(ids, starts, length):
    return ids[starts[:, None] + torch.arange(1, length + 1)]


@mutant(
    "windows_at",
    "A start is taken for the number of a window (start times length). It is the place of a token.",
)
def starts_counted_in_windows(ids, starts, length):
    return ids[starts[:, None] * length + torch.arange(length)]


@mutant(
    "windows_at",
    "Windows lie in columns: `(T, B)`. The batch is the first axis: starts as a column `(B, 1)`, "
    "offsets as a row `(T,)`.",
)
def transposed(ids, starts, length):
    return ids[starts + torch.arange(length)[:, None]]


@mutant(
    "windows_at",
    "Your windows follow one another from the beginning; the starts are not used.",
)
def one_after_another(ids, starts, length):
    return ids[: len(starts) * length].view(len(starts), length)


@mutant(
    "windows_at",
    "Your windows follow one another from the first start; the others are not used.",
)
def only_the_first_start(ids, starts, length):
    first = int(starts[0])
    return ids[first : first + len(starts) * length].view(len(starts), length)


@mutant(
    "windows_at",
    "The dtype has changed: indexing keeps it, so look for a conversion, or a `zeros` that your "
    "windows are written into.",
)
def as_int64(ids, starts, length):
    return ids[starts[:, None] + torch.arange(length)].long()


@mutant(
    "windows_at",
    "`starts + torch.arange(length)` adds the two number by number (or fails where they differ in "
    "length). Every start must meet every offset: `(B, 1)` and `(T,)` give `(B, T)`.",
)
def added_number_by_number(ids, starts, length):
    return ids[starts + torch.arange(length)]


@rewrite("windows_at")
def by_stacking_slices(ids, starts, length):
    return torch.stack([ids[start : start + length] for start in starts.tolist()])


@rewrite("windows_at")
def by_unfolding_the_text(ids, starts, length):
    return ids.unfold(0, length, 1)[starts]


@rewrite("windows_at")
def by_strides(ids, starts, length):
    every = torch.as_strided(ids, (len(ids) - length + 1, length), (1, 1))
    return every.index_select(0, starts)


# --- hide_padding -------------------------------------------------------------------------


@probes("hide_padding")
def _(hide_padding):
    def scores(*shape):
        return torch.arange(float(math.prod(shape))).view(shape) - 3

    ragged = torch.tensor([[True, True, False, False], [True, True, True, False]])
    square = torch.tensor([[True, False, False], [True, True, False], [True, True, True]])

    def before_and_after():
        x = scores(1, 1, 2, 2)
        hide_padding(x, torch.tensor([[True, False]]))
        return x

    return [
        lambda: hide_padding(scores(1, 1, 2, 3), torch.tensor([[True, True, False]])),
        lambda: hide_padding(scores(2, 3, 5, 4), ragged),
        lambda: hide_padding(scores(2, 2, 3, 4), ragged),
        lambda: hide_padding(scores(2, 3, 2, 4), ragged),
        lambda: hide_padding(scores(3, 3, 3, 3), square),
        lambda: hide_padding(scores(1, 2, 3, 3), torch.ones(1, 3, dtype=torch.bool)),
        before_and_after,
        lambda: hide_padding(scores(1, 1, 2, 2).double(), torch.tensor([[True, False]])),
    ]


@mutant(
    "hide_padding",
    "The mask is the wrong way round: True means real, and real keys keep their score.",
)
def the_other_way_round(scores, is_real):
    return scores.masked_fill(is_real[:, None, None, :], -torch.inf)


@mutant(
    "hide_padding",
    "You hide queries, not keys: whole rows are -inf. The axis of is_real's tokens is the last "
    "one, `is_real[:, None, None, :]`.",
)
def queries_for_keys(scores, is_real):
    return scores.masked_fill(~is_real[:, None, :, None], -torch.inf)


@mutant(
    "hide_padding",
    "The mask's first axis meets the queries, not the batch: broadcasting starts at the last "
    "axis, so (B, K) is read as (1, 1, B, K). Put axes in between.",
)
def batch_meets_queries(scores, is_real):
    return scores.masked_fill(~is_real, -torch.inf)


@mutant(
    "hide_padding",
    "The mask's first axis meets the heads, not the batch: (B, 1, K) is read as (1, B, 1, K). One "
    "axis more is needed.",
)
def batch_meets_heads(scores, is_real):
    return scores.masked_fill(~is_real[:, None, :], -torch.inf)


@mutant(
    "hide_padding",
    "Padding gets the score 0, which a softmax gives a share like any other: exp(0) is 1. It must "
    "be -inf.",
)
def nought_for_infinity(scores, is_real):
    return scores.masked_fill(~is_real[:, None, None, :], 0.0)


@mutant(
    "hide_padding",
    "Padding gets a large negative number; where real scores are as low it would win weight. Use "
    "-inf.",
)
def a_billion_for_infinity(scores, is_real):
    return scores.masked_fill(~is_real[:, None, None, :], -1e9)


@mutant(
    "hide_padding",
    "0 times infinity is NaN: a product cannot choose. Use `masked_fill` or `torch.where`.",
)
def by_multiplying_infinity(scores, is_real):
    return scores + (~is_real[:, None, None, :]) * -torch.inf


@mutant(
    "hide_padding",
    "You write into `scores`: operations with an underscore at their end change their input.",
)
def in_place(scores, is_real):
    return scores.masked_fill_(~is_real[:, None, None, :], -torch.inf)


@mutant("hide_padding", "The dtype has become float32: keep that of the scores.")
def in_float32(scores, is_real):
    return scores.float().masked_fill(~is_real[:, None, None, :], -torch.inf)


@rewrite("hide_padding")
def by_where(scores, is_real):
    hidden = torch.tensor(-torch.inf, dtype=scores.dtype)
    return torch.where(is_real.unsqueeze(1).unsqueeze(1), scores, hidden)


@rewrite("hide_padding")
def by_adding(scores, is_real):
    extra = torch.zeros(is_real.shape, dtype=scores.dtype)
    extra[~is_real] = -torch.inf
    return scores + extra.view(is_real.shape[0], 1, 1, -1)


@rewrite("hide_padding")
def by_writing_into_a_copy(scores, is_real):
    result = scores.clone()
    for b in range(len(scores)):
        result[b, :, :, ~is_real[b]] = -torch.inf
    return result


# --- log_sum_exp --------------------------------------------------------------------------


@probes("log_sum_exp")
def _(log_sum_exp):
    infinite = torch.tensor([[-torch.inf, -torch.inf], [1.0, -torch.inf]])

    def before_and_after():
        x = torch.tensor([[1.0, 2.0]])
        log_sum_exp(x)
        return x

    return [
        lambda: log_sum_exp(torch.tensor([[0.0, 1.0, 2.5], [1.0, 2.0, 4.0]])),
        lambda: log_sum_exp(torch.tensor([1.0, 2.0, 3.0])),
        lambda: log_sum_exp(torch.arange(12.0).view(2, 2, 3)),
        lambda: log_sum_exp(torch.tensor([[1000.0, 999.0]])),
        lambda: log_sum_exp(torch.tensor([[-1000.0, -999.0]])),
        lambda: log_sum_exp(torch.tensor([[1000.0, 998.0], [0.0, 1.0], [-1000.0, -1003.0]])),
        lambda: log_sum_exp(infinite),
        lambda: log_sum_exp(torch.tensor([[1.0, 1.0]], dtype=torch.float64)),
        before_and_after,
    ]


@mutant(
    "log_sum_exp",
    "exp overflows to inf above 88 in float32, and vanishes far below 0: take the row's maximum "
    "out of the sum first.",
)
def as_it_stands(x):
    return x.exp().sum(dim=-1).log()


@mutant(
    "log_sum_exp",
    "The maximum that was subtracted is not added again: your rows are all between 0 and log N.",
)
def maximum_not_added_again(x):
    m = x.max(dim=-1, keepdim=True).values
    m = m.masked_fill(m == -torch.inf, 0.0)
    return (x - m).exp().sum(dim=-1).log()


@mutant(
    "log_sum_exp",
    "One maximum for the whole tensor: rows far below it vanish to -inf. Each row needs its own, "
    "`max(dim=-1, keepdim=True)`.",
)
def one_maximum_for_all(x):
    m = x.max()
    return m + (x - m).exp().sum(dim=-1).log()


@mutant(
    "log_sum_exp",
    "A row that is -inf throughout gives NaN: its maximum is -inf, and (-inf) - (-inf) is NaN. "
    "Subtract 0 there instead.",
)
def not_a_number_for_minus_infinity(x):
    m = x.max(dim=-1, keepdim=True).values
    return (m + (x - m).exp().sum(dim=-1, keepdim=True).log()).squeeze(-1)


@mutant(
    "log_sum_exp",
    "The last axis is still there, with size 1: drop it at the end (`squeeze(-1)`).",
)
def an_axis_too_many(x):
    m = x.max(dim=-1, keepdim=True).values
    m = m.masked_fill(m == -torch.inf, 0.0)
    return m + (x - m).exp().sum(dim=-1, keepdim=True).log()


@mutant(
    "log_sum_exp",
    "The sum runs over the first axis: it should run over the last one, within each row.",
)
def over_the_first_axis(x):
    m = x.max(dim=0, keepdim=True).values
    m = m.masked_fill(m == -torch.inf, 0.0)
    return (m + (x - m).exp().sum(dim=0, keepdim=True).log()).squeeze(0)


@mutant("log_sum_exp", "The sum runs over everything: give it the axis, `sum(dim=-1)`.")
def over_everything(x):
    m = x.max()
    return m + (x - m).exp().sum().log()


@mutant("log_sum_exp", "That is the log of the mean of the exponentials: do not divide by N.")
def of_the_mean(x):
    m = x.max(dim=-1, keepdim=True).values
    m = m.masked_fill(m == -torch.inf, 0.0)
    return (m + (x - m).exp().mean(dim=-1, keepdim=True).log()).squeeze(-1)


@mutant("log_sum_exp", "The sign of m is wrong: subtract it inside, add it outside.")
def maximum_subtracted_again(x):
    m = x.max(dim=-1, keepdim=True).values
    m = m.masked_fill(m == -torch.inf, 0.0)
    return ((x - m).exp().sum(dim=-1, keepdim=True).log() - m).squeeze(-1)


@mutant(
    "log_sum_exp",
    "Clamping changes the numbers instead of moving them: log_sum_exp of 1000 is 1000. Take the "
    "maximum out of the sum.",
)
def clamped(x):
    return x.clamp(-80, 80).exp().sum(dim=-1).log()


@rewrite("log_sum_exp")
def of_the_rest(x):
    m = x.amax(-1)
    safe = torch.where(torch.isinf(m), torch.zeros_like(m), m)
    return safe + torch.log(torch.exp(x - safe.unsqueeze(-1)).sum(-1))


@rewrite("log_sum_exp")
def number_by_number(x):
    total = x[..., 0]
    for i in range(1, x.shape[-1]):
        total = torch.logaddexp(total, x[..., i])
    return total


@rewrite("log_sum_exp")
def with_a_detached_maximum(x):
    m = torch.nan_to_num(x.detach().amax(dim=-1, keepdim=True), neginf=0.0)
    return (x - m).exp().sum(dim=-1).log() + m.squeeze(-1)


# --- running_mean -------------------------------------------------------------------------


@probes("running_mean")
def _(running_mean):
    return [
        lambda: running_mean(torch.tensor([[[2.0], [4.0], [9.0]]])),
        lambda: running_mean(torch.arange(24.0).view(2, 4, 3) ** 2),
        lambda: running_mean(torch.arange(27.0).view(3, 3, 3) ** 2),
        lambda: running_mean(torch.ones(1, 1, 2)),
        lambda: running_mean(torch.ones(1, 2, 1, dtype=torch.float64)),
    ]


def _tril(x, diagonal=0):
    return torch.ones(x.shape[1], x.shape[1], dtype=x.dtype).tril(diagonal)


@mutant(
    "running_mean",
    "You average over the future: the triangle is the upper one. Row t has weights for columns 0 "
    "to t.",
)
def over_the_future(x):
    weights = torch.ones(x.shape[1], x.shape[1], dtype=x.dtype).triu()
    return weights / weights.sum(-1, keepdim=True) @ x


@mutant(
    "running_mean",
    "These are running sums: row t has t + 1 ones, and must be divided by as many.",
)
def a_sum_for_a_mean(x):
    return _tril(x) @ x


@mutant(
    "running_mean",
    "Every row is divided by T. Row t has t + 1 entries, so its weights are 1 / (t + 1).",
)
def divided_by_the_length(x):
    return _tril(x) @ x / x.shape[1]


@mutant(
    "running_mean",
    "A position's own vector is left out (and the first has nothing to average): the triangle "
    "includes the diagonal.",
)
def without_itself(x):
    weights = _tril(x, -1)
    return weights / weights.sum(-1, keepdim=True) @ x


@mutant(
    "running_mean",
    "A softmax over zeros and ones gives the zeros a share too, so the future leaks in. Those "
    "entries would have to be -inf, or divide by the row's sum.",
)
def softmax_of_zeros_and_ones(x):
    return _tril(x).softmax(-1) @ x


@mutant(
    "running_mean",
    "The columns of your weights sum to one, not the rows: look at `dim` of the sum.",
)
def columns_that_sum_to_one(x):
    weights = _tril(x)
    return weights / weights.sum(0, keepdim=True) @ x


@mutant(
    "running_mean",
    "The mean runs over the batch, text after text. Texts must not see each other: average along "
    "time, the second axis.",
)
def along_the_batch_axis(x):
    counts = torch.arange(1, len(x) + 1, dtype=x.dtype).view(-1, 1, 1)
    return x.cumsum(0) / counts


@mutant("running_mean", "The mean runs over the channels: average along time, the second axis.")
def along_the_channels(x):
    return x.cumsum(-1) / torch.arange(1, x.shape[-1] + 1, dtype=x.dtype)


@mutant(
    "running_mean",
    "Every position has the mean of the whole text, and so sees the future. Keep the lower "
    "triangle only.",
)
def of_the_whole_text(x):
    return x.mean(dim=1, keepdim=True).expand_as(x).clone()


@mutant(
    "running_mean",
    "Your weights are float32 whatever x is: make them with `dtype=x.dtype` (and "
    "`device=x.device`).",
)
def weights_in_float32(x):
    weights = torch.ones(x.shape[1], x.shape[1]).tril()
    return weights / weights.sum(-1, keepdim=True) @ x


@rewrite("running_mean")
def by_a_cumulative_sum(x):
    counts = torch.arange(1, x.shape[1] + 1, dtype=x.dtype, device=x.device)
    return x.cumsum(dim=1) / counts[:, None]


@rewrite("running_mean")
def by_einsum(x):
    T = x.shape[1]
    keep = torch.arange(T)[:, None] >= torch.arange(T)
    weights = keep / keep.sum(dim=1, keepdim=True)
    return torch.einsum("ts,bsc->btc", weights.to(x.dtype), x)


@rewrite("running_mean")
def by_a_masked_softmax(x):
    scores = torch.zeros(x.shape[1], x.shape[1], dtype=x.dtype)
    scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -torch.inf)
    return scores.softmax(dim=-1) @ x


@rewrite("running_mean")
def by_loops(x):
    means = [x[:, : t + 1].mean(dim=1) for t in range(x.shape[1])]
    return torch.stack(means, dim=1)


# --- gradient_step ------------------------------------------------------------------------


@probes("gradient_step")
def _(gradient_step):
    def square(w):
        return (w**2).sum()

    def twice(requires_grad):
        w = torch.tensor([1.0, 3.0], requires_grad=requires_grad)
        first = gradient_step(w, square, 0.25).detach().clone()
        return first, gradient_step(w, square, 0.25)

    def left_behind(requires_grad):
        w = torch.tensor([1.0, 3.0], requires_grad=requires_grad)
        new = gradient_step(w, square, 0.25)
        old = w.detach().clone()
        new.detach().zero_()
        return old, w, w.requires_grad, w.grad is None, new.requires_grad

    def with_a_gradient_before():
        w = torch.tensor([1.0, 3.0], requires_grad=True)
        w.grad = torch.tensor([4.0, 4.0])
        return gradient_step(w, square, 0.25), w.grad

    return [
        lambda: gradient_step(torch.tensor([3.0]), square, 0.1),
        lambda: gradient_step(torch.tensor([[1.0, -2.0]]), lambda w: (w**3).sum(), 0.5),
        lambda: gradient_step(torch.tensor([0.5, 4.0]), lambda w: w.prod(), 2.0),
        lambda: twice(False),
        lambda: twice(True),
        lambda: left_behind(False),
        lambda: left_behind(True),
        with_a_gradient_before,
    ]


def _gradient(weights, loss_of):
    w = weights.detach().clone().requires_grad_()
    return torch.autograd.grad(loss_of(w), w)[0]


@mutant("gradient_step", "You go uphill: the gradient points where the loss grows. Subtract it.")
def uphill(weights, loss_of, learning_rate):
    return weights.detach() + learning_rate * _gradient(weights, loss_of)


@mutant("gradient_step", "The learning rate is not used: the step is as long as the gradient.")
def without_the_learning_rate(weights, loss_of, learning_rate):
    return weights.detach() - _gradient(weights, loss_of)


@mutant(
    "gradient_step",
    "You write into the weights that were given (`-=`, `sub_`, `.data`): make a new tensor.",
)
def in_place_on_the_weights(weights, loss_of, learning_rate):
    gradient = _gradient(weights, loss_of)
    with torch.no_grad():
        weights -= learning_rate * gradient
    return weights.detach().clone()


@mutant(
    "gradient_step",
    "`backward()` adds to `.grad`, so a second call sees the sum of two gradients, and the weights "
    "keep it. Use `torch.autograd.grad`, or a copy of the weights.",
)
def gradients_that_pile_up(weights, loss_of, learning_rate):
    weights.requires_grad_()
    loss_of(weights).backward()
    return (weights - learning_rate * weights.grad).detach()


@mutant(
    "gradient_step",
    "The new weights still require gradients and remember the step: a loop would keep every graph. "
    "Detach the result, or subtract under `torch.no_grad()`.",
)
def with_a_history(weights, loss_of, learning_rate):
    w = weights.detach().clone().requires_grad_()
    return w - learning_rate * torch.autograd.grad(loss_of(w), w)[0]


@mutant("gradient_step", "You return the step alone: subtract it from the weights.")
def the_step_alone(weights, loss_of, learning_rate):
    return -learning_rate * _gradient(weights, loss_of)


@mutant(
    "gradient_step",
    "Only the sign of the gradient is used: each weight moves by the learning rate. A step is the "
    "learning rate times the gradient.",
)
def by_sign(weights, loss_of, learning_rate):
    return weights.detach() - learning_rate * _gradient(weights, loss_of).sign()


@mutant(
    "gradient_step",
    "`requires_grad` of the weights that were given has changed: work on a copy "
    "(`weights.detach().clone().requires_grad_()`).",
)
def asks_the_weights_for_gradients(weights, loss_of, learning_rate):
    weights.requires_grad_()
    (gradient,) = torch.autograd.grad(loss_of(weights), weights)
    return (weights - learning_rate * gradient).detach()


@mutant(
    "gradient_step",
    "`weights.grad` is set to None (or nought) although it is not yours: somebody may be "
    "gathering gradients there.",
)
def clears_the_gradient(weights, loss_of, learning_rate):
    wanted = weights.requires_grad
    weights.grad = None
    weights.requires_grad_()
    loss_of(weights).backward()
    new = (weights - learning_rate * weights.grad).detach()
    weights.grad = None
    weights.requires_grad_(wanted)
    return new


@mutant(
    "gradient_step",
    "The gradient is scaled to length 1: a step should be longer where the loss is steeper.",
)
def of_unit_length(weights, loss_of, learning_rate):
    gradient = _gradient(weights, loss_of)
    return weights.detach() - learning_rate * gradient / gradient.norm()


@rewrite("gradient_step")
def with_backward_on_a_copy(weights, loss_of, learning_rate):
    w = weights.clone().detach()
    w.requires_grad = True
    loss_of(w).backward()
    with torch.no_grad():
        return w - learning_rate * w.grad


@rewrite("gradient_step")
def with_the_optimizer(weights, loss_of, learning_rate):
    w = nn.Parameter(weights.detach().clone())
    optimizer = torch.optim.SGD([w], lr=learning_rate)
    loss_of(w).backward()
    optimizer.step()
    return w.detach()


@rewrite("gradient_step")
def with_a_functional_gradient(weights, loss_of, learning_rate):
    return weights.detach() - learning_rate * torch.func.grad(loss_of)(weights.detach())
