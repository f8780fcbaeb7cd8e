"""Module 05, what is promised: the whole model, put together from parts."""

from __future__ import annotations

import copy
import dataclasses
import functools
from typing import Any

import torch
from my_transformer import transformer
from torch import Tensor, nn

from tiny_transformer import Parts, Transformer
from tiny_transformer.config import ModelConfig
from tiny_transformer.course.expect import (
    expect,
    expect_equal,
    expect_shape,
    expect_unchanged,
)
from tiny_transformer.course.inputs import draw
from tiny_transformer.course.toy_parts import toy_parts
from tiny_transformer.model.embeddings import Embeddings
from tiny_transformer.model.loss import compute_loss
from tiny_transformer.model.transformer_block import TransformerBlock
from tiny_transformer.runtime.random_state import forked_rng

SMALL = ModelConfig(
    n_layers=2, d_model=12, n_heads=3, vocab_size=11, context_length=7, dropout=0.0, norm_eps=0.05
)
KINDS = {
    "a small model": {},
    "one of one layer without biases, untied": {
        "n_layers": 1,
        "bias": False,
        "tie_weights": False,
    },
    "one with rotary positions, RMSNorm and SwiGLU": {
        "position": "rotary",
        "norm": "rms_norm",
        "activation": "swiglu",
    },
}


def of_kind(kind: str) -> ModelConfig:
    return dataclasses.replace(SMALL, **KINDS[kind])


def ids_for(config: ModelConfig, B: int = 2, T: int = 5) -> Tensor:
    return torch.randint(config.vocab_size, (B, T), generator=torch.Generator().manual_seed(B + T))


def expect_names(model: nn.Module, wanted: nn.Module) -> None:
    """Compare the names and shapes of what is stored."""
    theirs = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    right = {name: tuple(tensor.shape) for name, tensor in wanted.state_dict().items()}
    missing, more = sorted(set(right) - set(theirs)), sorted(set(theirs) - set(right))
    expect(not missing, f"The model's state_dict has no {', '.join(missing[:3])}.")
    expect(not more, f"The model's state_dict has too much: {', '.join(more[:3])}.")
    for name, shape in right.items():
        expect(
            theirs[name] == shape, f"{name} should have the shape {shape}, and has {theirs[name]}."
        )
    learned = {name for name, _ in model.named_parameters()}
    lost = sorted({name for name, _ in wanted.named_parameters()} - learned)
    expect(
        not lost,
        f"{', '.join(lost[:3])} should be listed among the parameters: is something shared that "
        "should not be, or built in another order than the docstring's?",
    )
    surplus = sorted(learned - {name for name, _ in wanted.named_parameters()})
    expect(not surplus, f"{', '.join(surplus[:3])} should not be a parameter of its own.")


def both(
    config: ModelConfig, dtype: torch.dtype = torch.float32, *, toy: bool = True
) -> tuple[nn.Module, nn.Module]:
    """Return the learner's model and the reference, with the same large weights, evaluating.

    Of small parts that are quickly built, or of the real ones. They are built once for each
    answer: a test that changes them takes copies.
    """
    return mine_for(transformer.Transformer, config, dtype, toy), reference_for(config, dtype, toy)


@functools.lru_cache(maxsize=32)
def mine_for(answer: Any, config: ModelConfig, dtype: torch.dtype, toy: bool) -> nn.Module:
    mine = answer(config, toy_parts(config)) if toy else answer(config)
    wanted = reference_for(config, torch.float32, toy)
    expect_names(mine, wanted)
    mine.load_state_dict(wanted.state_dict())
    return mine.to(dtype).eval()


@functools.lru_cache(maxsize=32)
def reference_for(config: ModelConfig, dtype: torch.dtype, toy: bool) -> nn.Module:
    model = Transformer(config, toy_parts(config) if toy else None)
    with torch.no_grad():
        for i, (name, parameter) in enumerate(model.named_parameters()):
            drawn = draw(*parameter.shape, seed=50 + i) * 0.4
            parameter.copy_(drawn + 1 if "norm" in name and name.endswith("weight") else drawn)
    return model.to(dtype).eval()


def copies(config: ModelConfig, dtype: torch.dtype = torch.float32) -> list[nn.Module]:
    return [copy.deepcopy(model) for model in both(config, dtype)]


def build(config: ModelConfig, **settings: Any) -> Any:
    """Return the learner's model of small parts, with its own first weights."""
    return transformer.Transformer(config, toy_parts(config), **settings)


# built as it should be


def test_Transformer__gives_a_number_for_every_token_at_every_position():
    model = transformer.Transformer(SMALL)
    for B, T in [(1, 1), (2, 5), (5, 2), (3, 7)]:
        got = model(ids_for(SMALL, B, T))
        expect_shape(got, (B, T, 11), f"Transformer of ({B}, {T}) ids", "B T V")


def test_Transformer__has_the_reference_s_parameters():
    for kind in KINDS:
        both(of_kind(kind), toy=False)  # compares them


def test_Transformer__is_tied_where_the_config_says_so():
    for tie in (True, False):
        model = build(dataclasses.replace(SMALL, tie_weights=tie))
        same = model.get_parameter("lm_head.weight") is model.get_parameter(
            "embeddings.token.weight"
        )
        says = "one parameter" if tie else "two"
        expect(same == tie, f"With tie_weights={tie}, head and token embedding should be {says}.")


def test_Transformer__remembers_its_config():
    config = dataclasses.replace(SMALL, vocab_size=13)
    model = build(config)
    expect(getattr(model, "config", None) == config, "The model should have its config.")
    for name in ("embeddings", "blocks", "final_norm", "lm_head"):
        expect(
            isinstance(getattr(model, name, None), nn.Module), f"The model has no module {name}."
        )
    expect(
        isinstance(model.blocks, nn.ModuleList) and len(model.blocks) == config.n_layers,
        "blocks should be an nn.ModuleList of a block for each layer.",
    )


def test_Transformer__builds_the_parts_that_it_is_given():
    built: list[str] = []

    class Block(TransformerBlock):
        def __init__(self, config: Any, parts: Any) -> None:
            expect(config is settings and parts is chosen, "A block gets the config and parts.")
            super().__init__(config, parts)
            built.append("block")

        def forward(self, x: Tensor, cache: Any = None) -> Tensor:
            return x + 1

    class Tables(Embeddings):
        def __init__(self, config: Any, parts: Any) -> None:
            expect(config is settings and parts is chosen, "Embeddings get the config and parts.")
            super().__init__(config, parts)
            built.append("embeddings")

        def forward(self, ids: Tensor, offset: int = 0, before: Any = None) -> Tensor:
            expect(offset == 0, "The first token stands at position 0.")
            return 2.0 * self.token(ids)

    class Norm(nn.LayerNorm):
        def __init__(self, dim: int, *, eps: float, bias: bool) -> None:
            expect((dim, eps, bias) == (12, 0.05, True), "The norm is made by parts.build_norm.")
            super().__init__(dim, eps=eps, bias=bias)
            built.append("norm")

        def forward(self, x: Tensor) -> Tensor:
            return 3.0 * x

    settings = dataclasses.replace(SMALL, n_layers=3)
    chosen = Parts.for_config(settings, block=Block, embeddings=Tables, norm=Norm)
    model = transformer.Transformer(settings, chosen)
    counts = {name: built.count(name) for name in ("embeddings", "block", "norm")}
    wanted = {"embeddings": 1, "block": 3, "norm": 7}
    expect_equal(counts, wanted, "how often each part was built, for 3 layers,")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(draw(*parameter.shape, seed=len(name)))
    ids = ids_for(settings)
    table = model.get_parameter("embeddings.token.weight").detach()
    wanted_logits = 3.0 * (2.0 * table[ids] + 3) @ table.T
    expect_equal(
        model.eval()(ids),
        wanted_logits,
        "the logits with an embedding that doubles, three blocks that add 1 and a norm that "
        "triples",
        dims="B T V",
    )


def test_Transformer__has_blocks_that_are_not_each_other():
    model, wanted = both(dataclasses.replace(SMALL, n_layers=3))
    different = {id(block) for block in model.blocks.children()}
    expect_equal(len(different), 3, "the number of different blocks in a model of three layers")
    sizes = [sum(p.numel() for p in each.parameters()) for each in (model, wanted)]
    expect_equal(sizes[0], sizes[1], "the number of parameters", tolerance=0)


# computes what the reference computes


def test_Transformer__computes_what_the_reference_computes_with_its_weights():
    for kind in KINDS:
        config = of_kind(kind)
        mine, wanted = both(config, toy=False)
        ids = ids_for(config, 3, config.context_length)
        expect_equal(mine(ids), wanted(ids), f"the logits of {kind}", dims="B T V")
        one = ids[:, :1]
        expect_equal(mine(one), wanted(one), f"the logits of one token of {kind}", dims="B T V")


def test_Transformer__gives_the_reference_s_loss():
    for tie in (True, False):
        config = dataclasses.replace(SMALL, tie_weights=tie)
        mine, wanted = both(config, torch.float64)
        ids = ids_for(config, 4, 8)
        losses = [compute_loss(model(ids[:, :-1]), ids[:, 1:]) for model in (mine, wanted)]
        expect_equal(losses[0], losses[1], f"the loss with tie_weights={tie}", tolerance=1e-9)


def test_Transformer__does_not_see_the_future():
    mine, _ = both(SMALL)
    ids = ids_for(SMALL, 2, 7)
    before = mine(ids)
    for t in (1, 4, 6):
        changed = ids.clone()
        changed[:, t:] = (changed[:, t:] + 1) % 11
        expect_equal(
            mine(changed)[:, :t],
            before[:, :t],
            f"the logits before position {t}, after tokens from {t} on have changed,",
            dims="B T V",
        )


def test_Transformer__keeps_texts_apart():
    mine, _ = both(SMALL)
    ids = ids_for(SMALL, 5, 5)
    together = mine(ids)
    for b in (0, 3):
        expect_equal(together[b], mine(ids[b : b + 1])[0], f"text {b} among others", dims="T V")


def test_Transformer__returns_the_last_position_alone_where_asked():
    mine, wanted = both(SMALL)
    for B, T in [(2, 5), (5, 1), (1, 7)]:
        ids = ids_for(SMALL, B, T)
        got = mine(ids, last_only=True)
        expect_shape(got, (B, 1, 11), f"the logits of ({B}, {T}) ids, last_only", "B T V")
        expect_equal(got, wanted(ids)[:, -1:], "the last position's logits", dims="B T V")


def test_Transformer__keeps_its_input_and_the_dtype():
    ids = ids_for(SMALL)
    for dtype, kept, tolerance in [
        (torch.float64, torch.float64, 1e-6),
        (torch.bfloat16, torch.float32, 6e-2),
    ]:
        mine, wanted = both(SMALL, dtype)
        before = ids.clone()
        got = mine(ids)
        expect(
            got.dtype == kept,
            f"The logits of a {dtype} model should be {kept}, and are {got.dtype}.",
        )
        expect_equal(got, wanted(ids), f"the logits in {dtype}", dims="B T V", tolerance=tolerance)
        expect_unchanged(before, ids, "ids")


def test_Transformer__refuses_more_tokens_than_its_context_holds():
    model, _ = both(SMALL)
    expect_refused(model, torch.zeros(2, 8, dtype=torch.int64), "8 tokens, with a context of 7,")
    expect_refused(model, torch.tensor([1, 2, 3]), "ids of one axis")


def expect_refused(model: nn.Module, ids: Tensor, what: str) -> None:
    try:
        model(ids)
    except NotImplementedError:
        raise
    except Exception:
        return
    expect(False, f"Transformer should raise for {what} and does not.")


# trains


def test_Transformer__lets_gradients_through_to_every_weight():
    for tie in (True, False):
        mine, wanted = copies(dataclasses.replace(SMALL, tie_weights=tie), torch.float64)
        ids = ids_for(SMALL, 3, 6)
        for model in (mine, wanted):
            loss = compute_loss(model(ids[:, :-1]), ids[:, 1:])
            expect(
                loss.requires_grad,
                "No gradient flows back through the model: is there a .detach() or no_grad()?",
            )
            loss.backward()
        theirs = dict(mine.named_parameters())
        for name, parameter in wanted.named_parameters():
            got = theirs[name].grad
            expect(got is not None, f"No gradient reaches {name}: it is not used.")
            expect_equal(got, parameter.grad, f"the gradient of {name}", tolerance=1e-6)


def test_Transformer__drops_where_the_parts_drop_and_nowhere_else():
    config = dataclasses.replace(SMALL, dropout=0.5)
    mine, wanted = copies(config)
    ids = ids_for(config, 4, 6)
    expect_equal(mine(ids), wanted(ids), "the logits in evaluation, with dropout 0.5", dims="B T V")
    outputs = []
    for model in (mine.train(), wanted.train()):
        with forked_rng(5):
            outputs.append(model(ids))
    expect_equal(
        outputs[0],
        outputs[1],
        "the logits while training with dropout 0.5, for equal random numbers,",
        dims="B T V",
        note="The parts do all the dropping: the model adds none, and calls them in order.",
    )


def test_Transformer__puts_every_part_into_evaluation():
    model, _ = copies(dataclasses.replace(SMALL, dropout=0.5))
    model.train().eval()
    ids = ids_for(SMALL)
    expect_equal(model(ids), model(ids), "the logits in evaluation, a second time,", dims="B T V")
    left = [name for name, module in model.named_modules() if module.training]
    expect(not left, f"After model.eval(), {left[:1]} still trains.")


def test_Transformer__learns_as_the_reference_does():
    mine, wanted = copies(SMALL)
    ids = ids_for(SMALL, 4, 8)
    curves = []
    for model in (mine.train(), wanted.train()):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
        losses = []
        for _ in range(3):
            loss = compute_loss(model(ids[:, :-1]), ids[:, 1:])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        curves.append(torch.tensor(losses))
    expect_equal(curves[0], curves[1], "the losses of three steps", dims="step", tolerance=1e-4)


# first weights


def test_Transformer__begins_with_small_random_weights_and_the_loss_of_a_guess():
    config = dataclasses.replace(SMALL, d_model=24, vocab_size=99, tie_weights=False)
    model = transformer.Transformer(config, seed=1).eval()  # of parts whose tables are zeros
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            std, mean = parameter.std().item(), parameter.mean().item()
            expect(
                0.005 < std < 0.03 and abs(mean) < 0.01,
                f"{name} begins with a standard deviation of {std:.3f} around {mean:.3f}; it "
                "should be 0.02 around 0.",
            )
        elif name.endswith("bias"):
            expect_equal(parameter.detach(), torch.zeros(parameter.shape), f"{name} of a new model")
    ids = ids_for(config, 40, 6)
    got = compute_loss(model(ids[:, :-1]), ids[:, 1:]).item()
    expect(
        abs(got - 4.595) < 0.05,
        f"The first loss of a model of 99 tokens should be about log 99 = 4.595, and is {got:.3f}.",
    )


def test_Transformer__begins_with_weights_that_depend_on_the_seed_alone():
    def weights(seed: int) -> list[Tensor]:
        torch.rand(1)  # somebody else draws in between
        model = build(SMALL, seed=seed)
        return [p.detach() for _, p in sorted(model.named_parameters())]

    first, again, other = weights(3), weights(3), weights(4)
    same = all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    expect(same, "Two models with seed=3 begin with different weights.")
    alike = all(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    expect(not alike, "Models with seed=3 and seed=4 begin with the same weights.")


def test_Transformer__leaves_the_random_numbers_to_the_others():
    before = torch.random.get_rng_state()
    build(SMALL, seed=3)
    same = torch.equal(before, torch.random.get_rng_state())
    expect(same, "Building a model has drawn from PyTorch's global generator: fork it.")


# among others


def test_Transformer__may_be_copied_and_stored():
    mine, _ = both(SMALL)
    ids = ids_for(SMALL)
    twin = copy.deepcopy(mine)
    expect_equal(twin(ids), mine(ids), "the logits of a copy", dims="B T V")
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    expect(bool(mine(ids).abs().sum() > 0), "A copy of the model shares its weights.")
    other = build(SMALL).eval()
    other.load_state_dict(mine.state_dict())
    expect_equal(other(ids), mine(ids), "the logits after loading a state_dict", dims="B T V")
