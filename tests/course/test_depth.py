"""Untrained stacks, measured: what depth does to the stream and to gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tiny_transformer.config import ModelConfig
from tiny_transformer.course.depth import (
    BLOCKS,
    Placement,
    build_stack,
    direct_path,
    gradient_norms,
    measure_depth,
)
from tiny_transformer.model.parts import Parts
from tiny_transformer.runtime.errors import ConfigError


@pytest.mark.requirement("course.depth")
def test_gradient_norms_are_autograds() -> None:
    blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(3))
    x, arriving = torch.randn(2, 5, 4), torch.randn(2, 5, 4)
    leaf = x.clone().requires_grad_()
    stream = [leaf]
    for block in blocks:
        stream.append(block(stream[-1]))
        stream[-1].retain_grad()
    stream[-1].backward(arriving)
    wanted = [each.grad.norm().item() for each in stream if each.grad is not None]
    for parameter in blocks.parameters():
        parameter.grad = None
    with torch.no_grad():
        assert gradient_norms(list(blocks), x, arriving) == pytest.approx(wanted)
    assert all(parameter.grad is None for parameter in blocks.parameters())
    assert gradient_norms([], x, arriving) == [pytest.approx(arriving.norm().item())]


@pytest.mark.requirement("course.depth")
@pytest.mark.parametrize("placement", BLOCKS)
def test_a_stack_is_the_blocks_formula(placement: Placement) -> None:
    (block,) = build_stack(1, placement, width=8)
    x, parts = torch.randn(2, 5, 8), dict(block.named_children())
    norm1, norm2 = parts["norm1"], parts["norm2"]
    attention, mlp = parts["attention"], parts["mlp"]
    if placement == "pre":
        y = x + attention(norm1(x))
        wanted = y + mlp(norm2(y))
    elif placement == "post":
        y = norm1(x + attention(x))
        wanted = norm2(y + mlp(y))
    else:
        y = x + attention(x)
        wanted = y + mlp(y)
    assert torch.allclose(block(x), wanted, atol=1e-6)


def test_stacks_of_all_placements_begin_with_the_same_weights() -> None:
    stacks = [build_stack(2, placement, width=16).state_dict() for placement in BLOCKS]
    for state in stacks[1:]:
        assert all(torch.equal(state[name], tensor) for name, tensor in stacks[0].items())
    assert not torch.equal(
        build_stack(1, width=16, seed=1).state_dict()["0.mlp.up_proj.weight"],
        stacks[0]["0.mlp.up_proj.weight"],
    )


def test_first_weights_have_the_deviation_that_is_asked_for() -> None:
    for settings, up, down in [
        ({}, 1 / 8, 1 / 16),
        ({"std": 0.02}, 0.02, 0.02),
        ({"scaled": True}, 1 / 8, 1 / 16 / 4),
        ({"scaled": True, "std": 0.02}, 0.02, 0.005),
    ]:
        stack = build_stack(8, **settings).state_dict()  # pyright: ignore[reportArgumentType]
        assert stack["3.mlp.up_proj.weight"].std().item() == pytest.approx(up, rel=0.05)
        assert stack["3.mlp.down_proj.weight"].std().item() == pytest.approx(down, rel=0.05)
        assert stack["3.attention.o_proj.weight"].std() <= up * 1.05
        assert not stack["3.mlp.up_proj.bias"].any()
        assert stack["3.norm1.weight"].eq(1).all()


@pytest.mark.requirement("course.depth")
def test_what_is_measured_is_the_stream_and_its_gradients() -> None:
    stack = build_stack(3, width=16)
    depth = measure_depth(stack, n_tokens=6)
    assert len(depth.stream) == len(depth.gradients) == 4
    assert depth.stream[0] == pytest.approx(1, abs=0.15)
    assert depth.gradients[-1] == pytest.approx(1)
    assert depth.ratio == depth.gradients[0] > 1
    assert depth == measure_depth(stack, n_tokens=6)
    assert depth != measure_depth(stack, n_tokens=6, seed=1)
    with torch.no_grad():
        for parameter in stack[-1].parameters():
            parameter.zero_()
    assert measure_depth(stack, n_tokens=6).last_block == 0


@pytest.mark.requirement("course.depth")
def test_scaled_branches_keep_the_stream_as_large_however_deep() -> None:
    plain = {n: measure_depth(build_stack(n)).stream[-1] for n in (2, 16)}
    scaled = {n: measure_depth(build_stack(n, scaled=True)).stream[-1] for n in (2, 16)}
    assert plain[16] > 1.5 * plain[2]
    assert scaled[16] == pytest.approx(scaled[2], rel=0.1)


def test_an_unknown_placement_is_refused() -> None:
    with pytest.raises(ConfigError, match="placement is 'after'; expected pre, post, none"):
        build_stack(1, "after")  # pyright: ignore[reportArgumentType]


def test_the_blocks_differ_from_the_model_s_in_their_forward_alone() -> None:
    config = ModelConfig(n_layers=1, d_model=8, n_heads=2)
    states = [set(b(config, Parts.for_config(config)).state_dict()) for b in BLOCKS.values()]
    assert states[0] == states[1] == states[2]


@pytest.mark.requirement("course.depth")
def test_the_direct_path_is_untouched_before_the_parts_and_shrinks_through_norms() -> None:
    shares = {p: measure_depth(direct_path(build_stack(8, p))).gradients for p in BLOCKS}
    assert shares["pre"] == shares["none"] == pytest.approx([1.0] * 9)
    assert shares["post"] == pytest.approx(sorted(shares["post"]))
    assert shares["post"][0] < 0.1
    plain, cut = build_stack(2, "post", width=16), direct_path(build_stack(2, "post", width=16))
    assert measure_depth(plain).stream == measure_depth(cut).stream


def test_likeness_is_one_where_all_tokens_are_alike() -> None:
    stack = build_stack(1, width=16)
    assert abs(measure_depth(stack).likeness[0]) < 0.1  # random vectors
    with torch.no_grad():
        stack[0].get_parameter("mlp.down_proj.bias").fill_(1e4)  # drowns all else
    assert measure_depth(stack).likeness[1] == pytest.approx(1, abs=1e-3)
