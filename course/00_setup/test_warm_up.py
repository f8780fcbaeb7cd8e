"""Module 00, tested: what each function of `warm_up.py` promises."""

import math

import torch
from my_transformer import warm_up
from torch import nn

from tiny_transformer.course.expect import (
    expect,
    expect_equal,
    expect_raises,
    expect_shape,
    expect_unchanged,
)

# --- axis_sizes ---------------------------------------------------------------------------


def test_axis_sizes__gives_each_axis_its_name_in_order():
    expect_equal(
        warm_up.axis_sizes(torch.zeros(2, 5, 8), "B T C"),
        {"B": 2, "T": 5, "C": 8},
        'axis_sizes(torch.zeros(2, 5, 8), "B T C")',
    )


def test_axis_sizes__keeps_the_order_of_the_axes():
    got = warm_up.axis_sizes(torch.zeros(4, 3, 2, 1), "X W Z Y")
    expect_equal(list(got), ["X", "W", "Z", "Y"], "the names in the answer")


def test_axis_sizes__takes_names_of_several_letters():
    expect_equal(
        warm_up.axis_sizes(torch.zeros(3, 256), "T  d_model"),
        {"T": 3, "d_model": 256},
        'axis_sizes(torch.zeros(3, 256), "T  d_model")',
    )


def test_axis_sizes__takes_a_scalar_and_an_empty_axis():
    expect_equal(warm_up.axis_sizes(torch.tensor(1.0), ""), {}, "the axes of a scalar")
    expect_equal(
        warm_up.axis_sizes(torch.zeros(0, 2), "B T"), {"B": 0, "T": 2}, "the axes of (0, 2)"
    )


def test_axis_sizes__sees_the_shape_and_not_the_memory():
    x = torch.zeros(3, 4).T
    expect_equal(warm_up.axis_sizes(x, "T B"), {"T": 4, "B": 3}, "the axes of a transposed tensor")


def test_axis_sizes__gives_plain_whole_numbers():
    for size in warm_up.axis_sizes(torch.zeros(2, 3), "B T").values():
        expect(type(size) is int, f"A size should be an int, and is a {type(size).__name__}.")


def test_axis_sizes__refuses_another_number_of_names():
    x = torch.zeros(2, 5, 8)
    for names in ["B T", "B T C D", ""]:
        expect_raises(
            ValueError, lambda n=names: warm_up.axis_sizes(x, n), f"names {names!r} for 3 axes"
        )


# --- count_parameters ---------------------------------------------------------------------


def test_count_parameters__counts_weight_and_bias():
    expect_equal(warm_up.count_parameters(nn.Linear(3, 4)), 16, "Linear(3, 4), 12 + 4,")


def test_count_parameters__counts_numbers_and_not_tensors():
    expect_equal(
        warm_up.count_parameters(nn.Embedding(99, 32)), 3168, "Embedding(99, 32), 99 times 32,"
    )


def test_count_parameters__counts_the_modules_inside_modules():
    inner = nn.Sequential(nn.Linear(2, 3), nn.ReLU())  # 6 + 3
    outer = nn.Sequential(inner, nn.ModuleDict({"a": nn.Linear(3, 5, bias=False)}))  # 15
    outer.scale = nn.Parameter(torch.ones(7))  # 7
    expect_equal(warm_up.count_parameters(outer), 31, "a module of modules, 9 + 15 + 7,")


def test_count_parameters__counts_a_shared_parameter_once():
    model = nn.Sequential(nn.Embedding(11, 4), nn.Linear(4, 11, bias=False))
    model[1].weight = model[0].weight
    expect_equal(
        warm_up.count_parameters(model), 44, "an embedding of 11 x 4 that an output layer shares,"
    )
    twice = nn.Linear(2, 2)
    expect_equal(
        warm_up.count_parameters(nn.Sequential(twice, nn.ReLU(), twice)), 6, "one layer used twice,"
    )


def test_count_parameters__leaves_out_buffers():
    norm = nn.BatchNorm1d(5)  # weight and bias; running mean and variance are buffers
    expect_equal(warm_up.count_parameters(norm), 10, "BatchNorm1d(5), 5 + 5 and three buffers,")


def test_count_parameters__counts_frozen_ones():
    layer = nn.Linear(3, 4)
    layer.weight.requires_grad_(False)
    expect_equal(warm_up.count_parameters(layer), 16, "Linear(3, 4) with a frozen weight,")


def test_count_parameters__counts_where_there_is_no_memory():
    with torch.device("meta"):  # shapes alone: how large models are measured
        model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    expect_equal(warm_up.count_parameters(model), 26, "two layers on the meta device, 16 + 10,")


def test_count_parameters__counts_a_scalar_and_nothing():
    module = nn.Module()
    expect_equal(warm_up.count_parameters(module), 0, "a module without parameters,")
    module.scale = nn.Parameter(torch.tensor(1.0))
    expect_equal(warm_up.count_parameters(module), 1, "a module with one scalar,")


# --- seeded_normal ------------------------------------------------------------------------


def test_seeded_normal__has_the_shape():
    for shape in [(2, 3), (5,), (4, 1, 3)]:
        x = warm_up.seeded_normal(shape, 0)
        expect_shape(x, shape, f"seeded_normal({shape}, 0)")
        expect(x.dtype == torch.float32, f"The numbers should be float32, and are {x.dtype}.")


def test_seeded_normal__is_the_same_for_the_same_seed():
    for seed in (7, 0):
        first = warm_up.seeded_normal((3, 4), seed)
        torch.rand(5)  # somebody else draws in between
        again = warm_up.seeded_normal((3, 4), seed)
        expect_equal(again, first, f"the second seeded_normal((3, 4), {seed})", tolerance=0)


def test_seeded_normal__is_another_for_another_seed():
    draws = [warm_up.seeded_normal((3, 4), seed) for seed in range(5)]
    for a in range(5):
        for b in range(a):
            expect(not torch.equal(draws[a], draws[b]), f"Seeds {a} and {b} give equal numbers.")


def test_seeded_normal__leaves_the_global_generator_alone():
    torch.manual_seed(123)
    torch.rand(3)
    wanted = torch.rand(4)
    torch.manual_seed(123)
    torch.rand(3)
    warm_up.seeded_normal((2, 3), 1)
    expect_equal(
        torch.rand(4),
        wanted,
        "what the global generator draws after your function",
        tolerance=0,
        note="A generator of your own leaves the global one alone.",
    )


def test_seeded_normal__does_not_ask_the_global_generator():
    torch.manual_seed(1)
    first = warm_up.seeded_normal((2, 3), 5)
    torch.manual_seed(2)
    expect_equal(
        warm_up.seeded_normal((2, 3), 5),
        first,
        "seeded_normal((2, 3), 5) after another torch.manual_seed",
        tolerance=0,
    )


def test_seeded_normal__draws_from_the_standard_normal_distribution():
    x = warm_up.seeded_normal((100, 1000), 3).double()
    moments = torch.stack([x.mean(), x.std(), (x**3).mean(), (x**4).mean()])
    names = ["mean", "standard deviation", "third moment", "fourth moment"]
    wanted = [0.0, 1.0, 0.0, 3.0]
    for got, expected, name in zip(moments.tolist(), wanted, names, strict=True):
        expect_equal(got, expected, f"the {name} of 100,000 numbers", tolerance=0.1)
    few = torch.cat([warm_up.seeded_normal((2,), seed) for seed in range(100)])
    expect(bool(few.isfinite().all()), "Of two numbers, one is not finite.")
    expect(few.abs().max() > 1.5, "Pairs of numbers stay near 0: scale each draw by nothing.")
    rows = torch.corrcoef(x[:20]) - torch.eye(20)
    expect(rows.abs().max() < 0.2, "Rows of the result resemble each other: draw all of them.")


# --- look_up ------------------------------------------------------------------------------


def test_look_up__gives_the_rows_that_the_ids_name():
    table = torch.tensor([[0.0, 1.0], [10.0, 11.0], [20.0, 21.0]])
    expect_equal(
        warm_up.look_up(table, torch.tensor([2, 0])),
        torch.tensor([[20.0, 21.0], [0.0, 1.0]]),
        "look_up(table, [2, 0])",
        dims="ids C",
    )


def test_look_up__adds_the_channels_to_the_shape_of_the_ids():
    table = torch.randn(7, 4)
    ids = torch.randint(7, (2, 3, 5))
    got = warm_up.look_up(table, ids)
    expect_shape(got, (2, 3, 5, 4), "look_up of ids (2, 3, 5) in a table (7, 4)", "a b c C")
    for place in [(0, 0, 0), (1, 2, 4), (1, 0, 3), (0, 2, 1)]:
        expect_equal(got[place], table[ids[place].item()], f"the vector at {place}", dims="C")


def test_look_up__takes_one_id_and_no_ids():
    table = torch.randn(3, 4)
    expect_equal(warm_up.look_up(table, torch.tensor(2)), table[2], "look_up(table, 2)", dims="C")
    expect_shape(
        warm_up.look_up(table, torch.zeros(2, 0, dtype=torch.int64)), (2, 0, 4), "no ids at all"
    )


def test_look_up__agrees_with_an_embedding_layer():
    ids = torch.randint(9, (4, 6))
    layer = nn.Embedding(9, 5)
    wanted = layer(ids)
    expect_equal(warm_up.look_up(layer.weight, ids), wanted, "your lookup", dims="B T C")


def test_look_up__keeps_the_dtype():
    for dtype in [torch.float64, torch.bfloat16]:
        table = torch.randn(5, 2).to(dtype)
        expect_equal(
            warm_up.look_up(table, torch.tensor([[4, 1]])), table[[4, 1]][None], f"a {dtype} lookup"
        )


def test_look_up__sends_the_gradient_to_the_rows_that_were_used():
    table = torch.zeros(4, 2, requires_grad=True)
    got = warm_up.look_up(table, torch.tensor([1, 3, 1, 0]))
    expect(got.requires_grad, "No gradient can flow to the table: is it detached somewhere?")
    got.sum().backward()
    wanted = torch.tensor([[1.0, 1.0], [2.0, 2.0], [0.0, 0.0], [1.0, 1.0]])
    expect_equal(table.grad, wanted, "the table's gradient, where row 1 was used twice", dims="V C")


# --- inputs_and_targets -------------------------------------------------------------------


def test_inputs_and_targets__pairs_each_token_with_the_next():
    got = warm_up.inputs_and_targets(torch.tensor([[5, 6, 7, 8]]))
    expect(isinstance(got, tuple) and len(got) == 2, "Return two tensors: return x, y.")
    x, y = got
    expect_equal(x, torch.tensor([[5, 6, 7]]), "x, what is read,", dims="B T")
    expect_equal(y, torch.tensor([[6, 7, 8]]), "y, what comes next,", dims="B T")


def test_inputs_and_targets__does_so_for_each_text_by_itself():
    windows = torch.randint(99, (3, 6))
    x, y = warm_up.inputs_and_targets(windows)
    expect_shape(x, (3, 5), "x of windows (3, 6)", "B T")
    expect_shape(y, (3, 5), "y of windows (3, 6)", "B T")
    for b in range(3):
        for t in range(5):
            expect_equal(x[b, t].item(), windows[b, t].item(), f"x[{b}, {t}]")
            expect_equal(y[b, t].item(), windows[b, t + 1].item(), f"y[{b}, {t}]")


def test_inputs_and_targets__takes_the_shortest_window():
    x, y = warm_up.inputs_and_targets(torch.tensor([[3, 4], [5, 6]]))
    expect_equal(x, torch.tensor([[3], [5]]), "x of windows of two tokens", dims="B T")
    expect_equal(y, torch.tensor([[4], [6]]), "y of windows of two tokens", dims="B T")


def test_inputs_and_targets__leaves_the_windows_alone():
    windows = torch.randint(99, (2, 4))
    before = windows.clone()
    x, _ = warm_up.inputs_and_targets(windows)
    expect_unchanged(before, windows, "windows")
    expect(x.dtype == torch.int64, f"The ids should stay int64, and are {x.dtype}.")


# --- windows_at ---------------------------------------------------------------------------


def test_windows_at__cuts_one_window_for_each_start():
    expect_equal(
        warm_up.windows_at(torch.arange(100, 110), torch.tensor([0, 4]), 3),
        torch.tensor([[100, 101, 102], [104, 105, 106]]),
        "windows_at(100..109, starts=[0, 4], length=3)",
        dims="B T",
    )


def test_windows_at__lets_windows_overlap_and_come_in_any_order():
    ids = torch.randint(99, (50,))
    starts = torch.tensor([41, 3, 4, 3, 0])
    got = warm_up.windows_at(ids, starts, 9)
    expect_shape(got, (5, 9), "windows at 5 starts, 9 long,", "B T")
    for b, start in enumerate(starts.tolist()):
        expect_equal(got[b], ids[start : start + 9], f"the window at {start}", dims="T")


def test_windows_at__reaches_the_end_of_the_text():
    ids = torch.tensor([4, 3, 2, 1])
    expect_equal(
        warm_up.windows_at(ids, torch.tensor([2]), 2), torch.tensor([[2, 1]]), "the last window"
    )
    expect_equal(warm_up.windows_at(ids, torch.tensor([0]), 4), ids[None], "the whole text")


def test_windows_at__takes_as_many_windows_as_tokens():
    ids = torch.tensor([7, 8, 9, 10, 11])
    got = warm_up.windows_at(ids, torch.tensor([0, 1, 2]), 3)
    wanted = torch.tensor([[7, 8, 9], [8, 9, 10], [9, 10, 11]])
    expect_equal(got, wanted, "3 windows of 3", dims="B T")
    got = warm_up.windows_at(ids, torch.tensor([2, 0, 1]), 3)
    expect_equal(got, wanted[[2, 0, 1]], "3 windows of 3 in another order", dims="B T")


def test_windows_at__keeps_the_dtype_of_the_text():
    for dtype in [torch.uint8, torch.int16, torch.int64]:
        ids = torch.arange(20, 30).to(dtype)
        got = warm_up.windows_at(ids, torch.tensor([1, 5]), 2)
        wanted = torch.tensor([[21, 22], [25, 26]]).to(dtype)
        expect_equal(got, wanted, f"windows of a {dtype} text", dims="B T")


def test_windows_at__leaves_text_and_starts_alone():
    ids, starts = torch.arange(10), torch.tensor([3, 1])
    got = warm_up.windows_at(ids, starts, 2)
    expect_unchanged(torch.arange(10), ids, "ids")
    expect_unchanged(torch.tensor([3, 1]), starts, "starts")
    got[0, 0] = 99
    expect_unchanged(torch.arange(10), ids, "ids, when somebody writes into a window,")


# --- hide_padding -------------------------------------------------------------------------

INF = math.inf


def test_hide_padding__hides_the_keys_that_are_padding():
    scores = torch.tensor([[[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]]])
    expect_equal(
        warm_up.hide_padding(scores, torch.tensor([[True, True, False]])),
        torch.tensor([[[[1.0, 2.0, -INF], [4.0, 5.0, -INF]]]]),
        "the scores of three keys, the last of which is padding",
        dims="B H queries keys",
    )


def _hidden_by_loops(scores, is_real):
    wanted = scores.clone()
    for b in range(scores.shape[0]):
        for k in range(scores.shape[3]):
            if not is_real[b, k]:
                wanted[b, :, :, k] = -INF
    return wanted


def test_hide_padding__hides_the_padding_of_each_text():
    scores = torch.randn(2, 3, 4, 5)
    is_real = torch.tensor([[True, True, True, False, False], [True, True, True, True, False]])
    expect_equal(
        warm_up.hide_padding(scores, is_real),
        _hidden_by_loops(scores, is_real),
        "the scores of two texts of 3 and 4 tokens",
        dims="B H queries keys",
    )


def test_hide_padding__takes_equal_sizes_without_mixing_up_axes():
    scores = torch.randn(3, 3, 3, 3)
    is_real = torch.tensor([[True, False, False], [True, True, False], [True, True, True]])
    expect_equal(
        warm_up.hide_padding(scores, is_real),
        _hidden_by_loops(scores, is_real),
        "the scores of 3 texts, 3 heads, 3 queries and 3 keys",
        dims="B H queries keys",
        note="Broadcasting starts at the last axis: which axes does is_real meet?",
    )


def test_hide_padding__gives_padding_no_weight_in_a_softmax():
    scores = torch.randn(2, 2, 3, 4) - 1e9 * torch.tensor([1.0, 0.0])[:, None, None, None]
    is_real = torch.tensor([[False, True, True, False], [True, False, True, True]])
    weights = warm_up.hide_padding(scores, is_real).softmax(dim=-1)
    hidden = weights[~is_real[:, None, None, :].expand_as(weights)]
    expect_equal(
        hidden, torch.zeros_like(hidden), "the weights of padding, where all scores are very low,"
    )


def test_hide_padding__changes_nothing_where_nothing_is_padding():
    scores = torch.randn(2, 1, 3, 3)
    is_real = torch.ones(2, 3, dtype=torch.bool)
    got = warm_up.hide_padding(scores, is_real)
    expect_equal(got, scores, "the scores without padding", dims="B H queries keys", tolerance=0)


def test_hide_padding__leaves_scores_and_mask_alone():
    scores, is_real = torch.randn(1, 2, 2, 3), torch.tensor([[True, False, True]])
    before = scores.clone()
    warm_up.hide_padding(scores, is_real)
    expect_unchanged(before, scores, "scores")
    expect_unchanged(torch.tensor([[True, False, True]]), is_real, "is_real")


def test_hide_padding__keeps_the_dtype():
    for dtype in [torch.float64, torch.bfloat16]:
        scores, is_real = torch.randn(1, 1, 2, 2).to(dtype), torch.tensor([[True, False]])
        got = warm_up.hide_padding(scores, is_real)
        expect_equal(got, _hidden_by_loops(scores, is_real), f"{dtype} scores")


def test_hide_padding__lets_gradients_through_to_real_keys_only():
    scores = torch.randn(1, 2, 2, 3, requires_grad=True)
    got = warm_up.hide_padding(scores, torch.tensor([[True, False, True]]))
    got[got > -INF].sum().backward()
    wanted = torch.ones(1, 2, 2, 3)
    wanted[..., 1] = 0
    expect_equal(scores.grad, wanted, "the gradient of the scores", dims="B H queries keys")


# --- log_sum_exp --------------------------------------------------------------------------


def test_log_sum_exp__is_right_for_small_numbers():
    x = torch.tensor([[0.0, 0.0], [1.0, 2.0]])
    wanted = torch.tensor([math.log(2), math.log(math.e + math.e**2)])
    expect_equal(warm_up.log_sum_exp(x), wanted, "log_sum_exp([[0, 0], [1, 2]])", dims="rows")


def test_log_sum_exp__works_along_the_last_axis_of_any_shape():
    x = torch.randn(2, 3, 5)
    got = warm_up.log_sum_exp(x)
    expect_equal(got, x.exp().sum(-1).log(), "log_sum_exp of (2, 3, 5)", dims="a b")
    expect_equal(warm_up.log_sum_exp(x[0, 0]), got[0, 0], "log_sum_exp of (5,)")
    expect_equal(warm_up.log_sum_exp(x[..., :1]), x[..., 0], "log_sum_exp of rows of one number")


def test_log_sum_exp__does_not_overflow():
    x = torch.tensor([[1000.0, 1000.0], [5000.0, 0.0]])
    wanted = torch.tensor([1000 + math.log(2), 5000.0])
    expect_equal(warm_up.log_sum_exp(x), wanted, "log_sum_exp of numbers in the thousands")


def test_log_sum_exp__does_not_vanish():
    x = torch.tensor([[-1000.0, -1000.0], [-200.0, -201.0]])
    wanted = torch.tensor([-1000 + math.log(2), -200 + math.log(1 + math.exp(-1))])
    expect_equal(warm_up.log_sum_exp(x), wanted, "log_sum_exp of numbers far below zero")


def test_log_sum_exp__treats_each_row_by_itself():
    x = torch.tensor([[1e4, 1e4 - 1], [0.0, 1.0], [-1e4, -1e4 - 2]])
    expect_equal(
        warm_up.log_sum_exp(x),
        torch.logsumexp(x, -1),
        "log_sum_exp of a high, a middle and a low row",
        dims="rows",
        note="Each row needs a maximum of its own.",
    )


def test_log_sum_exp__agrees_with_pytorch_in_value_and_gradient():
    for scale in [1.0, 30.0, 1000.0]:
        x = (torch.randn(4, 6, dtype=torch.float64) * scale).requires_grad_()
        got, wanted = warm_up.log_sum_exp(x), torch.logsumexp(x, -1)
        expect_equal(got, wanted, f"log_sum_exp of numbers of size {scale:g}", tolerance=1e-12)
        (gradient,) = torch.autograd.grad(got.sum(), x)
        expect_equal(gradient, x.softmax(-1), "its gradient, which is the softmax,", tolerance=1e-9)


def test_log_sum_exp__takes_minus_infinity():
    x = torch.tensor([[0.0, -INF], [-INF, 3.0]])
    expect_equal(warm_up.log_sum_exp(x), torch.tensor([0.0, 3.0]), "rows with an entry of -inf")


def test_log_sum_exp__of_a_row_of_minus_infinity_is_minus_infinity():
    x = torch.tensor([[-INF, -INF], [1.0, -INF]])
    expect_equal(
        warm_up.log_sum_exp(x), torch.tensor([-INF, 1.0]), "a row that is -inf throughout, and one "
        "that is not", note="(-inf) - (-inf) is NaN: what is m in the first row?",
    )  # fmt: skip


def test_log_sum_exp__keeps_dtype_and_input():
    for dtype in [torch.float64, torch.bfloat16]:
        x = torch.tensor([[1.0, 1.0]], dtype=dtype)
        expect_equal(warm_up.log_sum_exp(x), torch.logsumexp(x, -1), f"of {dtype}", tolerance=1e-2)
    x = torch.tensor([[3.0, -INF], [-INF, -INF]])
    before = x.clone()
    warm_up.log_sum_exp(x)
    expect_unchanged(before, x, "x")


# --- running_mean -------------------------------------------------------------------------


def test_running_mean__is_right_for_three_numbers():
    expect_equal(
        warm_up.running_mean(torch.tensor([[[2.0], [4.0], [9.0]]])),
        torch.tensor([[[2.0], [3.0], [5.0]]]),
        "the running mean of 2, 4, 9",
        dims="B T C",
    )


def test_running_mean__treats_texts_and_channels_by_themselves():
    x = torch.randn(2, 5, 3)
    got = warm_up.running_mean(x)
    wanted = torch.stack(
        [torch.stack([x[b, : t + 1].mean(dim=0) for t in range(5)]) for b in range(2)]
    )
    expect_equal(got, wanted, "the running mean of (2, 5, 3)", dims="B T C")


def test_running_mean__takes_equal_sizes_without_mixing_up_axes():
    x = torch.randn(4, 4, 4)
    wanted = torch.stack([x[:, : t + 1].mean(dim=1) for t in range(4)], dim=1)
    expect_equal(warm_up.running_mean(x), wanted, "the running mean of (4, 4, 4)", dims="B T C")


def test_running_mean__does_not_look_into_the_future():
    x = torch.randn(1, 6, 2)
    changed = x.clone()
    changed[:, 4:] += 100
    expect_equal(
        warm_up.running_mean(changed)[:, :4],
        warm_up.running_mean(x)[:, :4],
        "the first four means after the last two vectors were changed",
        dims="B T C",
    )


def test_running_mean__of_one_position_is_that_position():
    x = torch.randn(3, 1, 2)
    expect_equal(warm_up.running_mean(x), x, "the running mean of one position", dims="B T C")


def test_running_mean__keeps_the_dtype():
    x = torch.randn(2, 3, 2, dtype=torch.float64)
    wanted = x.cumsum(1) / torch.arange(1, 4, dtype=torch.float64)[:, None]
    expect_equal(warm_up.running_mean(x), wanted, "float64 means", tolerance=1e-6)
    got = warm_up.running_mean(x.bfloat16())
    expect(got.dtype == torch.bfloat16, f"Means of bfloat16 should be so too, and are {got.dtype}.")


def test_running_mean__leaves_the_input_alone_and_lets_gradients_through():
    x = torch.randn(1, 3, 1)
    before = x.clone()
    warm_up.running_mean(x)
    expect_unchanged(before, x, "x")
    x.requires_grad_()
    warm_up.running_mean(x).sum().backward()
    wanted = torch.tensor([[[1 + 1 / 2 + 1 / 3], [1 / 2 + 1 / 3], [1 / 3]]])
    expect_equal(x.grad, wanted, "the gradient of the sum of three means", dims="B T C")


# --- gradient_step ------------------------------------------------------------------------


def _square(w):
    return (w**2).sum()


def test_gradient_step__goes_down_a_parabola():
    got = warm_up.gradient_step(torch.tensor([3.0]), _square, 0.1)
    expect_equal(got, torch.tensor([2.4]), "3 - 0.1 * 6")


def test_gradient_step__follows_the_gradient_of_any_loss():
    w, target = torch.randn(4, 3), torch.randn(4, 3)
    wanted = w - 0.5 * (3 * (w - target) ** 2 + target)
    got = warm_up.gradient_step(w, lambda w: ((w - target) ** 3 + w * target).sum(), 0.5)
    expect_equal(got, wanted, "the step for sum((w - t)^3 + w t)")


def test_gradient_step__lowers_the_loss_when_repeated():
    w, target = torch.tensor([5.0, -3.0]), torch.tensor([1.0, 2.0])
    for _ in range(50):
        w = warm_up.gradient_step(w, lambda w: ((w - target) ** 2).sum(), 0.2)
    expect_equal(w, target, "the weights after 50 steps towards [1, 2]", tolerance=1e-4)


def test_gradient_step__can_be_repeated_with_the_same_result():
    w = torch.randn(3, requires_grad=True)
    first = warm_up.gradient_step(w, _square, 0.1)
    second = warm_up.gradient_step(w, _square, 0.1)
    expect_equal(
        second, first.detach().clone(), "a second call with the same weights",
        note="backward() adds to .grad, it does not replace it.",
    )  # fmt: skip


def test_gradient_step__leaves_the_weights_as_they_were():
    for requires_grad in [False, True]:
        w = torch.tensor([1.0, 2.0], requires_grad=requires_grad)
        got = warm_up.gradient_step(w, _square, 0.25)
        expect_unchanged(torch.tensor([1.0, 2.0]), w.detach(), "weights")
        expect(w.requires_grad == requires_grad, "weights.requires_grad was changed.")
        expect(w.grad is None, "weights.grad was None before, and is not any more.")
        with torch.no_grad():
            got.zero_()
        expect_unchanged(torch.tensor([1.0, 2.0]), w.detach(), "weights, through the result,")


def test_gradient_step__leaves_a_gradient_that_is_there_as_it_was():
    w = torch.tensor([1.0, 2.0], requires_grad=True)
    w.grad = torch.tensor([10.0, 10.0])
    got = warm_up.gradient_step(w, _square, 0.1)
    expect_equal(got, torch.tensor([0.8, 1.6]), "the step, with a gradient left from before,")
    expect_equal(w.grad, torch.tensor([10.0, 10.0]), "weights.grad, which was 10 before,")


def test_gradient_step__returns_plain_numbers():
    w = torch.tensor([3.0], requires_grad=True)
    got = warm_up.gradient_step(w, _square, 0.1)
    expect(
        not got.requires_grad,
        "The new weights remember how they were computed: after a thousand steps, a thousand "
        "graphs would be kept. Detach them.",
    )


def test_gradient_step__of_no_length_goes_nowhere():
    w = torch.randn(2, 2)
    got = warm_up.gradient_step(w, _square, 0.0)
    expect_equal(got, w, "the weights after a step with learning rate 0", tolerance=0)
    got.add_(1)
    expect(not torch.equal(got, w), "The new weights share the memory of the old ones.")


def test_gradient_step__keeps_shape_and_dtype():
    w = torch.randn(2, 1, 3, dtype=torch.float64)
    wanted = w * (1 - 2 * 0.3)
    expect_equal(warm_up.gradient_step(w, _square, 0.3), wanted, "a float64 step", tolerance=1e-9)
