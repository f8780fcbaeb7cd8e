"""Update hooks change what they say they change, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.hooks.helpers import (
    changed_by,
    give_gradients,
    gradients_of,
    outcome,
    run,
    small_model,
)
from tests.training.helpers import log_of, tiny_config, train, trainer
from torch import Tensor

from tiny_transformer.config import OptimizerConfig
from tiny_transformer.hooks.base import Gradient, UpdateHook
from tiny_transformer.hooks.registry import build_hooks
from tiny_transformer.hooks.runner import HookRunner
from tiny_transformer.runtime.errors import ConfigError
from tiny_transformer.training.optimizer import Optimizer
from tiny_transformer.training.trainer import Trainer
from tiny_transformer.training.weights import named_weights, tensor_hashes

pytestmark = pytest.mark.requirement("hooks.update")

OPTIMIZERS = pytest.mark.parametrize("optimizer", ["adamw", "muon"])


@OPTIMIZERS
@pytest.mark.parametrize(
    "hook",
    [
        {"name": "identity"},
        {"name": "layer_learning_rate"},
        {"name": "layer_learning_rate", "decay": 1.0, "scales": {"blocks.0": 1.0, "*.bias": 1}},
        {"name": "noise", "eta": 0},
        {"name": "scale", "factor": 1},
    ],
    ids=["identity", "layers", "factors of 1", "no noise", "scale by 1"],
)
def test_a_hook_that_changes_nothing_is_a_run_without_it(
    tmp_path: Path, plain: dict[str, Any], optimizer: str, hook: dict[str, Any]
) -> None:
    hooked = run(tmp_path, hook, optimizer__name=optimizer)
    assert outcome(hooked) == plain[optimizer]


def test_hooks_act_in_the_order_of_the_list() -> None:
    class AddOne(UpdateHook):
        def transform(self, gradient: Tensor, at: Gradient) -> Tensor:
            return gradient + 1

    model = small_model()
    before = give_gradients(model)
    double = {"name": "scale", "factor": 2.0}
    for name, gradient in changed_by(model, [AddOne(), double])[0].items():
        assert gradient.equal((before[name] + 1) * 2)
    before = give_gradients(model)
    for name, gradient in changed_by(model, [double, AddOne()])[0].items():
        assert gradient.equal(before[name] * 2 + 1)


def test_gradients_come_after_clipping_and_observers_see_them_at_their_place(
    tmp_path: Path,
) -> None:
    norms = {"name": "gradient_norms", "every": 1}
    hooks = [norms, {"name": "scale", "factor": 3.0}, norms]
    _, result = train(tmp_path, hooks=hooks, training__grad_clip=0.125)
    before, after = (
        [line["metrics"]["total"] for line in log_of(result.folder, "hook") if line["hook"] == name]
        for name in ("gradient_norms", "gradient_norms#2")
    )
    assert before == pytest.approx([0.125] * 6, rel=1e-4)
    assert after == pytest.approx([0.375] * 6, rel=1e-4)
    assert all(line["grad_norm"] > 0.2 for line in log_of(result.folder, "train"))


@pytest.mark.parametrize(
    ("settings", "changed"),
    [
        ({"parameters": ["blocks.0"]}, lambda name: name.startswith("blocks.0.")),
        ({"parameters": ["*.bias"]}, lambda name: name.endswith(".bias")),
        ({"parameters": ["blocks.*.mlp"]}, lambda name: ".mlp." in name),
        ({"parameters": ["final_norm", "blocks.1.norm1.bias"]}, None),
        ({"from_step": 4}, lambda _: False),
        ({"from_step": 3}, lambda _: True),
        ({"until_step": 2}, lambda _: False),
        ({"until_step": 3}, lambda _: True),
    ],
)
def test_parameters_and_steps_choose_where_a_hook_acts(
    settings: dict[str, Any], changed: Callable[[str], bool] | None
) -> None:
    model = small_model()
    before = give_gradients(model)
    after, _ = changed_by(model, [{"name": "scale", "factor": 2.0, **settings}], step=3)
    names = {name for name in before if not after[name].equal(before[name])}
    if changed is None:
        assert names == {"final_norm.weight", "final_norm.bias", "blocks.1.norm1.bias"}
    else:
        assert names == {name for name in before if changed(name)}


@pytest.mark.parametrize(
    "hook",
    [
        {"name": "scale", "parameters": ["block.0"]},
        {"name": "layer_learning_rate", "scales": {"block.0": 0.5}},
    ],
)
def test_a_pattern_that_matches_no_parameter_is_refused(hook: dict[str, Any]) -> None:
    message = rf"The hook {hook['name']}: no parameter matches 'block\.0'\. Did you mean"
    with pytest.raises(ConfigError, match=message):
        changed_by(small_model(), [hook])


def test_scaling_a_gradient_changes_next_to_nothing_under_adamw(tmp_path: Path) -> None:
    def distance(a: Trainer, b: Trainer) -> float:
        pairs = zip(a.model.parameters(), b.model.parameters(), strict=True)
        return math.sqrt(sum((x - y).square().sum().item() for x, y in pairs))

    begun = trainer(tiny_config(tmp_path, model__n_layers=2))
    plain = run(tmp_path / "plain")
    scaled = run(tmp_path / "scaled", {"name": "scale", "factor": 0.5})
    slowed = run(tmp_path / "slowed", {"name": "layer_learning_rate", "scales": {"*": 0.5}})
    way = distance(begun, plain)
    assert 0 < distance(plain, scaled) < 0.01 * way
    assert distance(plain, slowed) > 0.3 * way


def noise_of(step: int = 2, seed: int = 3, **settings: Any) -> dict[str, Tensor]:
    model = small_model()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    torch.manual_seed(torch.seed())  # the global generator has no part in it
    return changed_by(model, [{"name": "noise", **settings}], step=step, seed=seed)[0]


def test_noise_is_a_function_of_seed_step_and_parameter() -> None:
    first, again = noise_of(), noise_of()
    assert all(first[name].equal(again[name]) for name in first)
    alone = noise_of(parameters=["blocks.1"])  # not of the parameters before it
    assert all(alone[name].equal(first[name]) for name in first if name.startswith("blocks.1"))
    one, other = (f"blocks.{i}.mlp.up_proj.weight" for i in (0, 1))
    assert not first[one].equal(first[other])
    assert not first[one].equal(noise_of(seed=4)[one])
    later = noise_of(step=3)[one]
    assert (first[one] / later - (3 / 2) ** 0.275).abs().max() > 0.1  # another draw


@pytest.mark.parametrize("step", [1, 10])
def test_noise_has_the_standard_deviation_of_its_formula(step: int) -> None:
    draws = torch.cat([g.flatten() for g in noise_of(step=step, eta=0.3, gamma=0.55).values()])
    assert draws.numel() > 5000
    assert draws.std().item() == pytest.approx(math.sqrt(0.3 / step**0.55), rel=0.05)
    assert draws.mean().item() == pytest.approx(0, abs=0.05)


def test_sign_keeps_signs_and_the_mean_size() -> None:
    model = small_model()
    before = give_gradients(model)
    for name, gradient in changed_by(model, [{"name": "sign"}])[0].items():
        size = sum(abs(value) for value in before[name].flatten().tolist()) / before[name].numel()
        assert gradient.sign().equal(before[name].sign())
        assert gradient.abs().unique().tolist() == pytest.approx([size])


def test_project_takes_away_what_points_along_each_row_of_the_weight() -> None:
    model = small_model()
    weight = model.get_parameter("blocks.0.mlp.up_proj.weight")
    before = give_gradients(model)
    with torch.no_grad():
        weight[3] = 0  # no direction to take away
    assert weight.grad is not None
    weight.grad[5] = 2.5 * weight.detach()[5]  # all of it
    before = gradients_of(model)
    after, _ = changed_by(model, [{"name": "project"}])
    for name, gradient in after.items():
        parameter = model.get_parameter(name).detach()
        if parameter.ndim < 2:
            assert gradient.equal(before[name])
            continue
        for g, old, w in zip(gradient, before[name], parameter, strict=True):
            assert float(g @ w) == pytest.approx(0, abs=1e-4)
            off = old - g  # along the weight: what was taken away, and no more
            assert (off * (w @ w) - (old @ w) * w).abs().max() < 1e-3
    name = "blocks.0.mlp.up_proj.weight"
    assert after[name][3].equal(before[name][3])
    assert after[name][5].abs().max() < 1e-5


@OPTIMIZERS
def test_frozen_parameters_and_their_optimizer_state_stay_bit_for_bit(
    tmp_path: Path, optimizer: str
) -> None:
    freeze = {"name": "freeze", "parameters": ["blocks.0", "embeddings"], "from_step": 4}
    changes = {"optimizer__name": optimizer, "optimizer__weight_decay": 0.5}
    stopped = run(tmp_path / "3", freeze, training__stop_at=3, **changes)
    trained = run(tmp_path / "6", freeze, **changes)
    for of in (lambda t: named_weights(t.model), lambda t: t.optimizer.state_tensors()):
        before, after = tensor_hashes(of(stopped)), tensor_hashes(of(trained))
        frozen = {n for n in before if n.startswith(("blocks.0.", "embeddings."))}
        assert len(frozen) > 8
        assert {n for n in before if before[n] == after[n]} == frozen
    # From the first step on, there is nothing to keep for them.
    always = run(tmp_path / "0", {**freeze, "from_step": 1}, **changes)
    begun = tensor_hashes(named_weights(trainer(tiny_config(tmp_path, model__n_layers=2)).model))
    ended = tensor_hashes(named_weights(always.model))
    assert {n for n in begun if begun[n] == ended[n]} >= {n for n in begun if "blocks.0." in n}
    assert not any(n.startswith("blocks.0.") for n in always.optimizer.state_tensors())


@OPTIMIZERS
def test_a_model_that_is_frozen_as_a_whole_stays_as_it_began(
    tmp_path: Path, optimizer: str
) -> None:
    trained = run(tmp_path, {"name": "freeze", "parameters": ["*"]}, optimizer__name=optimizer)
    begun = trainer(tiny_config(tmp_path, model__n_layers=2))
    assert tensor_hashes(named_weights(trained.model)) == tensor_hashes(named_weights(begun.model))
    assert trained.optimizer.state_tensors() == {}


def test_halving_a_layers_rate_is_a_parameter_group_of_half_the_rate_in_torch() -> None:
    ours, theirs = small_model(), small_model()
    config = OptimizerConfig(learning_rate=3e-3, weight_decay=0.1)
    optimizer = Optimizer(ours, config)
    runner = HookRunner(
        build_hooks([{"name": "layer_learning_rate", "scales": {"blocks.1": 0.5}}]), ours, seed=0
    )
    groups = [
        {
            "params": [
                p
                for n, p in theirs.named_parameters()
                if n.startswith("blocks.1.") == halved and (p.ndim >= 2) == matrix
            ],
            "lr": 3e-3 * (0.5 if halved else 1),
            "weight_decay": 0.1 if matrix else 0.0,
        }
        for halved in (False, True)
        for matrix in (False, True)
    ]
    reference = torch.optim.AdamW(
        groups, betas=(config.beta1, config.beta2), eps=config.eps, fused=True
    )
    for step in (1, 2, 3):
        for parameter, gradient in zip(
            theirs.parameters(), give_gradients(ours, seed=step).values(), strict=True
        ):
            parameter.grad = gradient
        optimizer.step(1.0, runner.change_gradients(step))
        reference.step()
        assert tensor_hashes(named_weights(ours)) == tensor_hashes(named_weights(theirs))


def test_decay_gives_each_layer_its_rate() -> None:
    model = small_model(n_layers=3, tie_weights=False)
    give_gradients(model)
    hook = {"name": "layer_learning_rate", "decay": 0.5, "scales": {"*.bias": 3, "blocks.1": 0}}
    _, scales = changed_by(model, [hook])
    rate = {name: scales.get(name, 1.0) for name, _ in model.named_parameters()}
    assert rate["embeddings.token.weight"] == 1 / 8
    assert rate["blocks.0.mlp.up_proj.weight"] == 1 / 4
    assert rate["blocks.0.mlp.up_proj.bias"] == 3 / 4
    assert rate["blocks.1.mlp.up_proj.weight"] == rate["blocks.1.mlp.up_proj.bias"] == 0
    assert rate["blocks.2.mlp.up_proj.weight"] == 1
    assert rate["final_norm.weight"] == rate["lm_head.weight"] == 1


def test_the_scales_of_several_hooks_multiply() -> None:
    model = small_model()
    give_gradients(model)
    half = {"name": "layer_learning_rate", "scales": {"blocks.0": 0.5}}
    _, scales = changed_by(model, [half, half])
    assert set(scales.values()) == {0.25}
