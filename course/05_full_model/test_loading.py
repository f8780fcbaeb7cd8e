"""Module 05, what is promised: weights that have other names."""

from __future__ import annotations

from typing import Any

import torch
from my_transformer import transformer
from torch import Tensor, nn

from tiny_transformer import Transformer
from tiny_transformer.config import ModelConfig
from tiny_transformer.course.expect import expect, expect_equal, expect_unchanged
from tiny_transformer.course.inputs import draw

CONFIG = ModelConfig(n_layers=2, d_model=4, n_heads=2, vocab_size=7, context_length=5, dropout=0.0)
RENAME = {
    "transformer.h.": "blocks.",
    "transformer.ln_f.": "final_norm.",
    "transformer.wte.": "embeddings.token.",
    "transformer.wpe.": "embeddings.position.",
    ".ln_1.": ".norm1.",
    ".ln_2.": ".norm2.",
    ".attn.": ".attention.",
    ".c_fc.": ".up_proj.",
    ".c_proj.": ".down_proj.",
}


class Two(nn.Module):
    """Two layers of unlike shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(2, 3)
        self.down = nn.Linear(3, 2, bias=False)


def filled(model: nn.Module, seed: int = 1) -> dict[str, Tensor]:
    """Return weights of a model's names and shapes, the names of shared ones once."""
    return {
        name: draw(*parameter.shape, seed=seed + i)
        for i, (name, parameter) in enumerate(model.named_parameters())
    }


def in_other_words(name: str) -> str:
    """Return our name as somebody else would have it."""
    for old, new in reversed(RENAME.items()):
        name = name.replace(new, old)
    return name


def expect_lists(got: Any, missing: list[str], unexpected: list[str]) -> None:
    expect(
        isinstance(got, tuple) and len(got) == 2,
        "load_weights should return two lists: the missing names, and the unexpected ones.",
    )
    for names, wanted, what in zip(got, (missing, unexpected), ("missing", "unexpected"),
                                   strict=True):  # fmt: skip
        expect(isinstance(names, list), f"The {what} names should be a list.")
        expect_equal(names, wanted, f"The list of {what} names")


def expect_weights(model: nn.Module, wanted: dict[str, Tensor]) -> None:
    own = dict(model.named_parameters(remove_duplicate=False))
    for name, tensor in wanted.items():
        expect_equal(own[name].detach(), tensor, f"{name} after loading", tolerance=0)


def test_load_weights__copies_weights_of_the_same_names():
    model = Two()
    weights = filled(model)
    expect_lists(transformer.load_weights(model, weights, {}), [], [])
    expect_weights(model, weights)


def test_load_weights__translates_a_piece_of_a_name():
    model = Two()
    weights = {name.replace("down", "wo"): t for name, t in filled(model).items()}
    expect_lists(transformer.load_weights(model, weights, {"wo": "down"}), [], [])
    expect_weights(model, filled(model))


def test_load_weights__translates_every_piece_in_order():
    model = Two()
    own = filled(model)
    weights = {
        "m.a.a.kernel": own["up.weight"],
        "m.a.a.b": own["up.bias"],
        "m.b.kernel": own["down.weight"],
    }
    rename = {"m.": "", "a.a": "x", "x.b": "x.bias", "x": "up", "kernel": "weight", "b.w": "down.w"}
    expect_lists(transformer.load_weights(model, weights, rename), [], [])
    expect_weights(model, own)


def test_load_weights__replaces_all_occurrences_of_a_piece():
    class Nested(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = nn.Module()
            self.part.part = nn.Linear(2, 1, bias=False)

    model = Nested()
    weights = {"p.p.weight": torch.tensor([[5.0, 6.0]])}
    expect_lists(transformer.load_weights(model, weights, {"p.": "part."}), [], [])
    expect_weights(model, {"part.part.weight": torch.tensor([[5.0, 6.0]])})


def test_load_weights__fills_the_real_model():
    model, other = Transformer(CONFIG, seed=1).eval(), Transformer(CONFIG, seed=2).eval()
    weights = {in_other_words(name): p.detach() for name, p in other.named_parameters()}
    expect("transformer.h.1.attn.q_proj.weight" in weights, "(the test is at fault)")
    expect_lists(transformer.load_weights(model, weights, RENAME), [], [])
    ids = torch.tensor([[1, 2, 3, 6, 0]])
    expect_equal(model(ids), other(ids), "the logits with the other model's weights", dims="B T V")


def test_load_weights__reports_what_is_missing():
    model = Two()
    before = model.up.bias.detach().clone()
    weights = filled(model)
    del weights["up.bias"]
    expect_lists(transformer.load_weights(model, weights, {}), ["up.bias"], [])
    expect_unchanged(before, model.up.bias.detach(), "up.bias, to which nothing came,")
    expect_weights(model, weights)
    expect_lists(
        transformer.load_weights(Two(), {}, {}), ["down.weight", "up.bias", "up.weight"], []
    )


def test_load_weights__reports_what_is_unexpected_by_the_name_that_it_came_with():
    model = Two()
    weights = {f"net.{name}": t for name, t in filled(model).items()}
    weights |= {
        "net.zoom.weight": torch.ones(2),
        "net.step": torch.tensor(7),
        "down": torch.ones(1),
    }
    got = transformer.load_weights(model, weights, {"net.": ""})
    expect_lists(got, [], ["down", "net.step", "net.zoom.weight"])
    expect_weights(model, filled(model))


def test_load_weights__finds_both_at_once_where_a_name_is_not_translated():
    model = Two()
    weights = filled(model)
    weights["wo.weight"] = weights.pop("down.weight")
    got = transformer.load_weights(model, weights, {"wq": "down"})
    expect_lists(got, ["down.weight"], ["wo.weight"])


def test_load_weights__knows_that_a_tied_head_needs_one_of_two_names():
    for given in ("embeddings.token.weight", "lm_head.weight"):
        model = Transformer(CONFIG)
        weights = filled(model)
        table = weights.pop("embeddings.token.weight")
        expect_lists(transformer.load_weights(model, {**weights, given: table}, {}), [], [])
        for name in ("embeddings.token.weight", "lm_head.weight"):
            expect_weights(model, {name: table})
    model = Transformer(CONFIG)
    both = {**weights, "embeddings.token.weight": table, "lm_head.weight": table.clone()}
    expect_lists(transformer.load_weights(model, both, {}), [], [])
    expect_lists(transformer.load_weights(model, weights, {}), ["embeddings.token.weight"], [])


def test_load_weights__knows_an_untied_head_from_a_tied_one():
    config = ModelConfig(**{**vars(CONFIG), "tie_weights": False})
    model = Transformer(config)
    weights = filled(model)
    head = weights.pop("lm_head.weight")
    expect_lists(transformer.load_weights(model, weights, {}), ["lm_head.weight"], [])
    expect_lists(transformer.load_weights(model, {**weights, "lm_head.weight": head}, {}), [], [])
    expect_weights(model, {**weights, "lm_head.weight": head})


def test_load_weights__refuses_another_shape_and_loads_nothing():
    for name in ("up.weight", "down.weight", "up.bias"):
        model = Two()
        before = {n: p.detach().clone() for n, p in model.named_parameters()}
        weights = filled(model)
        weights[name] = torch.ones(*weights[name].shape, 1).transpose(0, -1)
        if name == "up.bias":
            weights[name] = torch.ones(1)  # it could be broadcast
        refused(model, weights, name)
        for own, parameter in model.named_parameters():
            kept = torch.equal(before[own], parameter.detach())
            expect(kept, f"{own} was loaded although {name} was refused.")
    model = Two()
    square = {**filled(model), "up.weight": torch.ones(2, 3)}
    refused(model, square, "up.weight")


def refused(model: nn.Module, weights: dict[str, Tensor], name: str) -> None:
    try:
        transformer.load_weights(model, weights, {})
    except ValueError as error:
        expect(name in str(error), f"The error should name {name}; it says: {error}")
    else:
        expect(False, f"{name} has another shape than the model's: that should be a ValueError.")


def test_load_weights__keeps_the_parameters_that_an_optimizer_holds():
    model = Two()
    before = dict(model.named_parameters())
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    weights = filled(model)
    transformer.load_weights(model, weights, {})
    for name, parameter in model.named_parameters():
        expect(
            parameter is before[name] and parameter.requires_grad and parameter.is_leaf,
            f"{name} is another parameter than before, or learns no more: copy into it.",
        )
        expect(parameter.grad_fn is None, f"{name} remembers being loaded: torch.no_grad().")
    model.up(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    expect_equal(
        model.up.bias.detach(), weights["up.bias"] - 1, "up.bias after loading and one step"
    )


def test_load_weights__keeps_a_model_tied():
    model = Transformer(CONFIG)
    transformer.load_weights(model, filled(model), {})
    expect(
        model.lm_head.weight is model.get_parameter("embeddings.token.weight"),
        "The model was tied before loading, and is not after.",
    )


def test_load_weights__copies_and_does_not_share():
    model = Two()
    weights = filled(model)
    before = {name: tensor.clone() for name, tensor in weights.items()}
    keys = list(weights)
    transformer.load_weights(model, weights, {})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    for name, tensor in before.items():
        expect_unchanged(tensor, weights[name], f"{name} among the weights that were given")
    expect(list(weights) == keys, "The dict of weights that was given was changed.")


def test_load_weights__keeps_the_model_s_dtype():
    model = Two()
    weights = {name: tensor.double() for name, tensor in filled(model).items()}
    transformer.load_weights(model, weights, {})
    expect_weights(model, {name: tensor.float() for name, tensor in weights.items()})


def test_load_weights__takes_weights_that_are_parameters():
    model, other = Two(), Two()
    got = transformer.load_weights(model, dict(other.named_parameters()), {})
    expect_lists(got, [], [])
    expect_weights(model, {name: p.detach() for name, p in other.named_parameters()})
    expect(model.up.weight is not other.up.weight, "The two models share a parameter now.")
