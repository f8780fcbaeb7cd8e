"""Config files: what is read equals what was written, and every mistake is explained."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tiny_transformer
from tiny_transformer.config import Config, ModelConfig, SamplingConfig, TrainingConfig
from tiny_transformer.config.loading import (
    config_from_dict,
    dump_config,
    load_config,
    parse_overrides,
    preset_names,
    presets_folder,
    save_config,
)
from tiny_transformer.runtime.errors import ConfigError

relaxed = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

fractions = st.floats(0.01, 0.99)
configs = st.builds(
    lambda heads, width, **sections: config_from_dict(
        {**sections, "model": {**sections["model"], "n_heads": heads, "d_model": heads * width}}
    ),
    heads=st.integers(1, 8),
    width=st.sampled_from([2, 4, 8, 64]),
    run_name=st.none() | st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True),
    runs_dir=st.text(min_size=1, max_size=20),
    data=st.fixed_dictionaries(
        {"corpus": st.text(min_size=1), "val_fraction": fractions},
        optional={"split_seed": st.none() | st.integers(), "shuffle": st.booleans()},
    ),
    model=st.fixed_dictionaries(
        {"position": st.sampled_from(["learned", "sinusoidal", "rotary", "none"])},
        optional={
            "n_layers": st.integers(1, 100),
            "d_ff": st.none() | st.integers(1, 10**6),
            "dropout": st.floats(0, 0.998),
            "norm_eps": st.floats(1e-12, 1.0),
            "rotary_base": st.floats(1.5, 1e9),
            "bias": st.booleans(),
        },
    ),
    optimizer=st.fixed_dictionaries(
        {}, optional={"learning_rate": st.floats(0, 1), "name": st.sampled_from(["adamw", "muon"])}
    ),
    sampling=st.fixed_dictionaries(
        {},
        optional={
            "prompt": st.text(),
            "temperature": st.floats(0, 1e6),
            "top_k": st.none() | st.integers(1, 10**12),
            "top_p": st.none() | fractions,
        },
    ),
)


@pytest.mark.requirement("config.files")
@pytest.mark.parametrize("suffix", [".yaml", ".json"])
@relaxed
@given(config=configs)
def test_any_valid_config_is_read_back_equal(suffix: str, config: Config, tmp_path: Path) -> None:
    path = tmp_path / f"config{suffix}"
    save_config(config, path)
    assert load_config(path) == config


@pytest.mark.requirement("config.files")
@pytest.mark.parametrize(
    "prompt", ["\x85", "a\u2028b", "\r\n ", "\ufeff", "\x00", "'\": #", "é \U0010ffff"]
)
@pytest.mark.parametrize("suffix", [".yaml", ".json"])
def test_an_unusual_prompt_is_read_back_as_it_was(prompt: str, suffix: str, tmp_path: Path) -> None:
    config = Config(sampling=SamplingConfig(prompt=prompt))
    save_config(config, tmp_path / f"c{suffix}")
    assert load_config(tmp_path / f"c{suffix}") == config


@pytest.mark.requirement("config.files")
def test_yaml_and_json_hold_the_same_settings() -> None:
    config = Config(model=ModelConfig(n_layers=7), sampling=SamplingConfig(prompt="Ünï\n\t'\""))
    as_yaml = yaml.safe_load(dump_config(config))
    assert as_yaml == json.loads(dump_config(config, as_json=True)) == config.to_dict()


@pytest.mark.requirement("config.files")
@pytest.mark.parametrize("text", ["", "# nothing but a comment\n", "{}", "null\n"])
def test_a_file_without_settings_gives_the_defaults(text: str, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    assert load_config(path) == load_config() == Config()


@pytest.mark.requirement("config.files")
def test_what_a_file_leaves_out_keeps_its_default(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("model: {n_layers: 2}\noptimizer: {learning_rate: 1e-3}\n")
    config = load_config(str(path))
    assert config.model == ModelConfig(n_layers=2)
    assert config.optimizer.learning_rate == 0.001  # PyYAML alone reads 1e-3 as a string
    assert config.training == TrainingConfig()


@pytest.mark.requirement("config.overrides")
@pytest.mark.parametrize("name", ["model.n_layers", "model.n-layers"])
def test_an_override_wins_over_the_file(name: str, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("model: {n_layers: 2, n_heads: 8}\n")
    config = load_config(path, {name: 6, "run-name": "mine", "training.seed": 1})
    assert config.model == ModelConfig(n_layers=6, n_heads=8)
    assert (config.run_name, config.training.seed) == ("mine", 1)


@pytest.mark.requirement("config.overrides")
def test_an_override_fills_a_heading_that_the_file_left_empty(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("model:\n")
    assert load_config(path, {"model.n_layers": 6}).model.n_layers == 6


@pytest.mark.requirement("config.overrides")
def test_overrides_are_read_as_yaml() -> None:
    pairs = ["model.n_layers=6", "model.bias=false", "model.d_ff=null", "sampling.prompt='a=b'"]
    parsed = parse_overrides(pairs)
    assert parsed == {
        "model.n_layers": 6,
        "model.bias": False,
        "model.d_ff": None,
        "sampling.prompt": "a=b",
    }
    assert load_config(None, parsed).sampling.prompt == "a=b"


@pytest.mark.requirement("config.overrides")
@pytest.mark.parametrize(
    "pair", ["model.n_layers", "=3", "a=[1", "a=!!bool foo", "a=!!int ''", "a=" + "[" * 1000]
)
def test_an_override_that_cannot_be_read_is_refused(pair: str) -> None:
    with pytest.raises(ConfigError, match="override"):
        parse_overrides([pair])


@pytest.mark.requirement("config.overrides")
@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("model.n-layer", 1, ["model.n_layer", "Did you mean 'n_layers'?"]),
        ("modle.n_layers", 1, ["'modle'", "Did you mean 'model'?"]),
        ("optimizer.lr", 1, ["'optimizer.lr'", "Valid names:", "learning_rate"]),
        ("model.n_layers.deep", 1, ["model.n_layers", "integer"]),
        ("runs_dir.deep", "x", ["runs_dir", "string"]),
        ("model", 3, ["model is 3", "section"]),
        ("", 3, ["Valid names", "training"]),
        ("model..n_layers", 3, ["'model.'"]),
    ],
)
def test_a_wrong_override_is_named(name: str, value: object, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, {name: value})
    for word in words:
        assert word in str(caught.value)


@pytest.mark.requirement("config.overrides")
def test_an_override_below_a_plain_value_of_the_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("model: {n_layers: 3}\n")
    with pytest.raises(ConfigError, match="'n_layers' has no parts"):
        load_config(path, {"model.n_layers.deep": 1})


@pytest.mark.requirement("config.presets")
@pytest.mark.parametrize("name", preset_names())
def test_every_shipped_preset_loads_by_name_and_by_path(name: str) -> None:
    assert load_config(name) == load_config(presets_folder() / f"{name}.yaml")


@pytest.mark.requirement("config.presets")
def test_the_presets_ship_inside_the_package() -> None:
    package = Path(tiny_transformer.__file__).parent
    assert presets_folder().is_relative_to(package)
    assert "base" in preset_names()


@pytest.mark.requirement("config.presets")
def test_the_configs_folder_of_the_checkout_is_the_presets_folder() -> None:
    configs_folder = Path(__file__).parents[2] / "configs"
    assert configs_folder.resolve() == presets_folder().resolve()


@pytest.mark.requirement("model.base-size")
def test_the_base_preset_has_the_promised_size() -> None:
    model = load_config("base").model
    sizes = (model.n_layers, model.d_model, model.n_heads, model.feed_forward_width)
    assert sizes == (4, 256, 4, 1024)
    assert (model.context_length, model.dropout) == (256, 0.1)
    assert (model.activation, model.position, model.tie_weights) == ("gelu", "learned", True)
    assert (model.norm, model.bias) == ("layer_norm", True)


def _refusal(path: Path, text: str | bytes) -> str:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    return str(caught.value)


@pytest.mark.requirement("config.refused")
@pytest.mark.requirement("bad.config-type")
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("modell: {}", ["'modell'", "Did you mean 'model'?"]),
        ("model: {n_layer: 1}", ["'model.n_layer'", "Did you mean 'n_layers'?"]),
        ("sampling: {temprature: 1}", ["'sampling.temprature'", "'temperature'"]),
        ("training: {zzz: 1}", ["'training.zzz'", "Valid names:", "batch_size"]),
        ("model: {n_layers: many}", ["model.n_layers", "'many'", "integer"]),
        ("model: {n_layers: 1.5}", ["model.n_layers", "1.5", "integer"]),
        ("model: {n_layers: [1]}", ["model.n_layers", "[1]"]),
        ("model: {n_layers: yes}", ["model.n_layers", "True", "number"]),
        ("model: {d_ff: true}", ["model.d_ff", "True", "number"]),
        ("optimizer: {learning_rate: true}", ["optimizer.learning_rate", "number"]),
        ("sampling: {top_p: true}", ["sampling.top_p", "number"]),
        ("model: {n_layers: null}", ["model.n_layers", "None"]),
        ("model: {bias: maybe}", ["model.bias", "'maybe'", "boolean"]),
        ("model: {activation: gleu}", ["model.activation", "'gleu'", "'gelu'"]),
        ("run_name: 3", ["run_name", "3", "string"]),
        ("model: 3", ["model is 3", "section"]),
        ("model:", ["model is None", "section"]),
        ("model: [1, 2]", ["model is [1, 2]"]),
        ("model: {1: 2}", ["model.1"]),
        ("model: {n_layers: -1}", ["model.n_layers", "-1"]),
        (f"model: {{n_layers: -0x{'f' * 5000}}}", ["model is", "digits"]),
        ("model: &a {b: *a}", ["'model.b'"]),
        ("model: {n_layers: &a [*a]}", ["model.n_layers"]),
        ("- a list", ["list"]),
        ("just words", ["str"]),
        ("1: 2", ["sections"]),
        ("a: [1", ["not valid YAML"]),
        ("\tmodel: 1", ["not valid YAML"]),
        ("a: !!python/object:os.system x", ["not valid YAML"]),
        ("a: !!bool foo", ["not valid YAML"]),
        ("a: !!timestamp foo", ["not valid YAML"]),
        ("a: !!int ''", ["not valid YAML"]),
        ("[" * 1000, ["too deeply"]),
        (b"model: \xff\xfe", ["not UTF-8", "byte 7"]),
        (b"\x00", ["not valid YAML"]),
    ],
)
def test_a_wrong_yaml_file_is_refused_by_name(
    text: str | bytes, words: list[str], tmp_path: Path
) -> None:
    message = _refusal(tmp_path / "my.yaml", text)
    for word in words:
        assert word in message


@pytest.mark.requirement("config.refused")
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", ["not valid JSON"]),
        ("[1]", ["list"]),
        ("3", ["int"]),
        ('{"model": {"n_layer": 1}}', ["Did you mean 'n_layers'?"]),
        ('{"optimizer": {"learning_rate": NaN}}', ["optimizer.learning_rate", "nan"]),
        ("[" * 100_000, ["too deeply"]),
        ("9" * 5000, ["not valid JSON"]),
        (b"\xff", ["not UTF-8"]),
    ],
)
def test_a_wrong_json_file_is_refused_by_name(
    text: str | bytes, words: list[str], tmp_path: Path
) -> None:
    message = _refusal(tmp_path / "my.json", text)
    for word in words:
        assert word in message


@pytest.mark.requirement("config.refused")
def test_every_problem_of_a_file_is_told_at_once(tmp_path: Path) -> None:
    text = "modle: {}\nmodel: {n_layers: x, actvation: gelu}\n"
    message = _refusal(tmp_path / "my.yaml", text)
    for word in ("my.yaml", "'modle'", "model.n_layers", "'model.actvation'", "'activation'"):
        assert word in message


@pytest.mark.requirement("config.refused")
def test_a_huge_value_is_shortened_in_the_message(tmp_path: Path) -> None:
    assert len(_refusal(tmp_path / "c.yaml", f"run_name: [{'1, ' * 9999} 1]")) < 600


@pytest.mark.requirement("config.refused")
def test_a_missing_file_is_refused_with_the_nearest_preset() -> None:
    with pytest.raises(ConfigError, match=r"no config file 'bsae'.*Did you mean 'base'\?"):
        load_config("bsae")
    with pytest.raises(ConfigError, match=r"Valid names: .*base"):
        load_config("/no/such/folder/zzz.yaml")


@pytest.mark.requirement("config.refused")
def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a folder"):
        load_config(tmp_path)


@pytest.mark.requirement("config.refused")
@pytest.mark.parametrize("name", ["x" * 5000, "a\0b"])
def test_a_name_that_no_file_can_have_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="config"):
        load_config(name)


@pytest.mark.requirement("config.refused")
def test_a_file_that_may_not_be_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "secret.yaml"
    path.write_text("model: {}")

    def refuse(*_: object, **__: object) -> bytes:
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(ConfigError, match=r"secret\.yaml cannot be read: Permission denied"):
        load_config(path)
