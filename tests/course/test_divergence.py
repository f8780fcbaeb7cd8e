"""The first tensor that differs, its place and its axes; and right rewrites that differ nowhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.course.reference_parts import copy_reference, plant

from tiny_transformer.config import ModelConfig
from tiny_transformer.course.answers import installed
from tiny_transformer.course.comparison import Comparison
from tiny_transformer.course.divergence import compare, compare_each
from tiny_transformer.course.graft import FILES, workspace_parts
from tiny_transformer.course.naming import Axes, place_of_largest, relation
from tiny_transformer.course.probes import probe_config
from tiny_transformer.course.trace import close, traced, unexplained

FUSED = ModelConfig()
EXPLICIT = ModelConfig(backend="explicit")
CAUSAL = "mask.tril(diagonal=n_keys - n_queries)"
SPLIT = "return x.unflatten(-1, (-1, self.head_dim))"
NARROW = "return self.down_proj(self.activation(inner))"


@pytest.fixture(autouse=True)
def forgotten(tmp_path: Path) -> Iterator[None]:
    """Let no test's files be another's `my_transformer`."""
    with installed(tmp_path):
        yield


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return copy_reference(tmp_path / "workspace")


def compared(folder: Path, part: str, config: ModelConfig = EXPLICIT) -> Comparison:
    return compare(workspace_parts(folder, config, [part]), config, (part,))


@pytest.mark.requirement("course.compare")
@pytest.mark.parametrize("config", [FUSED, EXPLICIT])
def test_the_reference_s_own_source_differs_nowhere(folder: Path, config: ModelConfig) -> None:
    comparisons = list(compare_each(workspace_parts(folder, config), config))
    assert [c.parts for c in comparisons] == [*[(name,) for name in FILES], tuple(FILES)]
    assert all(c.same for c in comparisons)
    assert all(c.rounding < 1e-6 for c in comparisons)
    exact = {c.parts[0] for c in comparisons if c.rounding == 0 and len(c.parts) == 1}
    assert exact >= set(FILES) - {"norm"}  # a norm of one's own has one form
    assert "bit for bit" in comparisons[0].sentence()


@pytest.mark.requirement("course.compare")
@pytest.mark.parametrize(
    "changes",
    [
        {"position": "rotary", "norm": "rms_norm", "activation": "swiglu", "bias": False},
        {"n_kv_heads": 2, "qk_norm": True, "position": "sinusoidal", "tie_weights": False},
        {"n_kv_heads": 1, "token_window": 3, "scale_embeddings": True, "d_ff": 100},
        {"n_heads": 1, "position": "none"},
    ],
)
def test_every_kind_of_model_can_be_compared(folder: Path, changes: dict[str, object]) -> None:
    config = dataclasses.replace(FUSED, **changes)  # type: ignore[arg-type]
    parts = workspace_parts(folder, config)
    assert compare(parts, config, tuple(parts.taken)).same


@pytest.mark.requirement("course.compare")
@pytest.mark.parametrize(
    ("part", "file", "old", "new", "stage", "says"),
    [
        (
            "attention",
            "attention.py",
            "q / math.sqrt(q.shape[-1])",
            "q",
            "evaluation",
            [
                "div in blocks.0.attention, (B, H, T, D) = (2, 3, 5, 8)",
                "the first of yours that the reference has not: matmul",
                "attention.py, line 57",
                "2.828 times the reference's everywhere: the square root of D",
            ],
        ),
        (
            "attention",
            "attention.py",
            CAUSAL,
            f"{CAUSAL[:-1]} + 1)",
            "evaluation",
            [
                "tril in blocks.0.attention, (queries, keys) = (5, 5)",
                "at queries 0, keys 1",
                "where yours is True and the reference's False",
            ],
        ),
        (
            "attention",
            "attention.py",
            "torch.softmax(scores, dim=-1",
            "torch.softmax(scores, dim=-2",
            "evaluation",
            [
                "equals: softmax in blocks.0.attention, (B, H, queries, keys)",
                "until then they agree: where in blocks.0.attention",
            ],
        ),
        (
            "attention",
            "attention.py",
            SPLIT,
            "return x.view(len(x), -1, x.shape[1], self.head_dim).transpose(1, 2)",
            "evaluation",
            [
                "equals: unflatten in blocks.0.attention, (B, T, H, D)",
                "linear in blocks.0.attention.q_proj",
                "the same values in other places",
            ],
        ),
        (
            "attention",
            "attention.py",
            "self.dropout if self.training else 0.0\n        if",
            "self.dropout\n        if",
            "evaluation",
            ["draws random numbers in evaluation"],
        ),
        (
            "attention",
            "attention.py",
            "drop(weights, dropout) @ v",
            "weights @ v",
            "dropout",
            ["nothing is dropped in the attention part"],
        ),
        (
            "attention",
            "attention.py",
            "drop(weights, dropout) @ v",
            "(drop(weights, dropout) * (1 - dropout)) @ v",
            "dropout",
            ["on average not what it is without", "1 - p"],
        ),
        (
            "block",
            "transformer_block.py",
            "x = x + self.dropout(y)",
            "x = self.dropout(y)",
            "evaluation",
            [
                "equals: add in blocks.0, (B, T, C) = (2, 5, 24)",
                "linear in blocks.0.attention.o_proj",
            ],
        ),
        (
            "block",
            "transformer_block.py",
            "self.norm2(x)",
            "x",
            "evaluation",
            ["in blocks.0.norm2"],
        ),
        (
            "block",
            "transformer_block.py",
            "x = x + self.dropout(y)",
            "x += self.dropout(y)",
            "evaluation",
            ["blocks.0 changes its input in place"],
        ),
        (
            "block",
            "transformer_block.py",
            "self.dropout(y)",
            "(y * 1.5 if self.training else y)",
            "training",
            ["in training mode, without dropout"],
        ),
        (
            "embeddings",
            "embeddings.py",
            "self.position(ids.shape[1], offset)",
            "self.position(ids.shape[1])",
            "cache",
            ["when past tokens come from a cache", "getitem in embeddings.position, (T, C)"],
        ),
        (
            "positional_embedding",
            "positional.py",
            "self.weight[offset : offset + length]",
            "self.weight[offset + 1 : offset + length + 1]",
            "evaluation",
            ["equals: getitem in embeddings.position, (T, C) = (5, 24)"],
        ),
        (
            "token_embedding",
            "embeddings.py",
            "vectors if self.scale == 1.0 else",
            "vectors * 3 if self.scale == 1.0 else",
            "evaluation",
            ["mul in embeddings.token", "vectors * 3", "none of yours equals: add in embeddings"],
        ),
        (
            "mlp",
            "mlp.py",
            NARROW,
            "return self.down_proj(F.gelu(inner, approximate='tanh'))",
            "evaluation",
            ["gelu in blocks.0.mlp, (B, T, F) = (2, 5, 96)", "linear in blocks.0.mlp.up_proj"],
        ),
        (
            "mlp",
            "mlp.py",
            NARROW,
            f"{NARROW}.detach()",
            "gradients",
            ["No gradient reaches the output of blocks.1.mlp.down_proj", "no_grad"],
        ),
        (
            "mlp",
            "mlp.py",
            "inner = self.up_proj(x)",
            "inner = self.up_proj(x)\n        inner = 0.5 * inner + 0.5 * inner.detach()",
            "gradients",
            ["The loss agrees, and the gradient of"],
        ),
        (
            "mlp",
            "mlp.py",
            "nn.Linear(inner, width, bias=config.bias)",
            "nn.Linear(inner, width, bias=False)",
            "parameters",
            ["missing: blocks.0.mlp.down_proj.bias (C,) = (24,)"],
        ),
        (
            "mlp",
            "mlp.py",
            "inner = self.up_proj(x)",
            "inner = self.up(x)",
            "building",
            ["AttributeError while it is evaluated (mlp.py, line 99)"],
        ),
        (
            "mlp",
            "mlp.py",
            "inner = self.up_proj(x)",
            "raise NotImplementedError('gelu')",
            "building",
            ["what is not written yet (mlp.py, line 99): gelu"],
        ),
        (
            "token_embedding",
            "embeddings.py",
            "self.weight = nn.Parameter(torch.zeros(config",
            "self.table = nn.Parameter(torch.zeros(config",
            "building",
            ["weight"],
        ),
        (
            "norm",
            "layer_norm.py",
            "return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)",
            "return F.layer_norm(x, self.weight.shape, self.weight, self.bias)",
            "evaluation",
            ["layer_norm in blocks.0.norm1", "layer_norm.py, line 63"],
        ),
    ],
)
def test_a_mistake_is_named_where_it_is_made(
    folder: Path, part: str, file: str, old: str, new: str, stage: str, says: list[str]
) -> None:
    plant(folder, file, old, new)
    found = compared(folder, part).divergence
    assert found is not None
    assert found.stage == stage
    assert all(text in str(found) for text in says), str(found)


@pytest.mark.requirement("course.compare-rounding")
@pytest.mark.parametrize(
    ("part", "file", "old", "new"),
    [
        (
            "attention",
            "attention.py",
            "(q / math.sqrt(q.shape[-1])) @ k.transpose(-2, -1)",
            'torch.einsum("bhqd,bhkd->bhqk", q, k) / math.sqrt(q.shape[-1])',
        ),
        (
            "attention",
            "attention.py",
            'torch.where(mask, scores, float("-inf"))',
            "scores.masked_fill(~mask, -1e9)",
        ),
        (
            "attention",
            "attention.py",
            "self.o_proj(heads.transpose(1, 2).flatten(-2))",
            "sum(h @ w.T for h, w in zip(heads.unbind(1), "
            "self.o_proj.weight.split(self.head_dim, 1))) + self.o_proj.bias",
        ),
        (
            "mlp",
            "mlp.py",
            "inner = self.up_proj(x)",
            "x = x.unsqueeze(1)\n        return self.down_proj("
            "self.activation(self.up_proj(x))).squeeze(1)",
        ),
        (
            "mlp",
            "mlp.py",
            NARROW,
            "return F.linear(torch.special.ndtr(inner) * inner, "
            "self.down_proj.weight, self.down_proj.bias)",
        ),
        (
            "block",
            "transformer_block.py",
            "return x + self.dropout(self.mlp(self.norm2(x)))",
            "return self.dropout(self.mlp(self.norm2(x))) + x",
        ),
    ],
)
def test_another_order_of_operations_is_only_rounding(
    folder: Path, part: str, file: str, old: str, new: str
) -> None:
    plant(folder, file, old, new)
    comparison = compared(folder, part)
    assert comparison.same, str(comparison.divergence)
    assert comparison.rounding < 1e-5


@pytest.mark.requirement("course.compare-rounding")
def test_large_rounding_is_told_from_a_mistake_in_float64(folder: Path) -> None:
    noisy = "(inner + 3e3) - 3e3"  # in float32 this costs digits; in float64 next to none
    plant(folder, "mlp.py", "self.activation(inner))\n", f"self.activation({noisy}))\n")
    comparison = compared(folder, "mlp")
    assert comparison.same, str(comparison.divergence)
    assert comparison.rounding > 2e-5
    assert "up to rounding" in comparison.sentence()


def test_a_mistake_of_the_size_of_rounding_is_found(folder: Path) -> None:
    plant(folder, "mlp.py", "self.activation(inner))\n", "self.activation(inner) * 1.0001)\n")
    found = compared(folder, "mlp").divergence
    assert found is not None
    assert "blocks.0.mlp" in str(found)


def test_a_rewrite_hides_no_later_mistake(folder: Path) -> None:
    """Scores made in another way agree; the softmax over queries does not, and is named."""
    plant(
        folder,
        "attention.py",
        "(q / math.sqrt(q.shape[-1])) @ k.transpose(-2, -1)",
        "q @ k.mT / math.sqrt(q.shape[-1])",
    )
    plant(folder, "attention.py", "torch.softmax(scores, dim=-1", "torch.softmax(scores, dim=-2")
    told = str(compared(folder, "attention").divergence)
    assert "none of yours equals: softmax" in told
    assert "div" not in told


@pytest.mark.parametrize(("diagonal", "agrees"), [(1, True), (2, False)])
def test_a_mask_may_say_what_is_hidden(folder: Path, diagonal: int, agrees: bool) -> None:
    plant(
        folder,
        "attention.py",
        f"return {CAUSAL}",
        f"return mask.triu(n_keys - n_queries + {diagonal})",
    )
    plant(folder, "attention.py", "torch.where(mask, scores", "torch.where(~mask, scores")
    found = compared(folder, "attention").divergence
    assert (found is None) == agrees, str(found)
    if found is not None:
        assert "your mask is of what is hidden" in str(found)
        assert "at queries 0, keys 1" in str(found)
        assert "(4 of 25 values differ)" in str(found)


def test_code_that_only_runs_in_float32_is_compared_in_float32(folder: Path) -> None:
    plant(
        folder,
        "mlp.py",
        NARROW,
        "return F.linear(inner, self.down_proj.weight.float(), self.down_proj.bias.float())",
    )
    told = str(compared(folder, "mlp").divergence)
    assert "gelu" in told or "mul in blocks.0.mlp" in told


def test_only_right_parts_are_compared_together(folder: Path) -> None:
    plant(folder, "mlp.py", NARROW, f"{NARROW} * 2")
    comparisons = list(compare_each(workspace_parts(folder, EXPLICIT), EXPLICIT))
    assert [c.parts for c in comparisons if not c.same] == [("mlp",)]
    assert comparisons[-1].parts == tuple(name for name in FILES if name != "mlp")


def test_the_axes_of_a_probe_are_all_unequal() -> None:
    config = probe_config(FUSED)
    sizes = [
        2,
        5,
        config.n_heads,
        config.head_dim,
        config.d_model,
        config.feed_forward_width,
        config.vocab_size,
        config.context_length,
    ]
    assert len(set(sizes)) == len(sizes)


def test_axes_are_named_by_their_sizes() -> None:
    axes = Axes.of(probe_config(FUSED), 2, 5)
    assert axes.shape((2, 3, 5, 8)) == "(B, H, T, D) = (2, 3, 5, 8)"
    assert axes.shape((2, 3, 5, 5)) == "(B, H, queries, keys) = (2, 3, 5, 5)"
    assert axes.shape((7,)) == "(7,) = (7,)"
    assert axes.shape(()) == "a single number"
    assert axes.of_stage("cache").shape((5, 9)) == "(queries, keys) = (5, 9)"


@pytest.mark.parametrize(
    ("got", "says"),
    [
        (lambda x: -x, "wrong sign"),
        (lambda x: x * 24, ": C, which is 24"),
        (lambda x: x / 8**0.5, "1 over the square root of D"),
        (lambda x: x * 1.7, "1.7 times the reference's everywhere"),
        (lambda x: x.flip(0), "same values in other places"),
    ],
)
def test_how_two_tensors_are_related(got: object, says: str) -> None:
    x = torch.randn(4, 5, generator=torch.Generator().manual_seed(1))
    axes = Axes.of(probe_config(FUSED), 2, 5)
    assert says in relation(got(x), x, axes)[0]  # type: ignore[operator]
    assert relation(torch.zeros(3), torch.zeros(3), axes) == []
    assert relation(x + 1, x, axes) == []


def test_nan_and_infinity_are_differences_without_bound() -> None:
    axes = Axes.of(probe_config(FUSED), 2, 5)
    x = torch.ones(3)
    assert "without bound" in place_of_largest(torch.tensor([1.0, torch.nan, 1.0]), x, axes)
    assert not close(torch.tensor([1.0, torch.inf, 1.0]), x)
    assert close(torch.tensor([1.0, -1e9]), torch.tensor([1.0, -torch.inf]))


def test_a_trace_follows_what_is_written_in_place() -> None:
    model = torch.nn.Linear(3, 3)
    with torch.no_grad(), traced(model) as trace:
        x = model(torch.ones(2, 3))
        x[0] = 7.0
        y = x.mul_(2)
        y.sum()
    names = [record.name for record in trace.records]
    assert names[-3:] == ["setitem", "mul_", "sum"]
    assert trace.records[-1].parents == (len(names) - 2,)
    assert float(trace.records[-3].value[0, 0]) == 7.0
    assert unexplained(trace.records, trace.records, 0.0) == []
