"""Every target of a text is scored once, and scoring leaves no trace."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tiny_transformer.config import ModelConfig
from tiny_transformer.evaluation.evaluator import (
    Evaluation,
    compute_val_loss,
    evaluation_batches,
)
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.runtime.errors import DataError
from tiny_transformer.text.bpe import BpeTokenizer
from tiny_transformer.text.tokenizer import CharTokenizer
from tiny_transformer.training.weights import weights_hash

VOCAB = 11


def build(**settings: Any) -> Transformer:
    config = ModelConfig(
        n_layers=1, d_model=8, n_heads=2, context_length=6, vocab_size=VOCAB, **settings
    )
    return Transformer(config, seed=1)


def text(length: int) -> np.ndarray:
    return np.random.default_rng(length).integers(0, VOCAB, length).astype(np.uint8)


@given(length=st.integers(2, 120), context=st.integers(1, 40), batch_size=st.integers(1, 12))
@pytest.mark.requirement("training.evaluation")
def test_every_target_is_predicted_once_in_order_from_what_is_before_it(
    length: int, context: int, batch_size: int
) -> None:
    tokens = np.arange(length, dtype=np.uint16)
    targets: list[int] = []
    batches = list(evaluation_batches(tokens, context, batch_size))
    for x, y in batches:
        assert x.dtype == y.dtype == torch.int64
        assert x.shape == y.shape
        assert 1 <= x.shape[0] <= batch_size
        assert torch.equal(x + 1, y)
        targets += y.flatten().tolist()
    assert targets == list(range(1, length))
    # Only the last batch is short of windows, and only the last window short of tokens.
    widths = [x.shape[1] for x, _ in batches]
    assert all(width == context for width in widths[:-1])
    rest = (length - 1) % context
    assert widths[-1] == (rest or context)
    full = [x.shape[0] for x, _ in batches if x.shape[1] == context]
    assert all(n == batch_size for n in full[:-1])


def independent_loss(model: Transformer, tokens: np.ndarray, context: int) -> float:
    """Score token by token: each from a window that begins at a multiple of the context."""
    model.eval()
    total = 0.0
    for target in range(1, len(tokens)):
        begin = (target - 1) // context * context
        ids = torch.tensor([tokens[begin:target].tolist()])
        with torch.no_grad():
            logits = model(ids)[0, -1].double()
        total += float(torch.logsumexp(logits, 0) - logits[int(tokens[target])])
    return total / (len(tokens) - 1)


@pytest.mark.requirement("training.evaluation")
@pytest.mark.parametrize("length", [2, 3, 6, 7, 8, 13, 14, 37])
def test_the_loss_is_the_mean_over_every_target(length: int) -> None:
    model, tokens = build(), text(length)
    expected = independent_loss(model, tokens, 6)
    for batch_size in (1, 2, 5, 100):
        found = compute_val_loss(model, tokens, context_length=6, batch_size=batch_size)
        assert found.n_targets == length - 1
        assert found.loss == pytest.approx(expected, rel=1e-6)


@pytest.mark.requirement("training.evaluation")
def test_a_shorter_context_than_the_models_may_be_evaluated() -> None:
    model, tokens = build(), text(30)
    found = compute_val_loss(model, tokens, context_length=4)
    assert found.loss == pytest.approx(independent_loss(model, tokens, 4), rel=1e-6)


@pytest.mark.requirement("training.evaluation")
def test_perplexity_and_bits_per_character_follow_from_the_loss() -> None:
    uniform = Evaluation(loss=math.log(99), n_targets=7)
    assert uniform.perplexity == pytest.approx(99)
    assert Evaluation(loss=math.log(8), n_targets=1).bits_per_char == pytest.approx(3)
    assert Evaluation(loss=1e5, n_targets=1).perplexity == math.inf
    assert Evaluation(loss=650.0, n_targets=1).perplexity == pytest.approx(math.exp(650))
    assert math.isnan(Evaluation(loss=math.nan, n_targets=1).perplexity)


@pytest.mark.requirement("tokenizers.bits-per-byte")
def test_bits_per_byte_of_a_model_that_knows_nothing_are_what_arithmetic_gives() -> None:
    """Every one of V tokens is equally likely, so each costs log2(V) bits."""
    tokenizer = BpeTokenizer.train(["the king and the queen, the king and I. " * 9], 270)
    words = "the king — and the queen é😀"
    tokens = tokenizer.encode(words)
    config = ModelConfig(n_layers=1, d_model=8, n_heads=2, context_length=6, vocab_size=270)
    model = Transformer(config, seed=1)
    with torch.no_grad():
        model.lm_head.weight.zero_()
    found = compute_val_loss(model, tokens, context_length=6, tokenizer=tokenizer)
    first = tokenizer.decode(tokens[:1])
    n_bytes, n_chars = len(words.encode()) - len(first.encode()), len(words) - len(first)
    assert (found.n_bytes, found.n_chars) == (n_bytes, n_chars) == (30, 24)
    bits = (len(tokens) - 1) * math.log2(270)
    assert found.bits_per_byte == pytest.approx(bits / n_bytes, rel=1e-6)
    assert found.bits_per_char == pytest.approx(bits / n_chars, rel=1e-6)
    assert found.perplexity == pytest.approx(270, rel=1e-5)  # of a token, and not comparable


@pytest.mark.requirement("tokenizers.bits-per-byte")
def test_bits_per_byte_by_a_count_by_hand() -> None:
    """Three tokens of 1, 3 and 4 bytes that cost 2, 1 and 5 bits: 8 bits over 8 bytes."""
    scored = Evaluation(loss=8 / 3 * math.log(2), n_targets=3, n_bytes=8, n_chars=4)
    assert scored.bits_per_byte == pytest.approx(1)
    assert scored.bits_per_char == pytest.approx(2)
    assert scored.metrics()["bits_per_byte"] == scored.bits_per_byte
    assert math.isnan(Evaluation(loss=1.0, n_targets=1, n_bytes=0).bits_per_byte)


@pytest.mark.requirement("tokenizers.bits-per-byte")
def test_of_characters_bits_per_byte_are_bits_per_character_unknown_ones_too() -> None:
    tokens = CharTokenizer().encode("caf\u00e9 \u4e2d ab\n")
    config = ModelConfig(n_layers=1, d_model=8, n_heads=2, context_length=6)
    model = Transformer(config, seed=1)
    found = compute_val_loss(model, tokens, context_length=6, tokenizer=CharTokenizer())
    plain = compute_val_loss(model, tokens, context_length=6)
    assert found.loss == plain.loss
    assert found.bits_per_byte == found.bits_per_char == plain.bits_per_char
    assert found.bits_per_char == found.loss / math.log(2)


@pytest.mark.requirement("training.evaluation")
@pytest.mark.parametrize("training", [True, False])
def test_evaluation_leaves_mode_weights_gradients_and_generators(training: bool) -> None:
    model = build(dropout=0.5).train(training)
    before, state = weights_hash(model), torch.get_rng_state()
    first = compute_val_loss(model, text(50), context_length=6)
    assert model.training == training
    assert all(module.training == training for module in model.modules())
    assert weights_hash(model) == before
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in model.parameters())
    assert compute_val_loss(model, text(50), context_length=6) == first  # no dropout


def test_the_mode_is_restored_after_an_error() -> None:
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, ids: Tensor) -> Tensor:
            raise ArithmeticError

    model = Broken().train()
    with pytest.raises(ArithmeticError):
        compute_val_loss(model, text(9), context_length=6)
    assert model.training


@pytest.mark.parametrize("length", [0, 1])
def test_a_text_without_a_target_is_refused(length: int) -> None:
    with pytest.raises(DataError, match=f"at least 2 tokens.* {length}"):
        compute_val_loss(build(), text(length), context_length=6)


def test_progress_counts_targets() -> None:
    seen: list[tuple[int, int]] = []
    compute_val_loss(
        build(),
        text(21),
        context_length=6,
        batch_size=2,
        on_batch=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(12, 20), (18, 20), (20, 20)]


def test_bfloat16_scores_close_to_float32_and_not_the_same() -> None:
    model = build()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    full = compute_val_loss(model, text(200), context_length=6)
    half = compute_val_loss(model, text(200), context_length=6, precision="bfloat16")
    assert half.loss == pytest.approx(full.loss, rel=0.02)
    assert half.loss != full.loss
