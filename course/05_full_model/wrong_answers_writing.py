"""Module 05, wrong answers: a model that writes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tiny_transformer.course.devices import expect_follows_device
from tiny_transformer.course.inputs import changed
from tiny_transformer.course.wrong_answers import mutant, probes, rewrite


class Sum(nn.Module):
    """Finds likeliest the sum of what it reads, in evaluation; and one more while it trains."""

    def __init__(self, V: int = 10) -> None:
        super().__init__()
        self.V, self.read = V, []
        self.inner = nn.Dropout(0.5)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, ids: Tensor) -> Tensor:
        self.read.append(ids.shape[1])
        self.kept = torch.is_grad_enabled()
        more = int(self.training or self.inner.training)
        likeliest = nn.functional.one_hot((ids.cumsum(dim=1) + more) % self.V, self.V)
        second = nn.functional.one_hot((ids.cumsum(dim=1) + 5) % self.V, self.V)
        return (3.0 * likeliest + 2.5 * second - 5) * self.scale


class Repeats(nn.Module):
    """Finds likeliest what was read last; its logits have large numbers of either sign."""

    def forward(self, ids: Tensor) -> Tensor:
        return nn.functional.one_hot(ids, 10).float() * 1e4 - 2e4


@probes("write_greedily")
def _(f: Any) -> list[Any]:
    def write(prompt: list[list[int]], n_new: int, context: int, *, mode: bool = False) -> Tensor:
        return f(Sum().train(mode), torch.tensor(prompt), n_new, context)

    def longest(prompt: list[int], context: int) -> int:
        model = Sum().eval()
        f(model, torch.tensor([prompt]), 5, context)
        return max(model.read)

    def modes(mode: bool) -> list[bool]:
        model = Sum().train(mode)
        f(model, torch.tensor([[1]]), 2, 8)
        return [model.training, model.inner.training]

    def gradients() -> list[bool]:
        model = Sum().eval()
        f(model, torch.tensor([[1]]), 1, 8)
        return [model.kept, torch.is_grad_enabled()]

    def device() -> bool:
        ids = torch.tensor([[3, 1], [5, 6]])
        expect_follows_device(lambda: f(Repeats(), ids, 2, 8), [ids], "")
        return True

    def written_over() -> list[Any]:
        ids = torch.tensor([[3, 1]])
        with torch.no_grad():
            f(Repeats(), ids, 0, 8)[:] = 0
        return [ids]

    return [
        lambda: write([[3]], 1, 8),
        lambda: write([[3]], 4, 8),
        lambda: write([[1, 2, 4]], 5, 20),
        lambda: write([[7, 1], [0, 5], [2, 2], [9, 9]], 3, 8),
        lambda: write([[1, 2, 4]], 6, 4),
        lambda: write([[1, 2, 4]], 6, 2),
        lambda: write([[1, 2, 4, 6, 3]], 6, 1),
        lambda: write([[6, 5, 4, 3, 2, 1]], 2, 3),
        lambda: write([[3, 1]], 0, 8),
        lambda: write([[1, 2]], 4, 8, mode=True),
        lambda: f(Repeats(), torch.tensor([[3, 1]]), 3, 8),
        lambda: longest([1, 2, 4], 2),
        lambda: longest([1, 2, 4, 5, 6], 4),
        lambda: modes(True),
        lambda: modes(False),
        gradients,
        lambda: changed(lambda ids: f(Repeats(), ids, 2, 8), torch.tensor([[3, 1, 4]])),
        lambda: changed(lambda ids: f(Repeats(), ids, 2, 2), torch.tensor([[3, 1, 4]])),
        written_over,
        device,
    ]


def write(
    model: nn.Module,
    ids: Tensor,
    n_new: int,
    context: int,
    *,
    window: Any = lambda ids, context: ids[:, -context:],
    choose: Any = lambda logits: logits[:, -1].argmax(dim=-1)[:, None],
    mode: str = "back",
    grad: bool = False,
) -> Tensor:
    """Write as the solution does, with steps that a variation can replace."""
    was, text = model.training, ids.clone()
    if mode != "as it is":
        model.eval()
    with torch.set_grad_enabled(grad):
        for _ in range(n_new):
            text = torch.cat([text, choose(model(window(text, context)))], dim=1)
    if mode == "back":
        model.train(was)
    if mode == "trains":
        model.train()
    return text


@mutant(
    "write_greedily",
    "You do not crop: the text grows past what the model can read. Read its newest "
    "`context_length` tokens.",
)
def without_cropping(model: nn.Module, ids: Tensor, n_new: int, context_length: int) -> Tensor:
    return write(model, ids, n_new, context_length, window=lambda ids, c: ids)


@mutant(
    "write_greedily",
    "You read the oldest tokens. The newest say what comes next: `ids[:, -context_length:]`.",
)
def the_oldest_tokens(model: nn.Module, ids: Tensor, n_new: int, context_length: int) -> Tensor:
    return write(model, ids, n_new, context_length, window=lambda ids, c: ids[:, :c])


@mutant(
    "write_greedily",
    "You read the last token alone: the model should see the whole text, up to its context.",
)
def the_last_token_alone(model: nn.Module, ids: Tensor, n_new: int, context_length: int) -> Tensor:
    return write(model, ids, n_new, context_length, window=lambda ids, c: ids[:, -1:])


@mutant(
    "write_greedily",
    "You leave room for the new token, and read one token less than the context holds.",
)
def one_token_less(model: nn.Module, ids: Tensor, n_new: int, context_length: int) -> Tensor:
    return write(model, ids, n_new, context_length, window=lambda ids, c: ids[:, -max(c - 1, 1) :])


@mutant(
    "write_greedily",
    "You read one token more than the context holds.",
)
def one_token_more(model: nn.Module, ids: Tensor, n_new: int, context_length: int) -> Tensor:
    return write(model, ids, n_new, context_length, window=lambda ids, c: ids[:, -(c + 1) :])


@mutant(
    "write_greedily",
    "You crop the text itself, and what was written first is lost: crop what is read.",
)
def the_text_is_cropped(model: nn.Module, ids: Tensor, n_new: int, context_length: int) -> Tensor:
    return write(model, ids, n_new, context_length)[:, -context_length:]


@mutant(
    "write_greedily",
    "You read the prompt again and again, and not what has been written: append before you go on.",
)
def the_prompt_again(model: nn.Module, ids: Tensor, n_new: int, context_length: int) -> Tensor:
    first = ids.clone()
    return write(model, ids, n_new, context_length, window=lambda ids, c: first[:, -c:])


@mutant(
    "write_greedily",
    "You go by the first position's logits. The last says what comes after the text.",
)
def the_first_position(model: nn.Module, ids: Tensor, n_new: int, context_length: int) -> Tensor:
    return write(
        model, ids, n_new, context_length, choose=lambda z: z[:, 0].argmax(dim=-1)[:, None]
    )


@mutant(
    "write_greedily",
    "You take the least likely token: argmax, not argmin.",
)
def the_least_likely(model: nn.Module, ids: Tensor, n_new: int, context_length: int) -> Tensor:
    return write(
        model, ids, n_new, context_length, choose=lambda z: z[:, -1].argmin(dim=-1)[:, None]
    )


@mutant(
    "write_greedily",
    "You take the second likeliest token.",
)
def the_second_likeliest(model: nn.Module, ids: Tensor, n_new: int, context_length: int) -> Tensor:
    return write(
        model, ids, n_new, context_length, choose=lambda z: z[:, -1].topk(2).indices[:, 1:]
    )


@mutant(
    "write_greedily",
    "You draw a token at random. Greedy means the likeliest: argmax.",
)
def drawn_at_random(model: nn.Module, ids: Tensor, n_new: int, context_length: int) -> Tensor:
    def choose(logits: Tensor) -> Tensor:
        return torch.multinomial(logits[:, -1].softmax(-1), 1)

    return write(model, ids, n_new, context_length, choose=choose)


@mutant(
    "write_greedily",
    "You take the argmax over the whole batch, so all texts get the first one's token: give it "
    "`dim=-1`.",
)
def one_choice_for_all(model: nn.Module, ids: Tensor, n_new: int, context_length: int) -> Tensor:
    def choose(logits: Tensor) -> Tensor:
        return logits[:1, -1].argmax(dim=-1)[:, None].expand(len(logits), 1)

    return write(model, ids, n_new, context_length, choose=choose)


@mutant(
    "write_greedily",
    "You return what is new and leave the prompt out.",
)
def without_the_prompt(model: nn.Module, ids: Tensor, n_new: int, context_length: int) -> Tensor:
    return write(model, ids, n_new, context_length)[:, ids.shape[1] :]


@mutant(
    "write_greedily",
    "You write one token too many.",
)
def one_too_many(model: nn.Module, ids: Tensor, n_new: int, context_length: int) -> Tensor:
    return write(model, ids, n_new + 1, context_length)


@mutant(
    "write_greedily",
    "You write until the text has `n_new` tokens. That is how many are new.",
)
def n_new_in_all(model: nn.Module, ids: Tensor, n_new: int, context_length: int) -> Tensor:
    return write(model, ids, max(0, n_new - ids.shape[1]), context_length)


@mutant(
    "write_greedily",
    "You leave the model in its mode: while it trains, dropout garbles what it writes. Evaluate.",
)
def while_training(model: nn.Module, ids: Tensor, n_new: int, context_length: int) -> Tensor:
    return write(model, ids, n_new, context_length, mode="as it is")


@mutant(
    "write_greedily",
    "You leave the model in evaluation mode: a training loop that asks for a sample would go on "
    "without dropout. Put it back into the mode that it had.",
)
def left_in_evaluation(model: nn.Module, ids: Tensor, n_new: int, context_length: int) -> Tensor:
    return write(model, ids, n_new, context_length, mode="left")


@mutant(
    "write_greedily",
    "You put the model into training mode at the end, whatever it was before.",
)
def always_back_to_training(
    model: nn.Module, ids: Tensor, n_new: int, context_length: int
) -> Tensor:
    return write(model, ids, n_new, context_length, mode="trains")


@mutant(
    "write_greedily",
    "The model runs with gradients, whose memory grows with every token: torch.no_grad().",
)
def with_gradients(model: nn.Module, ids: Tensor, n_new: int, context_length: int) -> Tensor:
    return write(model, ids, n_new, context_length, grad=True)


@mutant(
    "write_greedily",
    "You write new tokens over the prompt: torch.cat makes a longer tensor and leaves the old one.",
)
def in_place(model: nn.Module, ids: Tensor, n_new: int, context_length: int) -> Tensor:
    text = write(model, ids, n_new, context_length)
    ids[:] = text[:, -ids.shape[1] :]
    return text


@mutant(
    "write_greedily",
    "With nothing to write you return the prompt itself, and whoever changes the result changes "
    "the prompt: clone it.",
)
def the_prompt_itself(model: nn.Module, ids: Tensor, n_new: int, context_length: int) -> Tensor:
    return write(model, ids, n_new, context_length) if n_new else ids


@rewrite("write_greedily")
def into_one_tensor(model: nn.Module, ids: Tensor, n_new: int, context_length: int) -> Tensor:
    B, T = ids.shape
    text = torch.zeros(B, T + n_new, dtype=torch.int64, device=ids.device)
    text[:, :T] = ids
    was_training = model.training
    model.eval()
    try:
        for t in range(T, T + n_new):
            with torch.no_grad():
                logits = model(text[:, max(0, t - context_length) : t])
            text[:, t] = torch.max(logits[:, -1, :], dim=-1).indices
    finally:
        model.train(was_training)
    return text


@rewrite("write_greedily")
def text_by_text(model: nn.Module, ids: Tensor, n_new: int, context_length: int) -> Tensor:
    mode = model.training
    model.train(False)
    texts = []
    for row in ids:
        text = list(row)
        for _ in range(n_new):
            with torch.no_grad():
                probabilities = model(torch.stack(text[-context_length:])[None])[0, -1].softmax(0)
            text.append(probabilities.argmax())
        texts.append(torch.stack(text))
    model.train(mode)
    return torch.stack(texts)
