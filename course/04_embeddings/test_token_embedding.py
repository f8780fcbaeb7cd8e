"""Module 04, what is promised: the part that turns ids into vectors."""

from __future__ import annotations

import math
from typing import Any

import torch
from my_transformer import embeddings
from torch import Tensor, nn

from tiny_transformer.config import ModelConfig
from tiny_transformer.course.devices import expect_module_follows_device
from tiny_transformer.course.expect import expect, expect_equal, expect_shape, expect_unchanged
from tiny_transformer.course.inputs import draw
from tiny_transformer.model.parts import Parts
from tiny_transformer.model.transformer import Transformer


def config(**settings: Any) -> ModelConfig:
    plain = {"d_model": 6, "n_heads": 2, "context_length": 9, "dropout": 0.5, "n_layers": 1}
    return ModelConfig(**{**plain, "vocab_size": 11, **settings})


def expect_names(part: nn.Module, settings: ModelConfig) -> None:
    shape = (settings.vocab_size, settings.d_model)
    got = {name: tuple(tensor.shape) for name, tensor in part.state_dict().items()}
    expect(
        "weight" in got,
        f"The part's state_dict has no weight; it has {', '.join(got) or 'nothing'}.",
    )
    expect(
        got["weight"] == shape,
        f"weight should have the shape {shape}, a row for each token, and has {got['weight']}.",
    )
    more = sorted(set(got) - {"weight"})
    expect(not more, f"The part's state_dict has more than weight: {', '.join(more)}.")
    learned = [name for name, _ in part.named_parameters()]
    expect(learned == ["weight"], "weight should be an nn.Parameter, or it is not learned.")


def build(settings: ModelConfig, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Tensor]:
    """Build the learner's part with a table that is known; return both."""
    part = embeddings.TokenEmbedding(settings)
    expect_names(part, settings)
    table = draw(settings.vocab_size, settings.d_model, seed=20).to(dtype)
    part = part.to(dtype)
    with torch.no_grad():
        dict(part.named_parameters())["weight"].copy_(table)
    return part, table


def test_TokenEmbedding__has_one_table_with_the_name_of_the_reference():
    for settings in (config(), config(scale_embeddings=True), config(vocab_size=4, d_model=8)):
        expect_names(embeddings.TokenEmbedding(settings), settings)


def test_TokenEmbedding__looks_up_a_row_for_each_id():
    part, table = build(config())
    ids = torch.tensor([[3, 0, 10], [3, 3, 1]])
    wanted = torch.stack([torch.stack([table[int(i)] for i in row]) for row in ids])
    expect_equal(part(ids), wanted, "the vectors of two rows of ids", dims="B T C")


def test_TokenEmbedding__does_not_scale_unless_the_config_says_so():
    for d_model in (4, 6, 16):
        settings = config(d_model=d_model, scale_embeddings=False)
        part, table = build(settings)
        got = part(torch.arange(11)[None])
        expect_equal(got, table[None], f"the vectors at a width of {d_model}", dims="B T C")


def test_TokenEmbedding__multiplies_by_the_root_of_the_width_if_the_config_says_so():
    for d_model, vocab_size in [(4, 11), (6, 9), (16, 5)]:
        settings = config(
            d_model=d_model,
            vocab_size=vocab_size,
            scale_embeddings=True,
            tie_weights=d_model != 6,
        )
        part, table = build(settings)
        expect_equal(
            part(torch.arange(vocab_size)[None]),
            table[None] * math.sqrt(d_model),
            f"the vectors at a width of {d_model}, with scale_embeddings,",
            dims="B T C",
            note=f"The factor is sqrt({d_model}) = {math.sqrt(d_model):.4f}.",
        )


def test_TokenEmbedding__leaves_the_table_as_it_is():
    for scaled in (False, True):
        settings = config(scale_embeddings=scaled)
        part, table = build(settings)
        first = part(torch.tensor([[1, 2]])).detach().clone()
        weight = dict(part.named_parameters())["weight"]
        expect_unchanged(table, weight.detach(), "weight")
        expect_equal(part(torch.tensor([[1, 2]])), first, "the same ids a second time")
        with torch.no_grad():
            weight.copy_(2 * table)
        expect_equal(
            part(torch.tensor([[1, 2]])),
            2 * first,
            "the vectors after other weights have been loaded",
            dims="B T C",
            note="Look the rows up in `weight` each time forward is called.",
        )


def test_TokenEmbedding__maps_ids_of_any_shape():
    part, table = build(config(scale_embeddings=True))
    for B, T in [(1, 1), (2, 9), (9, 2), (6, 6)]:
        ids = torch.randint(11, (B, T), generator=torch.Generator().manual_seed(T))
        got = part(ids)
        expect_shape(got, (B, T, 6), f"TokenEmbedding of ({B}, {T}) ids", "B T C")
        expect_equal(got, table[ids] * math.sqrt(6), f"the vectors of ({B}, {T}) ids", dims="B T C")


def test_TokenEmbedding__is_the_same_in_training_and_in_evaluation():
    for scaled in (False, True):
        part, table = build(config(scale_embeddings=scaled))
        ids = torch.arange(11)[None]
        for mode in (True, False):
            expect_equal(
                part.train(mode)(ids),
                table[None] * (math.sqrt(6) if scaled else 1.0),
                f"the vectors {'while training' if mode else 'in evaluation'}"
                f"{', with scale_embeddings' if scaled else ''}",
                note="Dropout comes later, on the sum of token and position.",
            )


def test_TokenEmbedding__keeps_the_dtype_of_the_table_and_its_ids():
    for dtype, tolerance in [(torch.float64, 1e-12), (torch.bfloat16, 2e-2)]:
        part, table = build(config(scale_embeddings=True), dtype)
        ids = torch.tensor([[1, 5, 5]])
        before = ids.clone()
        wanted = (table[before].double() * math.sqrt(6)).to(dtype)
        expect_equal(part(ids), wanted, f"the vectors in {dtype}", tolerance=tolerance)
        expect_unchanged(before, ids, "ids")


def test_TokenEmbedding__sends_each_token_the_gradients_of_all_its_places():
    for scaled in (False, True):
        part, _ = build(config(scale_embeddings=scaled), torch.float64)
        ids = torch.tensor([[1, 5, 5], [0, 5, 10]])
        pull = draw(2, 3, 6, seed=9, dtype=torch.float64)
        y = part(ids)
        expect(y.requires_grad, "No gradient flows back: is there a .detach() or .data in it?")
        y.backward(pull)
        wanted = torch.zeros(11, 6, dtype=torch.float64)
        wanted.index_add_(0, ids.flatten(), pull.flatten(0, 1))
        got: Any = dict(part.named_parameters())["weight"].grad
        expect(got is not None, "No gradient reaches weight: it is not used.")
        expect_equal(
            got.to_dense() if got.is_sparse else got,
            wanted * (math.sqrt(6) if scaled else 1.0),
            f"the gradient of weight{', with scale_embeddings' if scaled else ''}",
            dims="V C",
            tolerance=1e-9,
        )


def test_TokenEmbedding__stays_on_the_device_of_the_table():
    expect_module_follows_device(
        lambda: embeddings.TokenEmbedding(config(scale_embeddings=True)),
        torch.tensor([[1, 2, 3]]),
        "TokenEmbedding",
    )


def test_TokenEmbedding__takes_its_place_in_the_real_model():
    ids = torch.tensor([[1, 2, 3, 4, 5, 6], [9, 9, 1, 1, 2, 10]])
    for settings in (
        config(scale_embeddings=True, position="sinusoidal"),
        config(scale_embeddings=False, tie_weights=False),
    ):
        parts = Parts.for_config(settings, token_embedding=embeddings.TokenEmbedding)
        theirs, real = Transformer(settings, parts, seed=3), Transformer(settings, seed=3)
        expect_equal(
            theirs.eval()(ids), real.eval()(ids), "the output of a model built with your part"
        )
