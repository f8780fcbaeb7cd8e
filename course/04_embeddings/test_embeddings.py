"""Module 04, what is promised: token and position together, and dropout on the sum."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from my_transformer import embeddings
from torch import Tensor, nn

from tiny_transformer.config import ModelConfig
from tiny_transformer.course.devices import expect_module_follows_device
from tiny_transformer.course.expect import expect, expect_equal, expect_shape, expect_unchanged
from tiny_transformer.course.inputs import draw
from tiny_transformer.model.embeddings import Embeddings as Reference
from tiny_transformer.model.kv_cache import KVCache
from tiny_transformer.model.parts import Parts
from tiny_transformer.model.transformer import Transformer

POSITIONS = ("learned", "sinusoidal", "rotary", "none")
IDS = torch.tensor([[3, 0, 10, 3], [1, 1, 7, 2], [5, 4, 4, 9]])  # (B 3, T 4)


def config(**settings: Any) -> ModelConfig:
    plain = {"d_model": 8, "n_heads": 2, "context_length": 9, "dropout": 0.0, "n_layers": 1}
    return ModelConfig(**{**plain, "vocab_size": 11, "position": "learned", **settings})


def expect_names(part: nn.Module, settings: ModelConfig) -> None:
    wanted = {"token.weight": (settings.vocab_size, settings.d_model)}
    if settings.position == "learned":
        wanted["position.weight"] = (settings.context_length, settings.d_model)
    got = {name: tuple(tensor.shape) for name, tensor in part.state_dict().items()}
    for name, shape in wanted.items():
        expect(
            name in got,
            f"The part's state_dict has no {name}; it has {', '.join(got) or 'nothing'}.",
        )
        expect(got[name] == shape, f"{name} should have the shape {shape}, and has {got[name]}.")
    more = sorted(set(got) - set(wanted))
    expect(
        not more,
        f"With {settings.position} positions, the part's state_dict has more than it should: "
        f"{', '.join(more)}.",
    )
    learned = {name for name, _ in part.named_parameters()}
    expect(learned == set(wanted), f"The parameters should be {sorted(wanted)}.")


def build(dtype: torch.dtype = torch.float32, **settings: Any) -> tuple[nn.Module, nn.Module]:
    """Return the learner's part and the reference with the same weights, both training."""
    both = [cls(config(**settings), Parts()) for cls in (embeddings.Embeddings, Reference)]
    expect_names(both[0], config(**settings))
    for part in both:
        with torch.no_grad():
            for i, (_, parameter) in enumerate(sorted(part.named_parameters())):
                parameter.copy_(draw(*parameter.shape, seed=20 + i))
    return both[0].to(dtype), both[1].to(dtype)


class TokenStand(nn.Module):
    """A stand-in for the token part: the vector of token i is i everywhere."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, ids: Tensor) -> Tensor:
        return ids[..., None] * torch.ones(8)


class PositionStand(nn.Module):
    """A stand-in for the position part: the vector of position p is 100 p everywhere."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, length: int, offset: int = 0) -> Tensor:
        return 100.0 * torch.arange(offset, offset + length)[:, None] * torch.ones(8)


def stands() -> Any:
    return SimpleNamespace(token_embedding=TokenStand, positional_embedding=PositionStand)


def not_to_be_built(config: ModelConfig) -> None:
    expect(
        False,
        f"A position part is built where model.position is {config.position}: nothing is added "
        "there, so none is needed.",
    )


def test_Embeddings__has_the_parameters_of_its_two_parts():
    for position in POSITIONS:
        settings = config(position=position)
        expect_names(embeddings.Embeddings(settings, Parts()), settings)


def test_Embeddings__adds_the_vector_of_the_position_to_that_of_the_token():
    part, _ = build()
    names = dict(part.named_parameters())
    token, position = names["token.weight"], names["position.weight"]
    wanted = torch.stack(
        [torch.stack([token[int(i)] + position[t] for t, i in enumerate(row)]) for row in IDS]
    )
    got = part(IDS)
    expect_shape(got, (3, 4, 8), "the embedding of (3, 4) ids", "B T C")
    expect_equal(got, wanted.detach(), "token plus position", dims="B T C")


def test_Embeddings__computes_what_the_reference_computes_for_every_kind_of_position():
    for position in POSITIONS:
        scaled = position in ("sinusoidal", "none")
        part, reference = build(position=position, scale_embeddings=scaled)
        expect_equal(
            part.eval()(IDS),
            reference.eval()(IDS),
            f"the sum with {position} positions{' and scale_embeddings' if scaled else ''}",
            dims="B T C",
        )


def test_Embeddings__begins_at_the_offset():
    for position in ("learned", "sinusoidal"):
        part, reference = build(position=position)
        for offset in (1, 3, 5):
            wanted = reference(IDS, offset)
            for got in (part(IDS, offset), part(IDS, offset=offset)):
                expect_equal(
                    got,
                    wanted,
                    f"the sum with {position} positions, the first token at {offset},",
                    dims="B T C",
                    note="A cache keeps earlier tokens; the new ones stand after them.",
                )


def test_Embeddings__in_pieces_is_what_it_is_at_once():
    part, _ = build()
    ids = torch.tensor([[3, 0, 10, 3, 1, 1, 7, 2, 5]])
    whole = part(ids)
    for cut in (1, 4, 8):
        pieces = torch.cat([part(ids[:, :cut]), part(ids[:, cut:], cut)], dim=1)
        expect_equal(pieces, whole, f"{cut} tokens, then {9 - cut} at offset {cut},", dims="B T C")


def test_Embeddings__gives_all_sequences_the_same_positions():
    part, _ = build()
    for B, T in [(1, 1), (2, 9), (9, 2), (4, 4)]:
        ids = torch.randint(11, (B, T), generator=torch.Generator().manual_seed(T))
        got = part(ids)
        expect_shape(got, (B, T, 8), f"the embedding of ({B}, {T}) ids", "B T C")
        for b in range(B):
            expect_equal(got[b], part(ids[b : b + 1])[0], f"sequence {b} among others", dims="T C")


def test_Embeddings__is_built_from_the_parts_that_it_is_given():
    settings = config()
    part = embeddings.Embeddings(settings, stands())
    expect(
        isinstance(getattr(part, "token", None), TokenStand)
        and isinstance(getattr(part, "position", None), PositionStand),
        "`token` and `position` should be built from `parts.token_embedding` and "
        "`parts.positional_embedding`, so that either can be replaced.",
    )
    for name in ("token", "position"):
        expect(
            getattr(part, name).config is settings,
            f"`{name}` should be built from the config, and nothing else.",
        )
    wanted = IDS[..., None] * torch.ones(8) + 100.0 * torch.arange(5, 9)[:, None]
    got = part.eval()(IDS, 5)
    expect_equal(got, wanted, "the sum of two stand-ins, from position 5 on,", dims="B T C")
    ids, before = IDS.clone(), IDS.clone()
    part(ids)
    expect_unchanged(before, ids, "ids")


def test_Embeddings__builds_no_positions_where_none_are_added():
    without_positions = SimpleNamespace(
        token_embedding=TokenStand, positional_embedding=not_to_be_built
    )
    for position in ("rotary", "none"):
        settings = config(position=position)
        part = embeddings.Embeddings(settings, without_positions)
        expect_equal(
            part.eval()(IDS, 2),
            IDS[..., None] * torch.ones(8),
            f"the embedding where model.position is {position}",
            dims="B T C",
            note="Nothing is added there: rotary positions act inside attention.",
        )


def test_Embeddings__leaves_the_scale_to_the_token_part():
    settings = config(scale_embeddings=True)
    part = embeddings.Embeddings(settings, stands())
    wanted = IDS[..., None] * torch.ones(8) + 100.0 * torch.arange(4)[:, None]
    expect_equal(
        part.eval()(IDS),
        wanted,
        "the sum of two stand-ins, with scale_embeddings,",
        dims="B T C",
        note="The token part multiplies by sqrt(C) already.",
    )


def ones_part(dropout: float) -> nn.Module:
    """Return a part whose sum is 3 everywhere: 1 from the token, 2 from the position."""
    part, _ = build(dropout=dropout)
    names = dict(part.named_parameters())
    with torch.no_grad():
        names["token.weight"].fill_(1.0)
        names["position.weight"].fill_(2.0)
    return part


def test_Embeddings__drops_nothing_in_evaluation():
    got = ones_part(0.5).eval()(IDS).detach()
    expect_equal(
        got,
        torch.full((3, 4, 8), 3.0),
        "the sum where tokens are 1 and positions 2, after .eval()",
        dims="B T C",
        note="Dropout is for training: ask self.training, or use a module that does.",
    )


def test_Embeddings__drops_numbers_of_the_sum_while_it_trains_and_enlarges_the_others():
    ids = torch.zeros(30, 9, dtype=torch.int64)
    for dropout in (0.5, 0.25):
        got = ones_part(dropout).train()(ids).detach()
        larger = torch.full_like(got, 3 / (1 - dropout))
        wanted = torch.where(got.abs() < 1e-6, torch.zeros_like(got), larger)
        expect_equal(
            got,
            wanted,
            f"the sum where tokens are 1 and positions 2, with dropout {dropout}, each number "
            "dropped or enlarged,",
            dims="B T C",
            note=f"A number is 0, or 3 / (1 - {dropout}): dropout comes after the sum.",
        )
        dropped = got.abs() < 1e-6
        share = dropped.float().mean().item()
        expect(
            abs(share - dropout) < 0.05,
            f"With dropout {dropout}, {share:.0%} of the numbers were dropped.",
        )
        for axis, name in enumerate(("sequence", "token", "channel")):
            rows = dropped.transpose(0, axis).flatten(1)
            alike = (rows == rows[:1]).all()
            expect(not alike, f"The same numbers are dropped for each {name}: draw for all.")


def test_Embeddings__drops_nothing_where_the_config_says_zero():
    part, reference = build(dropout=0.0)
    got = part.train()(IDS)
    expect_equal(got, reference.eval()(IDS), "the sum with dropout 0, while training", dims="B T C")


def test_Embeddings__keeps_the_dtype():
    for dtype, tolerance in [(torch.float64, 1e-12), (torch.bfloat16, 2e-2)]:
        for position in ("learned", "sinusoidal"):
            part, reference = build(dtype, position=position)
            expect_equal(
                part(IDS),
                reference(IDS),
                f"the sum in {dtype} with {position} positions",
                dims="B T C",
                tolerance=tolerance,
            )


def test_Embeddings__lets_gradients_through_to_both_tables():
    part, reference = build(torch.float64, scale_embeddings=True)
    pull = draw(3, 4, 8, seed=9, dtype=torch.float64)
    for module in (part, reference):
        y = module(IDS, 2)
        expect(y.requires_grad, "No gradient flows back: is there a .detach() or torch.no_grad()?")
        y.backward(pull)
    theirs = dict(part.named_parameters())
    for name, parameter in reference.named_parameters():
        got = theirs[name].grad
        expect(got is not None, f"No gradient reaches {name}: it is not used.")
        expect_equal(got, parameter.grad, f"the gradient of {name}", tolerance=1e-9)


def test_Embeddings__stays_on_the_device_of_its_input():
    expect_module_follows_device(
        lambda: embeddings.Embeddings(config(), Parts()), IDS.clone(), "Embeddings"
    )


def test_Embeddings__takes_its_place_in_the_real_model_with_a_cache_too():
    settings = config(scale_embeddings=True)
    parts = Parts.for_config(settings, embeddings=embeddings.Embeddings)
    theirs, real = Transformer(settings, parts, seed=3), Transformer(settings, seed=3)
    cache = KVCache(settings, 3)
    with torch.no_grad():
        wanted, got = real.eval()(IDS), theirs.eval()(IDS)
        expect_equal(got, wanted, "the output of a model with your part", dims="B T V")
        pieces = [theirs(IDS[:, t : t + 2], cache) for t in (0, 2)]
    expect_equal(
        torch.cat(pieces, dim=1),
        wanted,
        "the output of a model with your part, two tokens at a time from a cache,",
        dims="B T V",
    )
