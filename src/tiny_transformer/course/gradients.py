"""Gradients of two models, compared from the loss backwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from tiny_transformer.course.comparison import Divergence
from tiny_transformer.course.naming import Axes, place_of_largest, relation
from tiny_transformer.course.trace import share_of_largest
from tiny_transformer.model.loss import compute_loss
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.runtime.random_state import forked_rng

Gradients = dict[str, Tensor | None]
"""By name, in the order of the forward pass: parameters, and the outputs of modules."""
_OUTPUT = "the output of "


def gradients_of(model: Transformer, x: Tensor, y: Tensor) -> Gradients:
    """Return gradients of modules' outputs and of parameters, in the order of the forward pass."""
    outputs: dict[str, Tensor] = {}
    handles = []

    def keep(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.requires_grad:
                output.retain_grad()
                outputs[path] = output

        return hook

    for path, module in model.named_modules():
        if path:
            handles.append(module.register_forward_hook(keep(path)))
    model.zero_grad()
    try:
        with forked_rng("compare"):
            compute_loss(model(x), y).backward()
    finally:
        for handle in handles:
            handle.remove()
    found: dict[str, Tensor | None] = {}
    parameters = dict(model.named_parameters())
    for path, output in outputs.items():
        for name in list(parameters):
            if name.rpartition(".")[0] == path:
                found[name] = parameters.pop(name).grad
        found[f"{_OUTPUT}{path}"] = output.grad
    return {**{name: p.grad for name, p in parameters.items()}, **found}


def first_gradient(
    got: Gradients, wanted: Gradients, tolerance: float, axes: Axes
) -> Divergence | None:
    """Name the first gradient that differs; the last of the forward pass comes first.

    Where all parameters agree there is none: what a module inside a part returns is the
    part's own affair.
    """
    largest = max(float(g.abs().max()) for g in wanted.values() if g is not None)

    def agrees(name: str) -> bool:
        theirs, right = got.get(name), wanted[name]
        if theirs is None or right is None:
            return theirs is right
        return share_of_largest(theirs, right, largest / 1000) <= tolerance

    if all(agrees(name) for name in wanted if not name.startswith(_OUTPUT)):
        return None
    for name, right in reversed(wanted.items()):
        if right is None or name not in got:
            continue
        theirs = got[name]
        if theirs is not None and theirs.shape != right.shape:
            continue  # the same thing in another layout
        if theirs is None:
            return Divergence(
                "gradients",
                f"No gradient reaches {name}.",
                (
                    "Is there a .detach(), .data, .item(), .tolist() or torch.no_grad() "
                    "between it and the loss?",
                ),
            )
        if not agrees(name):
            details = [
                f"going back from the loss, it is the first; {axes.shape(right.shape)}",
                place_of_largest(theirs, right, axes),
                *relation(theirs, right, axes),
            ]
            return Divergence(
                "gradients",
                f"The loss agrees, and the gradient of {name} does not.",
                tuple(details),
            )
    return None
