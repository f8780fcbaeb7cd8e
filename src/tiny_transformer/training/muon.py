"""Muon: momentum whose update is made orthogonal, for matrices.

Notable: matrices of one shape are made orthogonal together, in float32 on a CPU, where
`torch.optim.Muon` takes one at a time in bfloat16, which few CPUs compute in: its step was
nine times as long as this one's on a processor without (docs/experiments.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tiny_transformer.runtime.distributed import full, spread_like
from tiny_transformer.training.uncompiled import Uncompiled

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_EPS = 1e-7


def orthogonalize(matrices: Float[Tensor, "N rows cols"]) -> Float[Tensor, "N rows cols"]:
    """Move the singular values of each matrix near 1 (0.7 to 1.2), keeping its directions.

    Args:
        matrices: a stack; those of much more than rank 1 in their shorter side. Zeros stay
            zeros.

    Returns:
        The dtype of `matrices`; five Newton-Schulz iterations in it, bfloat16 on a GPU.
        Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/.
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    long = x.shape[-1] >= 2 * x.shape[-2]
    if x.device.type == "cuda":
        x = x.bfloat16()
        long = False  # bfloat16 has not the digits for it
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp_min(_EPS)
    x = _iterate_on_gram(x) if long else _iterate(x)
    return (x.mT if tall else x).to(matrices.dtype)


def _iterate(x: Tensor) -> Tensor:
    """Apply `x -> (a + b G + c G^2) x`, with `G = x x^T`, five times."""
    a, b, c = _COEFFICIENTS
    for _ in range(_ITERATIONS):
        gram = x @ x.mT  # (N, rows, rows)
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return x


def _iterate_on_gram(x: Tensor) -> Tensor:
    """Compute the same from `G` alone, whose polynomials commute, and touch x twice.

    For matrices of four times as many columns as rows, 25 products of (rows, rows) for 45.
    """
    a, b, c = _COEFFICIENTS
    gram, factor = x @ x.mT, None
    for iteration in range(_ITERATIONS):
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        polynomial.diagonal(dim1=-2, dim2=-1).add_(a)
        factor = polynomial if factor is None else polynomial @ factor
        if iteration < _ITERATIONS - 1:
            gram = polynomial @ gram @ polynomial
    assert factor is not None
    return factor @ x


class Muon(Uncompiled):
    """Nesterov momentum, made orthogonal, with decoupled weight decay.

    Args:
        params: matrices.
        lr: learning rate; a matrix of more rows than columns takes `sqrt(rows / cols)` times
            it, so that its update changes vectors as much as a square one's.
        momentum: decay of the mean of gradients.
        weight_decay: as a fraction of `lr`.
        orthogonal: does the work of `orthogonalize`, perhaps with the help of other processes.

    State: `momentum_buffer`, as `torch.optim.Muon` keeps it, whose settings and numbers (up
    to its bfloat16) these are.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 0.02,
        *,
        momentum: float = 0.95,
        weight_decay: float = 0.1,
        orthogonal: Callable[[Tensor], Tensor] = orthogonalize,
    ) -> None:
        self._orthogonal = orthogonal
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.ndim != 2:
                    raise ValueError(
                        f"Muon updates matrices; got a parameter of {tuple(parameter.shape)}."
                    )

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            alike: dict[tuple[Any, ...], list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    key = (parameter.shape, parameter.dtype, parameter.device)
                    alike.setdefault(key, []).append(parameter)
            for parameters in alike.values():
                self._step_alike(parameters, **{k: v for k, v in group.items() if k != "params"})

    def _step_alike(
        self, parameters: list[Tensor], *, lr: float, momentum: float, weight_decay: float
    ) -> None:
        """Update parameters of one shape, dtype and device."""
        ahead = []
        for parameter in parameters:
            gradient = parameter.grad
            assert gradient is not None
            state = self.state[parameter]
            if not state:
                state["momentum_buffer"] = torch.zeros_like(parameter)
            buffer = state["momentum_buffer"]
            buffer.lerp_(gradient, 1 - momentum)
            ahead.append(full(gradient.lerp(buffer, momentum)))
        rows, columns = parameters[0].shape
        step = lr * max(1, rows / columns) ** 0.5
        updates = self._orthogonal(torch.stack(ahead))
        for parameter, update in zip(parameters, updates, strict=True):
            own = spread_like(update, parameter)
            parameter.mul_(1 - lr * weight_decay).add_(own, alpha=-step)
