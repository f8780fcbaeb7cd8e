"""What an update hook may not do, and what it may rely on."""

from __future__ import annotations

import copy
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
    labelled,
    outcome,
    small_model,
    trained_with,
)
from torch import Tensor

from tiny_transformer.hooks.base import Gradient, Observer, UpdateHook
from tiny_transformer.hooks.runner import HookRunner
from tiny_transformer.runtime.errors import HookError
from tiny_transformer.training.weights import named_weights, tensor_hashes

pytestmark = pytest.mark.requirement("hooks.update")


class Returns(UpdateHook):
    def __init__(self, make: Callable[[Tensor], Any], scale: Any = 1.0) -> None:
        self.make, self.scale = make, scale

    def transform(self, gradient: Tensor, at: Gradient) -> Any:
        return self.make(gradient)

    def learning_rate_scale(self, at: Gradient) -> Any:
        return self.scale


@pytest.mark.parametrize(
    ("hook", "message"),
    [
        (Returns(lambda _: None), r"hook Returns returned NoneType for \S+; transform must"),
        (Returns(lambda g: g[:1].clone()), r"hook Returns returned a gradient of \(1,"),
        (Returns(lambda g: g.double()), r"hook Returns returned a gradient of .*float64"),
        (Returns(lambda g: g.to("meta")), r"hook Returns returned a gradient of .*on meta"),
        (Returns(lambda g: g / 0), r"hook Returns returned a gradient for \S+ that is not fin"),
        (Returns(lambda g: g.div_(0)), r"hook Returns returned a gradient for \S+ that is not fin"),
        (Returns(lambda g: g, -1), r"hook Returns returned -1 as the learning-rate scale of"),
        (Returns(lambda g: g, math.nan), r"hook Returns returned nan as the learning-rate scale"),
        (Returns(lambda g: g, "half"), r"hook Returns returned 'half' as the learning-rate sca"),
    ],
)
def test_what_is_no_gradient_or_no_rate_is_an_error_that_names_the_hook(
    hook: UpdateHook, message: str
) -> None:
    model = small_model()
    give_gradients(model)
    with pytest.raises(HookError, match=message):
        changed_by(model, [hook])


@pytest.mark.parametrize("past_the_count", [False, True])
def test_an_update_hook_cannot_change_a_weight(past_the_count: bool) -> None:
    class Shrinks(UpdateHook):
        def transform(self, gradient: Tensor, at: Gradient) -> Tensor:
            (at.weight.data if past_the_count else at.weight).mul_(0.5)
            return gradient

    model = small_model()
    give_gradients(model)
    before = tensor_hashes(named_weights(model))
    if past_the_count:
        changed_by(model, [Shrinks()])
    else:
        with pytest.raises(HookError, match=r"hook Shrinks changed the weight embeddings\."):
            changed_by(model, [Shrinks()])
    assert tensor_hashes(named_weights(model)) == before


@pytest.mark.parametrize(
    "odd",
    [
        lambda g: g.t().contiguous().t() if g.ndim == 2 else g.clone(),
        lambda g: g.mul_(1),
        lambda g: torch.stack([g, g], dim=-1)[..., 0],
    ],
    ids=["transposed in memory", "in place", "with gaps in memory"],
)
def test_how_a_gradient_lies_in_memory_does_not_matter(
    tmp_path: Path, plain: dict[str, Any], odd: Callable[[Tensor], Tensor]
) -> None:
    hooked = trained_with(tmp_path, Returns(odd), model__n_layers=2)
    assert outcome(hooked) == plain["adamw"]


def test_a_hook_may_return_one_tensor_for_many_parameters() -> None:
    class Shared(UpdateHook):
        def __init__(self) -> None:
            self.buffers: dict[Any, Tensor] = {}

        def transform(self, gradient: Tensor, at: Gradient) -> Tensor:
            buffer = self.buffers.setdefault(gradient.shape, torch.empty_like(gradient))
            return buffer.copy_(gradient * 2)

    model = small_model()
    before = give_gradients(model)
    after, _ = changed_by(model, [Shared()])
    assert all(after[name].equal(before[name] * 2) for name in before)


def test_a_later_hook_does_not_reach_into_what_an_earlier_one_kept() -> None:
    class Keeps(UpdateHook):
        def transform(self, gradient: Tensor, at: Gradient) -> Tensor:
            self.kept = gradient * 1
            return self.kept

    model = small_model()
    before = give_gradients(model)
    keeps = Keeps()
    changed_by(model, [keeps, Returns(lambda g: g.zero_())])
    assert keeps.kept.equal(list(before.values())[-1])


def test_an_own_attribute_named_like_a_built_in_setting_is_the_hooks_own() -> None:
    class Own(UpdateHook):
        scales = 3.5

        def transform(self, gradient: Tensor, at: Gradient) -> Tensor:
            return gradient * self.scales

    model = small_model()
    before = give_gradients(model)
    after, _ = changed_by(model, [Own()])
    assert all(after[name].equal(before[name] * 3.5) for name in before)


def test_a_hook_that_draws_numbers_draws_by_seed_step_and_parameter() -> None:
    class Draws(UpdateHook):
        def transform(self, gradient: Tensor, at: Gradient) -> Tensor:
            return torch.randn_like(gradient)

    def drawn(step: int = 1, seed: int = 0, **settings: Any) -> dict[str, Tensor]:
        model, hook = small_model(), Draws()
        vars(hook).update(settings)
        give_gradients(model)
        return changed_by(model, [hook], step=step, seed=seed)[0]

    before = torch.get_rng_state()
    first, name = drawn(), "blocks.1.mlp.up_proj.weight"
    assert torch.get_rng_state().equal(before)
    torch.manual_seed(99)
    assert drawn(parameters=("blocks.1",))[name].equal(first[name])
    assert not drawn(step=2)[name].equal(first[name])
    assert not drawn(seed=1)[name].equal(first[name])


def test_a_gradient_knows_whose_it_is() -> None:
    seen: dict[str, Gradient] = {}

    class Look(UpdateHook):
        def transform(self, gradient: Tensor, at: Gradient) -> Tensor:
            assert at.weight.equal(model.get_parameter(at.name))
            seen[at.name] = copy.copy(at)
            return gradient

    model = small_model()
    give_gradients(model)
    changed_by(model, [Look()], step=7, seed=11)
    assert list(seen) == [name for name, _ in model.named_parameters()]
    for name, at in seen.items():
        layer = int(name.split(".")[1]) if name.startswith("blocks.") else None
        assert (at.layer, at.n_layers, at.step, at.seed) == (layer, 2, 7, 11)


def test_observers_of_gradients_have_copies() -> None:
    class Zeroes(Observer):
        every = 1

        def on_gradients(self, event: Any) -> None:
            for name in event.gradients:
                event.gradients[name].zero_()

    model = small_model()
    before = give_gradients(model)
    HookRunner(labelled(Zeroes()), model, seed=0).change_gradients(1)
    assert all(gradient.equal(before[name]) for name, gradient in gradients_of(model).items())
