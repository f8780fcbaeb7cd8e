"""`ShapeTracer`: a row for each call, the model left as it was, and how far a failure came."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tiny_transformer.config import ModelConfig
from tiny_transformer.model.kv_cache import KVCache
from tiny_transformer.model.parts import Parts
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.viz.shape_tracer import Row, Seen
from tiny_transformer.viz.shapes import ShapeTracer

pytestmark = pytest.mark.requirement("viz.shape-tracer")

CONFIG = ModelConfig(n_layers=1, d_model=8, n_heads=2, context_length=6, vocab_size=11, dropout=0)


class Shared(nn.Module):
    """One module under two names, called by both; and one that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.first = self.second = nn.Linear(3, 3)
        self.unused = nn.Linear(3, 7)

    def forward(self, x: Tensor, *, scale: float = 1.0) -> Tensor:
        return self.second(self.first(x)) * scale


class Two(nn.Module):
    """Takes and returns several tensors, in lists and dicts."""

    def forward(self, pair: tuple[Tensor, list[Tensor]], mask: Tensor | None = None) -> Any:
        a, (b,) = pair
        return a, {"sum": b.sum(), "rest": [b, None]}


class Broken(nn.Module):
    """The second layer does not fit the first."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(3, 12), nn.Linear(11, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.relu(self.up(x)))


class Forgiving(nn.Module):
    """Goes on with another part where one fails."""

    def __init__(self) -> None:
        super().__init__()
        self.broken, self.spare = Broken(), nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        try:
            return self.broken(x)
        except RuntimeError:
            return self.spare(x)


def n_hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def trace(model: nn.Module, *arguments: Any, **keywords: Any) -> ShapeTracer:
    with ShapeTracer(model, show=False) as tracer:
        model(*arguments, **keywords)
    return tracer


WHOLE = """\
Transformer                         (2, 5) int64 -> (2, 5, 11)
  embeddings   Embeddings           (2, 5) int64, 0 -> (2, 5, 8)
    token      TokenEmbedding       (2, 5) int64 -> (2, 5, 8)
    position   PositionalEmbedding  5, 0 -> (5, 8)
    dropout    Dropout              (2, 5, 8) -> (2, 5, 8)
  blocks.0     TransformerBlock     (2, 5, 8) -> (2, 5, 8)
    norm1      LayerNorm            (2, 5, 8) -> (2, 5, 8)
    attention  MultiHeadAttention   (2, 5, 8) -> (2, 5, 8)
      q_proj   Linear               (2, 5, 8) -> (2, 5, 8)
      k_proj   Linear               (2, 5, 8) -> (2, 5, 8)
      v_proj   Linear               (2, 5, 8) -> (2, 5, 8)
      o_proj   Linear               (2, 5, 8) -> (2, 5, 8)
    dropout    Dropout              (2, 5, 8) -> (2, 5, 8)
    norm2      LayerNorm            (2, 5, 8) -> (2, 5, 8)
    mlp        MLP                  (2, 5, 8) -> (2, 5, 8)
      up_proj  Linear               (2, 5, 8) -> (2, 5, 32)
      down_proj  Linear             (2, 5, 32) -> (2, 5, 8)
    dropout    Dropout              (2, 5, 8) -> (2, 5, 8)
  final_norm   LayerNorm            (2, 5, 8) -> (2, 5, 8)
  lm_head      Linear               (2, 5, 8) -> (2, 5, 11)"""


def test_the_trace_of_a_transformer_is_the_one_written_by_hand(
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = Transformer(CONFIG)
    with ShapeTracer(model):
        model(torch.zeros(2, 5, dtype=torch.int64))
    printed = capsys.readouterr().out
    assert [line.split() for line in printed.splitlines()] == [
        line.split() for line in WHOLE.splitlines()
    ]
    depths = [len(line) - len(line.lstrip()) for line in printed.splitlines()]
    assert depths == [len(line) - len(line.lstrip()) for line in WHOLE.splitlines()]


def test_columns_stand_below_one_another_and_depth_and_parameters_are_as_asked() -> None:
    tracer = trace(Transformer(CONFIG), torch.zeros(2, 5, dtype=torch.int64))
    assert tracer.table(1, parameters=True).splitlines() == [
        "Transformer                     1,024  (2, 5) int64 -> (2, 5, 11)",
        "  embeddings  Embeddings          136  (2, 5) int64, 0 -> (2, 5, 8)",
        "  blocks.0    TransformerBlock    872  (2, 5, 8) -> (2, 5, 8)",
        "  final_norm  LayerNorm            16  (2, 5, 8) -> (2, 5, 8)",
        "  lm_head     Linear               88  (2, 5, 8) -> (2, 5, 11)",
    ]


@given(
    st.recursive(
        st.builds(lambda: nn.Linear(3, 3)) | st.builds(nn.ReLU) | st.builds(nn.Identity),
        lambda inner: st.lists(inner, min_size=1, max_size=3).map(lambda m: nn.Sequential(*m)),
        max_leaves=8,
    )
)
@settings(max_examples=40)
def test_every_call_is_a_row_and_the_model_computes_as_without(model: nn.Module) -> None:
    """Nested sequences call each of their modules once, in the order of `named_modules`."""
    x = torch.randn(2, 3, requires_grad=True)
    plain = model(x)
    with ShapeTracer(model, show=False) as tracer:
        watched = model(x)
    assert torch.equal(plain, watched)
    assert [row.name for row in tracer.rows] == [name for name, _ in model.named_modules()]
    assert [row.depth for row in tracer.rows] == [
        name.count(".") + (name != "") for name, _ in model.named_modules()
    ]
    for row in tracer.rows:
        assert row.input_shapes == row.output_shapes == [(2, 3)]
        assert row.finished and row.raised is None
    assert tracer.rows[0].n_parameters == sum(p.numel() for p in model.parameters())
    assert n_hooks(model) == 0 and tracer.failed is None and tracer.never_called == []


def test_a_shared_module_has_a_row_for_each_call_and_all_its_names() -> None:
    tracer = trace(Shared(), torch.zeros(4, 3), scale=2.0)
    assert [(row.depth, row.name) for row in tracer.rows] == [
        (0, ""),
        (1, "first = second"),
        (1, "first = second"),
    ]
    assert [row.n_parameters for row in tracer.rows] == [12 + 28, 12, 12]
    assert str(tracer.rows[0]) == "(4, 3), scale=2.0 -> (4, 3)"
    assert tracer.never_called == ["unused"]
    assert str(tracer).endswith("\nNever called: unused")


def test_lists_tuples_and_dicts_of_tensors_are_seen_through() -> None:
    half = torch.zeros(2, dtype=torch.bfloat16)
    tracer = trace(Two(), (torch.zeros(4, 3), [half]), mask=torch.ones(4, 4, dtype=torch.bool))
    (row,) = tracer.rows
    assert row.inputs == {
        "0": (Seen((4, 3), torch.float32), [Seen((2,), torch.bfloat16)]),
        "mask": Seen((4, 4), torch.bool),
    }
    assert row.input_shapes == [(4, 3), (2,), (4, 4)]
    assert row.output_shapes == [(4, 3), (), (2,)]
    assert str(row) == (
        "[(4, 3), [(2,) bfloat16]], mask=(4, 4) bool -> "
        "(4, 3), {sum: () bfloat16, rest: [(2,) bfloat16, None]}"
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "None"),
        (3, "3"),
        (0.5, "0.5"),
        ("mean", "'mean'"),
        ("x" * 99, "str"),
        ([torch.Size([2, 3])], "[[2, 3]]"),
        (OrderedDict(a=torch.zeros(2)), "{a: (2,)}"),
        (KVCache, "type"),
        (object(), "object"),
        ([], "[]"),
    ],
)
def test_other_values_are_told_shortly(value: Any, text: str) -> None:
    assert str(trace(nn.Identity(), value).rows[0]) == f"{text} -> {text}"


def test_a_list_that_holds_itself_ends() -> None:
    endless: list[Any] = []
    endless.append(endless)
    assert str(trace(nn.Identity(), endless).rows[0]).count("[") < 20


def test_a_failure_shows_how_far_it_came_and_goes_on_its_way(
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = nn.Sequential(nn.ReLU(), Broken())
    tracer = ShapeTracer(model)
    with pytest.raises(RuntimeError, match="cannot be multiplied"), tracer:
        model(torch.zeros(2, 3))
    assert capsys.readouterr().out == (
        "Sequential          (2, 3) -> raised RuntimeError\n"
        "  0         ReLU    (2, 3) -> (2, 3)\n"
        "  1         Broken  (2, 3) -> raised RuntimeError\n"
        "    up      Linear  (2, 3) -> (2, 12)\n"
        "    down    Linear  (2, 12) -> raised RuntimeError\n"
        "\n"
        "It came as far as 1.down, which raised\n"
        "RuntimeError: mat1 and mat2 shapes cannot be multiplied (2x12 and 11x3)\n"
        "The last part to return was 1.up: (2, 3) -> (2, 12)\n"
    )
    assert tracer.failed is tracer.rows[-1]
    assert n_hooks(model) == 0


def test_a_failure_between_modules_is_that_of_the_module_that_computes_it() -> None:
    class Between(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x) + torch.zeros(7)

    model = nn.Sequential(Between())
    tracer = ShapeTracer(model, show=False)
    with pytest.raises(RuntimeError), tracer:
        model(torch.zeros(2, 3))
    assert tracer.failed is not None and tracer.failed.name == "0"
    assert "It came as far as 0, which raised\nRuntimeError: The size of tensor a" in str(tracer)


def test_a_failure_of_the_first_call_has_none_before_it() -> None:
    tracer = ShapeTracer(nn.Linear(3, 2), show=False)
    with pytest.raises(RuntimeError), tracer:
        tracer.model(torch.zeros(2, 4))
    assert "It came as far as Linear, which raised\nRuntimeError: mat1" in str(tracer)
    assert "The last part to return" not in str(tracer)


def test_a_failure_that_a_module_catches_does_not_disturb_the_rows_after_it() -> None:
    model = Forgiving()
    with ShapeTracer(model, show=False) as tracer:
        model(torch.zeros(2, 3))
        model(torch.zeros(2, 3))
    once = [(0, ""), (1, "broken"), (2, "broken.up"), (2, "broken.down"), (1, "spare")]
    assert [(row.depth, row.name) for row in tracer.rows] == once * 2
    assert [row.raised is not None for row in tracer.rows[:5]] == [False, True, False, True, False]


def test_it_works_while_another_exception_is_handled() -> None:
    """As in an `except` block of a notebook that looks into what went wrong."""
    try:
        raise ValueError
    except ValueError:
        tracer = trace(nn.Linear(3, 2), torch.zeros(4, 3))
    assert tracer.failed is None and tracer.rows[0].output_shapes == [(4, 2)]


def test_an_interrupt_leaves_the_row_open_and_no_hook() -> None:
    class Stopped(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise KeyboardInterrupt

    model = nn.Sequential(Stopped())
    tracer = ShapeTracer(model, show=False)
    with pytest.raises(KeyboardInterrupt), tracer:
        model(torch.zeros(2))
    assert [str(row) for row in tracer.rows] == ["(2,) -> ..."] * 2
    assert n_hooks(model) == 0


def test_a_tracer_can_be_used_again_but_not_inside_itself() -> None:
    model = nn.Linear(3, 2)
    tracer = trace(model, torch.zeros(4, 3))
    with tracer:
        with pytest.raises(RuntimeError, match="at work already"):
            tracer.__enter__()
        model(torch.zeros(5, 3))
    assert [row.input_shapes for row in tracer.rows] == [[(5, 3)]]


def test_two_tracers_of_one_model_do_not_disturb_each_other() -> None:
    model = nn.Linear(3, 2)
    with ShapeTracer(model, show=False) as first, ShapeTracer(model, show=False) as second:
        model(torch.zeros(5, 3))
    assert [str(row) for row in first.rows] == [str(row) for row in second.rows]


def test_a_block_without_a_call_says_so() -> None:
    with ShapeTracer(nn.Linear(3, 2), show=False) as tracer:
        pass
    assert str(tracer) == "No module was called in this block."


def test_it_traces_a_model_built_from_a_learners_part_and_generation_with_a_cache() -> None:
    class MyMLP(nn.Module):
        def __init__(self, config: ModelConfig) -> None:
            super().__init__()
            self.up_proj = nn.Linear(config.d_model, 4 * config.d_model)
            self.down_proj = nn.Linear(4 * config.d_model, config.d_model)

        def forward(self, x: Tensor) -> Tensor:
            return self.down_proj(torch.relu(self.up_proj(x)))

    model = Transformer(CONFIG, Parts(mlp=MyMLP))
    cache = KVCache(CONFIG, batch_size=2)
    with ShapeTracer(model, show=False) as tracer, torch.no_grad():
        model(torch.zeros(2, 3, dtype=torch.int64), cache)
        model(torch.zeros(2, 1, dtype=torch.int64), cache, last_only=True)
    mine = [row for row in tracer.rows if row.kind == "MyMLP"]
    assert [row.output_shapes for row in mine] == [[(2, 3, 8)], [(2, 1, 8)]]
    calls = [str(row) for row in tracer.rows if row.depth == 0]
    assert calls == [
        "(2, 3) int64, KVCache -> (2, 3, 11)",
        "(2, 1) int64, KVCache, last_only=True -> (2, 1, 11)",
    ]


def test_nothing_of_the_forward_pass_is_kept_alive() -> None:
    import weakref

    model, x = nn.Identity(), torch.zeros(4)
    reference = weakref.ref(x)
    tracer = trace(model, [x])
    del x
    assert reference() is None
    assert isinstance(tracer.rows[0], Row)
