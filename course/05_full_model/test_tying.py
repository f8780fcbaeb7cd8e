"""Module 05, what is promised: one table under two names."""

from __future__ import annotations

import copy

import torch
from my_transformer import transformer
from torch import nn

from tiny_transformer import Transformer
from tiny_transformer.config import ModelConfig
from tiny_transformer.course.expect import expect, expect_equal, expect_unchanged
from tiny_transformer.course.inputs import draw


def build(*, tie: bool, V: int = 7, C: int = 4) -> Transformer:
    """Return a small model of the package's."""
    config = ModelConfig(n_layers=1, d_model=C, n_heads=1, vocab_size=V, context_length=5,
                         dropout=0.0, tie_weights=tie)  # fmt: skip
    return Transformer(config)


class Other(nn.Module):
    """A model with the two names and nothing else."""

    def __init__(self, V: int = 6, C: int = 3) -> None:
        super().__init__()
        self.embeddings = nn.Module()
        self.embeddings.token = nn.Embedding(V, C)
        self.lm_head = nn.Linear(C, V, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.lm_head(self.embeddings.token(ids))


# is_tied


def expect_tied(model: nn.Module, wanted: bool, what: str) -> None:
    got = transformer.is_tied(model)
    expect_equal(got, wanted, f"is_tied of {what}")


def test_is_tied__tells_one_table_from_two():
    expect_tied(build(tie=True), True, "a tied model")
    expect_tied(build(tie=False), False, "a model with two tables")


def test_is_tied__does_not_fall_for_equal_numbers():
    model = build(tie=False)
    with torch.no_grad():
        model.lm_head.weight.copy_(model.get_parameter("embeddings.token.weight"))
    expect_tied(model, False, "a model with two tables of equal numbers")
    zeros = Other()
    for parameter in zeros.parameters():
        nn.init.zeros_(parameter)
    expect_tied(zeros, False, "a model with two tables of zeros")


def test_is_tied__does_not_fall_for_one_number_or_the_shape():
    model = Other(V=5, C=5)
    with torch.no_grad():
        model.lm_head.weight[0] = model.embeddings.token.weight[0]
        model.lm_head.weight[-1] = model.embeddings.token.weight[-1]
    expect_tied(model, False, "a model whose tables share their first and last rows' numbers")


def test_is_tied__looks_at_the_model_and_not_at_its_config():
    model = build(tie=True)
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    expect_tied(model, False, "a model whose config says tied, and whose head has a copy")
    model = build(tie=False)
    model.lm_head.weight = model.get_parameter("embeddings.token.weight")
    expect_tied(model, True, "a model whose config says untied, and whose tables are one")
    other = Other()
    expect_tied(other, False, "a model without a config")
    other.lm_head.weight = other.embeddings.token.weight
    expect_tied(other, True, "a model without a config, tied")


def test_is_tied__does_not_depend_on_which_is_listed_first():
    for tie in (True, False):
        model = nn.Module()
        model.lm_head = nn.Linear(3, 6, bias=False)
        model.embeddings = nn.Module()
        model.embeddings.token = nn.Embedding(6, 3)
        if tie:
            model.lm_head.weight = model.embeddings.token.weight
        kind = "tied" if tie else "untied"
        expect_tied(model, tie, f"a model whose head is listed first, {kind}")


def test_is_tied__still_holds_after_a_step_and_in_a_copy():
    model = build(tie=True)
    model(torch.tensor([[1, 2]])).sum().backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    expect_tied(model, True, "a tied model after a step")
    expect_tied(copy.deepcopy(model), True, "a copy of a tied model")
    expect_tied(model.double(), True, "a tied model in float64")
    expect_tied(Other(V=1, C=1), False, "a model with two tables of one number")


def test_is_tied__changes_nothing():
    model = build(tie=False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for _ in range(2):
        expect_tied(model, False, "a model with two tables")
    for name, tensor in model.state_dict().items():
        expect_unchanged(before[name], tensor, name)
    expect(not model.lm_head.weight.grad, "is_tied left a gradient behind.")


# tie_weights


def test_tie_weights__leaves_one_parameter_under_two_names():
    model = build(tie=False)
    n_before = sum(p.numel() for p in model.parameters())
    transformer.tie_weights(model)
    table = model.get_parameter("embeddings.token.weight")
    expect(
        model.get_parameter("lm_head.weight") is table,
        "After tie_weights, lm_head.weight and embeddings.token.weight are still two parameters.",
    )
    n_now = sum(p.numel() for p in model.parameters())
    expect_equal(n_before - n_now, 28, "the number of parameters saved, with a table of (7, 4),")


def test_tie_weights__keeps_the_table_s_numbers():
    model = Other()
    table = model.embeddings.token.weight.detach().clone()
    transformer.tie_weights(model)
    for name in ("embeddings.token.weight", "lm_head.weight"):
        expect_equal(
            model.get_parameter(name).detach(),
            table,
            f"{name} after tie_weights",
            dims="V C",
            tolerance=0,
            note="The table keeps its numbers, and the head takes them over.",
        )


def test_tie_weights__keeps_the_table_s_parameter():
    """An optimizer that holds it already goes on updating the right one."""
    model = Other()
    table, embedding = model.embeddings.token.weight, model.embeddings.token
    transformer.tie_weights(model)
    expect(
        model.embeddings.token.weight is table,
        "The table of the embedding is another parameter than before: an optimizer that holds "
        "the old one would update nothing.",
    )
    expect(
        isinstance(model.get_parameter("lm_head.weight"), nn.Parameter) and table.requires_grad,
        "The shared table should be a parameter that learns.",
    )
    expect(
        model.embeddings.token is embedding and isinstance(model.lm_head, nn.Linear),
        "The modules should stay what they were; only the head's weight is another.",
    )


def test_tie_weights__sends_both_gradients_to_the_table():
    model = Other().double()
    ids = torch.tensor([[1, 4, 4]])
    table = model.embeddings.token.weight.detach().clone().requires_grad_()
    pull = draw(1, 3, 6, dtype=torch.float64)
    (wanted,) = torch.autograd.grad(table[ids] @ table.T, table, pull)
    transformer.tie_weights(model)
    model(ids).backward(pull)
    got = model.embeddings.token.weight.grad
    expect(got is not None, "No gradient reaches the table after tie_weights.")
    expect_equal(got, wanted, "the gradient of the table", dims="V C", tolerance=1e-9)


def test_tie_weights__keeps_them_together_through_training():
    model = Other()
    transformer.tie_weights(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for step in range(3):
        optimizer.zero_grad()
        model(torch.tensor([[0, step]])).square().sum().backward()
        optimizer.step()
    expect_equal(
        model.get_parameter("lm_head.weight").detach(),
        model.get_parameter("embeddings.token.weight").detach(),
        "the head's weight after three steps, beside the embedding's",
        dims="V C",
        tolerance=0,
    )


def test_tie_weights__gives_the_logits_of_a_model_that_was_built_tied():
    untied, tied = build(tie=False), build(tie=True)
    transformer.tie_weights(untied)
    for name, parameter in tied.named_parameters():
        with torch.no_grad():
            parameter.copy_(draw(*parameter.shape, seed=len(name)))
    untied.load_state_dict(tied.state_dict())
    ids = torch.tensor([[3, 1, 6, 0]])
    expect_equal(untied(ids), tied(ids), "the logits of the model that was tied", dims="B T V")
    names = sorted(untied.state_dict())
    expect_equal(names, sorted(tied.state_dict()), "the names in state_dict after tie_weights")


def test_tie_weights__may_be_called_twice():
    model = build(tie=True)
    table = model.get_parameter("embeddings.token.weight")
    transformer.tie_weights(model)
    transformer.tie_weights(model)
    expect(
        model.get_parameter("lm_head.weight") is table
        and model.get_parameter("embeddings.token.weight") is table,
        "A model that is tied already should stay as it is.",
    )
