"""The whole model: logits, context, tying, causality, gradients, finiteness."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.model.architectures import (
    CONTEXT,
    VOCABULARY,
    every_architecture,
    largest_difference,
    tiny_config,
    tiny_model,
    token_ids,
)

from tiny_transformer.config import ModelConfig
from tiny_transformer.config.loading import load_config
from tiny_transformer.model.loss import compute_loss
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.runtime.device import autocast
from tiny_transformer.runtime.errors import ConfigError, PromptError
from tiny_transformer.runtime.random_state import forked_rng

CPU = torch.device("cpu")


@pytest.mark.requirement("model.base-size")
def test_the_base_model_has_the_size_that_its_settings_imply() -> None:
    config = load_config("base").model
    model = Transformer(config)
    C, F, V, T = 256, 1024, config.vocab_size, 256
    attention, mlp, norms = 4 * (C * C + C), 2 * C * F + F + C, 2 * 2 * C
    blocks = 4 * (attention + mlp + norms) + 2 * C
    assert model.n_parameters() == blocks + V * C + T * C
    assert model.n_parameters(embeddings=False) == blocks + V * C  # the table is the output too
    assert len(model.blocks) == 4


@pytest.mark.requirement("model.logits")
@every_architecture
def test_logits_are_one_score_per_position_and_token_in_float32(config: ModelConfig) -> None:
    ids = token_ids(batch=3, length=9)
    model = tiny_model(config)
    plain = model(ids)
    assert (plain.shape, plain.dtype) == ((3, 9, VOCABULARY), torch.float32)
    with autocast(CPU, "bfloat16"):
        mixed = model(ids)
    assert (mixed.shape, mixed.dtype) == (plain.shape, torch.float32)
    assert largest_difference(mixed, plain) < 0.1 * plain.abs().max()
    low = model.bfloat16()(ids)
    assert (low.shape, low.dtype) == (plain.shape, torch.float32)
    assert low.isfinite().all()
    assert tiny_model(config, dtype=torch.float64)(ids).dtype == torch.float64


@pytest.mark.requirement("model.context-error")
def test_a_full_context_is_taken_and_one_token_more_is_refused() -> None:
    model = tiny_model(tiny_config())
    assert model(token_ids(length=CONTEXT)).shape[1] == CONTEXT
    assert model(token_ids(length=1)).shape[1] == 1
    with pytest.raises(PromptError) as caught:
        model(token_ids(length=CONTEXT + 1))
    for word in ("model.context_length", "1 to 16", "got 17", "last 16"):
        assert word in str(caught.value)


@pytest.mark.requirement("model.context-error")
@pytest.mark.parametrize("position", ["sinusoidal", "rotary", "none"])
def test_the_context_is_a_limit_for_every_kind_of_position(position: str) -> None:
    model = tiny_model(tiny_config(position=position))
    with pytest.raises(PromptError):
        model(token_ids(length=CONTEXT + 1))


@pytest.mark.requirement("model.context-error")
def test_an_empty_input_and_a_wrong_shape_are_refused() -> None:
    model = tiny_model(tiny_config())
    with pytest.raises(PromptError, match="got 0"):
        model(token_ids(length=0))
    for shape in ((3,), (1, 2, 3)):
        with pytest.raises(ConfigError, match=r"\(B, T\)"):
            model(torch.zeros(shape, dtype=torch.int64))


@pytest.mark.requirement("model.tying")
@pytest.mark.parametrize("tied", [True, False])
def test_tied_weights_are_one_parameter_and_untied_are_two(tied: bool) -> None:
    model = Transformer(tiny_config(tie_weights=tied))
    table = model.get_parameter("embeddings.token.weight")
    assert (model.lm_head.weight is table) is tied
    with torch.no_grad():
        table.fill_(0.5)
    assert (model.lm_head.weight == 0.5).all().item() is tied
    names = [name for name, _ in model.named_parameters()]
    assert ("lm_head.weight" in names) is not tied


@pytest.mark.requirement("model.tying")
def test_tying_saves_one_table_and_counts_shared_weights_once() -> None:
    tied, untied = (Transformer(tiny_config(tie_weights=tied)) for tied in (True, False))
    table, positions = VOCABULARY * 32, CONTEXT * 32
    assert untied.n_parameters() - tied.n_parameters() == table
    assert tied.n_parameters(embeddings=False) == tied.n_parameters() - positions
    assert untied.n_parameters(embeddings=False) == untied.n_parameters() - positions - table


@pytest.mark.requirement("model.tying")
def test_a_tied_table_gets_the_gradients_of_both_its_uses() -> None:
    tied, untied = (tiny_model(tiny_config(tie_weights=tied)) for tied in (True, False))
    untied.load_state_dict(tied.state_dict())
    for model in (tied, untied):
        compute_loss(model(token_ids()), token_ids(seed=4)).backward()
    both = [untied.embeddings.get_parameter("token.weight").grad, untied.lm_head.weight.grad]
    assert both[0] is not None
    assert both[1] is not None
    assert tied.lm_head.weight.grad is not None
    assert largest_difference(tied.lm_head.weight.grad, both[0] + both[1]) < 1e-5


@pytest.mark.requirement("model.bias")
@pytest.mark.parametrize("norm", ["layer_norm", "rms_norm"])
def test_without_bias_there_is_none_anywhere(norm: str) -> None:
    def biases(bias: bool) -> list[str]:
        model = Transformer(tiny_config(bias=bias, norm=norm, activation="swiglu"))
        return [name for name, _ in model.named_parameters() if name.endswith("bias")]

    assert biases(False) == []
    assert len(biases(True)) == 2 * 7 + (5 if norm == "layer_norm" else 0)


@pytest.mark.requirement("model.causality")
@every_architecture
def test_the_future_never_changes_the_past_and_the_present_counts(config: ModelConfig) -> None:
    model, ids = tiny_model(config, dtype=torch.float64), token_ids(batch=1)
    changed = ids.repeat(CONTEXT, 1)
    for t in range(CONTEXT):  # row t differs from position t on
        changed[t, t:] = (changed[t, t:] + 1 + torch.arange(CONTEXT - t) % 3) % VOCABULARY
    with torch.no_grad():
        expected, logits = model(ids)[0], model(changed)
    for t in range(CONTEXT):
        if t > 0:
            assert largest_difference(logits[t, :t], expected[:t]) < 1e-12
        assert largest_difference(logits[t, t], expected[t]) > 1e-3


@pytest.mark.requirement("model.causality")
@every_architecture
def test_no_gradient_flows_from_the_past_to_the_future(config: ModelConfig) -> None:
    model = tiny_model(config)
    inputs: list[torch.Tensor] = []
    model.blocks[0].register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
    logits = model(token_ids(batch=1))
    for t in (0, 7, CONTEXT - 1):
        (gradient,) = torch.autograd.grad(logits[0, t].square().sum(), inputs, retain_graph=True)
        sizes = gradient[0].abs().amax(dim=-1)
        assert (sizes[t + 1 :] == 0).all()
        assert (sizes[: t + 1] > 0).all()


@pytest.mark.requirement("model.gradients")
@every_architecture
def test_every_parameter_gets_a_finite_gradient_that_is_not_zero(config: ModelConfig) -> None:
    model = tiny_model(config, dtype=torch.float64)
    compute_loss(model(token_ids(4)), token_ids(4, seed=4)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        # A shift of all keys alike moves no attention weight, unless it is turned or normed.
        in_vain = (
            name.endswith("k_proj.bias") and config.position != "rotary" and not config.qk_norm
        )
        assert (parameter.grad.abs().max().item() < 1e-12) is in_vain, name


@pytest.mark.requirement("model.gradients")
@pytest.mark.parametrize("choice", [{}, {"position": "rotary", "qk_norm": True, "n_kv_heads": 2}])
def test_gradients_are_those_of_finite_differences(choice: dict[str, Any]) -> None:
    model = tiny_model(tiny_config(**choice, n_layers=1, d_model=8, d_ff=8), dtype=torch.float64)
    ids, targets = token_ids(1, 5), token_ids(1, 5, seed=4)
    compute_loss(model(ids), targets).backward()
    step = 1e-6
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        flat = parameter.data.view(-1)
        index = int(parameter.grad.abs().argmax())
        losses = []
        for sign in (1, -1):
            kept = flat[index].item()
            flat[index] += sign * step
            losses.append(compute_loss(model(ids), targets).item())
            flat[index] = kept
        numeric = (losses[0] - losses[1]) / (2 * step)
        assert abs(numeric - parameter.grad.view(-1)[index].item()) < 1e-7, name


@pytest.mark.requirement("model.no-nan")
@pytest.mark.parametrize("backend", ["fused", "explicit"])
@every_architecture
def test_huge_activations_stay_finite_in_float32_and_bfloat16(
    config: ModelConfig, backend: str
) -> None:
    import dataclasses

    config = dataclasses.replace(config, backend=backend)
    ids = token_ids()
    for scale in (1e4, 1e6):
        for dtype in (torch.float32, torch.bfloat16):
            model = tiny_model(config, dtype=dtype)
            hook = model.embeddings.register_forward_hook(lambda _m, _i, x, s=scale: x * s)
            logits = model(ids)
            compute_loss(logits, ids).backward()
            hook.remove()
            assert logits.isfinite().all()
            assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.requirement("model.no-nan")
@pytest.mark.parametrize("backend", ["fused", "explicit"])
@pytest.mark.parametrize("scale", [1e4, 1e6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_huge_inputs_of_attention_and_mlp_stay_finite(
    dtype: torch.dtype, scale: float, backend: str
) -> None:
    for activation in ("gelu", "gelu_tanh", "relu", "relu2", "swiglu"):
        model = tiny_model(tiny_config(activation=activation, backend=backend), dtype=dtype)
        x = torch.randn(2, 7, 32, generator=torch.Generator().manual_seed(0)).to(dtype) * scale
        for part in ("attention", "mlp"):
            y = model.blocks[0].get_submodule(part)(x)
            assert y.isfinite().all(), (activation, part)


def test_dropout_acts_in_training_only_and_follows_the_global_generator() -> None:
    model, ids = tiny_model(tiny_config(dropout=0.25)), token_ids()
    assert torch.equal(model.eval()(ids), model(ids))
    model.train()
    outputs = []
    for seed in (1, 1, 2):
        with forked_rng(seed):
            outputs.append(model(ids))
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


def test_the_rows_of_a_batch_do_not_touch_each_other() -> None:
    model, ids = tiny_model(tiny_config()), token_ids(batch=4)
    alone = torch.cat([model(row[None]) for row in ids])
    assert largest_difference(model(ids), alone) < 1e-5
