"""Answers to module 00's exercises, written afresh."""

import math

import torch
import torch.nn.functional as F

from tiny_transformer.course.wrong_answers import mutant, rewrite

# ---------------------------------------------------------------------------------- axis_sizes


@mutant("axis_sizes", "takes each character for a name, so longer names fall apart")
def characters_as_names(x, names):
    return dict(zip(names.replace(" ", ""), x.shape, strict=True))


@mutant("axis_sizes", "leaves out what is left over, and raises nothing")
def shorter_of_the_two(x, names):
    return dict(zip(names.split(), x.shape, strict=False))


@mutant("axis_sizes", "raises an AssertionError, which is no ValueError")
def asserts_the_number(x, names):
    listed = names.split()
    assert len(listed) == x.dim()
    return dict(zip(listed, x.shape, strict=True))


@mutant("axis_sizes", "sorts the names, so they are not in the order of the axes")
def in_alphabetical_order(x, names):
    return dict(sorted(zip(names.split(), x.shape, strict=True)))


@mutant("axis_sizes", "splits at each single space, so a tensor without axes is refused")
def empty_name_for_no_axes(x, names):
    return dict(zip(names.split(" "), x.shape, strict=True))


@rewrite("axis_sizes")
def axis_by_axis(x, names):
    listed = names.split()
    if len(listed) != x.dim():
        raise ValueError(f"{len(listed)} names for {x.dim()} axes")
    sizes = {}
    for axis, name in enumerate(listed):
        sizes[name] = x.size(axis)
    return sizes


@rewrite("axis_sizes")
def popping_sizes(x, names):
    sizes = list(x.shape)
    if len(names.split()) - len(sizes):
        raise ValueError("as many names as axes, please")
    return {name: int(sizes.pop(0)) for name in names.split()}


# ---------------------------------------------------------------------------- count_parameters


@mutant("count_parameters", "leaves out frozen parameters")
def only_trainable(module):
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


@mutant("count_parameters", "counts buffers too, and shared parameters as often as they are named")
def all_of_the_state(module):
    return sum(value.numel() for value in module.state_dict().values())


@mutant("count_parameters", "counts a shared parameter once for each module that has it")
def shared_counts_twice(module):
    return sum(p.numel() for m in module.modules() for p in m.parameters(recurse=False))


@mutant("count_parameters", "misses what a module that has others inside owns itself")
def only_innermost_modules(module):
    found = {}
    for inner in module.modules():
        if not list(inner.children()):
            found.update({id(p): p.numel() for p in inner.parameters()})
    return sum(found.values())


@mutant("count_parameters", "takes parameters at one address for one; on the meta device all are")
def one_for_each_address(module):
    return sum({p.data_ptr(): p.numel() for p in module.parameters()}.values())


@rewrite("count_parameters")
def with_a_set_of_seen(module):
    seen, total = set(), 0
    for inner in module.modules():
        for parameter in inner.parameters(recurse=False):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                total += parameter.numel()
    return total


@rewrite("count_parameters")
def by_product_of_sizes(module):
    return sum(math.prod(p.shape) for p in dict(module.named_parameters()).values())


# ------------------------------------------------------------------------------- seeded_normal


@mutant("seeded_normal", "seeds the global generator")
def seeds_everybody(shape, seed):
    torch.manual_seed(seed)
    return torch.randn(shape)


@mutant("seeded_normal", "has the mean and the spread, but is uniform, not normal")
def uniform_of_unit_spread(shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(shape, generator=generator) - 0.5) * math.sqrt(12)


_generators = {}


@mutant("seeded_normal", "goes on where the last call with this seed stopped")
def keeps_its_generators(shape, seed):
    if seed not in _generators:
        _generators[seed] = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=_generators[seed])


@mutant("seeded_normal", "takes seed 0 for no seed")
def zero_is_no_seed(shape, seed):
    generator = torch.Generator()
    if seed:
        generator.manual_seed(seed)
    else:
        generator.seed()
    return torch.randn(shape, generator=generator)


@mutant("seeded_normal", "forces mean 0 and deviation 1 on the sample: one number becomes NaN")
def standardised(shape, seed):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return (x - x.mean()) / x.std()


@rewrite("seeded_normal")
def box_and_muller(shape, seed):
    uniform = torch.rand((2, *shape), generator=torch.Generator().manual_seed(seed))
    radius = (-2 * torch.log1p(-uniform[0])).sqrt()
    return radius * (2 * math.pi * uniform[1]).cos()


@rewrite("seeded_normal")
def puts_the_state_back(shape, seed):
    before = torch.default_generator.get_state()
    try:
        torch.default_generator.manual_seed(seed)
        return torch.empty(shape, dtype=torch.float32).normal_()
    finally:
        torch.default_generator.set_state(before)


# ------------------------------------------------------------------------------------- look_up


@mutant("look_up", "cuts the gradient off")
def without_gradient(table, ids):
    return table.detach()[ids]


@mutant("look_up", "returns float32 whatever the table is")
def one_hot_in_float32(table, ids):
    return F.one_hot(ids, table.shape[0]).float() @ table.float()


@mutant("look_up", "drops axes of size 1, such as a batch of one text")
def squeezes_the_ids(table, ids):
    return table[ids.squeeze()]


@mutant("look_up", "takes row 0 for padding, so it gets no gradient")
def row_zero_is_padding(table, ids):
    return F.embedding(ids, table, padding_idx=0)


@mutant("look_up", "lays all ids in one row")
def flattens_the_ids(table, ids):
    return table.index_select(0, ids.flatten())


@rewrite("look_up")
def by_gathering(table, ids):
    width = table.shape[1]
    rows = table.gather(0, ids.reshape(-1, 1).expand(-1, width))
    return rows.reshape(*ids.shape, width)


@rewrite("look_up")
def by_embedding(table, ids):
    return F.embedding(ids, table)


# -------------------------------------------------------------------------- inputs_and_targets


@mutant("inputs_and_targets", "returns the targets first")
def targets_first(windows):
    return windows[:, 1:], windows[:, :-1]


@mutant("inputs_and_targets", "cuts off texts instead of tokens")
def along_the_batch(windows):
    return windows[:-1], windows[1:]


@mutant("inputs_and_targets", "reads the last token too, and marks its target as -100")
def reads_all_and_ignores_one(windows):
    targets = windows.roll(-1, dims=1)
    targets[:, -1] = -100
    return windows, targets


@mutant("inputs_and_targets", "gives one target a window instead of one a position")
def only_the_last_target(windows):
    return windows[:, :-1], windows[:, -1:]


@mutant("inputs_and_targets", "drops the batch axis where there is one text")
def one_text_loses_its_axis(windows):
    return windows[:, :-1].squeeze(0), windows[:, 1:].squeeze(0)


@rewrite("inputs_and_targets")
def by_rolling(windows):
    width = windows.shape[1] - 1
    return windows.narrow(1, 0, width), windows.roll(-1, dims=1).narrow(1, 0, width)


@rewrite("inputs_and_targets")
def position_by_position(windows):
    columns = windows.unbind(dim=1)
    return torch.stack(columns[:-1], dim=1), torch.stack(columns[1:], dim=1)


# ---------------------------------------------------------------------------------- windows_at


@mutant("windows_at", "returns int64 whatever the ids are")
def through_python_lists(ids, starts, length):
    return torch.tensor([ids[start : start + length].tolist() for start in starts.tolist()])


@mutant("windows_at", "has no window that ends with the last token")
def never_the_last_window(ids, starts, length):
    return ids[:-1].unfold(0, length, 1)[starts]


@mutant("windows_at", "moves the starts that it was given")
def moves_the_starts(ids, starts, length):
    columns = []
    for _ in range(length):
        columns.append(ids[starts])
        starts += 1
    return torch.stack(columns, dim=1)


@mutant("windows_at", "sorts the windows by where they start")
def sorts_the_starts(ids, starts, length):
    return ids[starts.sort().values[:, None] + torch.arange(length)]


@mutant("windows_at", "has a row for each place in a window, and a column for each window")
def windows_as_columns(ids, starts, length):
    return torch.stack([ids[starts + offset] for offset in range(length)])


@rewrite("windows_at")
def by_unfolding(ids, starts, length):
    return ids.unfold(0, length, 1)[starts]


@rewrite("windows_at")
def slice_by_slice(ids, starts, length):
    return torch.stack([ids[start : start + length] for start in starts.tolist()])


# -------------------------------------------------------------------------------- hide_padding


@mutant("hide_padding", "writes into the scores that it was given")
def hides_in_place(scores, is_real):
    return scores.masked_fill_(~is_real[:, None, None, :], -torch.inf)


@mutant("hide_padding", "lines the texts up with the heads, not with the batch")
def texts_for_heads(scores, is_real):
    return scores.masked_fill(~is_real[:, None, :], -torch.inf)


@mutant("hide_padding", "fills in the smallest number instead of minus infinity")
def smallest_number(scores, is_real):
    return scores.masked_fill(~is_real[:, None, None, :], torch.finfo(scores.dtype).min)


@mutant("hide_padding", "believes that padding always stands at the end")
def counts_from_the_left(scores, is_real):
    lengths = is_real.sum(dim=-1)
    places = torch.arange(scores.shape[-1], device=scores.device)
    real = places < lengths[:, None]
    return scores.masked_fill(~real[:, None, None, :], -torch.inf)


@mutant("hide_padding", "adds a float32 mask, which makes float32 of half precision")
def adds_in_float32(scores, is_real):
    added = torch.zeros(is_real.shape, dtype=torch.float32, device=scores.device)
    added = added.masked_fill(~is_real, -torch.inf)
    return scores + added[:, None, None, :]


@rewrite("hide_padding")
def by_choosing(scores, is_real):
    return torch.where(is_real[:, None, None, :], scores, scores.new_full((), -torch.inf))


@rewrite("hide_padding")
def text_by_text(scores, is_real):
    hidden = scores.clone()
    for text in range(scores.shape[0]):
        hidden[text, :, :, ~is_real[text]] = -torch.inf
    return hidden


# --------------------------------------------------------------------------------- log_sum_exp


@mutant("log_sum_exp", "goes to float64, which overflows too, at 710")
def plain_in_float64(x):
    return x.double().exp().sum(dim=-1).log().to(x.dtype)


@mutant("log_sum_exp", "takes the maximum of all rows: a row far below it comes out -inf")
def maximum_of_everything(x):
    m = x.max().clamp(min=torch.finfo(x.dtype).min)
    return m + (x - m).exp().sum(dim=-1).log()


@mutant("log_sum_exp", "makes NaN of a row that is -inf throughout")
def nan_for_nothing(x):
    m = x.amax(dim=-1, keepdim=True)
    return (m + (x - m).exp().sum(dim=-1, keepdim=True).log()).squeeze(-1)


@mutant("log_sum_exp", "takes out the mean, and overflows where the numbers lie far apart")
def takes_out_the_mean(x):
    m = x.masked_fill(x == -torch.inf, 0.0).mean(dim=-1, keepdim=True)
    return (m + (x - m).exp().sum(dim=-1, keepdim=True).log()).squeeze(-1)


@mutant("log_sum_exp", "guards against -inf by a maximum of 0 or more: -200 throughout gives -inf")
def maximum_of_at_least_zero(x):
    m = x.amax(dim=-1).clamp(min=0.0)
    return m + (x - m.unsqueeze(-1)).exp().sum(dim=-1).log()


@rewrite("log_sum_exp")
def entry_by_entry(x):
    first, *others = x.unbind(dim=-1)
    m, total = first, torch.ones_like(first)
    for entry in others:
        new = torch.maximum(m, entry)
        finite = torch.where(new == -torch.inf, torch.zeros_like(new), new)
        total = total * (m - finite).exp() + (entry - finite).exp()
        m = new
    return m + total.log()


@rewrite("log_sum_exp")
def with_a_finite_maximum(x):
    m = x.sort(dim=-1, descending=True).values[..., :1].nan_to_num()
    return torch.log((x - m).exp().sum(dim=-1)) + m[..., 0]


# -------------------------------------------------------------------------------- running_mean


@mutant("running_mean", "makes its weights in float32, which no other dtype multiplies with")
def weights_in_float32(x):
    T = x.shape[1]
    ones = torch.ones(T, T, device=x.device).tril()
    return (ones / ones.sum(dim=-1, keepdim=True)) @ x


@mutant("running_mean", "takes a softmax of ones and zeros, which gives the future a weight")
def softmax_of_the_triangle(x):
    T = x.shape[1]
    return torch.ones(T, T, dtype=x.dtype, device=x.device).tril().softmax(dim=-1) @ x


@mutant("running_mean", "divides by the sums of the columns instead of the rows")
def columns_sum_to_one(x):
    T = x.shape[1]
    ones = torch.ones(T, T, dtype=x.dtype, device=x.device).tril()
    return (ones / ones.sum(dim=0, keepdim=True)) @ x


@mutant("running_mean", "goes on from one text into the next")
def texts_run_together(x):
    rows = x.flatten(0, 1)  # (B T, C)
    ones = torch.ones(len(rows), len(rows), dtype=x.dtype, device=x.device).tril()
    return ((ones / ones.sum(dim=-1, keepdim=True)) @ rows).view(x.shape)


@mutant("running_mean", "divides by the length of the text everywhere")
def divides_by_the_length(x):
    T = x.shape[1]
    return (torch.ones(T, T, dtype=x.dtype, device=x.device).tril() / T) @ x


@rewrite("running_mean")
def by_a_softmax_of_zeros(x):
    T = x.shape[1]
    later = torch.ones(T, T, dtype=torch.bool, device=x.device).triu(diagonal=1)
    zeros = torch.zeros(T, T, dtype=x.dtype, device=x.device)
    return torch.einsum("ts,bsc->btc", zeros.masked_fill(later, -torch.inf).softmax(dim=-1), x)


@rewrite("running_mean")
def row_by_row_weights(x):
    T = x.shape[1]
    weights = torch.zeros(T, T, dtype=x.dtype, device=x.device)
    for t in range(T):
        weights[t, : t + 1] = 1 / (t + 1)
    return torch.matmul(weights, x)


# ------------------------------------------------------------------------------- gradient_step


@mutant("gradient_step", "leaves a gradient in the weights, to which the next call adds")
def gradient_adds_up(weights, loss_of, learning_rate):
    was = weights.requires_grad
    weights.requires_grad_()
    loss_of(weights).backward()
    new = (weights - learning_rate * weights.grad).detach()
    weights.requires_grad_(was)
    return new


@mutant("gradient_step", "turns requires_grad on in the weights that it was given")
def turns_gradients_on(weights, loss_of, learning_rate):
    weights.requires_grad_()
    (gradient,) = torch.autograd.grad(loss_of(weights), weights)
    return (weights - learning_rate * gradient).detach()


@mutant("gradient_step", "returns weights that require gradients")
def still_wants_gradients(weights, loss_of, learning_rate):
    new = weights.detach().clone().requires_grad_()
    optimizer = torch.optim.SGD([new], lr=learning_rate)
    loss_of(new).backward()
    optimizer.step()
    return new


@mutant("gradient_step", "changes the weights that it was given")
def steps_in_place(weights, loss_of, learning_rate):
    w = weights.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss_of(w), w)
    weights.data -= learning_rate * gradient
    return weights.detach().clone()


@mutant("gradient_step", "throws away a gradient that was there before")
def old_gradient_is_lost(weights, loss_of, learning_rate):
    was = weights.requires_grad
    weights.requires_grad_()
    weights.grad = None
    loss_of(weights).backward()
    new = weights.detach() - learning_rate * weights.grad
    weights.grad = None
    weights.requires_grad_(was)
    return new


@rewrite("gradient_step")
def by_torch_func(weights, loss_of, learning_rate):
    start = weights.detach()
    return start - learning_rate * torch.func.grad(loss_of)(start).detach()


@rewrite("gradient_step")
def backward_on_a_copy(weights, loss_of, learning_rate):
    w = weights.detach().clone().requires_grad_()
    loss_of(w).backward(inputs=[w])
    with torch.no_grad():
        w -= learning_rate * w.grad
    return w.detach()
