"""The settings themselves: defaults, ranges, and the hash."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from typing import Any

import pytest

from tiny_transformer.config import (
    CheckpointsConfig,
    Config,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    SamplingConfig,
    ScheduleConfig,
    TrackingConfig,
    TrainingConfig,
    config_hash,
)
from tiny_transformer.runtime.errors import ConfigError

NAN, INFINITY = float("nan"), float("inf")

OUT_OF_RANGE = [
    *[
        (ModelConfig, name, value)
        for name in ("n_layers", "d_model", "n_heads", "context_length", "vocab_size")
        for value in (0, -1)
    ],
    (ModelConfig, "d_ff", 0),
    (ModelConfig, "n_kv_heads", 0),
    (ModelConfig, "n_kv_heads", -2),
    *[(ModelConfig, "dropout", value) for value in (-0.1, -0.001, 1.0, 1.5, NAN, INFINITY)],
    *[(ModelConfig, "norm_eps", value) for value in (0.0, -1e-5, NAN, INFINITY)],
    *[(ModelConfig, "rotary_base", value) for value in (1.0, -10.0, NAN, INFINITY)],
    (DataConfig, "corpus", ""),
    *[(DataConfig, "val_fraction", value) for value in (0.0, 1.0, -0.5, NAN)],
    (DataConfig, "stride", 0),
    *[
        (OptimizerConfig, name, value)
        for name in ("learning_rate", "weight_decay", "muon_learning_rate")
        for value in (-1e-9, NAN, INFINITY)
    ],
    *[
        (OptimizerConfig, name, value)
        for name in ("beta1", "beta2", "muon_momentum")
        for value in (-0.1, 1.0, NAN)
    ],
    *[(OptimizerConfig, "eps", value) for value in (0.0, -1.0, NAN, INFINITY)],
    (ScheduleConfig, "warmup_steps", -1),
    *[(ScheduleConfig, "final_fraction", value) for value in (-0.1, 1.1, NAN)],
    *[
        (TrainingConfig, name, 0)
        for name in ("max_steps", "batch_size", "accumulation_steps", "eval_batch_size")
    ],
    (TrainingConfig, "log_every", 0),
    *[
        (TrainingConfig, name, -1)
        for name in ("eval_every", "sample_every", "checkpoint_every", "seed")
    ],
    (TrainingConfig, "stop_at", 0),
    *[(TrainingConfig, "grad_clip", value) for value in (-1.0, NAN, INFINITY)],
    (SamplingConfig, "max_new_tokens", -1),
    *[(SamplingConfig, "temperature", value) for value in (-0.1, NAN, INFINITY)],
    (SamplingConfig, "top_k", 0),
    *[(SamplingConfig, "top_p", value) for value in (0.0, 1.1, -1.0, NAN)],
    (SamplingConfig, "seed", -1),
]


@pytest.mark.requirement("config.refused")
@pytest.mark.parametrize(("kind", "name", "value"), OUT_OF_RANGE)
def test_a_value_out_of_range_is_refused_by_its_name(kind: Any, name: str, value: float) -> None:
    with pytest.raises(ConfigError) as caught:
        kind(**{name: value})
    section = kind.__name__.removesuffix("Config").lower()
    assert f"{section}.{name}" in str(caught.value)
    assert str(value) in str(caught.value) or value == ""


EDGES = [
    (ModelConfig, "dropout", 0.0),
    (ModelConfig, "dropout", 0.998),
    (ModelConfig, "n_layers", 1),
    (OptimizerConfig, "learning_rate", 0.0),
    (OptimizerConfig, "beta1", 0.0),
    (ScheduleConfig, "final_fraction", 0.0),
    (ScheduleConfig, "final_fraction", 1.0),
    (ScheduleConfig, "warmup_steps", 0),
    (TrainingConfig, "eval_every", 0),
    (TrainingConfig, "grad_clip", 0.0),
    (TrainingConfig, "stop_at", 1),
    (SamplingConfig, "temperature", 0.0),
    (SamplingConfig, "top_p", 1.0),
    (SamplingConfig, "max_new_tokens", 0),
]


@pytest.mark.requirement("config.refused")
@pytest.mark.parametrize(("kind", "name", "value"), EDGES)
def test_a_value_on_the_edge_of_its_range_is_accepted(kind: Any, name: str, value: float) -> None:
    assert getattr(kind(**{name: value}), name) == value


@pytest.mark.requirement("config.refused")
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"d_model": 30, "n_heads": 4}, ["model.d_model", "model.n_heads", "30", "32"]),
        ({"d_model": 3, "n_heads": 4}, ["model.d_model", "for instance 4"]),
        ({"n_heads": 4, "n_kv_heads": 3}, ["model.n_kv_heads", "model.n_heads"]),
        ({"n_heads": 4, "n_kv_heads": 8}, ["model.n_kv_heads"]),
        ({"d_model": 12, "n_heads": 4, "position": "rotary"}, ["model.position", "3 wide"]),
        ({"d_model": 33, "n_heads": 3, "position": "sinusoidal"}, ["model.position", "33"]),
        ({"d_model": 10**400, "n_heads": 3}, ["model.d_model"]),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(
    settings: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        ModelConfig(**settings)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.requirement("config.refused")
def test_accumulation_must_divide_the_batch() -> None:
    assert TrainingConfig(batch_size=12, accumulation_steps=4).accumulation_steps == 4
    with pytest.raises(ConfigError, match=r"training\.accumulation_steps"):
        TrainingConfig(batch_size=12, accumulation_steps=5)


@pytest.mark.requirement("config.refused")
@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "..", "a b", "x" * 101, "-flag", "a\n"])
def test_a_run_name_that_is_no_plain_folder_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="run_name"):
        Config(run_name=name)


@pytest.mark.parametrize("name", ["a", "2024-01-01_run.2", "x" * 100, None])
def test_a_plain_run_name_is_accepted(name: str | None) -> None:
    assert Config(run_name=name).run_name == name


def test_settings_cannot_be_changed_after_they_were_checked() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        ModelConfig().n_layers = 7  # pyright: ignore[reportAttributeAccessIssue]


def test_derived_widths_follow_the_settings() -> None:
    config = ModelConfig(d_model=48, n_heads=6, n_kv_heads=2)
    assert (config.head_dim, config.kv_heads, config.feed_forward_width) == (8, 2, 192)
    assert ModelConfig(d_model=48, n_heads=6).kv_heads == 6
    assert ModelConfig(d_model=48, n_heads=6, d_ff=7).feed_forward_width == 7


def test_the_last_step_is_the_earlier_of_stop_at_and_max_steps() -> None:
    assert TrainingConfig(max_steps=10).last_step == 10
    assert TrainingConfig(max_steps=10, stop_at=4).last_step == 4
    assert TrainingConfig(max_steps=10, stop_at=40).last_step == 10


def _other_values(kind: Any) -> list[tuple[str, Any]]:
    """One valid value that differs from the default, for every setting of a section."""
    special: dict[str, Any] = {
        "n_kv_heads": 2, "d_ff": 12, "d_model": 128, "n_heads": 8, "position": "none",
        "activation": "relu", "norm": "rms_norm", "residual_init": "zero", "backend": "explicit",
        "corpus": "simple", "split_seed": 3, "stride": 5, "errors": "replace", "stop_at": 3,
        "tokenizer": "vocab.json",
        "top_k": 3, "top_p": 0.5, "prompt": "x", "device": "cpu", "precision": "float32",
        "shards": 2, "min_p": 0.1, "stop": ("end",), "presence_penalty": 0.5,
        "frequency_penalty": 0.5,
    }  # fmt: skip
    names = {OptimizerConfig: "muon", ScheduleConfig: "cosine"}
    values = []
    for field in dataclasses.fields(kind):
        default = field.default
        if field.name == "name":
            values.append((field.name, names[kind]))
        elif field.name in special:
            values.append((field.name, special[field.name]))
        elif isinstance(default, bool):
            values.append((field.name, not default))
        elif isinstance(default, int):
            values.append((field.name, default + 1))
        else:
            assert isinstance(default, float), field.name
            values.append((field.name, default * 0.75))
    return values


SECTIONS = {
    "data": DataConfig,
    "model": ModelConfig,
    "optimizer": OptimizerConfig,
    "schedule": ScheduleConfig,
    "training": TrainingConfig,
    "sampling": SamplingConfig,
}
EVERY_SETTING = [
    (section, name, value)
    for section, kind in SECTIONS.items()
    for name, value in _other_values(kind)
    if (section, name) != ("training", "stop_at")  # where a run pauses changes no number
]


@pytest.mark.requirement("config.stored-and-hashed")
@pytest.mark.parametrize(("section", "name", "value"), EVERY_SETTING)
def test_the_hash_changes_with_every_setting(section: str, name: str, value: object) -> None:
    changed = Config(**{section: SECTIONS[section](**{name: value})})
    assert changed != Config()
    assert config_hash(changed) != config_hash(Config())


@pytest.mark.requirement("config.stored-and-hashed")
def test_the_hash_does_not_change_with_the_name_place_or_pause_of_a_run() -> None:
    paused = TrainingConfig(stop_at=3)
    same = Config(
        run_name="mine",
        runs_dir="/elsewhere",
        training=paused,
        tracking=TrackingConfig(trackers=("tensorboard",)),
        checkpoints=CheckpointsConfig(keep_last=7),
    )
    assert config_hash(same) == config_hash(Config())


@pytest.mark.requirement("config.stored-and-hashed")
def test_the_hash_changes_with_the_hooks_and_their_order() -> None:
    a, b = {"name": "noise", "eta": 0.1}, {"name": "sign"}
    lists: list[tuple[dict[str, Any], ...]] = [(), (a,), (a, b), (b, a), ({**a, "eta": 0.2},)]
    assert len({config_hash(Config(hooks=hooks)) for hooks in lists}) == len(lists)


@pytest.mark.requirement("config.stored-and-hashed")
def test_the_hash_changes_with_the_name_of_a_corpus_but_not_with_its_place() -> None:
    hashes = {
        name: config_hash(Config(data=DataConfig(corpus=name)))
        for name in ("/here/plays.txt", "/there/plays.txt", "/here/poems.txt")
    }
    assert hashes["/here/plays.txt"] == hashes["/there/plays.txt"] != hashes["/here/poems.txt"]


@pytest.mark.requirement("config.stored-and-hashed")
def test_every_top_level_setting_is_hashed_or_is_a_name_or_place() -> None:
    names = {field.name for field in dataclasses.fields(Config)}
    unhashed = {"run_name", "runs_dir", "tracking", "checkpoints", "distributed"}
    assert names == set(SECTIONS) | {"hooks"} | unhashed


@pytest.mark.requirement("config.stored-and-hashed")
def test_equal_configs_have_equal_hashes_however_their_numbers_are_written() -> None:
    whole = Config(optimizer=OptimizerConfig(weight_decay=1), sampling=SamplingConfig(top_p=1))
    decimal = Config(
        optimizer=OptimizerConfig(weight_decay=1.0), sampling=SamplingConfig(top_p=1.0)
    )
    assert whole == decimal
    assert config_hash(whole) == config_hash(decimal)
    zero = Config(optimizer=OptimizerConfig(weight_decay=-0.0))
    assert config_hash(zero) == config_hash(Config(optimizer=OptimizerConfig(weight_decay=0)))


@pytest.mark.requirement("config.stored-and-hashed")
def test_large_neighbouring_seeds_have_different_hashes() -> None:
    first, second = (Config(training=TrainingConfig(seed=2**60 + i)) for i in (0, 1))
    assert config_hash(first) != config_hash(second)


@pytest.mark.requirement("config.stored-and-hashed")
def test_the_hash_is_16_hex_digits_and_equal_in_another_process() -> None:
    code = "from tiny_transformer.config import *; print(config_hash(Config()))"
    other = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    ).stdout.strip()
    assert other == config_hash(Config())
    assert len(other) == 16
    assert int(other, 16) >= 0


def test_to_dict_is_ready_for_json_and_independent_of_the_config() -> None:
    config = Config()
    settings = config.to_dict()
    assert json.loads(json.dumps(settings)) == settings
    settings["model"]["n_layers"] = 99
    assert config.model.n_layers == 4
