"""`import tiny_transformer` offers exactly these names, and imports nothing heavy for them."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys

import pytest

import tiny_transformer

PROMISED = {
    *("normalize_text", "CharTokenizer", "split_corpus", "WindowDataset", "DataLoader"),
    *("MultiHeadAttention", "MLP", "LayerNorm", "TransformerBlock", "TokenEmbedding"),
    *("PositionalEmbedding", "Transformer", "compute_loss", "Trainer", "save_checkpoint"),
    *("load_checkpoint", "compute_val_loss", "sample_text"),
}
NAMES = PROMISED | {
    *("Config", "DataConfig", "ModelConfig", "OptimizerConfig", "SamplingConfig"),
    *("ScheduleConfig", "TrainingConfig", "config_hash", "load_config", "save_config"),
    *("prepare", "Evaluation", "causal_mask", "explicit_attention", "fused_attention"),
    *("Embeddings", "KVCache", "RMSNorm", "Parts", "TinyError", "generate_tokens"),
    *("stream_text", "Checkpoint", "weights_hash", "Optimizer", "learning_rate_scale"),
    *("TrainingResult", "open_checkpoint", "continue_prompts", "beam_search"),
    *("contrastive_search", "speculative_tokens"),
    *("UpdateHook", "ForwardHook", "Observer", "Gradient", "Site", "Probe", "Event"),
}

pytestmark = pytest.mark.requirement("names.public")


def test_exactly_these_names_are_public() -> None:
    offered: list[str] = vars(tiny_transformer)["__all__"]
    assert set(offered) == NAMES
    assert len(offered) == len(NAMES)


def test_the_listing_shows_them() -> None:
    assert set(dir(tiny_transformer)) == NAMES | {"__version__"}


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_name_leads_to_a_documented_thing_of_that_name(name: str) -> None:
    value = getattr(tiny_transformer, name)
    assert value.__name__ == name
    assert value.__module__.startswith("tiny_transformer.")
    assert getattr(importlib.import_module(value.__module__), name) is value
    # A dataclass without a docstring is given its signature for one.
    documentation = inspect.getdoc(value) or ""
    assert documentation and not documentation.startswith(f"{name}(")


def test_a_star_import_brings_them_all() -> None:
    scope: dict[str, object] = {}
    exec("from tiny_transformer import *", scope)
    assert scope.keys() >= NAMES


@pytest.mark.parametrize("name", ["Tranformer", "_hidden", "torch"])
def test_another_name_is_an_attribute_error_that_names_it(name: str) -> None:
    with pytest.raises(AttributeError, match=name):
        getattr(tiny_transformer, name)


def test_the_version_is_that_of_the_installed_package() -> None:
    from importlib.metadata import version

    assert tiny_transformer.__version__ == version("tiny-transformer")


def loaded_after(code: str) -> set[str]:
    """Run code in a fresh interpreter; return the modules that it has imported."""
    report = "import sys; print('\\n' + ' '.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=True
    )
    return set(done.stdout.splitlines()[-1].split())


def test_importing_the_package_imports_nothing_heavy() -> None:
    loaded = loaded_after("import tiny_transformer; dir(tiny_transformer)")
    assert "tiny_transformer" in loaded
    assert not loaded & {"torch", "numpy", "pydantic", "yaml", "tyro", "matplotlib"}


def test_a_name_imports_what_it_needs_and_no_more() -> None:
    loaded = loaded_after("import tiny_transformer; tiny_transformer.normalize_text")
    assert "tiny_transformer.text.normalize" in loaded
    assert "torch" not in loaded
