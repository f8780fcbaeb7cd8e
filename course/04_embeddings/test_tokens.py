"""Module 04, what is promised: one-hot vectors, scores of tokens, and the table's gradient."""

from __future__ import annotations

import math

import torch
from my_transformer import embeddings
from torch import Tensor

from tiny_transformer.course.devices import expect_follows_device
from tiny_transformer.course.expect import (
    expect,
    expect_equal,
    expect_gradients,
    expect_unchanged,
)
from tiny_transformer.course.inputs import draw


def draw_ids(*shape: int, below: int, seed: int = 0) -> Tensor:
    """Return int64 ids from 0 to `below - 1`."""
    return torch.randint(below, shape, generator=torch.Generator().manual_seed(seed))


# one_hot


def test_one_hot__is_one_at_the_id_and_zero_elsewhere():
    wanted = torch.tensor([[0.0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    got = embeddings.one_hot(torch.tensor([2, 0, 3]), 4)
    expect_equal(got, wanted, "one_hot([2, 0, 3], 4)", dims="token V", tolerance=0)


def test_one_hot__has_a_place_for_tokens_that_do_not_occur():
    wanted = torch.tensor([[0.0, 1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0]])
    got = embeddings.one_hot(torch.tensor([1, 0]), 6)
    expect_equal(got, wanted, "one_hot([1, 0], 6)", dims="token V", tolerance=0)


def test_one_hot__times_a_table_is_a_look_up():
    ids, table = draw_ids(3, 5, below=7), draw(7, 4)
    got = embeddings.one_hot(ids, 7)
    expect(isinstance(got, Tensor), "one_hot should return a tensor.")
    expect_equal(tuple(got.shape), (3, 5, 7), "the shape of one_hot of (3, 5) ids", tolerance=0)
    expect_equal(got @ table, table[ids], "one_hot(ids, 7) @ table", dims="B T C")


def test_one_hot__puts_the_new_axis_last_for_any_shape_of_ids():
    for shape in [(), (1,), (4,), (2, 3), (4, 4), (2, 1, 3)]:
        ids = draw_ids(*shape, below=4, seed=len(shape))
        wanted = torch.eye(4)[ids]
        got = embeddings.one_hot(ids, 4)
        expect_equal(got, wanted, f"one_hot of ids of shape {shape}", tolerance=0)


def test_one_hot__is_of_the_dtype_asked_for():
    ids = torch.tensor([[1, 2], [0, 1]])
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        wanted = torch.eye(3)[ids].to(dtype)
        got = embeddings.one_hot(ids, 3, dtype)
        expect_equal(got, wanted, f"one_hot(ids, 3, {dtype})", dims="B T V", tolerance=0)


def test_one_hot__keeps_its_ids_and_their_device():
    ids = torch.tensor([[1, 2], [0, 1]])
    before = ids.clone()
    embeddings.one_hot(ids, 3)
    expect_unchanged(before, ids, "ids")
    expect_follows_device(lambda: embeddings.one_hot(ids, 3), [ids], "one_hot")


# token_logits


def test_token_logits__are_dot_products_with_the_vectors_of_the_tokens():
    table = torch.tensor([[1.0, 0.0], [2.0, 2.0], [-1.0, -3.0]])
    x = torch.tensor([[1.0, 1.0], [0.0, 2.0]])
    wanted = torch.tensor([[1.0, 4.0, -4.0], [0.0, 4.0, -6.0]])
    got = embeddings.token_logits(x, table)
    expect_equal(got, wanted, "token_logits of two vectors", dims="token V")


def test_token_logits__has_a_score_for_each_token_at_each_place():
    for B, T, C, V in [(2, 3, 4, 5), (3, 2, 5, 5), (1, 1, 3, 7), (4, 4, 4, 4)]:
        x, table = draw(B, T, C, seed=1), draw(V, C, seed=2)
        wanted = torch.zeros(B, T, V)
        for b in range(B):
            for t in range(T):
                for v in range(V):
                    wanted[b, t, v] = sum(x[b, t, c] * table[v, c] for c in range(C))
        got = embeddings.token_logits(x, table)
        expect_equal(got, wanted, f"token_logits of ({B}, {T}, {C})", dims="B T V")


def test_token_logits__keeps_lengths_and_has_no_scale():
    x, table = draw(3, 16, seed=3), draw(6, 16, seed=4)
    once, twice = embeddings.token_logits(x, table), embeddings.token_logits(2 * x, table)
    expect_equal(
        twice,
        2 * once,
        "the logits of vectors twice as long",
        dims="token V",
        note="Logits are plain dot products: nothing is normalised.",
    )
    wanted = torch.einsum("tc,vc->tv", x, table)
    expect_equal(once, wanted, "the logits at a width of 16", dims="token V")


def test_token_logits__takes_one_vector_and_any_axes_in_front():
    table = draw(5, 4, seed=2)
    for shape in [(4,), (3, 4), (2, 1, 3, 4)]:
        x = draw(*shape, seed=1)
        wanted = (x[..., None, :] * table).sum(-1)
        expect_equal(embeddings.token_logits(x, table), wanted, f"token_logits of {shape}")


def test_token_logits__keeps_the_dtype_and_its_inputs():
    for dtype, tolerance in [(torch.float64, 1e-12), (torch.bfloat16, 3e-2)]:
        x, table = draw(2, 3, 4, seed=1, dtype=dtype), draw(5, 4, seed=2, dtype=dtype)
        before = x.clone(), table.clone()
        wanted = (before[0].double() @ before[1].double().T).to(dtype)
        expect_equal(
            embeddings.token_logits(x, table),
            wanted,
            f"token_logits in {dtype}",
            dims="B T V",
            tolerance=tolerance,
        )
        expect_unchanged(before[0], x, "x")
        expect_unchanged(before[1], table, "table")


def test_token_logits__lets_gradients_through_to_both():
    inputs = [draw(2, 3, 4, dtype=torch.float64), draw(5, 4, seed=1, dtype=torch.float64)]
    expect_gradients(
        embeddings.token_logits, lambda x, w: (x[..., None, :] * w).sum(-1), inputs, "token_logits"
    )


# embedding_gradient


def gradient_by_loops(ids: Tensor, grad_vectors: Tensor, vocab_size: int) -> Tensor:
    total = torch.zeros(vocab_size, grad_vectors.shape[-1], dtype=torch.float64)
    for b in range(ids.shape[0]):
        for t in range(ids.shape[1]):
            total[int(ids[b, t])] += grad_vectors[b, t].double()
    return total.to(grad_vectors.dtype)


def test_embedding_gradient__gives_a_lone_token_its_vector_s_gradient():
    got = embeddings.embedding_gradient(torch.tensor([[2]]), torch.tensor([[[3.0, 4.0]]]), 4)
    wanted = torch.tensor([[0.0, 0], [0, 0], [3, 4], [0, 0]])
    expect_equal(got, wanted, "the gradient of the table where token 2 stands once", dims="V C")


def test_embedding_gradient__sums_over_all_places_of_a_token():
    ids = torch.tensor([[1, 0, 1], [1, 2, 2]])
    grad = torch.tensor([[[1.0, 0], [5, 5], [2, 3]], [[10, 10], [1, 2], [3, 4]]])
    wanted = torch.tensor([[5.0, 5], [13, 13], [4, 6], [0, 0]])
    expect_equal(
        embeddings.embedding_gradient(ids, grad, 4),
        wanted,
        "the gradient of the table where tokens stand several times",
        dims="V C",
        note="Each place at which a token stands adds to its row.",
    )


def test_embedding_gradient__is_what_loops_give_for_every_size():
    for B, T, C, V in [(1, 1, 1, 1), (2, 5, 3, 7), (5, 2, 4, 3), (3, 3, 3, 3), (1, 8, 2, 4)]:
        ids, grad = draw_ids(B, T, below=V, seed=B), draw(B, T, C, seed=T)
        expect_equal(
            embeddings.embedding_gradient(ids, grad, V),
            gradient_by_loops(ids, grad, V),
            f"embedding_gradient of ({B}, {T}) ids and {V} tokens",
            dims="V C",
        )


def test_embedding_gradient__agrees_with_autograd():
    ids, table = draw_ids(3, 6, below=5, seed=1), draw(5, 4, dtype=torch.float64)
    grad = draw(3, 6, 4, seed=2, dtype=torch.float64)
    leaf = table.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(leaf[ids], leaf, grad)
    got = embeddings.embedding_gradient(ids, grad, 5)
    expect_equal(got, wanted, "embedding_gradient", dims="V C", tolerance=1e-12)


def test_embedding_gradient__works_for_parts_of_a_larger_tensor():
    ids, grad = draw_ids(6, 5, below=4, seed=3).T[:, ::2], draw(3, 6, 5, seed=4).permute(2, 1, 0)
    grad = grad[:, ::2]
    expect_equal(
        embeddings.embedding_gradient(ids, grad, 4),
        gradient_by_loops(ids, grad, 4),
        "embedding_gradient of tensors that do not lie in one piece",
        dims="V C",
    )


def test_embedding_gradient__keeps_the_dtype_and_its_inputs():
    for dtype, tolerance in [(torch.float64, 1e-12), (torch.bfloat16, 5e-2)]:
        ids, grad = draw_ids(2, 4, below=3, seed=5), draw(2, 4, 3, seed=6, dtype=dtype)
        before = ids.clone(), grad.clone()
        wanted = gradient_by_loops(ids, before[1], 3)
        expect_equal(
            embeddings.embedding_gradient(ids, grad, 3),
            wanted,
            f"embedding_gradient in {dtype}",
            dims="V C",
            tolerance=tolerance,
        )
        expect_unchanged(before[0], ids, "ids")
        expect_unchanged(before[1], grad, "grad_vectors")


def test_embedding_gradient__works_where_autograd_is_off_and_on_any_device():
    ids, grad = draw_ids(2, 4, below=3, seed=5), draw(2, 4, 3, seed=6)
    wanted = gradient_by_loops(ids, grad, 3)
    with torch.no_grad():
        got = embeddings.embedding_gradient(ids, grad, 3)
    expect_equal(got, wanted, "embedding_gradient under torch.no_grad()", dims="V C")
    expect(math.isfinite(got.sum().item()), "The gradient is not finite.")
    expect_follows_device(
        lambda: embeddings.embedding_gradient(ids, grad, 3), [ids, grad], "embedding_gradient"
    )
