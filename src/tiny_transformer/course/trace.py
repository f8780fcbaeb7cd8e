"""Every operation of a forward pass, in order: what it was, where it stands, what came out."""

from __future__ import annotations

import contextlib
import functools
import linecache
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, resolve_name

CLOSE = 2e-5
"""Largest difference that rounding explains, as a share of the largest value of a tensor."""
_MADE = {"ones", "zeros", "full", "empty", "arange", "tensor", "rand", "randn", "random_"}
_HIDDEN = -1e4  # scores below count as minus infinity: a mask may be written either way


@dataclass(frozen=True)
class Record:
    """What one operation returned.

    Attributes:
        name: of the operation, as in `softmax`.
        module: path of the innermost module that it ran in, as in `blocks.0.attention`.
        value: a copy of the result.
        parents: places in the trace of the tensors that it took.
        where: `attention.py, line 12: scores = ...`, of the file that is looked at; or `""`.
    """

    name: str
    module: str
    value: Tensor
    parents: tuple[int, ...]
    where: str


@dataclass
class Trace:
    """The operations of a run of a model, in order."""

    records: list[Record] = field(default_factory=list)


class _Recorder(TorchFunctionMode):
    """Sees every function of PyTorch that is called while it is on."""

    def __init__(self, trace: Trace, stack: list[str], files: Sequence[Path]) -> None:
        super().__init__()
        self._trace, self._stack = trace, stack
        self._files = {str(file) for file in files}
        self._places: dict[int, int] = {}
        self._alive: list[Any] = []  # so that no id is used twice

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = _name(func)
        written = args[:1] if name == "setitem" else ()
        parents = tuple(
            dict.fromkeys(
                self._places[id(x)] for x in _tensors((args, kwargs)) if id(x) in self._places
            )
        )
        for tensor in _tensors((result, written)):
            if isinstance(tensor, nn.Parameter):
                continue
            self._places[id(tensor)] = len(self._trace.records)
            self._alive.append(tensor)
            module = self._stack[-1] if self._stack else ""
            self._trace.records.append(
                Record(name, module, tensor.detach().clone(), parents, self._where())
            )
        return result

    def _where(self) -> str:
        frame = sys._getframe(2)
        while frame is not None:
            name = frame.f_code.co_filename
            if name in self._files:
                line = linecache.getline(name, frame.f_lineno).strip()
                return f"{Path(name).name}, line {frame.f_lineno}: {line}"
            frame = frame.f_back
        return ""


@contextlib.contextmanager
def traced(model: nn.Module, files: Sequence[Path] = ()) -> Iterator[Trace]:
    """Record the operations of `model` inside the block.

    Args:
        model: any module.
        files: those whose lines are to be named.
    """
    trace, stack = Trace(), []
    linecache.checkcache()
    handles = []

    def enter(path: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        stack.append(path)

    def leave(path: str, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        stack.pop()

    for path, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(functools.partial(enter, path)))
        handles.append(module.register_forward_hook(functools.partial(leave, path)))
    try:
        with _Recorder(trace, stack, files):
            yield trace
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def inputs_watched(model: nn.Module) -> Iterator[list[str]]:
    """Yield a list that gains the paths of modules that change their input in place."""
    found: list[str] = []
    versions: list[list[tuple[Tensor, int]]] = []

    def enter(module: nn.Module, args: tuple[Any, ...]) -> None:
        versions.append([(tensor, tensor._version) for tensor in _tensors(args)])

    def leave(path: str, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if any(tensor._version != version for tensor, version in versions.pop()):
            found.append(path)

    handles = []
    for path, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(enter))
        handles.append(module.register_forward_hook(functools.partial(leave, path)))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def unexplained(records: Sequence[Record], others: Sequence[Record], tolerance: float) -> list[int]:
    """Return the records that none of `others` equals, nor anything made from them.

    What was computed in another way, and led to an equal tensor later, is explained.

    Args:
        records: of one side.
        others: of the other.
        tolerance: see `close`.
    """
    by_shape: dict[tuple[int, ...], list[Tensor]] = {}
    for other in others:
        by_shape.setdefault(tuple(other.value.shape), []).append(other.value)
    explained = [
        any(
            _same(value, record.value, tolerance)
            for value in by_shape.get(tuple(record.value.shape), ())
        )
        for record in records
    ]
    for index in reversed(range(len(records))):
        if explained[index]:
            for parent in records[index].parents:
                explained[parent] = True
    return [index for index, known in enumerate(explained) if not known]


def _same(got: Tensor, wanted: Tensor, tolerance: float) -> bool:
    """Return whether two tensors are equal; a mask may say what is seen or what is hidden."""
    return close(right_way_up(got, wanted), wanted, tolerance)


def right_way_up(got: Tensor, wanted: Tensor) -> Tensor:
    """Return a mask turned into its opposite where that is nearer to `wanted`."""
    if got.dtype != torch.bool or wanted.dtype != torch.bool:
        return got
    return ~got if 2 * int((got != wanted).sum()) > got.numel() else got


def first_telling(places: Sequence[int], records: Sequence[Record], others: set[Any]) -> int | None:
    """Return the first place that tells something: not a draw, nor a table of ones.

    Args:
        places: from `unexplained`.
        records: that they are places in.
        others: shapes of the other side's unexplained booleans: a mask is compared with a mask.
    """
    for place in places:
        record = records[place]
        mask = record.value.dtype == torch.bool and tuple(record.value.shape) in others
        if (record.value.is_floating_point() or mask) and record.name not in _MADE:
            return place
    return places[0] if places else None


def difference(got: Tensor, wanted: Tensor) -> Tensor:
    """Return the distance of each value, float64; minus infinity and -1e9 are equal here."""
    a, b = _plain(got), _plain(wanted)
    gap = torch.where(a == b, torch.zeros_like(a), (a - b).abs())
    gap = torch.where(a.isnan() & b.isnan(), torch.zeros_like(gap), gap)
    return torch.nan_to_num(gap, nan=torch.inf)


def share_of_largest(got: Tensor, wanted: Tensor, least: float = 1e-3) -> float:
    """Return the largest difference as a share of the largest finite value of `wanted`.

    Args:
        got: one tensor.
        wanted: another of its shape.
        least: what the largest value counts as at least.
    """
    if wanted.numel() == 0:
        return 0.0
    values = _plain(wanted).abs()
    values = values[values.isfinite() & (values < -_HIDDEN)]
    largest = float(values.max()) if values.numel() else 0.0
    return float(difference(got, wanted).max()) / max(largest, least)


def close(got: Tensor, wanted: Tensor, tolerance: float = CLOSE) -> bool:
    """Return whether two tensors of one shape are equal, up to rounding."""
    return share_of_largest(got, wanted) <= tolerance


def _plain(tensor: Tensor) -> Tensor:
    plain = tensor.detach().to(torch.float64)
    return torch.where(plain < _HIDDEN, torch.full_like(plain, _HIDDEN), plain)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _tensors(inner)
    elif isinstance(value, tuple | list):
        for inner in value:
            yield from _tensors(inner)


def _name(func: Callable[..., Any]) -> str:
    """Return an operation's name: `matmul`, `T` for the attribute, `getitem` for brackets."""
    words = (resolve_name(func) or getattr(func, "__name__", "an operation")).split(".")
    last = words[-2] if words[-1] == "__get__" else words[-1]
    return last.strip("_") if last.startswith("__") else last
