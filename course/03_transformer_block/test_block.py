"""Module 03, what is promised: the whole block."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from my_transformer import transformer_block
from torch import Tensor, nn

from tiny_transformer.config import ModelConfig
from tiny_transformer.course.devices import expect_module_follows_device
from tiny_transformer.course.expect import (
    expect,
    expect_equal,
    expect_part_gradients,
    expect_shape,
    expect_unchanged,
)
from tiny_transformer.course.inputs import draw
from tiny_transformer.model.parts import Parts
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.model.transformer_block import TransformerBlock


def config(**settings: Any) -> ModelConfig:
    plain = {"d_model": 12, "n_heads": 3, "context_length": 9, "dropout": 0.0, "n_layers": 2}
    return ModelConfig(**{**plain, "vocab_size": 11, "d_ff": 10, "norm_eps": 0.3, **settings})


CONFIGS = [
    config(),
    config(bias=False, n_heads=1, d_model=8, d_ff=None),
    config(norm="rms_norm", activation="relu2", position="rotary", n_kv_heads=1),
]


def build(settings: ModelConfig, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Build the learner's block from the reference's parts, with weights that matter."""
    block = transformer_block.TransformerBlock(settings, Parts.for_config(settings))
    with torch.no_grad():
        for i, (_, parameter) in enumerate(sorted(block.named_parameters())):
            parameter.copy_(draw(*parameter.shape, seed=20 + i) * 0.5)
    return block.to(dtype)


def expect_names(block: nn.Module, settings: ModelConfig) -> TransformerBlock:
    """Ask for the reference's parameters; return the reference."""
    wanted = TransformerBlock(settings, Parts.for_config(settings))
    shapes = {name: tuple(tensor.shape) for name, tensor in wanted.state_dict().items()}
    got = {name: tuple(tensor.shape) for name, tensor in block.state_dict().items()}
    for name, shape in shapes.items():
        has = ", ".join(sorted({name.split(".")[0] for name in got}))
        expect(name in got, f"The block's state_dict has no {name}; it has parts named {has}.")
        expect(got[name] == shape, f"{name} should have the shape {shape}, and has {got[name]}.")
    more = sorted(set(got) - set(shapes))
    expect(not more, f"The block's state_dict has more than its four parts: {', '.join(more)}.")
    learned = {name for name, _ in block.named_parameters()}
    lost = sorted({name for name, _ in wanted.named_parameters()} - learned)
    expect(not lost, f"{', '.join(lost)} should be parameters of their own: are two parts one?")
    return wanted


def reference(settings: ModelConfig, block: nn.Module) -> TransformerBlock:
    """Return the reference with the learner's weights."""
    wanted = expect_names(block, settings)
    wanted.load_state_dict(block.state_dict())
    return wanted.to(next(block.parameters()).dtype).train(block.training)


class Change(nn.Module):
    """A part that does something simple, and remembers what it read."""

    def __init__(self, change: Any) -> None:
        super().__init__()
        self.change = change
        self.read: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.read.append(x.detach().clone())
        return self.change(x)


def simple_parts(norms: list[Any], attention: Any, mlp: Any) -> Any:
    """Return something that builds the parts that are given, the norms one after the other."""
    made = iter(norms)
    return SimpleNamespace(
        build_norm=lambda config: next(made),
        attention=lambda config: attention,
        mlp=lambda config: mlp,
    )


def by(factor: float) -> Change:
    return Change(lambda x: factor * x)


def test_TransformerBlock__builds_two_norms_an_attention_and_an_mlp():
    for settings in CONFIGS[1:]:
        block = transformer_block.TransformerBlock(settings, Parts.for_config(settings))
        expect_names(block, settings)


def test_TransformerBlock__adds_attention_and_then_the_mlp():
    attention, mlp = Change(lambda x: x + 100), Change(lambda x: 3 * x)
    parts = simple_parts([by(0.5), by(0.25)], attention, mlp)
    block = transformer_block.TransformerBlock(config(d_model=2, n_heads=1), parts)
    got = block(torch.tensor([[[2.0, 4.0]]]))
    wanted = torch.tensor([[[103.0 * 1.75, 106.0 * 1.75]]])
    what = (
        "the output for the stream [2, 4], with norms that halve and quarter, an attention that "
        "adds 100 and an MLP that triples,"
    )
    note = "By hand: first 2 + (1 + 100) = 103, then 103 + 3 * 103 / 4 = 180.25."
    expect_equal(got, wanted, what, dims="B T C", note=note)
    for name, part, read in [
        ("the attention", attention, [1.0, 2.0]),
        ("the MLP", mlp, [103 / 4, 106 / 4]),
    ]:
        expect(len(part.read) == 1, f"{name} was called {len(part.read)} times: once is enough.")
        expect_equal(part.read[0], torch.tensor([[read]]), f"what {name} reads", dims="B T C")


def test_TransformerBlock__leaves_the_stream_as_it_is_where_its_parts_add_nothing():
    zero = Change(torch.zeros_like)
    parts = simple_parts([nn.LayerNorm(4), nn.LayerNorm(4)], zero, zero)
    block = transformer_block.TransformerBlock(config(d_model=4, n_heads=1), parts)
    x = 30 * draw(2, 3, 4) + 5
    what = "the output where attention and MLP answer zeros"
    note = "Nothing but what the parts add should change the stream."
    expect_equal(block(x.clone()), x, what, dims="B T C", note=note)


def test_TransformerBlock__computes_what_the_reference_computes_with_its_weights():
    for settings in CONFIGS:
        block = build(settings).eval()
        wanted = reference(settings, block)
        for B, T in [(1, 1), (2, 9)]:
            x = draw(B, T, settings.d_model, seed=T)
            got = block(x)
            expect_shape(got, (B, T, settings.d_model), "the output", "B T C")
            what = f"the output for {T} tokens, with {settings.norm} and bias={settings.bias}"
            expect_equal(got, wanted(x), what, dims="B T C", tolerance=1e-4)


def test_TransformerBlock__takes_the_parts_that_it_is_given():
    class Shift(nn.Module):
        def __init__(self, settings: ModelConfig) -> None:
            super().__init__()
            self.shift = nn.Parameter(torch.arange(settings.d_model).float())

        def forward(self, x: Tensor) -> Tensor:
            return self.shift.expand_as(x)

    settings = config()
    parts = Parts.for_config(settings, attention=Shift, mlp=Shift)
    block = transformer_block.TransformerBlock(settings, parts)
    x = draw(2, 3, 12)
    wanted = x + 2 * torch.arange(12)
    what = "the output with parts that add 0, 1, 2 and so on to the channels, twice"
    expect_equal(block(x), wanted, what, dims="B T C", note="Build with `parts`.")


def test_TransformerBlock__drops_nothing_in_evaluation():
    block, x = build(config(dropout=0.5)).eval(), draw(2, 5, 12)
    wanted = reference(config(dropout=0.5), block)(x)
    what = "the output after .eval(), with dropout=0.5,"
    expect_equal(block(x), wanted, what, dims="B T C", tolerance=1e-4)


def dropping(p: float, attention: float, mlp: float) -> tuple[Tensor, Tensor]:
    """Return what each branch adds to a stream of ones, in training."""
    parts = simple_parts(
        [nn.Identity(), nn.Identity()],
        Change(lambda x: torch.full_like(x, attention)),
        Change(lambda x: torch.full_like(x, mlp)),
    )
    settings = config(d_model=50, n_heads=1, dropout=p)
    block = transformer_block.TransformerBlock(settings, parts).train()
    added = block(torch.ones(40, 5, 50)) - 1
    high = (added / 1000).round()  # the attention adds thousands, the MLP ones
    return high * 1000 / attention if attention else high, (added - 1000 * high) / (mlp or 1)


def test_TransformerBlock__drops_some_of_what_each_branch_adds():
    for p in (0.5, 0.25):
        for branch, added in zip(
            ("the attention", "the MLP"), dropping(p, 3000.0 * (1 - p), 3.0 * (1 - p)), strict=True
        ):
            share = (added.abs() < 1e-3).float().mean().item()
            expect(
                abs(share - p) < 0.05,
                f"With dropout={p}, {share:.0%} of what {branch} adds were zeroed in training.",
            )
            stays = added[added.abs() >= 1e-3]
            wanted = torch.full_like(stays, 1 / (1 - p))
            what = f"what stays of what {branch} adds, as a multiple of it, with dropout={p},"
            expect_equal(stays, wanted, what, tolerance=1e-3)


def test_TransformerBlock__drops_other_numbers_in_the_second_branch():
    first, second = dropping(0.5, 1500.0, 1.5)
    alike = ((first.abs() < 1e-3) == (second.abs() < 1e-3)).float().mean().item()
    expect(alike < 0.6, "Both branches drop the same numbers: draw for each of the two.")
    along = (first.abs() < 1e-3).float().mean(dim=-1).std().item()
    expect(along < 0.2, "All channels of a token are dropped together: draw for each number.")


def test_TransformerBlock__never_drops_the_stream_itself():
    zero = Change(torch.zeros_like)
    parts = simple_parts([nn.Identity(), nn.Identity()], zero, zero)
    settings = config(d_model=20, n_heads=1, dropout=0.5)
    block, x = transformer_block.TransformerBlock(settings, parts).train(), draw(4, 5, 20)
    note = "Drop what a branch adds, before it is added."
    expect_equal(
        block(x), x, "the stream where the parts add nothing, in training", dims="B T C", note=note
    )


def test_TransformerBlock__drops_what_the_parts_answer_and_not_what_they_read():
    attention, mlp = Change(torch.zeros_like), Change(torch.zeros_like)
    parts = simple_parts([nn.Identity(), nn.Identity()], attention, mlp)
    settings = config(d_model=20, n_heads=1, dropout=0.5)
    transformer_block.TransformerBlock(settings, parts).train()(torch.ones(4, 5, 20))
    for name, part in [("the attention", attention), ("the MLP", mlp)]:
        what = f"what {name} reads of a stream of ones, in training"
        expect_equal(part.read[0], torch.ones(4, 5, 20), what, dims="B T C")


def test_TransformerBlock__keeps_the_dtype_and_its_input():
    for dtype, tolerance in [(torch.float64, 1e-6), (torch.bfloat16, 8e-2)]:
        block, x = build(config(), dtype).eval(), draw(2, 5, 12, dtype=dtype)
        before = x.clone()
        wanted = reference(config(), block)(before.clone())
        got = block(x)
        expect_equal(got, wanted, f"the output in {dtype}", dims="B T C", tolerance=tolerance)
        expect_unchanged(before, x, "x")


def test_TransformerBlock__stays_on_the_device_of_its_input():
    settings = config(dropout=0.5)
    expect_module_follows_device(
        lambda: transformer_block.TransformerBlock(settings, Parts.for_config(settings)).eval(),
        draw(2, 5, 12),
        "TransformerBlock",
    )


def test_TransformerBlock__lets_gradients_through_to_every_weight():
    block, x = build(config(), torch.float64), draw(2, 5, 12, dtype=torch.float64)
    expect_part_gradients(block, reference(config(), block), x, "TransformerBlock")


def test_TransformerBlock__takes_its_place_in_the_real_model():
    settings = config(n_layers=1)
    parts = Parts.for_config(settings, block=transformer_block.TransformerBlock)
    mine, real = Transformer(settings, parts, seed=3), Transformer(settings, seed=3)
    expect(
        set(mine.state_dict()) == set(real.state_dict()),
        "A model built with your block has not the reference's parameters.",
    )
    ids = torch.tensor([[1, 2, 3, 4, 5, 6, 7, 8, 9], [9, 9, 1, 1, 2, 2, 3, 3, 10]])
    for mode in (False, True):
        what = f"the output of a model built with your block, in {'training' if mode else 'eval'},"
        expect_equal(mine.train(mode)(ids), real.train(mode)(ids), what, dims="B T V")
