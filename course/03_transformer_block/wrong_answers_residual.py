"""Module 03, wrong answers: residuals, norms before and after, and gradients at depth."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tiny_transformer.course.inputs import changed, draw
from tiny_transformer.course.wrong_answers import mutant, probes, rewrite

Function = Callable[[Tensor], Tensor]


# add_residual


@probes("add_residual")
def _(f: Any) -> list[Any]:
    def calls(x: Tensor) -> list[Any]:
        read = []

        def part(x: Tensor) -> Tensor:
            read.append(x.clone())
            return 10 * x + 1

        return [f(x, part), len(read), read[0]]

    def gradient() -> Tensor:
        x = draw(4).double().requires_grad_()
        f(x, torch.tanh).sum().backward()
        return x.grad  # pyright: ignore[reportReturnType]

    return [
        lambda: f(torch.tensor([1.0, 2.0]), lambda x: 10 * x),
        lambda: f(draw(2, 3), torch.zeros_like),
        lambda: f(draw(2, 3), torch.tanh),
        lambda: calls(draw(2, 3)),
        lambda: changed(lambda x: f(x, torch.tanh), draw(2, 3)),
        lambda: f(draw(3, dtype=torch.float64), lambda x: 2 * x),
        gradient,
    ]


@mutant("add_residual", "The stream is lost: add what the part returns to x.")
def part_alone(x: Tensor, part: Function) -> Tensor:
    return part(x)


@mutant("add_residual", "The part is not used: add what it returns.")
def stream_alone(x: Tensor, part: Function) -> Tensor:
    return x


@mutant("add_residual", "You take away what the part returns: add it.")
def taken_away(x: Tensor, part: Function) -> Tensor:
    return x - part(x)


@mutant("add_residual", "You multiply the stream by what the part returns: add it.")
def multiplied(x: Tensor, part: Function) -> Tensor:
    return x * part(x)


@mutant("add_residual", "You take the average of the two. The sum is asked for.")
def average(x: Tensor, part: Function) -> Tensor:
    return (x + part(x)) / 2


@mutant("add_residual", "The stream is added twice.")
def stream_twice(x: Tensor, part: Function) -> Tensor:
    return x + x + part(x)


@mutant("add_residual", "The part is called twice, and the second time with the sum.")
def part_twice(x: Tensor, part: Function) -> Tensor:
    y = x + part(x)
    return y + part(y)


@mutant("add_residual", "What the part returns is added to itself: add it to x.")
def part_and_part(x: Tensor, part: Function) -> Tensor:
    y = part(x)
    return y + y


@mutant(
    "add_residual",
    "You add into the caller's tensor: `x += ...` writes where somebody else still reads. Write "
    "`x + part(x)`, which makes a new one.",
)
def added_in_place(x: Tensor, part: Function) -> Tensor:
    with torch.no_grad():
        x += part(x)
    return x


@mutant(
    "add_residual",
    "No gradient flows through the part: leave out detach() and torch.no_grad().",
)
def part_detached(x: Tensor, part: Function) -> Tensor:
    return x + part(x).detach()


@mutant("add_residual", "No gradient flows along the stream: leave out detach().")
def stream_detached(x: Tensor, part: Function) -> Tensor:
    return x.detach() + part(x)


@rewrite("add_residual")
def by_a_function(x: Tensor, part: Function) -> Tensor:
    change = part(x)
    return torch.add(change, x)


@rewrite("add_residual")
def by_a_stack(x: Tensor, part: Function) -> Tensor:
    return torch.stack([x, part(x)]).sum(dim=0)


# normalised_residual


@probes("normalised_residual")
def _(f: Any) -> list[Any]:
    def by_ten(x: Tensor) -> Tensor:
        return x / 10

    def plus_one(x: Tensor) -> Tensor:
        return x + 1

    def with_a_norm(placement: str) -> Tensor:
        norm = nn.LayerNorm(5, elementwise_affine=False)
        return f(3 * draw(2, 3, 5), torch.tanh, norm, placement)

    def counts(placement: str) -> list[int]:
        calls: list[str] = []

        def part(x: Tensor) -> Tensor:
            calls.append("part")
            return x + 1

        def norm(x: Tensor) -> Tensor:
            calls.append("norm")
            return x / 10

        f(draw(2, 3), part, norm, placement)
        return [calls.count("part"), calls.count("norm")]

    def gradient(placement: str) -> Any:
        x = draw(4).double().requires_grad_()
        f(x, torch.tanh, by_ten, placement).sum().backward()
        return x.grad

    x = torch.tensor([10.0, 20.0])
    return [
        lambda: f(x.clone(), plus_one, by_ten, "pre"),
        lambda: f(x.clone(), plus_one, by_ten, "post"),
        lambda: f(x.clone(), plus_one, by_ten),
        lambda: with_a_norm("pre"),
        lambda: with_a_norm("post"),
        lambda: f(x.clone(), torch.zeros_like, by_ten, "pre"),
        lambda: counts("pre"),
        lambda: counts("post"),
        lambda: f(x.clone(), plus_one, by_ten, "before"),
        lambda: f(x.clone(), plus_one, by_ten, "Pre"),
        lambda: f(x.clone(), plus_one, by_ten, "postnorm"),
        lambda: changed(lambda x: f(x, plus_one, by_ten, "pre"), draw(2, 3)),
        lambda: changed(lambda x: f(x, plus_one, by_ten, "post"), draw(2, 3)),
        lambda: gradient("pre"),
        lambda: gradient("post"),
    ]


def checked(placement: str) -> bool:
    """Return whether the norm stands before the part."""
    if placement not in ("pre", "post"):
        raise ValueError(placement)
    return placement == "pre"


@mutant("normalised_residual", "The two placements are exchanged.")
def exchanged(x: Tensor, part: Function, norm: Function, placement: str = "pre") -> Tensor:
    return norm(x + part(x)) if checked(placement) else x + part(norm(x))


@mutant("normalised_residual", "It is Pre-LN whatever the placement says.")
def always_pre(x: Tensor, part: Function, norm: Function, placement: str = "pre") -> Tensor:
    checked(placement)
    return x + part(norm(x))


@mutant("normalised_residual", "It is Post-LN whatever the placement says.")
def always_post(x: Tensor, part: Function, norm: Function, placement: str = "pre") -> Tensor:
    checked(placement)
    return norm(x + part(x))


@mutant("normalised_residual", "Where nothing is said, the placement should be `pre`.")
def post_by_default(x: Tensor, part: Function, norm: Function, placement: str = "post") -> Tensor:
    return x + part(norm(x)) if checked(placement) else norm(x + part(x))


@mutant(
    "normalised_residual",
    "For `pre` there is no residual: add what the part answers to x.",
)
def pre_without_residual(
    x: Tensor, part: Function, norm: Function, placement: str = "pre"
) -> Tensor:
    return part(norm(x)) if checked(placement) else norm(x + part(x))


@mutant("normalised_residual", "For `post` there is no residual: normalise the sum.")
def post_without_residual(
    x: Tensor, part: Function, norm: Function, placement: str = "pre"
) -> Tensor:
    return x + part(norm(x)) if checked(placement) else norm(part(x))


@mutant(
    "normalised_residual",
    "For `pre` you add to the normalised stream. Only the part reads it; the stream goes on as it "
    "was.",
)
def normalised_stream(x: Tensor, part: Function, norm: Function, placement: str = "pre") -> Tensor:
    normed = norm(x)
    return normed + part(normed) if checked(placement) else norm(x + part(x))


@mutant(
    "normalised_residual",
    "For `post` you normalise what the part answers, before it is added. Normalise the sum.",
)
def answer_normalised(x: Tensor, part: Function, norm: Function, placement: str = "pre") -> Tensor:
    return x + part(norm(x)) if checked(placement) else x + norm(part(x))


@mutant(
    "normalised_residual",
    "For `pre` you normalise what the part answers. Normalise what it reads.",
)
def norm_behind_the_part(
    x: Tensor, part: Function, norm: Function, placement: str = "pre"
) -> Tensor:
    return x + norm(part(x)) if checked(placement) else norm(x + part(x))


@mutant(
    "normalised_residual",
    "For `post` you normalise the stream and add the part to it: the sum is normalised.",
)
def stream_normalised_alone(
    x: Tensor, part: Function, norm: Function, placement: str = "pre"
) -> Tensor:
    return x + part(norm(x)) if checked(placement) else norm(x) + part(x)


@mutant("normalised_residual", "For `post` the part reads a normalised stream as well: it reads x.")
def normalised_twice(x: Tensor, part: Function, norm: Function, placement: str = "pre") -> Tensor:
    return x + part(norm(x)) if checked(placement) else norm(x + part(norm(x)))


@mutant("normalised_residual", "For `pre` the sum is normalised as well: it goes on as it is.")
def sum_normalised_too(x: Tensor, part: Function, norm: Function, placement: str = "pre") -> Tensor:
    return norm(x + part(norm(x))) if checked(placement) else norm(x + part(x))


@mutant("normalised_residual", "The norm is not used.")
def without_the_norm(x: Tensor, part: Function, norm: Function, placement: str = "pre") -> Tensor:
    checked(placement)
    return x + part(x)


@mutant(
    "normalised_residual",
    "A placement that is neither `pre` nor `post` passes for one of them: raise ValueError.",
)
def anything_else_is_post(
    x: Tensor, part: Function, norm: Function, placement: str = "pre"
) -> Tensor:
    return x + part(norm(x)) if placement == "pre" else norm(x + part(x))


@mutant(
    "normalised_residual",
    "A placement that is neither `pre` nor `post` passes for `pre`: raise ValueError.",
)
def anything_else_is_pre(
    x: Tensor, part: Function, norm: Function, placement: str = "pre"
) -> Tensor:
    return norm(x + part(x)) if placement == "post" else x + part(norm(x))


@mutant(
    "normalised_residual",
    "A placement that is neither is answered with None, without a word: raise ValueError.",
)
def anything_else_is_nothing(
    x: Tensor, part: Function, norm: Function, placement: str = "pre"
) -> Any:
    return always_or_none(x, part, norm, placement)


def always_or_none(x: Tensor, part: Function, norm: Function, placement: str) -> Any:
    if placement == "pre":
        return x + part(norm(x))
    return norm(x + part(x)) if placement == "post" else None


@mutant("normalised_residual", "You add into the caller's tensor: write `x + ...`, not `x += ...`.")
def residual_in_place(x: Tensor, part: Function, norm: Function, placement: str = "pre") -> Tensor:
    pre = checked(placement)
    with torch.no_grad():
        x += part(norm(x)) if pre else part(x)
    return x if pre else norm(x)


@rewrite("normalised_residual")
def by_steps(x: Tensor, part: Function, norm: Function, placement: str = "pre") -> Tensor:
    if placement not in {"pre", "post"}:
        raise ValueError("placement should be pre or post")
    reads = norm(x) if placement == "pre" else x
    stream = torch.add(x, part(reads))
    return stream if placement == "pre" else norm(stream)


@rewrite("normalised_residual")
def by_a_dictionary(x: Tensor, part: Function, norm: Function, placement: str = "pre") -> Tensor:
    forms = {"pre": lambda: part(norm(x)) + x, "post": lambda: norm(part(x) + x)}
    try:
        return forms[placement]()
    except KeyError:
        raise ValueError(placement) from None


# gradient_norms


def run(blocks: Sequence[Function], x: Tensor) -> list[Tensor]:
    """Return the tensors of the stream, the first a leaf of its own."""
    stream = [x.detach().clone().requires_grad_()]
    for block in blocks:
        stream.append(block(stream[-1]))
    return stream


def back(blocks: Sequence[Function], x: Tensor, grad_output: Tensor) -> list[Tensor]:
    """Return the gradient at each place."""
    stream = run(blocks, x)
    return list(torch.autograd.grad(stream[-1], stream, grad_output))


@probes("gradient_norms")
def _(f: Any) -> list[Any]:
    def twice(x: Tensor) -> Tensor:
        return 2 * x

    def by_ten(x: Tensor) -> Tensor:
        return 10 * x

    def bent(x: Tensor) -> Tensor:
        return x + torch.tanh(x @ draw(4, 4, seed=7, dtype=x.dtype))

    def with_parameters() -> list[Any]:
        block = nn.Linear(3, 3)
        block.weight.grad = torch.full((3, 3), 7.0)
        x = draw(2, 3)
        f([block, block], x, draw(2, 3, seed=1))
        grad = block.bias.grad
        found = "none" if grad is None else grad
        return [block.weight.grad, found, x.requires_grad, x.grad is None]

    def computed() -> list[Any]:
        leaf = draw(2, 3).requires_grad_()
        return [f([twice], 5 * leaf, torch.ones(2, 3)), leaf.grad is None]

    def n_calls() -> int:
        calls = []
        f([lambda x: (calls.append(1), 2 * x)[1]], torch.ones(3), torch.ones(3))
        return len(calls)

    def inputs() -> list[bool]:
        return changed(lambda x, g: f([twice], x, g), draw(2, 3), draw(2, 3, seed=1))

    three_four = torch.tensor([3.0, 4.0])
    return [
        lambda: f([twice, twice], torch.ones(2), three_four),
        lambda: f([twice, by_ten], torch.ones(2), three_four),
        lambda: f([by_ten, twice, twice], torch.ones(2), three_four),
        lambda: f([twice], torch.ones(3, 2), torch.ones(3, 2)),
        lambda: f([bent, bent], draw(2, 3, 4), draw(2, 3, 4, seed=2)),
        lambda: f([bent, bent, bent], draw(3, 4), draw(3, 4, seed=2)),
        lambda: f([bent], draw(3, 4), 0 * draw(3, 4)),
        lambda: f([], torch.ones(2), three_four),
        lambda: [type(n).__name__ for n in f([twice], torch.ones(2), three_four)],
        lambda: f(nn.ModuleList([nn.LayerNorm(4)]), draw(3, 4), draw(3, 4, seed=2)),
        with_parameters,
        computed,
        n_calls,
        inputs,
    ]


@mutant("gradient_norms", "The order is turned round: the gradient by x comes first.")
def from_the_end(blocks: Sequence[Function], x: Tensor, grad_output: Tensor) -> list[float]:
    return [g.norm().item() for g in back(blocks, x, grad_output)][::-1]


@mutant(
    "gradient_norms",
    "There is one number too few: the end, where grad_output arrives, is a place too.",
)
def without_the_end(blocks: Sequence[Function], x: Tensor, grad_output: Tensor) -> list[float]:
    return [g.norm().item() for g in back(blocks, x, grad_output)[:-1]]


@mutant(
    "gradient_norms",
    "There is one number too few: the beginning of the stream, x itself, is a place too.",
)
def without_the_beginning(
    blocks: Sequence[Function], x: Tensor, grad_output: Tensor
) -> list[float]:
    return [g.norm().item() for g in back(blocks, x, grad_output)[1:]]


@mutant("gradient_norms", "These are sums of squares: a norm is the root.")
def squares(blocks: Sequence[Function], x: Tensor, grad_output: Tensor) -> list[float]:
    return [g.square().sum().item() for g in back(blocks, x, grad_output)]


@mutant(
    "gradient_norms",
    "These are roots of mean squares: a norm is the root of the sum.",
)
def mean_squares(blocks: Sequence[Function], x: Tensor, grad_output: Tensor) -> list[float]:
    return [g.square().mean().sqrt().item() for g in back(blocks, x, grad_output)]


@mutant("gradient_norms", "You add up absolute values: a norm is the root of the sum of squares.")
def absolute_values(blocks: Sequence[Function], x: Tensor, grad_output: Tensor) -> list[float]:
    return [g.abs().sum().item() for g in back(blocks, x, grad_output)]


@mutant("gradient_norms", "These are the largest numbers of each gradient: its norm is asked for.")
def largest(blocks: Sequence[Function], x: Tensor, grad_output: Tensor) -> list[float]:
    return [g.abs().max().item() for g in back(blocks, x, grad_output)]


@mutant(
    "gradient_norms",
    "You average the norms of the tokens' gradients. There is one norm for a whole tensor.",
)
def mean_of_norms(blocks: Sequence[Function], x: Tensor, grad_output: Tensor) -> list[float]:
    return [g.norm(dim=-1).mean().item() for g in back(blocks, x, grad_output)]


@mutant(
    "gradient_norms",
    "`grad_output` is not used: you go back from the sum of the output.",
)
def from_the_sum(blocks: Sequence[Function], x: Tensor, grad_output: Tensor) -> list[float]:
    return [g.norm().item() for g in back(blocks, x, torch.ones_like(grad_output))]


@mutant(
    "gradient_norms",
    "These are the norms of the stream itself, going forward. The gradients' are asked for.",
)
def of_the_stream(blocks: Sequence[Function], x: Tensor, grad_output: Tensor) -> list[float]:
    return [s.detach().norm().item() for s in run(blocks, x)]


@mutant(
    "gradient_norms",
    "Each block gets grad_output, as if it were the last: the gradient goes back through all the "
    "blocks behind it.",
)
def each_block_alone(blocks: Sequence[Function], x: Tensor, grad_output: Tensor) -> list[float]:
    norms = []
    for block in blocks:
        leaf = x.detach().requires_grad_()
        y = block(leaf)
        norms.append(torch.autograd.grad(y, leaf, grad_output)[0].norm().item())
        x = y.detach()
    return [*norms, grad_output.norm().item()]


@mutant("gradient_norms", "The norms are divided by the last one: they are asked for as they are.")
def as_shares(blocks: Sequence[Function], x: Tensor, grad_output: Tensor) -> list[float]:
    norms = [g.norm().item() for g in back(blocks, x, grad_output)]
    return [norm / norms[-1] for norm in norms]


@mutant("gradient_norms", "These are tensors: `.item()` makes plain numbers of them.")
def tensors(blocks: Sequence[Function], x: Tensor, grad_output: Tensor) -> Any:
    return [g.norm() for g in back(blocks, x, grad_output)]


@mutant("gradient_norms", "You return one tensor: a list of plain numbers is asked for.")
def one_tensor(blocks: Sequence[Function], x: Tensor, grad_output: Tensor) -> Any:
    return torch.stack([g.norm() for g in back(blocks, x, grad_output)])


@mutant(
    "gradient_norms",
    "`backward()` adds to the `.grad` of every parameter of the blocks, which somebody else uses. "
    "`torch.autograd.grad` returns gradients and stores none.",
)
def by_backward(blocks: Sequence[Function], x: Tensor, grad_output: Tensor) -> list[float]:
    stream = run(blocks, x)
    for tensor in stream:
        tensor.retain_grad()
    stream[-1].backward(grad_output)
    return [s.grad.norm().item() for s in stream if s.grad is not None]


@mutant(
    "gradient_norms",
    "x requires gradients afterwards, and did not before: begin with `x.detach()`, a tensor of your"
    " own.",
)
def x_itself(blocks: Sequence[Function], x: Tensor, grad_output: Tensor) -> list[float]:
    stream = [x.requires_grad_()]
    for block in blocks:
        stream.append(block(stream[-1]))
    return [g.norm().item() for g in torch.autograd.grad(stream[-1], stream, grad_output)]


@mutant(
    "gradient_norms",
    "Both at once: `backward()` adds to parameters' `.grad`, and x itself is made to require "
    "gradients. Use `torch.autograd.grad`, and begin with `x.detach()`.",
)
def by_backward_on_x(blocks: Sequence[Function], x: Tensor, grad_output: Tensor) -> list[float]:
    stream = [x.requires_grad_()]
    for block in blocks:
        stream.append(block(stream[-1]))
    for tensor in stream:
        tensor.retain_grad()
    stream[-1].backward(grad_output)
    return [s.grad.norm().item() for s in stream if s.grad is not None]


@mutant("gradient_norms", "There has to be a place for x also where there is no block.")
def needs_a_block(blocks: Sequence[Function], x: Tensor, grad_output: Tensor) -> list[float]:
    norms = [g.norm().item() for g in back(blocks, x, grad_output)]
    return norms if len(blocks) > 0 else []


@mutant(
    "gradient_norms",
    "Each block is run twice, which costs twice the time: keep the tensors of the first run.",
)
def every_block_twice(blocks: Sequence[Function], x: Tensor, grad_output: Tensor) -> list[float]:
    run(blocks, x)
    return [g.norm().item() for g in back(blocks, x, grad_output)]


@rewrite("gradient_norms")
def one_block_at_a_time(blocks: Sequence[Function], x: Tensor, grad_output: Tensor) -> list[float]:
    pairs = []
    for block in blocks:
        leaf = x.detach().requires_grad_()
        x = block(leaf)
        pairs.append((leaf, x))
    gradient = grad_output
    norms = [float(gradient.norm())]
    for leaf, y in reversed(pairs):
        (gradient,) = torch.autograd.grad(y, leaf, gradient)
        norms.insert(0, float(gradient.norm()))
    return norms


@rewrite("gradient_norms")
def with_hooks(blocks: Sequence[Function], x: Tensor, grad_output: Tensor) -> list[float]:
    norms: dict[int, float] = {}

    def remember(place: int) -> Callable[[Tensor], None]:
        def hook(gradient: Tensor) -> None:
            norms[place] = math.sqrt(gradient.pow(2).sum().item())

        return hook

    first = x.detach().clone().requires_grad_()
    stream = first
    for place, block in enumerate(blocks):
        stream.register_hook(remember(place))
        stream = block(stream)
    torch.autograd.grad(stream, first, grad_output)
    norms[len(blocks)] = math.sqrt(grad_output.pow(2).sum().item())
    return [norms[place] for place in range(len(blocks) + 1)]


@rewrite("gradient_norms")
def one_product_at_a_time(
    blocks: Sequence[Function], x: Tensor, grad_output: Tensor
) -> list[float]:
    stream = run(blocks, x)
    total = (stream[-1] * grad_output.detach()).sum()
    found = [torch.autograd.grad(total, s, retain_graph=True)[0] for s in stream]
    return [torch.linalg.vector_norm(g).item() for g in found]
