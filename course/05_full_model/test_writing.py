"""Module 05, what is promised: a model that writes."""

from __future__ import annotations

from typing import Any

import torch
from my_transformer import transformer
from torch import Tensor, nn

from tiny_transformer import Transformer
from tiny_transformer.config import ModelConfig
from tiny_transformer.course.devices import expect_follows_device
from tiny_transformer.course.expect import expect, expect_equal, expect_unchanged


class Next(nn.Module):
    """Finds likeliest the id that is one higher, and notes what it was given to read."""

    def __init__(self, V: int = 10) -> None:
        super().__init__()
        self.V, self.read = V, []

    def forward(self, ids: Tensor) -> Tensor:
        self.read.append(ids.clone())
        return nn.functional.one_hot((ids + 1) % self.V, self.V).float()


class Sum(Next):
    """The next token is the sum of all that it reads: it depends on every one of them."""

    def forward(self, ids: Tensor) -> Tensor:
        self.read.append(ids.clone())
        return nn.functional.one_hot(ids.cumsum(dim=1) % self.V, self.V).float() * 3 - 5


def expect_text(got: Any, wanted: list[list[int]], what: str) -> None:
    expect_equal(got, torch.tensor(wanted), what, dims="B T", tolerance=0)


def sums(ids: list[int], n_new: int, context: int, V: int = 10) -> list[int]:
    """Return what `Sum` writes, worked out with a list."""
    text = list(ids)
    for _ in range(n_new):
        text.append(sum(text[-context:]) % V)
    return text


def test_write_greedily__appends_the_likeliest_token():
    got = transformer.write_greedily(Next(), torch.tensor([[3]]), 1, 8)
    expect_text(got, [[3, 4]], "one new token after 3, where the next id is the likeliest,")


def test_write_greedily__reads_what_it_has_written():
    got = transformer.write_greedily(Next(), torch.tensor([[3]]), 4, 8)
    expect_text(got, [[3, 4, 5, 6, 7]], "four new tokens after 3")
    got = transformer.write_greedily(Sum(), torch.tensor([[1, 2, 4]]), 5, 20)
    expect_text(got, [sums([1, 2, 4], 5, 20)], "tokens that are the sum of all before them")


def test_write_greedily__goes_by_the_last_position():
    got = transformer.write_greedily(Next(), torch.tensor([[7, 1, 4]]), 2, 8)
    expect_text(got, [[7, 1, 4, 5, 6]], "two new tokens after 7 1 4")


def test_write_greedily__continues_every_text_of_the_batch():
    ids = torch.tensor([[7, 1], [0, 5], [2, 2], [9, 9], [4, 0]])
    wanted = [sums(row, 3, 8) for row in ids.tolist()]
    expect_text(transformer.write_greedily(Sum(), ids, 3, 8), wanted, "five texts of two tokens")


def test_write_greedily__reads_no_more_than_the_context():
    for prompt, context in [([1, 2, 4], 4), ([1, 2, 4], 2), ([1, 2, 4, 6, 3], 1), ([5], 3)]:
        model = Sum()
        got = transformer.write_greedily(model, torch.tensor([prompt]), 6, context)
        longest = max(ids.shape[1] for ids in model.read)
        expect(
            longest <= context,
            f"With a context of {context}, the model was given {longest} tokens to read.",
        )
        what = f"six tokens after {prompt}, each the sum of the {context} before it,"
        expect_text(got, [sums(prompt, 6, context)], what)


def test_write_greedily__keeps_the_whole_prompt():
    prompt = [6, 5, 4, 3, 2, 1]
    got = transformer.write_greedily(Next(), torch.tensor([prompt]), 2, 3)
    expect_text(got, [[*prompt, 2, 3]], "six tokens and two new ones, with a context of three,")


def test_write_greedily__writes_nothing_where_nothing_is_asked_for():
    got = transformer.write_greedily(Next(), torch.tensor([[3, 1]]), 0, 8)
    expect_text(got, [[3, 1]], "no new token")


def test_write_greedily__takes_the_likeliest_whatever_the_size_of_the_logits():
    class Negative(nn.Module):
        def forward(self, ids: Tensor) -> Tensor:
            logits = torch.full((*ids.shape, 5), -1e4)
            logits[..., 3] = -9e3
            return logits

    got = transformer.write_greedily(Negative(), torch.tensor([[0]]), 3, 8)
    expect_text(got, [[0, 3, 3, 3]], "three tokens, where logits are around -10000,")


class Moody(nn.Module):
    """Writes 1 in evaluation, and 2 while training; half of it is of its own mind."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Dropout(0.5)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, ids: Tensor) -> Tensor:
        self.kept = torch.is_grad_enabled()
        chosen = 2 if self.training or self.inner.training else 1
        logits = nn.functional.one_hot(torch.full_like(ids, chosen), 4).float()
        return logits * self.scale


def test_write_greedily__evaluates_while_it_writes():
    got = transformer.write_greedily(Moody().train(), torch.tensor([[0]]), 2, 8)
    expect_text(
        got, [[0, 1, 1]], "the text of a model that writes 1 in evaluation and 2 while training"
    )


def test_write_greedily__puts_the_model_back_into_its_mode():
    for mode in (True, False):
        model = Moody().train(mode)
        transformer.write_greedily(model, torch.tensor([[0]]), 2, 8)
        expect(
            model.training == mode and model.inner.training == mode,
            f"The model was {'training' if mode else 'in evaluation'} before, and is not after.",
        )


def test_write_greedily__keeps_no_gradients():
    model = Moody()
    transformer.write_greedily(model, torch.tensor([[0]]), 1, 8)
    expect(
        not model.kept,
        "The model runs with gradients, whose memory grows with every token: torch.no_grad().",
    )
    expect(
        torch.is_grad_enabled() and not torch.is_inference_mode_enabled(),
        "After write_greedily, gradients are switched off for everybody.",
    )


def test_write_greedily__leaves_the_prompt_alone():
    for n_new in (0, 2):
        ids = torch.tensor([[3, 1, 4]])
        before = ids.clone()
        got = transformer.write_greedily(Next(), ids, n_new, 2)
        expect_unchanged(before, ids, "ids")
        expect_equal(got.dtype, torch.int64, "the dtype of what was written")
        with torch.no_grad():
            got[:] = 0  # the text is the caller's
        expect(
            torch.equal(before, ids),
            "The result is the prompt itself where nothing is written: clone it."
            if n_new == 0
            else "Whoever writes into the result changes the prompt: clone it.",
        )


def test_write_greedily__stays_on_the_device_of_the_prompt():
    model, ids = Next(), torch.tensor([[3, 1], [5, 6]])
    expect_follows_device(
        lambda: transformer.write_greedily(model, ids, 2, 8), [ids], "write_greedily"
    )


def test_write_greedily__lets_the_real_model_write():
    config = ModelConfig(n_layers=2, d_model=8, n_heads=2, vocab_size=11, context_length=5)
    model = Transformer(config, seed=1)
    with torch.no_grad():  # larger weights, so that what it writes depends on what it reads
        for parameter in model.parameters():
            parameter.mul_(12)
    ids = torch.tensor([[1, 2, 3], [9, 0, 4]])
    wanted = ids.clone()
    model.eval()
    with torch.no_grad():
        for _ in range(7):
            logits = model(wanted[:, -5:])
            wanted = torch.cat([wanted, logits[:, -1].argmax(dim=-1)[:, None]], dim=1)
    got = transformer.write_greedily(model.train(), ids, 7, config.context_length)
    expect_text(got, wanted.tolist(), "seven tokens of a model with a context of five")
