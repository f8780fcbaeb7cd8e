"""Module 01, wrong answers: gradients by hand."""

from __future__ import annotations

import math
from typing import Any

import torch
from my_transformer import attention
from torch import Tensor

from tiny_transformer.course.inputs import changed, draw
from tiny_transformer.course.wrong_answers import mutant, probes, rewrite

INF = float("inf")


# softmax_backward


@probes("softmax_backward")
def _(f: Any) -> list[Any]:
    def inputs(*shape: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        return draw(*shape, seed=1, dtype=dtype).softmax(-1), draw(*shape, seed=2, dtype=dtype)

    return [
        lambda: f(torch.tensor([[0.25, 0.75]]), torch.tensor([[8.0, 0.0]])),
        lambda: f(*inputs(4, 4)),
        lambda: f(*inputs(3, 5)),
        lambda: f(*inputs(2, 3, 4, 5)),
        lambda: f(*inputs(2, 2, 2, 2)),
        lambda: f(torch.tensor([[1.0, 0, 0], [0.5, 0.5, 0]]), draw(2, 3)),
        lambda: f(*inputs(2, 3, dtype=torch.float64)),
        lambda: changed(f, *inputs(3, 4)),
    ]


@mutant(
    "softmax_backward",
    "You use the diagonal of the Jacobian alone, as if each weight depended only on its own "
    "score. All weights of a row share one sum: take the row's weighted average of gradients "
    "away.",
)
def diagonal_only(weights: Tensor, grad_weights: Tensor) -> Tensor:
    return weights * (1 - weights) * grad_weights


@mutant(
    "softmax_backward",
    "Half of the Jacobian is missing: from each gradient take the row's weighted average away.",
)
def first_term_only(weights: Tensor, grad_weights: Tensor) -> Tensor:
    return weights * grad_weights


@mutant(
    "softmax_backward",
    "You take the plain sum of the gradients away. It is weighted: sum weights times gradients.",
)
def plain_sum_taken_away(weights: Tensor, grad_weights: Tensor) -> Tensor:
    return weights * (grad_weights - grad_weights.sum(-1, keepdim=True))


@mutant(
    "softmax_backward",
    "You take the plain mean of the gradients away. The average is weighted by the weights.",
)
def plain_mean_taken_away(weights: Tensor, grad_weights: Tensor) -> Tensor:
    return weights * (grad_weights - grad_weights.mean(-1, keepdim=True))


@mutant(
    "softmax_backward",
    "You take the mean of weights times gradients away. The weights have the division in them "
    "already: take the sum.",
)
def mean_of_products_taken_away(weights: Tensor, grad_weights: Tensor) -> Tensor:
    return weights * (grad_weights - (weights * grad_weights).mean(-1, keepdim=True))


@mutant(
    "softmax_backward",
    "You sum over the queries. The sum runs over the keys of one row, the last axis.",
)
def summed_over_the_queries(weights: Tensor, grad_weights: Tensor) -> Tensor:
    return weights * (grad_weights - (weights * grad_weights).sum(-2, keepdim=True))


@mutant(
    "softmax_backward",
    "Your one sum is over all rows. Each row has its own: sum over the last axis.",
)
def summed_over_all(weights: Tensor, grad_weights: Tensor) -> Tensor:
    return weights * (grad_weights - (weights * grad_weights).sum())


@mutant(
    "softmax_backward",
    "The row sums have lost their axis, and so are lined up with the wrong rows: ask for "
    "`keepdim=True`.",
)
def row_sums_without_keepdim(weights: Tensor, grad_weights: Tensor) -> Tensor:
    return weights * (grad_weights - (weights * grad_weights).sum(-1))


@mutant("softmax_backward", "You add the row's average. Take it away.")
def row_sum_added(weights: Tensor, grad_weights: Tensor) -> Tensor:
    return weights * (grad_weights + (weights * grad_weights).sum(-1, keepdim=True))


@mutant("softmax_backward", "The sign is turned round: it is gradient minus average.")
def sign_turned_round(weights: Tensor, grad_weights: Tensor) -> Tensor:
    return weights * ((weights * grad_weights).sum(-1, keepdim=True) - grad_weights)


@mutant(
    "softmax_backward",
    "The factor in front is missing: multiply by the weights.",
)
def without_the_factor(weights: Tensor, grad_weights: Tensor) -> Tensor:
    return grad_weights - (weights * grad_weights).sum(-1, keepdim=True)


@mutant(
    "softmax_backward",
    "You multiply only one of the two terms by the weights: mind the brackets.",
)
def brackets_forgotten(weights: Tensor, grad_weights: Tensor) -> Tensor:
    return weights * grad_weights - (weights * grad_weights).sum(-1, keepdim=True)


@mutant(
    "softmax_backward",
    "You let the gradient through as it is, as if there were no softmax.",
)
def straight_through(weights: Tensor, grad_weights: Tensor) -> Tensor:
    return grad_weights.clone()


@mutant(
    "softmax_backward",
    "This is the gradient of a log-softmax: gradient minus weights times the sum of gradients.",
)
def of_a_log_softmax(weights: Tensor, grad_weights: Tensor) -> Tensor:
    return grad_weights - weights * grad_weights.sum(-1, keepdim=True)


@mutant(
    "softmax_backward",
    "You take a softmax of the weights first. They are one already.",
)
def softmax_taken_again(weights: Tensor, grad_weights: Tensor) -> Tensor:
    again = weights.softmax(-1)
    return again * (grad_weights - (again * grad_weights).sum(-1, keepdim=True))


@mutant(
    "softmax_backward",
    "You change the gradient of your caller in place: write `grad_weights - ...`.",
)
def gradient_changed_in_place(weights: Tensor, grad_weights: Tensor) -> Tensor:
    grad_weights -= (weights * grad_weights).sum(-1, keepdim=True)
    return weights * grad_weights


@rewrite("softmax_backward")
def by_the_jacobian(weights: Tensor, grad_weights: Tensor) -> Tensor:
    jacobian = torch.diag_embed(weights) - weights.unsqueeze(-1) * weights.unsqueeze(-2)
    return (jacobian @ grad_weights.unsqueeze(-1)).squeeze(-1)


@rewrite("softmax_backward")
def by_two_terms(weights: Tensor, grad_weights: Tensor) -> Tensor:
    product = weights * grad_weights
    return product - weights * torch.einsum("...k->...", product).unsqueeze(-1)


@rewrite("softmax_backward")
def row_by_row(weights: Tensor, grad_weights: Tensor) -> Tensor:
    rows = zip(
        weights.reshape(-1, weights.shape[-1]),
        grad_weights.reshape(-1, weights.shape[-1]),
        strict=True,
    )
    return torch.stack([w * (g - torch.dot(w, g)) for w, g in rows]).reshape(weights.shape)


# attention_backward


def backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    grad: Tensor,
    *,
    weights: Tensor | None = None,
    grad_scores: Any = None,
    scale: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients, with one step done in another way."""
    weights = attention.explicit_attention(q, k, v)[1] if weights is None else weights
    through = grad_scores or attention.softmax_backward
    d_scores = through(weights, grad @ v.mT)
    d_scores = d_scores * (q.shape[-1] ** -0.5 if scale is None else scale)
    return d_scores @ k, d_scores.mT @ q, weights.mT @ grad


@probes("attention_backward")
def _(f: Any) -> list[Any]:
    def inputs(*sizes: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
        n_queries, n_keys, width = sizes
        q, g = (draw(2, 2, n_queries, width, seed=s, dtype=dtype) for s in (1, 4))
        k, v = (draw(2, 2, n_keys, width, seed=s, dtype=dtype) for s in (2, 3))
        return [q, k, v, g]

    return [
        *(lambda i=i: f(*inputs(4, 4, 4))[i] for i in range(3)),
        *(lambda i=i: f(*inputs(5, 5, 3))[i] for i in range(3)),
        *(lambda i=i: f(*inputs(2, 6, 3))[i] for i in range(3)),
        *(lambda i=i: f(*inputs(1, 1, 3))[i] for i in range(3)),
        lambda: len(f(*inputs(3, 3, 2))),
        lambda: f(*inputs(4, 4, 4, dtype=torch.float32)),
        lambda: changed(f, *inputs(4, 4, 4)),
    ]


@mutant(
    "attention_backward",
    "The scale is missing on the way back: the gradient of the scores is divided by sqrt(D), as "
    "the scores were.",
)
def no_scale_on_the_way_back(q: Tensor, k: Tensor, v: Tensor, grad_output: Tensor) -> Any:
    return backward(q, k, v, grad_output, scale=1.0)


@mutant(
    "attention_backward",
    "You divide by the width on the way back. Divide by its square root.",
)
def width_on_the_way_back(q: Tensor, k: Tensor, v: Tensor, grad_output: Tensor) -> Any:
    return backward(q, k, v, grad_output, scale=1 / q.shape[-1])


@mutant(
    "attention_backward",
    "You multiply by the root of the width on the way back. Divide, as on the way there.",
)
def root_multiplied_on_the_way_back(q: Tensor, k: Tensor, v: Tensor, grad_output: Tensor) -> Any:
    return backward(q, k, v, grad_output, scale=math.sqrt(q.shape[-1]))


@mutant(
    "attention_backward",
    "You scale the gradient of q alone. The scale belongs to the scores, and reaches k as well.",
)
def only_q_scaled(q: Tensor, k: Tensor, v: Tensor, grad_output: Tensor) -> Any:
    dq, dk, dv = backward(q, k, v, grad_output)
    return dq, dk * math.sqrt(q.shape[-1]), dv


@mutant(
    "attention_backward",
    "You scale the gradient of k alone. The scale belongs to the scores, and reaches q as well.",
)
def only_k_scaled(q: Tensor, k: Tensor, v: Tensor, grad_output: Tensor) -> Any:
    dq, dk, dv = backward(q, k, v, grad_output)
    return dq * math.sqrt(q.shape[-1]), dk, dv


@mutant(
    "attention_backward",
    "The gradients of q and k are exchanged: the scores' gradient times k is that of q.",
)
def q_and_k_exchanged(q: Tensor, k: Tensor, v: Tensor, grad_output: Tensor) -> Any:
    dq, dk, dv = backward(q, k, v, grad_output)
    return dk, dq, dv


@mutant("attention_backward", "You return the gradient of v first. The order is q, k, v.")
def v_first(q: Tensor, k: Tensor, v: Tensor, grad_output: Tensor) -> Any:
    return backward(q, k, v, grad_output)[::-1]


@mutant(
    "attention_backward",
    "The weights are not transposed in the gradient of v: a key collects from all queries that "
    "looked at it, down a column.",
)
def weights_not_transposed(q: Tensor, k: Tensor, v: Tensor, grad_output: Tensor) -> Any:
    weights = attention.explicit_attention(q, k, v)[1]
    dq, dk, _ = backward(q, k, v, grad_output)
    return dq, dk, weights @ grad_output


@mutant(
    "attention_backward",
    "The scores' gradient is not transposed in the gradient of k: a key collects down a column.",
)
def scores_not_transposed(q: Tensor, k: Tensor, v: Tensor, grad_output: Tensor) -> Any:
    weights = attention.explicit_attention(q, k, v)[1]
    d_scores = attention.softmax_backward(weights, grad_output @ v.mT) / math.sqrt(q.shape[-1])
    return d_scores @ k, d_scores @ q, weights.mT @ grad_output


@mutant(
    "attention_backward",
    "The softmax is missing on the way back: the gradient of the weights is not that of the "
    "scores. Use `softmax_backward`.",
)
def softmax_left_out(q: Tensor, k: Tensor, v: Tensor, grad_output: Tensor) -> Any:
    return backward(q, k, v, grad_output, grad_scores=lambda w, g: g)


@mutant(
    "attention_backward",
    "You use half of the softmax's Jacobian: the row's weighted average has to be taken away. Use "
    "`softmax_backward`.",
)
def half_of_the_jacobian(q: Tensor, k: Tensor, v: Tensor, grad_output: Tensor) -> Any:
    return backward(q, k, v, grad_output, grad_scores=lambda w, g: w * g)


@mutant(
    "attention_backward",
    "You use the diagonal of the softmax's Jacobian alone. Use `softmax_backward`.",
)
def diagonal_of_the_jacobian(q: Tensor, k: Tensor, v: Tensor, grad_output: Tensor) -> Any:
    return backward(q, k, v, grad_output, grad_scores=lambda w, g: w * (1 - w) * g)


@mutant(
    "attention_backward",
    "Your weights are those of attention without a mask: take them from `explicit_attention`.",
)
def backward_without_a_mask(q: Tensor, k: Tensor, v: Tensor, grad_output: Tensor) -> Any:
    weights = (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1)
    return backward(q, k, v, grad_output, weights=weights)


@mutant(
    "attention_backward",
    "Your weights are those of scores without the scale: take them from `explicit_attention`.",
)
def backward_of_unscaled_weights(q: Tensor, k: Tensor, v: Tensor, grad_output: Tensor) -> Any:
    weights = attention.explicit_attention(q * math.sqrt(q.shape[-1]), k, v)[1]
    return backward(q, k, v, grad_output, weights=weights)


@mutant(
    "attention_backward",
    "You multiply the weights' gradient with the weights of the forward pass in place of the "
    "output's with v: d_weights = grad_output v^T.",
)
def output_for_its_gradient(q: Tensor, k: Tensor, v: Tensor, grad_output: Tensor) -> Any:
    output, weights = attention.explicit_attention(q, k, v)
    d_scores = attention.softmax_backward(weights, output @ v.mT) / math.sqrt(q.shape[-1])
    return d_scores @ k, d_scores.mT @ q, weights.mT @ grad_output


@mutant(
    "attention_backward",
    "You multiply the scores' gradient with q to get that of q. For a product each factor's "
    "gradient has the other factor in it: k.",
)
def own_factor_for_the_other(q: Tensor, k: Tensor, v: Tensor, grad_output: Tensor) -> Any:
    weights = attention.explicit_attention(q, k, v)[1]
    d_scores = attention.softmax_backward(weights, grad_output @ v.mT) / math.sqrt(q.shape[-1])
    return d_scores @ q, d_scores.mT @ k, weights.mT @ grad_output


@rewrite("attention_backward")
def backward_by_einsum(q: Tensor, k: Tensor, v: Tensor, grad_output: Tensor) -> Any:
    output, weights = attention.explicit_attention(q, k, v)
    row_sums = (grad_output * output).sum(-1, keepdim=True)  # Dao et al. 2022, appendix B.2
    d_weights = torch.einsum("bhqd,bhkd->bhqk", grad_output, v)
    d_scores = weights * (d_weights - row_sums) * q.shape[-1] ** -0.5
    return (
        torch.einsum("bhqk,bhkd->bhqd", d_scores, k),
        torch.einsum("bhqk,bhqd->bhkd", d_scores, q),
        torch.einsum("bhqk,bhqd->bhkd", weights, grad_output),
    )


@rewrite("attention_backward")
def backward_with_scaled_queries(q: Tensor, k: Tensor, v: Tensor, grad_output: Tensor) -> Any:
    scale = 1 / math.sqrt(q.shape[-1])
    hidden = ~attention.causal_mask(q.shape[-2], k.shape[-2], q.device)
    weights = ((q * scale) @ k.mT).masked_fill(hidden, -INF).softmax(-1)
    products = weights * (grad_output @ v.mT)
    d_scores = products - weights * products.sum(-1, keepdim=True)
    return scale * (d_scores @ k), d_scores.mT @ (scale * q), weights.mT @ grad_output


@rewrite("attention_backward")
def backward_one_query_at_a_time(q: Tensor, k: Tensor, v: Tensor, grad_output: Tensor) -> Any:
    weights = attention.explicit_attention(q, k, v)[1]
    dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
    for i in range(q.shape[-2]):
        w, g = weights[..., i, :], grad_output[..., i : i + 1, :]  # (B, H, Tk), (B, H, 1, D)
        d_scores = attention.softmax_backward(w, (g @ v.mT).squeeze(-2)) / q.shape[-1] ** 0.5
        dq[..., i, :] = (d_scores.unsqueeze(-1) * k).sum(-2)
        dk += d_scores.unsqueeze(-1) * q[..., i : i + 1, :]
        dv += w.unsqueeze(-1) * g
    return dq, dk, dv
