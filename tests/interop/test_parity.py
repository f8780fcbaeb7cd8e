"""The gate lets a model pass that computes the same, and no other."""

from __future__ import annotations

import re

import pytest
import torch
from tests.interop.helpers import exportable
from tests.model.architectures import CONTEXT
from torch import Tensor

from tiny_transformer.interop.base import ExportError
from tiny_transformer.interop.parity import check_parity, fixed_inputs

pytestmark = pytest.mark.requirement("export.parity")


def test_inputs_are_fixed_and_reach_every_position() -> None:
    config = exportable().config
    first, again = fixed_inputs(config), fixed_inputs(config)
    assert [ids.shape for ids in first] == [(1, 1), (3, 7), (1, CONTEXT)]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert all(ids.min() >= 0 and ids.max() < 99 for ids in first)


def test_a_short_context_is_not_exceeded() -> None:
    assert [ids.shape for ids in fixed_inputs(exportable(context_length=2).config)] == [
        (1, 1), (3, 2), (1, 2),
    ]  # fmt: skip


def test_the_same_model_passes_without_a_difference() -> None:
    model = exportable()
    parity = check_parity(model, model, allowed=0.0, what="x")
    assert (parity.largest_difference, parity.allowed) == (0.0, 0.0)
    assert parity.logits == (1 + 3 * 7 + CONTEXT) * 99


def test_the_largest_difference_is_reported() -> None:
    model = exportable()
    parity = check_parity(model, lambda ids: model(ids) + 3e-5, allowed=1e-4, what="x")
    assert parity.largest_difference == pytest.approx(3e-5, rel=0.1)


def test_a_difference_is_refused_with_its_place() -> None:
    model = exportable()

    def theirs(ids: Tensor) -> Tensor:
        logits = model(ids).clone()
        if ids.shape == (3, 7):
            logits[1, 5, 8] += 0.25
            logits[2, 4, 8] -= 0.125
        return logits

    with pytest.raises(ExportError) as refused:
        check_parity(model, theirs, allowed=1e-4, what="model.x")
    message = str(refused.value)
    assert message.startswith("model.x was not kept: its logits are not the model's.")
    assert "shape (3, 7)" in message and "allowed is 0.0001" in message
    assert re.search(r"first part at position 4 of row 2, by 0\.1[23]", message)
    assert re.search(r"largest difference is 0\.25, at position 5 of row 1", message)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_is_refused_even_if_both_have_it(value: float) -> None:
    model = exportable()
    with pytest.raises(ExportError, match="by inf"):
        check_parity(model, lambda ids: model(ids) * value, allowed=1e9, what="x")
    with torch.no_grad():
        model.lm_head.weight.fill_(value)
    with pytest.raises(ExportError, match="by inf"):
        check_parity(model, model, allowed=1e9, what="x")


def test_another_shape_is_refused() -> None:
    model = exportable()
    with pytest.raises(ExportError, match=r"\(1, 1, 98\), and the model's \(1, 1, 99\)"):
        check_parity(model, lambda ids: model(ids)[..., :98], allowed=1.0, what="x")
