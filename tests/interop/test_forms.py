"""What a form takes, and how a model that none takes is refused."""

from __future__ import annotations

from typing import Any

import pytest
from tests.interop.helpers import GPT2, LLAMA, QWEN3, config_of

from tiny_transformer.interop import forms
from tiny_transformer.interop.base import ExportError
from tiny_transformer.interop.formats import FORMATS, check_carried

pytestmark = pytest.mark.requirement("export.refused-architecture")
ANY = ["safetensors", "torch-export", "torchscript", "onnx"]


def refusal(format_name: str, **settings: Any) -> str:
    with pytest.raises(ExportError) as refused:
        check_carried(config_of(**settings), FORMATS[format_name])
    return str(refused.value)


@pytest.mark.parametrize("settings", [GPT2, LLAMA, QWEN3], ids=["gpt2", "llama", "qwen3"])
@pytest.mark.parametrize("format_name", list(FORMATS))
def test_three_published_architectures_are_carried_everywhere(
    format_name: str, settings: dict[str, Any]
) -> None:
    check_carried(config_of(**settings), FORMATS[format_name])


@pytest.mark.parametrize("format_name", ANY)
def test_a_format_that_writes_a_graph_carries_anything(format_name: str) -> None:
    odd = {"token_window": 8, "position": "none", "activation": "relu2", "qk_norm": True}
    check_carried(config_of(**odd), FORMATS[format_name])


@pytest.mark.parametrize("format_name", ["huggingface", "gguf"])
@pytest.mark.parametrize(
    ("settings", "named", "form"),
    [
        (GPT2 | {"token_window": 8}, "model.token_window is 8, where it takes 1", "GPT-2"),
        (GPT2 | {"position": "sinusoidal"}, "model.position is 'sinusoidal'", "GPT-2"),
        (GPT2 | {"position": "none"}, "model.position is 'none'", "GPT-2"),
        (GPT2 | {"scale_embeddings": True}, "model.scale_embeddings is True", "GPT-2"),
        (GPT2 | {"qk_norm": True}, "model.qk_norm is True, where it takes False", "GPT-2"),
        (GPT2 | {"bias": False}, "model.bias is False, where it takes True", "GPT-2"),
        (GPT2 | {"n_kv_heads": 2}, "model.n_kv_heads is 2, where it takes n_heads", "GPT-2"),
        (LLAMA | {"activation": "relu2"}, "model.activation is 'relu2'", "Llama"),
        (LLAMA | {"norm": "layer_norm"}, "model.norm is 'layer_norm'", "Llama"),
        (QWEN3 | {"scale_embeddings": True}, "model.scale_embeddings is True", "Qwen3"),
    ],
)
def test_a_choice_that_no_form_takes_is_refused_by_name(
    settings: dict[str, Any], named: str, form: str, format_name: str
) -> None:
    message = refusal(format_name, **settings)
    assert message.startswith(
        f"The format {format_name} cannot carry this model. Its nearest form is {form}: {named}"
    )
    assert message.endswith(f"Formats that carry it: {', '.join(ANY)}.")


def test_every_setting_in_the_way_is_named_and_no_other() -> None:
    message = refusal("huggingface", token_window=2, scale_embeddings=True, qk_norm=True)
    assert message.count("where it takes") == 3
    for setting in ("token_window is 2", "scale_embeddings is True", "qk_norm is True"):
        assert f"model.{setting}" in message


def test_llama_cpp_knows_one_gelu() -> None:
    message = refusal("gguf", activation="gelu")
    assert "model.activation is 'gelu', where it takes 'gelu_tanh'" in message
    assert "huggingface" in message.split("carry it: ")[1]


def test_as_many_key_value_heads_as_heads_are_not_grouped() -> None:
    assert forms.GPT2.faults(config_of(n_kv_heads=4)) == {}
    assert list(forms.GPT2.faults(config_of(n_kv_heads=1))) == ["n_kv_heads"]
