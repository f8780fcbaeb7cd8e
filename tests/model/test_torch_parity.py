"""Same weights, same numbers as PyTorch's own layers, forwards and backwards."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from tests.model.architectures import largest_difference, scramble, tiny_config
from torch import Tensor, nn

from tiny_transformer.model.attention import MultiHeadAttention
from tiny_transformer.model.layer_norm import LayerNorm, RMSNorm
from tiny_transformer.model.mlp import MLP
from tiny_transformer.model.parts import Parts
from tiny_transformer.model.transformer_block import TransformerBlock

pytestmark = pytest.mark.requirement("model.torch-parity")
both_backends = pytest.mark.parametrize("backend", ["fused", "explicit"])


def draw() -> Tensor:
    draws = torch.Generator().manual_seed(0)
    return torch.randn(2, 11, 32, generator=draws).requires_grad_()


def gradients(output: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    weights = torch.linspace(-1, 1, output.numel()).view(output.shape)
    return list(torch.autograd.grad((output * weights).sum(), inputs))


def copy_attention(source: MultiHeadAttention, target: nn.MultiheadAttention) -> None:
    with torch.no_grad():
        projections = [source.q_proj, source.k_proj, source.v_proj]
        target.in_proj_weight.copy_(torch.cat([p.weight for p in projections]))
        target.in_proj_bias.copy_(torch.cat([p.bias for p in projections]))
        target.out_proj.load_state_dict(source.o_proj.state_dict())


MASK = torch.ones(11, 11, dtype=torch.bool).triu(1)  # PyTorch's mask marks what is hidden


@both_backends
def test_attention_is_torch_multihead_attention(backend: str) -> None:
    mine = MultiHeadAttention(tiny_config(backend=backend))
    scramble(mine)
    theirs = nn.MultiheadAttention(32, 4, batch_first=True)
    copy_attention(mine, theirs)
    x = draw()
    expected, expected_weights = theirs(x, x, x, attn_mask=MASK, average_attn_weights=False)
    actual = mine(x)
    assert largest_difference(actual, expected) < 1e-5
    _, weights = mine.forward_with_weights(x)
    assert largest_difference(weights, expected_weights) < 1e-5
    theirs_in = theirs.in_proj_weight
    mine_in = [mine.q_proj.weight, mine.k_proj.weight, mine.v_proj.weight]
    x_gradient, in_gradient = gradients(expected, [x, theirs_in])
    x_mine, *in_mine = gradients(actual, [x, *mine_in])
    assert largest_difference(x_mine, x_gradient) < 1e-5
    assert largest_difference(torch.cat(in_mine), in_gradient) < 5e-5


@both_backends
@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_a_block_is_a_torch_encoder_layer_with_the_norm_first(
    activation: str, backend: str
) -> None:
    config = tiny_config(activation=activation, backend=backend)
    mine = TransformerBlock(config, Parts.for_config(config))
    scramble(mine)
    theirs = nn.TransformerEncoderLayer(
        32, 4, 48, dropout=0.0, activation=activation, batch_first=True, norm_first=True
    )
    assert isinstance(mine.attention, MultiHeadAttention)
    copy_attention(mine.attention, theirs.self_attn)
    assert isinstance(mine.mlp, MLP)
    theirs.linear1.load_state_dict(mine.mlp.up_proj.state_dict())
    theirs.linear2.load_state_dict(mine.mlp.down_proj.state_dict())
    theirs.norm1.load_state_dict(mine.norm1.state_dict())
    theirs.norm2.load_state_dict(mine.norm2.state_dict())
    x = draw()
    expected, actual = theirs(x, src_mask=MASK), mine(x)
    assert largest_difference(actual, expected) < 1e-5
    pairs = [
        (theirs.linear1.weight, mine.mlp.up_proj.weight),
        (theirs.linear2.bias, mine.mlp.down_proj.bias),
        (theirs.norm1.weight, mine.get_parameter("norm1.weight")),
        (theirs.norm2.bias, mine.get_parameter("norm2.bias")),
        (theirs.self_attn.out_proj.weight, mine.attention.o_proj.weight),
    ]
    ours = gradients(actual, [x, *(pair[1] for pair in pairs)])
    for one, other in zip(gradients(expected, [x, *(p[0] for p in pairs)]), ours, strict=True):
        assert largest_difference(one, other) < 2e-5


@pytest.mark.parametrize("explicit", [False, True])
@pytest.mark.parametrize(
    ("mine", "theirs"),
    [(LayerNorm, nn.LayerNorm), (RMSNorm, nn.RMSNorm)],
    ids=["layer_norm", "rms_norm"],
)
def test_a_norm_is_that_of_torch(mine, theirs, explicit: bool) -> None:
    norm, other = mine(32, eps=1e-2, explicit=explicit), theirs(32, eps=1e-2)
    scramble(norm)
    other.load_state_dict(norm.state_dict())
    x = draw()
    actual, expected = norm(x), other(x)
    assert largest_difference(actual, expected) < 1e-5
    ours = gradients(actual, [x, *norm.parameters()])
    for one, two in zip(gradients(expected, [x, *other.parameters()]), ours, strict=True):
        assert largest_difference(one, two) < 2e-5


@both_backends
@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("gelu", F.gelu),
        ("gelu_tanh", lambda x: F.gelu(x, approximate="tanh")),
        ("relu", F.relu),
        ("swiglu", F.silu),
    ],
)
def test_an_activation_is_that_of_torch(name: str, function, backend: str) -> None:
    activation = MLP(tiny_config(activation=name, backend=backend)).activation
    x = torch.linspace(-8, 8, 201, requires_grad=True)
    assert largest_difference(activation(x), function(x)) < 1e-6
    (ours,), (theirs,) = gradients(activation(x), [x]), gradients(function(x), [x])
    assert largest_difference(ours, theirs) < 1e-6
