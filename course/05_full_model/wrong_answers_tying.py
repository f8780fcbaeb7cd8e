"""Module 05, wrong answers: one table under two names."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tiny_transformer import Transformer
from tiny_transformer.config import ModelConfig
from tiny_transformer.course.inputs import draw
from tiny_transformer.course.wrong_answers import mutant, probes, rewrite


class Small(nn.Module):
    """A model with the two names and nothing else; its numbers are always the same."""

    def __init__(
        self,
        V: int = 6,
        C: int = 3,
        *,
        tie: bool = False,
        equal: bool = False,
        head_first: bool = False,
    ) -> None:
        super().__init__()
        if head_first:
            self.lm_head = nn.Linear(C, V, bias=False)
        self.embeddings = nn.Module()
        self.embeddings.token = nn.Embedding(V, C)
        self.lm_head = nn.Linear(C, V, bias=False)
        with torch.no_grad():
            self.embeddings.token.weight.copy_(draw(V, C, seed=1))
            self.lm_head.weight.copy_(draw(V, C, seed=1 if equal else 2))
        if tie:
            self.lm_head.weight = self.embeddings.token.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.lm_head(self.embeddings.token(ids))


def real(*, tie: bool) -> Transformer:
    config = ModelConfig(n_layers=1, d_model=4, n_heads=1, vocab_size=7, context_length=5,
                         dropout=0.0, tie_weights=tie)  # fmt: skip
    return Transformer(config)


def head(model: Any) -> nn.Parameter:
    return model.lm_head.weight


def table(model: Any) -> nn.Parameter:
    return model.embeddings.token.weight


# is_tied


@probes("is_tied")
def _(f: Any) -> list[Any]:
    def partly() -> Small:
        model = Small(V=5, C=5)
        with torch.no_grad():
            head(model)[0], head(model)[-1] = table(model)[0], table(model)[-1]
        return model

    def untied_by_hand() -> Any:
        model: Any = real(tie=True)
        model.lm_head.weight = nn.Parameter(head(model).detach().clone())
        return model

    def tied_by_hand() -> Any:
        model: Any = real(tie=False)
        model.lm_head.weight = table(model)
        return model

    def after() -> list[Any]:
        model = Small()
        f(model)
        f(model)
        return [f(model), head(model) is table(model), head(model).detach().clone()]

    return [
        lambda: f(real(tie=True)),
        lambda: f(real(tie=False)),
        lambda: f(Small()),
        lambda: f(Small(tie=True)),
        lambda: f(Small(equal=True)),
        lambda: f(partly()),
        lambda: f(untied_by_hand()),
        lambda: f(tied_by_hand()),
        lambda: f(Small(V=1, C=1)),
        lambda: f(Small(V=4, C=4)),
        lambda: f(Small(tie=True, head_first=True)),
        after,
    ]


@mutant(
    "is_tied",
    "You compare the numbers. Two tables that are equal now are still two, and part at the first "
    "step: ask whether they are the same parameter.",
)
def numbers_compared(model: Any) -> bool:
    return torch.equal(head(model), table(model))


@mutant(
    "is_tied",
    "You compare one number, or one row. Tables can share numbers and still be two.",
)
def one_number_compared(model: Any) -> bool:
    return bool(head(model)[0, 0] == table(model)[0, 0])


@mutant(
    "is_tied",
    "You ask the config what was meant. Look at the model for what is: somebody may have changed "
    "it, or loaded it wrongly.",
)
def by_the_config(model: Any) -> bool:
    return bool(model.config.tie_weights)


@mutant(
    "is_tied",
    "You always answer True. Shapes and types tell nothing: both tables are (V, C) in every model.",
)
def always_tied(model: Any) -> bool:
    return True


@mutant(
    "is_tied",
    "You always answer False. `.data` and `.detach()` make new objects, which are never the same, "
    "and `state_dict()` has both names, tied or not: compare the parameters themselves, by `is`.",
)
def never_tied(model: Any) -> bool:
    return False


@mutant("is_tied", "You answer the other way round.")
def turned_round(model: Any) -> bool:
    return head(model) is not table(model)


@mutant(
    "is_tied",
    "`==` between tensors gives a table of answers, and you return it, or its `.all()` as a "
    "tensor. Return a plain bool, by `is`.",
)
def a_tensor_of_answers(model: Any) -> Any:
    return (head(model) == table(model)).all()


@mutant(
    "is_tied",
    "You write into one table to see whether the other changes, and leave it changed.",
)
def by_writing(model: Any) -> bool:
    with torch.no_grad():
        head(model).add_(1.0)
        return bool((head(model) == table(model)).all())


@mutant("is_tied", "You tie the model and then find it tied. Only look.")
def tied_by_asking(model: Any) -> bool:
    model.lm_head.weight = table(model)
    return head(model) is table(model)


@mutant(
    "is_tied",
    "You ask whether the head is listed. A parameter with two names is listed under the first of "
    "them, and a model may name its head first: compare the parameters, by `is`.",
)
def by_what_is_listed(model: nn.Module) -> bool:
    return "lm_head.weight" not in [name for name, _ in model.named_parameters()]


@rewrite("is_tied")
def by_the_address(model: nn.Module) -> bool:
    names = ("lm_head.weight", "embeddings.token.weight")
    a, b = (model.get_parameter(name) for name in names)
    return a.data_ptr() == b.data_ptr()


@rewrite("is_tied")
def by_the_identity(model: Any) -> bool:
    return id(model.lm_head.weight) == id(model.embeddings.token.weight)


# tie_weights


@probes("tie_weights")
def _(f: Any) -> list[Any]:
    def tied(model: Any) -> Any:
        f(model)
        return model

    def gradient() -> Any:
        model = tied(Small())
        model(torch.tensor([[1, 4, 4]])).square().sum().backward()
        got = table(model).grad
        return got if got is not None else "none"

    def trained() -> list[Any]:
        model = tied(Small())
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        model(torch.tensor([[0, 1]])).square().sum().backward()
        optimizer.step()
        return [head(model).detach().clone(), table(model).detach().clone()]

    def kept(equal: bool) -> list[Any]:
        model: Any = Small(equal=equal)
        parameter, embedding = table(model), model.embeddings.token
        f(model)
        return [
            table(model) is parameter,
            head(model) is parameter,
            model.embeddings.token is embedding,
            isinstance(head(model), nn.Parameter),
            type(model.lm_head).__name__,
            bool(table(model).requires_grad),
        ]

    def twice() -> list[Any]:
        model = tied(tied(real(tie=True)))
        return [head(model) is table(model)]

    return [
        lambda: head(tied(Small())).detach(),
        lambda: table(tied(Small())).detach(),
        lambda: head(tied(Small())) is table(tied(Small())),
        lambda: sum(p.numel() for p in tied(Small()).parameters()),
        lambda: sum(p.numel() for p in tied(real(tie=False)).parameters()),
        lambda: sorted(tied(Small()).state_dict()),
        lambda: kept(equal=False),
        lambda: kept(equal=True),
        gradient,
        trained,
        twice,
        lambda: tied(Small(V=4, C=4)).lm_head.weight.detach(),
        lambda: list(tied(Small()).state_dict()["lm_head.weight"].shape),
    ]


@mutant(
    "tie_weights",
    "You copy the numbers: there are still two parameters, which part at the first step. Assign "
    "the parameter itself.",
)
def numbers_copied(model: Any) -> None:
    with torch.no_grad():
        head(model).copy_(table(model))


@mutant(
    "tie_weights",
    "You share the memory, by `.data` or a new nn.Parameter around it: there are still two "
    "parameters, each with a gradient of its own and counted twice. Assign the one that is there.",
)
def memory_shared(model: Any) -> None:
    model.lm_head.weight.data = table(model).data


@mutant(
    "tie_weights",
    "You make a new parameter of the table's numbers, by clone() or nn.Parameter(...): that is a "
    "copy. Assign the parameter that is there.",
)
def a_copy_as_a_parameter(model: Any) -> None:
    model.lm_head.weight = nn.Parameter(table(model).detach().clone())


@mutant(
    "tie_weights",
    "You tie the other way round: the embedding takes the head's parameter, and its own numbers "
    "are lost. The table stays, the head follows.",
)
def the_other_way_round(model: Any) -> None:
    model.embeddings.token.weight = head(model)


@mutant(
    "tie_weights",
    "You keep the head's numbers. The table keeps its own, and the head takes them over.",
)
def numbers_of_the_head(model: Any) -> None:
    with torch.no_grad():
        table(model).copy_(head(model))
    model.lm_head.weight = table(model)


@mutant(
    "tie_weights",
    "You put one new parameter in both places. The table's own has to stay: an optimizer may hold "
    "it already.",
)
def a_new_one_for_both(model: Any) -> None:
    new = nn.Parameter(table(model).detach().clone())
    model.lm_head.weight = new
    model.embeddings.token.weight = new


@mutant(
    "tie_weights",
    "You assign the transpose. Both tables are (V, C): nn.Linear stores its weight as (out, in).",
)
def transposed(model: Any) -> None:
    model.lm_head.weight = nn.Parameter(table(model).T)


@mutant(
    "tie_weights",
    "You put the embedding in the place of the head, which is a linear layer and stays one: only "
    "its weight changes.",
)
def the_module_for_the_weight(model: Any) -> None:
    model.lm_head = model.embeddings.token


@mutant(
    "tie_weights",
    "You switch the gradients of the shared table off. It has to learn, for both its uses.",
)
def frozen(model: Any) -> None:
    model.lm_head.weight = table(model)
    head(model).requires_grad_(False)


@mutant("tie_weights", "You set the config and not the model, or change nothing.")
def only_said(model: Any) -> None:
    model.tied = True


@mutant(
    "tie_weights",
    "You average the two tables. The table keeps its numbers.",
)
def averaged(model: Any) -> None:
    with torch.no_grad():
        table(model).copy_((table(model) + head(model)) / 2)
    model.lm_head.weight = table(model)


@rewrite("tie_weights")
def by_setattr(model: nn.Module) -> None:
    parameter = model.get_parameter("embeddings.token.weight")
    setattr(model.get_submodule("lm_head"), "weight", parameter)  # noqa: B010


@rewrite("tie_weights")
def by_registering(model: Any) -> None:
    model.lm_head.register_parameter("weight", model.embeddings.token.weight)


@rewrite("tie_weights")
def by_deleting_first(model: Any) -> None:
    del model.lm_head.weight
    model.lm_head.weight = model.embeddings.token.weight
