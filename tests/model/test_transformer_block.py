"""The block: two normalised reads from the residual stream, two additions to it."""

from __future__ import annotations

import pytest
import torch
from tests.model.architectures import every_architecture, largest_difference, scramble, tiny_config

from tiny_transformer.config import ModelConfig
from tiny_transformer.model.parts import Parts
from tiny_transformer.model.transformer_block import TransformerBlock
from tiny_transformer.runtime.random_state import forked_rng


def build(config: ModelConfig) -> TransformerBlock:
    block = TransformerBlock(config, Parts.for_config(config))
    scramble(block)
    return block


def draw() -> torch.Tensor:
    return torch.randn(2, 7, 32, generator=torch.Generator().manual_seed(0))


@every_architecture
def test_a_block_is_pre_norm_with_two_residual_additions(config: ModelConfig) -> None:
    block, x = build(config), draw()
    middle = x + block.attention(block.norm1(x))
    expected = middle + block.mlp(block.norm2(middle))
    assert largest_difference(block(x), expected) < 1e-6


def test_a_block_whose_last_projections_are_zero_is_the_identity() -> None:
    block, x = build(tiny_config()), draw()
    for name, parameter in block.named_parameters():
        if "o_proj" in name or "down_proj" in name:
            torch.nn.init.zeros_(parameter)
    assert torch.equal(block(x), x)


def test_the_two_norms_are_separate() -> None:
    block = build(tiny_config())
    assert block.norm1 is not block.norm2
    assert {name.split(".")[0] for name, _ in block.named_parameters()} == {
        "norm1", "attention", "norm2", "mlp",
    }  # fmt: skip


@pytest.mark.parametrize("branch", ["attention", "mlp"])
def test_dropout_acts_on_each_branch_and_never_on_the_stream(branch: str) -> None:
    block, x = build(tiny_config(dropout=0.5)), draw()
    other = {"attention": "mlp", "mlp": "attention"}[branch]
    for part, value in ((branch, 1.0), (other, 0.0)):  # a branch that always returns one value
        module = block.get_submodule(part)
        module.forward = lambda y, value=value: torch.full_like(y, value)
    assert largest_difference(block.eval()(x), x + 1) < 1e-6
    with forked_rng(1):
        added = block.train()(x) - x
    zero, doubled = added.abs() < 1e-5, (added - 2).abs() < 1e-5
    assert (zero | doubled).all()
    assert 0.3 < zero.float().mean().item() < 0.7
