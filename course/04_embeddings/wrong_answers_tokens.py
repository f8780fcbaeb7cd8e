"""Module 04, wrong answers: one-hot vectors, scores of tokens, and the table's gradient."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from my_transformer.embeddings import embedding_gradient, one_hot
from torch import Tensor

from tiny_transformer.course.devices import expect_follows_device
from tiny_transformer.course.inputs import changed, draw
from tiny_transformer.course.wrong_answers import mutant, probes, rewrite

F32 = torch.float32


def draw_ids(*shape: int, below: int, seed: int = 0) -> Tensor:
    return torch.randint(below, shape, generator=torch.Generator().manual_seed(seed))


# one_hot


@probes("one_hot")
def _(f: Any) -> list[Any]:
    def on_its_device() -> bool:
        ids = torch.tensor([[1, 0]])
        expect_follows_device(lambda: f(ids, 3), [ids], "")
        return True

    return [
        lambda: f(torch.tensor([2, 0, 3]), 4),
        lambda: f(torch.tensor([1, 0]), 6),
        lambda: f(torch.tensor([3, 1, 2, 0]), 4),
        lambda: f(draw_ids(2, 3, below=5), 5),
        lambda: f(draw_ids(2, 3, below=2), 5),
        lambda: f(draw_ids(4, 4, below=4), 4),
        lambda: f(torch.tensor([[2, 2]]), 3),
        lambda: tuple(f(draw_ids(2, 3, below=5), 5).shape),
        lambda: f(torch.tensor([1, 2]), 3, torch.float64),
        lambda: f(torch.tensor([1, 2]), 3, torch.bfloat16),
        lambda: changed(lambda ids: f(ids, 4), torch.tensor([3, 1])),
        on_its_device,
    ]


@mutant(
    "one_hot",
    "Your vectors are of whole numbers, which cannot be multiplied with a table of floats: "
    "convert them to `dtype`.",
)
def of_whole_numbers(ids: Tensor, vocab_size: int, dtype: torch.dtype = F32) -> Tensor:
    return F.one_hot(ids, vocab_size)


@mutant("one_hot", "Your vectors are of bools: convert them to `dtype`.")
def of_bools(ids: Tensor, vocab_size: int, dtype: torch.dtype = F32) -> Tensor:
    return ids[..., None] == torch.arange(vocab_size, device=ids.device)


@mutant("one_hot", "You always return float32: the third argument says which dtype is wanted.")
def always_float32(ids: Tensor, vocab_size: int, dtype: torch.dtype = F32) -> Tensor:
    return F.one_hot(ids, vocab_size).float()


@mutant(
    "one_hot",
    "You make as many columns as the largest id needs: use `vocab_size`, which also counts tokens "
    "that do not occur.",
)
def as_wide_as_the_largest_id(ids: Tensor, vocab_size: int, dtype: torch.dtype = F32) -> Tensor:
    return F.one_hot(ids).to(dtype)


@mutant(
    "one_hot",
    "You make a column for each different id that occurs: use `vocab_size` columns.",
)
def as_wide_as_there_are_kinds(ids: Tensor, vocab_size: int, dtype: torch.dtype = F32) -> Tensor:
    kinds, places = ids.unique(return_inverse=True)
    return F.one_hot(places, len(kinds)).to(dtype)


@mutant("one_hot", "You count ids from 1: id 0 should have its 1 in the first column.")
def counted_from_one(ids: Tensor, vocab_size: int, dtype: torch.dtype = F32) -> Tensor:
    return F.one_hot((ids - 1) % vocab_size, vocab_size).to(dtype)


@mutant("one_hot", "Your columns run backwards: id 0 should have its 1 in the first column.")
def columns_backwards(ids: Tensor, vocab_size: int, dtype: torch.dtype = F32) -> Tensor:
    return F.one_hot(vocab_size - 1 - ids, vocab_size).to(dtype)


@mutant(
    "one_hot",
    "Ones and zeros are exchanged: there should be a single 1, at the id.",
)
def ones_and_zeros_exchanged(ids: Tensor, vocab_size: int, dtype: torch.dtype = F32) -> Tensor:
    return 1 - F.one_hot(ids, vocab_size).to(dtype)


@mutant(
    "one_hot",
    "You fill with ones up to the id. Only the place of the id itself is 1.",
)
def ones_up_to_the_id(ids: Tensor, vocab_size: int, dtype: torch.dtype = F32) -> Tensor:
    return (torch.arange(vocab_size, device=ids.device) <= ids[..., None]).to(dtype)


@mutant("one_hot", "You put the id itself in its place. Put a 1 there.")
def the_id_in_its_place(ids: Tensor, vocab_size: int, dtype: torch.dtype = F32) -> Tensor:
    return (F.one_hot(ids, vocab_size) * ids[..., None]).to(dtype)


@mutant("one_hot", "The axis of the vocabulary comes first in your result. It should be the last.")
def vocabulary_first(ids: Tensor, vocab_size: int, dtype: torch.dtype = F32) -> Tensor:
    return F.one_hot(ids, vocab_size).to(dtype).movedim(-1, 0)


@mutant("one_hot", "The last two axes of your result are swapped: the vocabulary's is the last.")
def last_axes_swapped(ids: Tensor, vocab_size: int, dtype: torch.dtype = F32) -> Tensor:
    y = F.one_hot(ids, vocab_size).to(dtype)
    return y.transpose(-2, -1) if y.ndim > 2 else y


@mutant("one_hot", "Your result has lost the shape of the ids: (B, T) ids give (B, T, V).")
def shape_of_the_ids_lost(ids: Tensor, vocab_size: int, dtype: torch.dtype = F32) -> Tensor:
    return F.one_hot(ids.flatten(), vocab_size).to(dtype)


@mutant(
    "one_hot",
    "You mark which tokens occur in a row, all of them in one vector: each id has a vector of its "
    "own.",
)
def which_occur(ids: Tensor, vocab_size: int, dtype: torch.dtype = F32) -> Tensor:
    y = torch.zeros(*ids.shape[:-1], vocab_size, dtype=dtype, device=ids.device)
    return y.scatter(-1, ids, 1.0)


@mutant(
    "one_hot",
    "Your vectors are divided by their number: a one-hot vector has a plain 1.",
)
def divided_by_the_number(ids: Tensor, vocab_size: int, dtype: torch.dtype = F32) -> Tensor:
    return F.one_hot(ids, vocab_size).to(dtype) / max(1, ids.shape[-1] if ids.ndim else 1)


@mutant(
    "one_hot",
    "You make a tensor on the CPU whatever the device of the ids is: pass on `device=ids.device`.",
)
def always_on_the_cpu(ids: Tensor, vocab_size: int, dtype: torch.dtype = F32) -> Tensor:
    return (ids[..., None] == torch.arange(vocab_size)).to(dtype)


@rewrite("one_hot")
def rows_of_the_identity(ids: Tensor, vocab_size: int, dtype: torch.dtype = F32) -> Tensor:
    return torch.eye(vocab_size, dtype=dtype, device=ids.device)[ids]


@rewrite("one_hot")
def by_comparing(ids: Tensor, vocab_size: int, dtype: torch.dtype = F32) -> Tensor:
    return (ids.unsqueeze(-1) == torch.arange(vocab_size, device=ids.device)).to(dtype)


@rewrite("one_hot")
def by_scattering(ids: Tensor, vocab_size: int, dtype: torch.dtype = F32) -> Tensor:
    zeros = torch.zeros(*ids.shape, vocab_size, dtype=dtype, device=ids.device)
    return zeros.scatter_(-1, ids.unsqueeze(-1), 1.0)


# token_logits


@probes("token_logits")
def _(f: Any) -> list[Any]:
    def of_table() -> Any:
        x, table = draw(2, 3, 4), draw(5, 4, seed=2).requires_grad_()
        f(x, table).sum().backward()
        return "none" if table.grad is None else table.grad

    def of_x() -> Any:
        x, table = draw(2, 3, 4).requires_grad_(), draw(5, 4, seed=2)
        f(x, table).sum().backward()
        return "none" if x.grad is None else x.grad

    f64 = torch.float64
    return [
        lambda: f(draw(2, 3, 4, seed=1), draw(5, 4, seed=2)),
        lambda: f(draw(3, 2, 5, seed=1), draw(5, 5, seed=2)),
        lambda: f(draw(4, 4, 4, seed=1), draw(4, 4, seed=2)),
        lambda: f(3 * draw(2, 3, 4, seed=1), draw(5, 4, seed=2)),
        lambda: f(draw(2, 3, 16, seed=1), draw(6, 16, seed=2)),
        lambda: f(draw(4, seed=1), draw(5, 4, seed=2)),
        lambda: f(draw(2, 1, 3, 4, seed=1), draw(5, 4, seed=2)),
        lambda: f(draw(2, 3, 4, seed=1, dtype=f64), draw(5, 4, seed=2, dtype=f64)),
        lambda: f(draw(2, 4, dtype=torch.bfloat16), draw(5, 4, dtype=torch.bfloat16)).dtype,
        lambda: changed(f, draw(2, 3, 4), draw(5, 4)),
        of_table,
        of_x,
    ]


@mutant(
    "token_logits",
    "You use the table as it lies, and the wrong axes meet: token v's vector is a row, so the "
    "table has to be transposed.",
)
def table_not_transposed(x: Tensor, table: Tensor) -> Tensor:
    return x @ table


@mutant(
    "token_logits",
    "You compute cosines: the lengths of the vectors are divided away. Take plain dot products.",
)
def cosines(x: Tensor, table: Tensor) -> Tensor:
    return F.normalize(x, dim=-1) @ F.normalize(table, dim=-1).mT


@mutant(
    "token_logits",
    "You divide by the root of the width, as attention does. Logits are not scaled.",
)
def divided_by_the_root(x: Tensor, table: Tensor) -> Tensor:
    return x @ table.mT / math.sqrt(table.shape[-1])


@mutant(
    "token_logits",
    "You multiply by the root of the width. That factor belongs to the look-up at the bottom, not "
    "to the logits.",
)
def multiplied_by_the_root(x: Tensor, table: Tensor) -> Tensor:
    return x @ table.mT * math.sqrt(table.shape[-1])


@mutant("token_logits", "You divide by the width: a dot product is a sum, not a mean.")
def a_mean_for_a_sum(x: Tensor, table: Tensor) -> Tensor:
    return x @ table.mT / table.shape[-1]


@mutant(
    "token_logits",
    "You return probabilities. The softmax comes later, in the loss or when a token is drawn.",
)
def probabilities(x: Tensor, table: Tensor) -> Tensor:
    return torch.softmax(x @ table.mT, -1)


@mutant(
    "token_logits",
    "You return log-probabilities. The softmax comes later, in the loss or when a token is drawn.",
)
def log_probabilities(x: Tensor, table: Tensor) -> Tensor:
    return torch.log_softmax(x @ table.mT, -1)


@mutant(
    "token_logits",
    "You return distances, turned round. A dot product also rewards a long vector.",
)
def distances(x: Tensor, table: Tensor) -> Tensor:
    return -(x[..., None, :] - table).square().sum(-1)


@mutant(
    "token_logits",
    "Your scores have the vocabulary before the tokens: (..., T, V), not (..., V, T).",
)
def vocabulary_before_the_tokens(x: Tensor, table: Tensor) -> Tensor:
    return table @ x.transpose(-2, -1)


@mutant(
    "token_logits",
    "You return which token matches best. Return the scores of all of them.",
)
def only_the_best(x: Tensor, table: Tensor) -> Tensor:
    return (x @ table.mT).argmax(-1)


@mutant(
    "token_logits",
    "You multiply vectors and do not add up: sum over the channels.",
)
def not_summed(x: Tensor, table: Tensor) -> Tensor:
    return x[..., None, :] * table


@mutant(
    "token_logits",
    "No gradient reaches the table: with tied weights it learns from both ends. Leave out "
    "detach() and .data.",
)
def table_detached(x: Tensor, table: Tensor) -> Tensor:
    return x @ table.detach().mT


@mutant("token_logits", "No gradient reaches x: leave out detach() and .data.")
def stream_detached(x: Tensor, table: Tensor) -> Tensor:
    return x.detach() @ table.mT


@mutant("token_logits", "You return float32 whatever comes in: keep the dtype of x.")
def logits_in_float32(x: Tensor, table: Tensor) -> Tensor:
    return x.float() @ table.float().mT


@mutant(
    "token_logits",
    "You write into the table or the vectors of your caller: no operation whose name ends in an "
    "underscore.",
)
def table_changed_in_place(x: Tensor, table: Tensor) -> Tensor:
    y = x @ table.mT
    with torch.no_grad():
        table.sub_(table.mean())
    return y


@rewrite("token_logits")
def as_a_linear_layer(x: Tensor, table: Tensor) -> Tensor:
    return F.linear(x, table)


@rewrite("token_logits")
def by_einsum(x: Tensor, table: Tensor) -> Tensor:
    return torch.einsum("...c,vc->...v", x, table)


@rewrite("token_logits")
def token_by_token(x: Tensor, table: Tensor) -> Tensor:
    return torch.stack([(x * row).sum(dim=-1) for row in table], dim=-1)


# embedding_gradient


@probes("embedding_gradient")
def _(f: Any) -> list[Any]:
    def case(B: int, T: int, C: int, V: int, dtype: torch.dtype = F32) -> Any:
        return f(draw_ids(B, T, below=V, seed=B), draw(B, T, C, seed=T, dtype=dtype), V)

    def once() -> Any:
        return f(torch.tensor([[2, 0, 1]]), draw(1, 3, 4), 3)

    def on_its_device() -> bool:
        ids, grad = draw_ids(2, 4, below=3), draw(2, 4, 3)
        expect_follows_device(lambda: f(ids, grad, 3), [ids, grad], "")
        return True

    def switched_off() -> Any:
        with torch.no_grad():
            return case(2, 4, 3, 5)

    return [
        once,
        lambda: case(2, 5, 3, 7),
        lambda: case(5, 2, 4, 3),
        lambda: case(3, 3, 3, 3),
        lambda: case(1, 8, 2, 4),
        lambda: case(1, 1, 2, 4),
        lambda: f(torch.tensor([[1, 0, 1], [1, 2, 2]]), torch.ones(2, 3, 2), 4),
        lambda: f(torch.tensor([[0], [0]]), torch.ones(2, 1, 2), 2),
        lambda: tuple(case(2, 5, 3, 9).shape),
        lambda: case(2, 4, 3, 3, torch.float64),
        lambda: case(2, 4, 3, 3, torch.bfloat16).dtype,
        lambda: changed(lambda ids: f(ids, draw(1, 2, 3), 4), torch.tensor([[3, 1]])),
        lambda: changed(lambda grad: f(torch.tensor([[3, 1]]), grad, 4), draw(1, 2, 3)),
        switched_off,
        on_its_device,
    ]


def zeros(grad_vectors: Tensor, vocab_size: int) -> Tensor:
    return grad_vectors.new_zeros(vocab_size, grad_vectors.shape[-1])


@mutant(
    "embedding_gradient",
    "A token that stands several times gets only one of its gradients: `grad[ids] += ...` writes "
    "to a row once. Sum them: a product with one-hot rows does, and so does `index_add_`.",
)
def only_one_of_several(ids: Tensor, grad_vectors: Tensor, vocab_size: int) -> Tensor:
    total = zeros(grad_vectors, vocab_size)
    for b in range(ids.shape[0]):
        for t in range(ids.shape[1]):
            total[ids[b, t]] = grad_vectors[b, t]
    return total


@mutant(
    "embedding_gradient",
    "A token that stands several times keeps the first of its gradients: sum over all its places.",
)
def only_the_first_of_several(ids: Tensor, grad_vectors: Tensor, vocab_size: int) -> Tensor:
    return only_one_of_several(ids.flip(0, 1), grad_vectors.flip(0, 1), vocab_size)


@mutant(
    "embedding_gradient",
    "You average over the places of a token. A gradient is the sum over all uses.",
)
def averaged_over_the_places(ids: Tensor, grad_vectors: Tensor, vocab_size: int) -> Tensor:
    picked = F.one_hot(ids.flatten(), vocab_size).to(grad_vectors.dtype)
    total = picked.T @ grad_vectors.flatten(0, 1)
    return total / picked.sum(0).clamp(min=1)[:, None]


@mutant(
    "embedding_gradient",
    "You divide by the number of tokens. If the loss is a mean, the gradients that arrive have "
    "that in them already.",
)
def divided_by_the_number_of_tokens(ids: Tensor, grad_vectors: Tensor, vocab_size: int) -> Tensor:
    return embedding_gradient(ids, grad_vectors, vocab_size) / ids.numel()


@mutant(
    "embedding_gradient",
    "You divide by the number of sequences. A gradient is the sum over all uses.",
)
def divided_by_the_batch(ids: Tensor, grad_vectors: Tensor, vocab_size: int) -> Tensor:
    return embedding_gradient(ids, grad_vectors, vocab_size) / ids.shape[0]


@mutant("embedding_gradient", "Only the first sequence counts in your sum: take all of the batch.")
def only_the_first_sequence(ids: Tensor, grad_vectors: Tensor, vocab_size: int) -> Tensor:
    return embedding_gradient(ids[:1], grad_vectors[:1], vocab_size)


@mutant("embedding_gradient", "Only the first token of each sequence counts: take all of them.")
def only_the_first_tokens(ids: Tensor, grad_vectors: Tensor, vocab_size: int) -> Tensor:
    return embedding_gradient(ids[:, :1], grad_vectors[:, :1], vocab_size)


@mutant(
    "embedding_gradient",
    "You return a table for each sequence. All sequences share one table, so sum over them too.",
)
def a_table_for_each_sequence(ids: Tensor, grad_vectors: Tensor, vocab_size: int) -> Tensor:
    picked = F.one_hot(ids, vocab_size).to(grad_vectors.dtype)
    return picked.mT @ grad_vectors


@mutant("embedding_gradient", "Your table is on its side: a row for each token, (V, C).")
def table_on_its_side(ids: Tensor, grad_vectors: Tensor, vocab_size: int) -> Tensor:
    return embedding_gradient(ids, grad_vectors, vocab_size).T


@mutant(
    "embedding_gradient",
    "You return the gradient of each place: look-ups of the table, not what the table gets.",
)
def looked_up_again(ids: Tensor, grad_vectors: Tensor, vocab_size: int) -> Tensor:
    return embedding_gradient(ids, grad_vectors, vocab_size)[ids]


@mutant(
    "embedding_gradient",
    "You have rows for tokens that occur only: a token that does not occur gets a row of zeros.",
)
def only_tokens_that_occur(ids: Tensor, grad_vectors: Tensor, vocab_size: int) -> Tensor:
    return embedding_gradient(ids, grad_vectors, vocab_size)[ids.unique()]


@mutant(
    "embedding_gradient",
    "The sign is turned round: this is the gradient, not the step against it.",
)
def sign_turned_round(ids: Tensor, grad_vectors: Tensor, vocab_size: int) -> Tensor:
    return -embedding_gradient(ids, grad_vectors, vocab_size)


@mutant(
    "embedding_gradient",
    "You count how often each token stands. Add up the gradients at its places.",
)
def counts_of_tokens(ids: Tensor, grad_vectors: Tensor, vocab_size: int) -> Tensor:
    return embedding_gradient(ids, torch.ones_like(grad_vectors), vocab_size)


@mutant(
    "embedding_gradient",
    "Ids and gradients do not stay together: flatten both in the same order, tokens of a sequence "
    "side by side.",
)
def flattened_in_another_order(ids: Tensor, grad_vectors: Tensor, vocab_size: int) -> Tensor:
    total = zeros(grad_vectors, vocab_size)
    return total.index_add(0, ids.T.flatten(), grad_vectors.flatten(0, 1))


@mutant("embedding_gradient", "You return float32: keep the dtype of the gradients that arrive.")
def gradient_in_float32(ids: Tensor, grad_vectors: Tensor, vocab_size: int) -> Tensor:
    return embedding_gradient(ids, grad_vectors.float(), vocab_size)


@mutant(
    "embedding_gradient",
    "You add into the gradients of your caller: begin with a table of zeros of your own.",
)
def adds_into_its_input(ids: Tensor, grad_vectors: Tensor, vocab_size: int) -> Tensor:
    total = embedding_gradient(ids, grad_vectors, vocab_size)
    with torch.no_grad():
        grad_vectors.mul_(0.0)
    return total


@mutant(
    "embedding_gradient",
    "You call autograd, which does nothing where gradients are switched off: sum the rows "
    "yourself.",
)
def by_autograd(ids: Tensor, grad_vectors: Tensor, vocab_size: int) -> Tensor:
    table = zeros(grad_vectors, vocab_size).requires_grad_()
    (gradient,) = torch.autograd.grad(table[ids], table, grad_vectors)
    return gradient


@mutant(
    "embedding_gradient",
    "You make the table on the CPU whatever the device of the gradients is: `grad_vectors."
    "new_zeros(...)`, or pass on `device=`.",
)
def table_on_the_cpu(ids: Tensor, grad_vectors: Tensor, vocab_size: int) -> Tensor:
    total = torch.zeros(vocab_size, grad_vectors.shape[-1], dtype=grad_vectors.dtype)
    return total.index_add(0, ids.flatten(), grad_vectors.flatten(0, 1))


@rewrite("embedding_gradient")
def by_adding_rows(ids: Tensor, grad_vectors: Tensor, vocab_size: int) -> Tensor:
    total = grad_vectors.new_zeros(vocab_size, grad_vectors.size(-1))
    return total.index_add_(0, ids.reshape(-1), grad_vectors.reshape(-1, grad_vectors.size(-1)))


@rewrite("embedding_gradient")
def sums_by_einsum(ids: Tensor, grad_vectors: Tensor, vocab_size: int) -> Tensor:
    picked = one_hot(ids, vocab_size, grad_vectors.dtype)
    return torch.einsum("btv,btc->vc", picked, grad_vectors)


@rewrite("embedding_gradient")
def place_by_place(ids: Tensor, grad_vectors: Tensor, vocab_size: int) -> Tensor:
    total = torch.zeros(
        vocab_size, grad_vectors.shape[2], dtype=grad_vectors.dtype, device=grad_vectors.device
    )
    for row, vectors in zip(ids, grad_vectors, strict=True):
        for i, vector in zip(row.tolist(), vectors, strict=True):
            total[i] += vector
    return total
