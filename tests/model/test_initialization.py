"""First weights: a function of the seed and the parameter's name, with documented sizes."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from tests.model.architectures import every_architecture, tiny_config, token_ids
from torch import nn

from tiny_transformer.config import ModelConfig
from tiny_transformer.model.initialization import initialize
from tiny_transformer.model.loss import compute_loss
from tiny_transformer.model.mlp import MLP
from tiny_transformer.model.parts import Parts
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.runtime.random_state import forked_rng

pytestmark = pytest.mark.requirement("model.initialisation")


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@every_architecture
def test_equal_seeds_give_bit_identical_weights_and_others_do_not(config: ModelConfig) -> None:
    first, again, other = (weights(Transformer(config, seed=seed)) for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    drawn = [name for name in first if first[name].ndim > 1]
    assert not [name for name in drawn if torch.equal(first[name], other[name])]


def test_the_global_generator_is_not_used_and_left_as_it_was() -> None:
    expected = weights(Transformer(tiny_config()))
    for seed in (5, 6):
        with forked_rng(seed):
            before = torch.get_rng_state()
            actual = weights(Transformer(tiny_config()))
            assert torch.equal(torch.get_rng_state(), before)
        assert all(torch.equal(actual[name], expected[name]) for name in expected)


class BackwardsMLP(MLP):
    """Registers the same parameters in the opposite order."""

    def __init__(self, config: ModelConfig) -> None:
        nn.Module.__init__(self)
        template = MLP(config)
        self.down_proj, self.up_proj = template.down_proj, template.up_proj
        self.gate_proj, self.activation = None, template.activation


def test_the_order_of_construction_does_not_matter() -> None:
    config = tiny_config()
    first = weights(Transformer(config))
    other = weights(Transformer(config, Parts.for_config(config, mlp=BackwardsMLP)))
    assert list(first) != list(other)
    assert first.keys() == other.keys()
    assert all(torch.equal(first[name], other[name]) for name in first)


def test_no_two_parameters_start_alike() -> None:
    drawn = [w for w in weights(Transformer(tiny_config())).values() if w.ndim > 1]
    heads = {tuple(w.flatten()[:4].tolist()) for w in drawn}
    assert len(heads) == len(drawn)


def expected_std(name: str, config: ModelConfig) -> float:
    if name.endswith(("o_proj.weight", "down_proj.weight")):
        zero = config.residual_init == "zero"
        return 0.0 if zero else 0.02 / math.sqrt(2 * config.n_layers)
    if name == "embeddings.token.weight" and config.scale_embeddings:
        return 1 / math.sqrt(config.d_model)
    return 0.02


@pytest.mark.parametrize(
    "choice",
    [
        {},
        {"residual_init": "zero"},
        {"scale_embeddings": True},
        {"tie_weights": False, "scale_embeddings": True, "activation": "swiglu"},
        {"qk_norm": True, "n_layers": 8, "bias": False, "norm": "rms_norm"},
    ],
)
def test_the_documented_sizes_hold(choice: dict) -> None:
    config = tiny_config(**{"d_model": 64, "vocab_size": 200, "d_ff": 256, "n_layers": 3} | choice)
    model = Transformer(config)
    for name, weight in weights(model).items():
        if name.endswith("bias"):
            assert (weight == 0).all(), name
        elif weight.ndim == 1:
            assert (weight == 1).all(), name
        else:
            std = expected_std(name, config)
            error = 5 * std / math.sqrt(2 * weight.numel())
            assert abs(weight.std().item() - std) <= error, name
            assert abs(weight.mean().item()) <= 5 * std / math.sqrt(weight.numel()), name


@every_architecture
def test_the_first_loss_is_about_that_of_guessing(config: ModelConfig) -> None:
    if config.scale_embeddings and config.tie_weights:
        # A tied table of unit-size vectors recognises its own input; see the untied one.
        config = dataclasses.replace(config, tie_weights=False)
    with torch.no_grad():
        loss = compute_loss(Transformer(config)(token_ids(8)), token_ids(8, seed=4)).item()
    assert abs(loss - math.log(config.vocab_size)) < 0.05


def test_zero_residual_init_makes_every_block_the_identity_at_first() -> None:
    model = Transformer(tiny_config(residual_init="zero"))
    x = torch.randn(1, 5, 32, generator=torch.Generator().manual_seed(0))
    for block in model.blocks:
        assert torch.equal(block(x), x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_model_of_another_dtype_gets_the_same_numbers_rounded(dtype: torch.dtype) -> None:
    config = tiny_config()
    expected = weights(Transformer(config, seed=3))
    model = Transformer(config).to(dtype)
    initialize(model, config, seed=3)
    for name, weight in weights(model).items():
        assert weight.dtype == dtype
        assert torch.allclose(weight.float(), expected[name], rtol=1e-2, atol=1e-6), name
