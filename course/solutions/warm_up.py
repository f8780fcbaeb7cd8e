"""Module 00, answered."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


def axis_sizes(x: Tensor, names: str) -> dict[str, int]:
    return dict(zip(names.split(), x.shape, strict=True))


def count_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def seeded_normal(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def look_up(table: Tensor, ids: Tensor) -> Tensor:
    return table[ids]  # (V, C) by (B, T) gives (B, T, C)


def inputs_and_targets(windows: Tensor) -> tuple[Tensor, Tensor]:
    return windows[:, :-1], windows[:, 1:]


def windows_at(ids: Tensor, starts: Tensor, length: int) -> Tensor:
    places = starts[:, None] + torch.arange(length, device=starts.device)  # (B, 1) + (T,) = (B, T)
    return ids[places]


def hide_padding(scores: Tensor, is_real: Tensor) -> Tensor:
    return scores.masked_fill(~is_real[:, None, None, :], -torch.inf)  # (B, 1, 1, K)


def log_sum_exp(x: Tensor) -> Tensor:
    m = x.max(dim=-1, keepdim=True).values  # (..., 1)
    m = m.masked_fill(m == -torch.inf, 0.0)  # -inf - -inf would be NaN
    return (m + (x - m).exp().sum(dim=-1, keepdim=True).log()).squeeze(-1)


def running_mean(x: Tensor) -> Tensor:
    T = x.shape[1]
    ones = torch.ones(T, T, dtype=x.dtype, device=x.device).tril()
    weights = ones / ones.sum(dim=-1, keepdim=True)  # (T, T), rows sum to one
    return weights @ x  # (T, T) @ (B, T, C) = (B, T, C)


def gradient_step(
    weights: Tensor, loss_of: Callable[[Tensor], Tensor], learning_rate: float
) -> Tensor:
    w = weights.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss_of(w), w)
    return (w - learning_rate * gradient).detach()
