"""Weights of 8 bits: near the floats, told truly, and the model is otherwise what it was."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tests.model.architectures import (
    CHOICES,
    decisive_model,
    every_architecture,
    largest_difference,
    tiny_config,
    tiny_model,
    token_ids,
)
from torch import Tensor, nn

from tiny_transformer.config import ModelConfig, SamplingConfig
from tiny_transformer.model.decoder import Decoder
from tiny_transformer.model.parts import Parts
from tiny_transformer.model.quantized import (
    INSTALL,
    Int8Linear,
    Int8TokenEmbedding,
    checked,
    dequantize,
    find_quantization,
    is_quantized,
    quantize_int8,
    replace_weights,
    weight_bytes,
)
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.runtime.errors import ConfigError
from tiny_transformer.sampling.generator import generate_tokens
from tiny_transformer.training.weights import named_weights, weights_hash

pytestmark = pytest.mark.requirement("quantize.rounding")


def reference_scale(weight: np.ndarray) -> np.ndarray:
    """Return a channel's step: its largest magnitude over 127.5, `(N, 1)`; by hand, in float64."""
    return np.abs(weight.astype(np.float64)).max(axis=1, keepdims=True) / 127.5


def with_weight(weight: np.ndarray) -> Transformer:
    """Return a model of one layer whose `up_proj` has this weight."""
    rows, columns = weight.shape
    config = ModelConfig(
        n_layers=1, d_model=columns, n_heads=1, d_ff=rows, context_length=4, vocab_size=5
    )
    model = Transformer(config)
    with torch.no_grad():
        model.get_parameter("blocks.0.mlp.up_proj.weight").copy_(torch.from_numpy(weight))
    return model


def rounded_weight(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the integers, scales and floats of a weight that a model was quantised with."""
    layer = quantize_int8(with_weight(weight)).get_submodule("blocks.0.mlp.up_proj")
    assert isinstance(layer, Int8Linear)
    return (
        layer.weight_int8.numpy(),
        layer.weight_scale.numpy(),
        layer.weight.detach().numpy(),
    )


def with_rounded_floats(model: Transformer) -> tuple[Transformer, Transformer]:
    """Return the quantised model, and a float model with the weights it stands for."""
    quantized, floats = quantize_int8(model), copy.deepcopy(model)
    modules = dict(quantized.named_modules())
    with torch.no_grad():
        for name, parameter in floats.named_parameters():
            holder = modules[name.rpartition(".")[0]]
            if isinstance(holder, (Int8Linear, Int8TokenEmbedding)) and name.endswith("weight"):
                parameter.copy_(holder.weight)
    return quantized, floats


@given(
    arrays.arrays(
        np.float32,
        st.tuples(st.integers(1, 6), st.integers(1, 4).map(lambda n: 2 * n)),
        elements=st.floats(-1e6, 1e6, width=32, allow_subnormal=False),
    )
)
@settings(max_examples=60, deadline=None)
def test_a_weight_is_within_half_a_step_of_its_channel(weight: np.ndarray) -> None:
    int8, scale, floats = rounded_weight(weight)
    step = np.maximum(reference_scale(weight), np.finfo(np.float32).eps)
    np.testing.assert_allclose(scale, step, rtol=1e-6)
    assert (np.abs(floats - weight.astype(np.float64)) <= 0.5001 * step).all()
    assert int8.dtype == np.int8 and int8.shape == weight.shape


def test_the_integers_are_those_of_a_reference_written_by_hand() -> None:
    weight = np.random.default_rng(0).normal(size=(40, 64)).astype(np.float32)
    int8, _, floats = rounded_weight(weight)
    steps = weight / reference_scale(weight)
    decided = np.abs(np.abs(steps % 1) - 0.5) > 1e-4  # halves may fall to either side
    assert decided.mean() > 0.95
    assert (int8 == np.clip(np.rint(steps), -128, 127))[decided].all()
    np.testing.assert_allclose(floats, int8 * reference_scale(weight), rtol=1e-5, atol=1e-7)


def test_a_channel_of_zeros_stays_zero_and_an_outlier_costs_its_own_channel_alone() -> None:
    weight = np.random.default_rng(1).normal(size=(8, 16)).astype(np.float32)
    plain = rounded_weight(weight)[2]
    weight[2] = 0.0
    weight[5, 3] = 1e30
    int8, _, floats = rounded_weight(weight)
    assert (floats[2] == 0).all() and (int8[2] == 0).all()
    assert int8[5].tolist() == [0, 0, 0, 127, *[0] * 12]
    others = [0, 1, 3, 4, 6, 7]
    assert (floats[others] == plain[others]).all()


@every_architecture
def test_logits_are_those_of_a_float_model_with_the_rounded_weights(config: ModelConfig) -> None:
    quantized, floats = with_rounded_floats(tiny_model(config).eval())
    with torch.no_grad():
        assert largest_difference(quantized(token_ids()), floats(token_ids())) < 1e-5


def test_a_layer_computes_what_torchaos_does() -> None:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    model = tiny_model(tiny_config()).eval()
    theirs = copy.deepcopy(model.get_submodule("blocks.1.mlp.down_proj"))
    quantize_(theirs, Int8WeightOnlyConfig(set_inductor_config=False))
    layer = quantize_int8(model).get_submodule("blocks.1.mlp.down_proj")
    x = torch.randn(3, 7, 48, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(layer(x), theirs(x), rtol=1e-6, atol=1e-6)


def test_the_same_integers_each_time_and_the_model_is_untouched() -> None:
    model = tiny_model(tiny_config()).train()
    before, drawn = weights_hash(model), torch.get_rng_state()
    first, again = quantize_int8(model), quantize_int8(model)
    assert weights_hash(first) == weights_hash(again) != before
    assert weights_hash(model) == before and model.training and first.training
    assert not is_quantized(model) and model.lm_head.weight.requires_grad
    assert torch.equal(torch.get_rng_state(), drawn)


@pytest.mark.requirement("quantize.tied")
@pytest.mark.parametrize("choice", ["default", "untied"])
def test_a_tied_head_stays_tied(choice: str) -> None:
    quantized = quantize_int8(tiny_model(tiny_config(**CHOICES[choice])))
    table, head = quantized.embeddings.token, quantized.lm_head
    assert isinstance(table, Int8TokenEmbedding) and isinstance(head, Int8Linear)
    tied = choice == "default"
    assert (table.weight_int8 is head.weight_int8) == tied
    assert (table.weight_scale is head.weight_scale) == tied
    assert torch.equal(table.weight, head.weight) == tied
    assert ("lm_head.weight_int8" in named_weights(quantized)) != tied
    twin = copy.deepcopy(quantized)
    assert (twin.embeddings.token.weight_int8 is twin.lm_head.weight_int8) == tied  # pyright: ignore[reportAttributeAccessIssue]


class OwnTable(nn.Module):
    """A token table of one's own, with the reference's parameter name."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(config.vocab_size, config.d_model))

    def forward(self, ids: Tensor) -> Tensor:
        return self.weight[ids]


class OwnMLP(nn.Module):
    """Linear layers under names of one's own; one that is used twice, one that is no nn.Linear."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.first = nn.Linear(config.d_model, config.d_model)
        self.again = self.first
        self.special = nn.modules.linear.NonDynamicallyQuantizableLinear(
            config.d_model, config.d_model
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.special(self.again(torch.relu(x @ self.first.weight.T)))


@pytest.mark.requirement("quantize.own-parts")
def test_linear_layers_of_ones_own_parts_are_found_and_keep_their_names() -> None:
    config = tiny_config()
    parts = Parts.for_config(config, mlp=OwnMLP, token_embedding=OwnTable)
    quantized, floats = with_rounded_floats(tiny_model(config, parts=parts).eval())
    mlp: Any = quantized.get_submodule("blocks.0.mlp")
    assert isinstance(mlp.first, Int8Linear) and mlp.again is mlp.first
    assert not isinstance(mlp.special, Int8Linear)
    # The table is not ours to round, and the head shares it: both stay float, and one.
    assert type(quantized.lm_head) is nn.Linear
    assert quantized.lm_head.weight is quantized.get_parameter("embeddings.token.weight")
    with torch.no_grad():
        assert largest_difference(quantized(token_ids()), floats(token_ids())) < 1e-5
        decoder = Decoder(quantized, 2)
        decoder.start(token_ids()[:, :5])
        step = decoder.step(token_ids()[:, 5])
        assert largest_difference(step, quantized(token_ids()[:, :6])[:, -1]) < 1e-5


@pytest.mark.requirement("quantize.generation")
@pytest.mark.parametrize("choice", ["default", "untied", "token-window", "llama", "qwen3"])
@pytest.mark.parametrize("n_samples", [1, 13])
def test_text_is_the_same_with_a_cache_and_without(choice: str, n_samples: int) -> None:
    model = quantize_int8(decisive_model(**CHOICES[choice]))
    config = SamplingConfig(max_new_tokens=40, temperature=8.0, seed=3)
    texts = [
        torch.stack(
            list(generate_tokens(model, [1, 2], config, n_samples=n_samples, use_cache=cached))
        )
        for cached in (True, False)
    ]
    assert torch.equal(texts[0], texts[1])
    assert len(set(texts[0].flatten().tolist())) > 3


@pytest.mark.requirement("quantize.generation")
@pytest.mark.parametrize("choice", ["default", "token-window", "llama"])
def test_the_decoder_takes_a_quantised_model(choice: str) -> None:
    model = quantize_int8(tiny_model(tiny_config(**CHOICES[choice])).eval())
    ids = token_ids(3)
    with torch.no_grad():
        decoder = Decoder(model, 3)
        assert decoder.takes_unequal  # its own steps, and not the forward pass
        decoder.start_unequal([ids[0, :3], ids[1, :6], ids[2, :1]])
        found = decoder.step(ids[:, 6])
        for row, length in enumerate((3, 6, 1)):
            alone = torch.cat([ids[row, :length], ids[row, 6:7]])[None]
            assert largest_difference(found[row], model(alone)[0, -1]) < 1e-5


def test_bytes_are_counted() -> None:
    config = tiny_config()
    model = Transformer(config)
    quantized = quantize_int8(model)
    matrices = [p for p in model.parameters() if p.ndim == 2][:1] + [
        p for n, p in model.named_parameters() if n.endswith("proj.weight")
    ]  # the token table, and every linear layer
    saved = sum(3 * p.numel() - 4 * len(p) for p in matrices)
    assert weight_bytes(model) == 4 * model.n_parameters()
    assert weight_bytes(quantized) == weight_bytes(model) - saved


def test_other_precisions() -> None:
    model = tiny_model(tiny_config(), dtype=torch.float64).eval()
    quantized, floats = with_rounded_floats(model)
    with torch.no_grad():
        assert quantized(token_ids()).dtype == torch.float64
        assert largest_difference(quantized(token_ids()), floats(token_ids())) < 1e-12
        half = quantize_int8(tiny_model(tiny_config()).eval())
        expected = half(token_ids())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert largest_difference(half(token_ids()), expected) < 0.3


@pytest.mark.requirement("quantize.refused")
def test_what_cannot_be_rounded_is_refused_by_name() -> None:
    for value in (float("nan"), float("inf")):
        model = Transformer(tiny_config())
        with torch.no_grad():
            model.get_parameter("blocks.1.attention.k_proj.weight")[2, 3] = value
        with pytest.raises(ConfigError, match=r"blocks\.1\.attention\.k_proj\.weight has values"):
            quantize_int8(model)
    with pytest.raises(ConfigError, match="quantised already"):
        quantize_int8(quantize_int8(Transformer(tiny_config())))
    with pytest.raises(ConfigError, match="Nothing in this model can be quantised"):
        replace_weights(Transformer(tiny_config()), lambda name, weight: None)


@pytest.mark.requirement("quantize.refused")
def test_a_package_that_rounds_wrongly_is_not_believed() -> None:
    def coarse(weight: Tensor) -> tuple[Tensor, Tensor]:
        scale = weight.abs().amax(dim=1, keepdim=True) / 127.5
        return (weight / scale).round().clamp(-100, 100).to(torch.int8), scale

    with pytest.raises(ConfigError, match=r"x was rounded by 0\.\d+, more than half a step"):
        checked(coarse, largest_error=0.501)("x", torch.randn(4, 16))


@pytest.mark.requirement("quantize.refused")
def test_an_unknown_name_is_answered_with_what_there_is() -> None:
    with pytest.raises(ConfigError, match=r"'int4' is not a quantisation.*There is: int8"):
        find_quantization("int4")
    assert find_quantization("int8") is quantize_int8


@pytest.mark.requirement("quantize.refused")
def test_the_missing_package_is_named_with_the_one_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError) as refused:
        quantize_int8(Transformer(tiny_config()))
    assert INSTALL == "pip install 'tiny-transformer[quantize]'"
    assert "torchao" in str(refused.value) and INSTALL in str(refused.value)


def test_groups_of_a_row_have_scales_of_their_own() -> None:
    int8 = torch.tensor([[1, -2, 3, 4]], dtype=torch.int8)
    floats = dequantize(int8, torch.tensor([[0.5, 10.0]]))
    assert floats.tolist() == [[0.5, -1.0, 30.0, 40.0]]
