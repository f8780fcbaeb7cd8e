"""Module 03, what is promised: dropout, and first weights."""

from __future__ import annotations

import torch
from my_transformer import dropout, initialization
from torch import Tensor, nn

from tiny_transformer.course.expect import (
    expect,
    expect_equal,
    expect_shape,
    expect_unchanged,
)
from tiny_transformer.course.inputs import draw

# Dropout. Probabilities here are multiples of 1/256, which the package's can have exactly.


def dropped(drop: nn.Module, x: Tensor, what: str) -> Tensor:
    """Return where numbers were zeroed, after a look at the output's type and shape."""
    y = drop(x)
    expect_shape(y, tuple(x.shape), what)
    expect(y.dtype == x.dtype, f"{what} should be of dtype {x.dtype}, and is of {y.dtype}.")
    return y == 0


def test_Dropout__zeroes_or_enlarges():
    for p in (0.5, 0.25, 0.875):
        x = draw(40, 50, seed=1).abs() + 1
        y = dropout.Dropout(p).train()(x.clone())
        expect_shape(y, (40, 50), f"Dropout({p}) of (40, 50), in training,")
        wanted = torch.where(y == 0, torch.zeros_like(x), x / (1 - p))
        expect_equal(
            y,
            wanted,
            f"what stays after Dropout({p}), in training,",
            note=f"What stays is divided by 1 - p, here {1 - p}.",
        )


def test_Dropout__drops_the_share_that_is_asked_for():
    for p in (0.125, 0.5, 0.75):
        share = dropped(dropout.Dropout(p).train(), torch.ones(200, 100), f"Dropout({p})")
        got = share.float().mean().item()
        expect(abs(got - p) < 0.02, f"Dropout({p}) zeroed {got:.1%} of 20000 numbers in training.")


def test_Dropout__does_nothing_in_evaluation():
    x = draw(30, 40)
    for p in (0.5, 0.25):
        got = dropout.Dropout(p).eval()(x.clone())
        expect_equal(got, x, f"Dropout({p}) after .eval()", note="Ask self.training.", tolerance=0)


def test_Dropout__drops_again_after_evaluation():
    model = nn.Sequential(dropout.Dropout(0.5))
    model.eval()
    model.train()
    expect((model(torch.ones(1000)) == 0).any(), "Nothing was dropped after .eval() and .train().")


def test_Dropout__keeps_the_mean():
    for p in (0.25, 0.5):
        drop = dropout.Dropout(p).train()
        mean = torch.stack([drop(torch.full((100, 100), 3.0)) for _ in range(4)]).mean().item()
        expect(
            abs(mean - 3) < 0.1,
            f"The mean of 40000 threes after Dropout({p}) is {mean:.2f}, in training.",
        )


def test_Dropout__draws_for_each_number_by_itself():
    gone = dropped(dropout.Dropout(0.5).train(), torch.ones(20, 30, 40), "Dropout(0.5)").float()
    names = ("first", "second", "last")
    for axis, name in enumerate(names):
        others = [a for a in range(3) if a != axis]
        spread = gone.mean(dim=others).std().item()
        expect(
            spread < 0.12,
            f"All numbers at one place of the {name} axis are dropped together: draw for each.",
        )
        pairs = gone.movedim(axis, 0)
        alike = (pairs[0] == pairs[1]).float().mean().item()
        expect(
            alike < 0.65,
            f"The same numbers are dropped at each place of the {name} axis: draw for each.",
        )


def test_Dropout__drops_a_random_number_of_numbers():
    drop = dropout.Dropout(0.5).train()
    counts = {int(dropped(drop, torch.ones(64), "Dropout(0.5)").sum()) for _ in range(20)}
    expect(
        len(counts) > 1,
        "Every time exactly the same number of numbers is dropped: each draws for itself.",
    )


def test_Dropout__drops_others_in_each_call():
    drop = dropout.Dropout(0.5).train()
    first, second = (dropped(drop, torch.ones(1000), "Dropout(0.5)") for _ in range(2))
    expect(not torch.equal(first, second), "Two calls drop the same numbers: draw in each call.")


def test_Dropout__drops_nothing_where_the_probability_is_zero():
    x = draw(30, 40)
    expect_equal(dropout.Dropout(0.0).train()(x.clone()), x, "Dropout(0) in training")


def test_Dropout__keeps_the_dtype_and_its_input():
    for dtype in (torch.float64, torch.bfloat16):
        x = draw(20, 30, dtype=dtype)
        for mode in (True, False):
            before = x.clone()
            drop = dropout.Dropout(0.5).train(mode)
            gone = dropped(drop, x, f"Dropout(0.5) in {dtype}")
            expect(gone.any() or not mode, "Nothing was dropped in training.")
            expect_unchanged(before, x, "x")


def test_Dropout__lets_gradients_through_what_stayed():
    x = (draw(30, 40).abs() + 1).double().requires_grad_()
    y = dropout.Dropout(0.75).train()(x)
    expect(
        isinstance(y, Tensor) and y.requires_grad,
        "No gradient flows back through Dropout: is there a .detach() or torch.no_grad() in it?",
    )
    pull = draw(30, 40, seed=3, dtype=torch.float64)
    (got,) = torch.autograd.grad(y, x, pull)
    wanted = torch.where(y == 0, torch.zeros_like(pull), 4 * pull)
    expect_equal(got, wanted, "the gradient of x: 0 where it was dropped, enlarged elsewhere,")


def test_Dropout__has_nothing_to_store():
    drop = dropout.Dropout(0.5)
    drop.train()(torch.ones(3, 4))
    expect(not drop.state_dict(), f"The state_dict has {sorted(drop.state_dict())}: it needs none.")
    for shape in [(2, 3), (4,), (2, 3, 4, 5)]:  # also shapes that it has not seen
        dropped(drop, torch.ones(shape), f"Dropout(0.5) of {shape}")


def test_Dropout__works_on_the_device_of_its_input():
    x = torch.ones(3, 4, device="meta")  # a device that keeps no numbers
    try:
        y = dropout.Dropout(0.5).train()(x)
    except RuntimeError as error:
        expect(
            "device" not in str(error),
            "Dropout would fail on a GPU: its random numbers are always on the CPU. Draw them "
            "where x is, as torch.rand_like(x) does.",
        )
    else:
        expect(y.device == x.device, f"The output should be on {x.device}, and is on {y.device}.")


# residual_std


def test_residual_std__is_a_quarter_for_eight_blocks():
    got = initialization.residual_std(8, 0.02)
    expect_equal(got, 0.005, "residual_std(8, 0.02)", tolerance=1e-9)
    got = initialization.residual_std(2, 1.0)
    expect_equal(got, 0.5, "residual_std(2, 1.0), for four branches,", tolerance=1e-9)


def test_residual_std__begins_from_0_02_where_no_std_is_given():
    got = initialization.residual_std(8)
    expect_equal(got, 0.005, "residual_std(8)", tolerance=1e-9)


def test_residual_std__grows_with_std():
    one = initialization.residual_std(3, 1.0)
    for std in (0.02, 0.5, 2.0):
        got = initialization.residual_std(3, std)
        expect_equal(got, std * one, f"residual_std(3, {std})", tolerance=1e-9)


def test_residual_std__lets_all_branches_together_add_what_one_would():
    for n_layers in (1, 3, 6, 12):
        for std in (0.02, 0.7):
            each = initialization.residual_std(n_layers, std)
            total = sum(each**2 for _ in range(2 * n_layers))  # two branches in each block
            expect_equal(
                total / std**2,
                1.0,
                f"the variance that {2 * n_layers} branches add with residual_std({n_layers}, "
                f"{std}), as a multiple of what one adds with {std},",
                tolerance=1e-9,
            )


def test_residual_std__keeps_the_stream_as_large_however_deep():
    for n_layers in (2, 32):
        stream = torch.zeros(5000)
        for branch in range(2 * n_layers):
            stream += draw(5000, seed=branch) * initialization.residual_std(n_layers, 1.0)
        got = stream.std().item()
        what = f"the deviation of the sum of what {n_layers} blocks add"
        expect_equal(got, 1.0, what, tolerance=0.06)
