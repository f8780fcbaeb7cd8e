"""Module 04, what is promised: the part that has a vector for each position."""

from __future__ import annotations

import math
from typing import Any

import torch
from my_transformer import positional
from torch import Tensor, nn

from tiny_transformer.config import ModelConfig
from tiny_transformer.course.expect import expect, expect_equal, expect_shape, expect_unchanged
from tiny_transformer.course.inputs import draw
from tiny_transformer.model.parts import Parts
from tiny_transformer.model.transformer import Transformer


def config(**settings: Any) -> ModelConfig:
    plain = {"d_model": 6, "n_heads": 2, "context_length": 9, "dropout": 0.5, "n_layers": 1}
    return ModelConfig(**{**plain, "vocab_size": 11, "position": "learned", **settings})


def expect_learned(part: nn.Module, settings: ModelConfig) -> None:
    shape = (settings.context_length, settings.d_model)
    got = {name: tuple(tensor.shape) for name, tensor in part.state_dict().items()}
    expect(
        "weight" in got,
        "With learned positions, the part's state_dict should have weight; it has "
        f"{', '.join(got) or 'nothing'}.",
    )
    expect(
        got["weight"] == shape,
        f"weight should have the shape {shape}, a row for each position, and has {got['weight']}.",
    )
    more = sorted(set(got) - {"weight"})
    expect(not more, f"The part's state_dict has more than weight: {', '.join(more)}.")
    names = [name for name, _ in part.named_parameters()]
    expect(names == ["weight"], "Learned positions should be one nn.Parameter, weight.")


def learned(dtype: torch.dtype = torch.float32, **settings: Any) -> tuple[nn.Module, Tensor]:
    """Build the learner's part with a table that is known; return both."""
    part = positional.PositionalEmbedding(config(**settings))
    expect_learned(part, config(**settings))
    part = part.to(dtype)
    weight = dict(part.named_parameters())["weight"]
    table = draw(*weight.shape, seed=21).to(dtype)
    with torch.no_grad():
        weight.copy_(table)
    return part, table


def table_by_loops(length: int, width: int, base: float = 10000.0) -> Tensor:
    table = torch.zeros(length, width, dtype=torch.float64)
    for p in range(length):
        for i in range(width // 2):
            angle = p / base ** (2 * i / width)
            table[p, 2 * i], table[p, 2 * i + 1] = math.sin(angle), math.cos(angle)
    return table


def test_PositionalEmbedding__learns_one_table_with_the_name_of_the_reference():
    for settings in (config(), config(context_length=4, d_model=8)):
        expect_learned(positional.PositionalEmbedding(settings), settings)


def test_PositionalEmbedding__returns_the_first_rows():
    part, table = learned()
    for length in (1, 4, 9):
        got = part(length)
        expect_shape(got, (length, 6), f"the vectors of {length} positions", "position C")
        expect_equal(got, table[:length], f"the first {length} positions", dims="position C")


def test_PositionalEmbedding__begins_at_the_offset():
    part, table = learned()
    for length, offset in [(1, 1), (1, 8), (3, 2), (2, 5), (4, 5), (9, 0), (5, 4)]:
        wanted = torch.stack([table[offset + t] for t in range(length)])
        for got in (part(length, offset), part(length, offset=offset)):
            expect_equal(
                got,
                wanted,
                f"the vectors of {length} positions from {offset} on",
                dims="position C",
                note=f"They are those of positions {offset} to {offset + length - 1}.",
            )


def test_PositionalEmbedding__takes_sines_and_cosines_if_the_config_says_so():
    for length, width in [(9, 6), (5, 8), (12, 2)]:
        settings = config(position="sinusoidal", context_length=length, d_model=width)
        part = positional.PositionalEmbedding(settings)
        wanted = table_by_loops(length, width).float()
        what = f"the sinusoidal code of {length} positions, {width} wide,"
        expect_equal(part(length), wanted, what, dims="position C", tolerance=1e-4)
        expect_equal(
            part(2, offset=3), wanted[3:5], f"{what} from 3 on", dims="position C", tolerance=1e-4
        )


def test_PositionalEmbedding__has_a_row_for_every_position_of_a_long_context():
    settings = config(position="sinusoidal", context_length=6000, d_model=2)
    got = positional.PositionalEmbedding(settings)(1, 5999)
    wanted = torch.tensor([[math.sin(5999), math.cos(5999)]])
    expect_equal(
        got,
        wanted,
        "the code of position 5999, of a context of 6000,",
        dims="position C",
        tolerance=1e-4,
        note="Make as many rows as `context_length` says.",
    )


def test_PositionalEmbedding__uses_the_base_of_the_config():
    for base in (100.0, 500.0):
        part = positional.PositionalEmbedding(config(position="sinusoidal", rotary_base=base))
        expect_equal(
            part(9),
            table_by_loops(9, 6, base).float(),
            f"the sinusoidal code with rotary_base {base:g}",
            dims="position C",
            tolerance=1e-4,
        )


def test_PositionalEmbedding__stores_and_learns_nothing_of_a_sinusoidal_code():
    part = positional.PositionalEmbedding(config(position="sinusoidal"))
    names = [name for name, _ in part.named_parameters()]
    expect(not names, f"Sinusoidal positions are not learned; {', '.join(names)} would be.")
    stored = list(part.state_dict())
    expect(
        not stored,
        f"{', '.join(stored)} is stored with the weights, so those of the reference do not load: "
        "a buffer with persistent=False is not stored.",
    )
    expect(not part(3).requires_grad, "Sinusoidal positions should need no gradient.")


def test_PositionalEmbedding__moves_with_the_model():
    for position in ("learned", "sinusoidal"):
        for dtype in (torch.float64, torch.bfloat16):
            part = positional.PositionalEmbedding(config(position=position)).to(dtype)
            got = part(3).dtype
            expect(
                got == dtype,
                f"After .to({dtype}), {position} positions are of {got}. A tensor that is neither "
                "a parameter nor a buffer stays behind when the model moves: register_buffer.",
            )
        part = positional.PositionalEmbedding(config(position=position)).to("meta")
        expect(
            part(3).device.type == "meta",
            f"When the model moves to another device, {position} positions stay behind: a tensor "
            "that should move is a parameter or a buffer (register_buffer).",
        )


def test_PositionalEmbedding__is_the_same_in_training_and_in_evaluation():
    part, table = learned()
    for mode in (True, False):
        got = part.train(mode)(9)
        what = f"the vectors {'while training' if mode else 'in evaluation'}"
        expect_equal(got, table, what, note="Dropout comes later, on the sum.")


def test_PositionalEmbedding__returns_the_table_as_it_is():
    part, table = learned(torch.float64, d_model=16)
    expect_equal(part(9), table, "the vectors at a width of 16", dims="position C", tolerance=1e-12)
    scaled, table = learned(scale_embeddings=True)
    expect_equal(scaled(9), table, "the vectors with scale_embeddings, which is for tokens,")
    expect_unchanged(table, dict(scaled.named_parameters())["weight"].detach(), "weight")


def test_PositionalEmbedding__sends_gradients_to_the_positions_that_were_asked_for():
    part, _ = learned(torch.float64)
    pull = draw(3, 6, seed=9, dtype=torch.float64)
    y = part(3, 2)
    expect(y.requires_grad, "No gradient flows back to learned positions: is there a .detach()?")
    y.backward(pull)
    wanted = torch.zeros(9, 6, dtype=torch.float64)
    wanted[2:5] = pull
    got: Any = dict(part.named_parameters())["weight"].grad
    expect(got is not None, "No gradient reaches weight: it is not used.")
    got = got.to_dense() if got.is_sparse else got
    expect_equal(got, wanted, "the gradient of weight for positions 2 to 4", dims="position C")


def test_PositionalEmbedding__takes_its_place_in_the_real_model():
    ids = torch.tensor([[1, 2, 3, 4, 5, 6], [9, 9, 1, 1, 2, 10]])
    for position in ("learned", "sinusoidal"):
        settings = config(position=position)
        parts = Parts.for_config(settings, positional_embedding=positional.PositionalEmbedding)
        theirs, real = Transformer(settings, parts, seed=3), Transformer(settings, seed=3)
        expect_equal(
            theirs.eval()(ids),
            real.eval()(ids),
            f"the output of a model with your {position} positions",
            dims="B T V",
            tolerance=1e-4,
        )
