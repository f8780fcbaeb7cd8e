"""Would an answer work on a GPU? Asked without one.

A tensor that is made inside a function without saying where is made on the CPU, and cannot be
combined with an input on a GPU. Here the inputs are pretended to be on another device: every
tensor carries a label, and an operation that has both labels among its tensors is the mistake.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from tiny_transformer.course.expect import expect

_MAKERS = {
    *(torch.arange, torch.as_tensor, torch.empty, torch.eye, torch.full, torch.linspace),
    *(torch.ones, torch.rand, torch.randint, torch.randn, torch.randperm, torch.tensor),
    *(torch.tril_indices, torch.triu_indices, torch.zeros),
}
_MOVERS = {Tensor.to, Tensor.type_as, Tensor.cuda}


class _Labels(TorchFunctionMode):
    """Labels tensors True (on the inputs' device) or False (made where PyTorch likes)."""

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[int, tuple[Tensor, bool]] = {}  # kept alive, so that ids stay unique
        self.mixed = False

    def set(self, tensors: Iterable[Tensor], label: bool) -> None:
        self._known |= {id(tensor): (tensor, label) for tensor in tensors}

    def get(self, tensor: Tensor) -> bool | None:
        """Return the label; None for one number, which goes with every device, and strangers."""
        if tensor.ndim == 0 or id(tensor) not in self._known:
            return None
        return self._known[id(tensor)][1]

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        labels = {self.get(tensor) for tensor in _tensors((args, kwargs))} - {None}
        if func in _MAKERS:
            placed = kwargs.get("device") not in (None, "cpu")
            self.set(_tensors(result), placed or labels == {True})
        elif func is Tensor.cpu:
            result = result.view_as(result)  # one that is on the CPU would be returned itself
            self.set([result], False)
        elif func in _MOVERS and _names_a_device(args[1:], kwargs):
            self.set(_tensors(result), True)
        elif labels:
            self.mixed |= len(labels) == 2
            self.set(_tensors(result), True in labels)
        return result


def expect_follows_device(call: Callable[[], Any], inputs: Iterable[Tensor], what: str) -> None:
    """Raise `Mismatch` if `call` combines its inputs with a tensor that it made elsewhere.

    Args:
        call: the learner's function on the inputs.
        inputs: the tensors that are pretended to be on another device.
        what: what is called, for instance `explicit_attention`.
    """
    labels = _Labels()
    labels.set(inputs, True)
    with labels:
        call()
    _expect_one(labels, what)


def expect_module_follows_device(build: Callable[[], nn.Module], x: Tensor, what: str) -> None:
    """Do the same for a module that is built, moved to another device, and called with `x`."""
    labels = _Labels()
    with labels:
        module = build()
        labels.set([x, *module.parameters(), *module.buffers()], True)
        module(x)
    _expect_one(labels, what)


def is_placed(call: Callable[[], Any]) -> bool:
    """Return whether the tensor that `call` returns was made on a device that was named."""
    labels = _Labels()
    with labels:
        result = call()
    return isinstance(result, Tensor) and labels.get(result) is not False


def _expect_one(labels: _Labels, what: str) -> None:
    expect(
        not labels.mixed,
        f"{what} would fail on a GPU: a tensor made inside it is always on the CPU. Make it on "
        "the device of the input: torch.ones(..., device=x.device).",
    )


def _names_a_device(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Return whether arguments of `.to` and the like say where, and not a dtype alone."""
    values = [*args, *kwargs.values()]
    return not values or any(isinstance(value, (torch.device, str, Tensor)) for value in values)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
