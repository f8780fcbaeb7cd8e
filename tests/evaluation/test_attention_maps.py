"""Attention weights as they are in the pass, and their picture."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tiny_transformer.config import ModelConfig
from tiny_transformer.evaluation.attention_maps import attention_weights
from tiny_transformer.model.parts import Parts
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.runtime.errors import ConfigError, DataError
from tiny_transformer.viz.attention import plot_attention

pytestmark = pytest.mark.requirement("generate.explain")

CONFIG = ModelConfig(n_layers=2, d_model=16, n_heads=2, context_length=8, vocab_size=11)
IDS = [1, 2, 3, 4, 5]


def test_rows_are_distributions_over_the_past() -> None:
    weights = attention_weights(Transformer(CONFIG), IDS)
    assert weights.shape == (2, 2, 5, 5)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2, 5))
    assert torch.equal(weights, weights.tril())


def test_the_first_layers_weights_are_those_of_the_formula() -> None:
    model = Transformer(CONFIG).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    block = model.blocks[0]
    attention = block.get_submodule("attention")
    with torch.no_grad():
        x = block.get_submodule("norm1")(model.embeddings(torch.tensor([IDS])))[0]
        q, k = (
            attention.get_submodule(name)(x).view(5, 2, 8).transpose(0, 1)
            for name in ("q_proj", "k_proj")
        )
        scores = (q @ k.mT / 8**0.5).masked_fill(torch.ones(5, 5).triu(1).bool(), -torch.inf)
    torch.testing.assert_close(attention_weights(model, IDS)[0], scores.softmax(-1))


def test_the_model_is_left_as_it_was() -> None:
    model = Transformer(CONFIG).train()
    attention_weights(model, IDS)
    assert model.training
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_attention_that_cannot_tell_is_refused() -> None:
    class Silent(nn.Module):
        def __init__(self, config: ModelConfig) -> None:
            super().__init__()

        def forward(self, x: Tensor) -> Tensor:
            return x

    model = Transformer(CONFIG, dataclasses.replace(Parts.for_config(CONFIG), attention=Silent))
    with pytest.raises(ConfigError, match="forward_with_weights"):
        attention_weights(model, IDS)


@pytest.mark.parametrize("length", [5, 60])
def test_the_picture_has_a_panel_for_each_head(tmp_path: Path, length: int) -> None:
    weights = torch.full((2, 3, length, length), 1 / length).numpy()
    tokens = ["a", "$", "\n", " ", "b"] * (length // 5)
    path = plot_attention(weights, tokens, tmp_path / "a.svg")
    drawn = path.read_text()
    for layer in range(2):
        for head in range(3):
            assert f"layer {layer}, head {head}" in drawn
    assert ("\u2423" in drawn) == (length == 5)


def test_a_picture_of_other_tokens_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"weights for 5 tokens, and 4"):
        plot_attention(torch.ones(1, 1, 5, 5).numpy(), "abcd", tmp_path / "a.png")
