"""A config names hooks; what is wrong with one is said with its name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.training.helpers import tiny_config, trainer

from tiny_transformer.hooks.registry import HOOKS, build_hooks, switch_hooks
from tiny_transformer.runtime.errors import ConfigError


@pytest.mark.requirement("hooks.registry")
def test_hooks_are_built_in_the_order_of_the_list_with_their_settings() -> None:
    settings = [
        {"name": "logit_lens", "every": 10},
        {"name": "activation_stats", "every": 20, "layers": [0, 3], "sites": ["mlp"]},
        {"name": "scale", "factor": 2, "parameters": ["blocks.0"], "until_step": None},
        {"name": "freeze", "parameters": ["embeddings"], "from_step": 5},
    ]
    built: list[Any] = build_hooks(settings)
    assert [type(hook) for hook in built] == [HOOKS[entry["name"]] for entry in settings]
    assert [hook.label for hook in built] == [entry["name"] for entry in settings]
    lens, stats, scale, freeze = built
    assert (lens.every, lens.layers) == (10, None)
    assert (stats.every, stats.layers, stats.sites) == (20, (0, 3), ("mlp",))
    assert (scale.factor, scale.parameters, scale.until_step) == (2.0, ("blocks.0",), None)
    assert (freeze.parameters, freeze.from_step) == (("embeddings",), 5)


@pytest.mark.requirement("hooks.registry")
@pytest.mark.parametrize("name", sorted(HOOKS.keys() - {"freeze"}))
def test_every_hook_that_ships_needs_no_settings_but_freeze(name: str) -> None:
    assert [hook.label for hook in build_hooks([{"name": name}])] == [name]


@pytest.mark.requirement("hooks.registry")
def test_a_hook_that_is_off_is_left_out_but_checked() -> None:
    settings = [{"name": "sign", "enabled": False}, {"name": "identity", "enabled": True}]
    assert [hook.label for hook in build_hooks(settings)] == ["identity"]
    with pytest.raises(ConfigError, match="'sing' is not a hook"):
        build_hooks([{"name": "sing", "enabled": False}])


@pytest.mark.requirement("hooks.registry")
def test_hooks_of_one_name_are_told_apart() -> None:
    hooks = build_hooks([{"name": "noise"}, {"name": "sign"}, {"name": "noise"}])
    assert [hook.label for hook in hooks] == ["noise", "sign", "noise#2"]


@pytest.mark.requirement("hooks.registry")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "activation_stat"}, "not a hook. Did you mean 'activation_stats'"),
        ({"name": "my_hooks.py"}, r"not a hook.*file and class: my_hooks\.py:MyHook"),
        ({"name": "noise", "etta": 1}, "The hook noise has no setting 'etta'. Did you mean 'eta'"),
        ({"name": "logit_lens", "evry": 1}, "has no setting 'evry'. Did you mean 'every'"),
        ({"name": "logit_lens", "parameters": ["*"]}, "has no setting 'parameters'"),
        ({"name": "scale", "every": 5}, "has no setting 'every'"),
        ({"name": "scale", "factor": "much"}, "The hook scale: factor is 'much'"),
        ({"name": "scale", "factor": True}, "The hook scale: factor is True"),
        ({"name": "scale", "factor": float("nan")}, "scale.factor is nan; .* finite"),
        ({"name": "noise", "eta": -1}, "noise.eta is -1.*at least 0"),
        ({"name": "noise", "eta": float("inf")}, "noise.eta is inf.*finite"),
        ({"name": "dead_units", "threshold": -1}, "dead_units.threshold is -1"),
        ({"name": "freeze"}, "freeze needs patterns"),
        ({"name": "freeze", "parameters": []}, "freeze needs patterns"),
        ({"name": "freeze", "parameters": "embeddings"}, "freeze: parameters is 'embeddings'"),
        ({"name": "scale", "parameters": "embeddings"}, "scale: parameters is .* list of names"),
        ({"name": "scale", "parameters": []}, "scale: parameters is empty"),
        ({"name": "scale", "from_step": 0}, "scale: from_step is 0.*whole number from 1"),
        ({"name": "scale", "until_step": 1.5}, "scale: until_step is 1.5"),
        ({"name": "logit_lens", "every": 0}, "logit_lens: every is 0"),
        ({"name": "logit_lens", "every": True}, "logit_lens: every is True"),
        ({"name": "logit_lens", "layers": 0}, "logit_lens: layers is 0.*list of indices"),
        ({"name": "logit_lens", "layers": [True]}, "layers is .True.*list of indices"),
        ({"name": "logit_lens", "sites": "block"}, "sites is 'block'.*list of names"),
        ({"name": "identity", "enabled": "no"}, "identity: enabled is 'no'; give true or false"),
        ({"name": "gradient_norms", "detail": "all"}, "gradient_norms.detail is 'all'.*total"),
        ({"name": "weight_norms", "detail": "all"}, "weight_norms.detail is 'all'.*total"),
        ({"name": "sample_writer", "prompts": []}, "sample_writer.prompts is empty"),
        ({"name": "sample_writer", "max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"name": "layer_learning_rate", "decay": -1}, "layer_learning_rate.decay is -1"),
        ({"name": "layer_learning_rate", "scales": {"*": -1}}, r"learning_rate\.\* is -1"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_a_wrong_name_or_setting_is_refused_with_the_remedy(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        build_hooks([settings])


@pytest.mark.requirement("hooks.registry")
def test_a_wrong_hook_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        trainer(tiny_config(tmp_path, hooks=[{"name": "logit_lens", "layers": [9]}]))
    assert not (tmp_path / "runs").exists()


@pytest.mark.requirement("hooks.registry")
def test_flags_switch_hooks_on_and_off() -> None:
    settings = ({"name": "noise", "eta": 0.1, "enabled": False}, {"name": "sign"})
    switched = switch_hooks(
        settings,
        on=["noise eta=0.5", "logit_lens every=10  layers=[0, 3]", "freeze parameters=['*.bias']"],
        off=["sign"],
    )
    assert switched == (
        {"name": "noise", "eta": 0.5, "enabled": True},
        {"name": "sign", "enabled": False},
        {"name": "logit_lens", "enabled": True, "every": 10, "layers": [0, 3]},
        {"name": "freeze", "enabled": True, "parameters": ["*.bias"]},
    )
    assert [hook.label for hook in build_hooks(switched)] == ["noise", "logit_lens", "freeze"]
    assert settings == ({"name": "noise", "eta": 0.1, "enabled": False}, {"name": "sign"})


@pytest.mark.requirement("hooks.registry")
def test_a_value_of_a_flag_may_have_spaces() -> None:
    (entry,) = switch_hooks((), ['sample_writer prompts=["To be, or", not to] seed=3'], [])
    assert entry["prompts"] == ["To be, or", "not to"]
    assert entry["seed"] == 3


@pytest.mark.requirement("hooks.registry")
def test_every_hook_of_a_name_is_switched_off() -> None:
    switched = switch_hooks(({"name": "noise"}, {"name": "noise"}), on=[], off=["noise"])
    assert build_hooks(switched) == []


@pytest.mark.requirement("hooks.registry")
@pytest.mark.parametrize(
    ("on", "off", "message"),
    [
        ([], ["nose"], "no hook 'nose' to switch off. Did you mean 'noise'"),
        (["noise eta=[1"], [], "not valid YAML"),
        (["noise eta"], [], "'noise eta' is not a hook"),
        (["nose"], [], "'nose' is not a hook. Did you mean 'noise'"),
        ([""], [], "'' is not a hook"),
    ],
)
def test_a_flag_that_cannot_be_read_is_refused(on: list[str], off: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_hooks(switch_hooks(({"name": "noise"},), on, off))


@pytest.mark.requirement("hooks.registry")
def test_without_hooks_there_is_none_to_switch_off() -> None:
    with pytest.raises(ConfigError, match="The config has no hooks"):
        switch_hooks((), [], ["noise"])
