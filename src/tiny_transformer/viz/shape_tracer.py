"""The shapes along a forward pass: a line for each part of a model that is called.

    with ShapeTracer(model):
        model(ids)

prints this at the end of the block:

    Transformer                             (2, 5) int64 -> (2, 5, 99)
      embeddings        Embeddings          (2, 5) int64, 0 -> (2, 5, 32)
        token           TokenEmbedding      (2, 5) int64 -> (2, 5, 32)
        ...

and, where the forward pass raises, how far it came. It watches by hooks, which change nothing
and are removed with the block.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

_DEEPEST = 6  # lists in lists that are looked into
_LONGEST = 24  # characters of a text among the arguments


@dataclass(frozen=True)
class Seen:
    """What is kept of a tensor.

    Attributes:
        shape: its sizes.
        dtype: its type of number.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype

    def __str__(self) -> str:
        inside = ", ".join(map(str, self.shape)) + ("," if len(self.shape) == 1 else "")
        dtype = "" if self.dtype == torch.float32 else f" {self.dtype}".replace("torch.", "")
        return f"({inside}){dtype}"


@dataclass
class Row:
    """One call of one module.

    Attributes:
        depth: how many calls it is inside of.
        name: the module's, from the model down, for instance `blocks.0.attention`; `""` is the
            model itself. A module that has several names has them all, joined by ` = `.
        kind: its class.
        inputs: its arguments, by position (`"0"`) and then by name. Tensors are `Seen`; lists,
            tuples and dicts hold such; numbers and short texts are themselves; anything else is
            its class.
        outputs: what it returned, in the same form; None where it did not return.
        n_parameters: numbers in its parameters and its submodules', shared ones once.
        raised: the exception that left it, if one did.
        finished: whether it returned or raised.
    """

    depth: int
    name: str
    kind: str
    inputs: dict[str, Any]
    outputs: Any = None
    n_parameters: int = 0
    raised: Exception | None = None
    finished: bool = False

    @property
    def input_shapes(self) -> list[tuple[int, ...]]:
        """The shapes of all tensors among its arguments."""
        return [seen.shape for seen in _tensors(self.inputs)]

    @property
    def output_shapes(self) -> list[tuple[int, ...]]:
        """The shapes of all tensors that it returned."""
        return [seen.shape for seen in _tensors(self.outputs)]

    def __str__(self) -> str:
        """Return `(2, 5) int64 -> (2, 5, 99)`."""
        inputs = [
            _text(value) if name.isdecimal() else f"{name}={_text(value)}"
            for name, value in self.inputs.items()
        ]
        if self.raised is not None:
            outputs = f"raised {type(self.raised).__name__}"
        elif not self.finished:
            outputs = "..."
        elif isinstance(self.outputs, tuple) and self.outputs:
            outputs = ", ".join(map(_text, self.outputs))
        else:
            outputs = _text(self.outputs)
        return f"{', '.join(inputs) or 'nothing'} -> {outputs}"


@dataclass
class ShapeTracer:
    """Records every call of a model's modules inside a `with` block, and prints it at the end.

    Each call is a row, in the order in which the calls begin; a module that is called twice
    has two. What a forward pass computes between modules has no row.

    Args:
        model: any module; those inside it are watched too.
        show: print the table at the end of the block, also when an exception ends it.
        depth: the deepest level that is printed, 0 being the model alone; None prints all.
        parameters: also print how many parameters each module has.

    Attributes:
        rows: the calls, of the block in progress or of the last one.
        failed: the innermost call that the last exception left; None where none did.
    """

    model: nn.Module
    show: bool = True
    depth: int | None = None
    parameters: bool = False
    rows: list[Row] = field(default_factory=list, init=False)
    failed: Row | None = field(default=None, init=False)
    _stack: list[tuple[Row, BaseException | None]] = field(default_factory=list, init=False)
    _handles: list[Any] = field(default_factory=list, init=False)
    _called: set[nn.Module] = field(default_factory=set, init=False)

    def __enter__(self) -> ShapeTracer:
        if self._handles:
            raise RuntimeError("This ShapeTracer is at work already; make another one.")
        self.rows, self.failed, self._stack, self._called = [], None, [], set()
        names: dict[nn.Module, list[str]] = {}
        for name, module in self.model.named_modules(remove_duplicate=False):
            names.setdefault(module, []).append(name)
        for module, known in names.items():
            begins, ends = self._hooks(" = ".join(known), _count_parameters(module))
            self._handles += [
                module.register_forward_pre_hook(begins, with_kwargs=True),
                module.register_forward_hook(ends, with_kwargs=True, always_call=True),
            ]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        if self.show:
            print(self)

    def _hooks(self, name: str, n_parameters: int) -> tuple[Callable[..., None], ...]:
        """Return what runs before and after each call of one module."""

        def begins(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given = {**{str(i): value for i, value in enumerate(args)}, **kwargs}
            inputs = {key: _keep(value) for key, value in given.items()}
            kind = type(module).__name__
            row = Row(len(self._stack), name, kind, inputs, n_parameters=n_parameters)
            self.rows.append(row)
            self._called.add(module)
            self._stack.append((row, sys.exception()))

        def ends(module: nn.Module, args: object, kwargs: object, output: Any) -> None:
            row, handled = self._stack.pop()
            row.finished = True
            error = sys.exception()  # PyTorch calls this also while an exception leaves the module
            if error is handled or not isinstance(error, Exception):
                row.outputs = _keep(output)
                return
            row.raised = error
            if self.failed is None or self.failed.raised is not error:
                self.failed = row

        return begins, ends

    @property
    def never_called(self) -> list[str]:
        """Names of the modules that have parameters of their own and were not called."""
        return [
            name
            for name, module in self.model.named_modules()
            if module not in self._called
            and next(module.parameters(recurse=False), None) is not None
        ]

    def table(self, depth: int | None = None, *, parameters: bool = False) -> str:
        """Return the trace as text: a line a call, and what is to be said of the whole.

        Args:
            depth: the deepest level to show, 0 being the model alone; None shows all.
            parameters: also show how many parameters each module has.
        """
        lines = [
            ["  " * row.depth + name, kind, f"{row.n_parameters:,}" if parameters else "", str(row)]
            for row, name, kind in self._labelled()
            if depth is None or row.depth <= depth
        ]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = [
            f"{name:<{widths[0]}}  {kind:<{widths[1]}}  "
            + (f"{count:>{widths[2]}}  " if parameters else "")
            + shapes
            for name, kind, count, shapes in lines
        ]
        return "\n".join([*text, *self._remarks()])

    def __str__(self) -> str:
        return self.table(self.depth, parameters=self.parameters)

    def _labelled(self) -> Iterator[tuple[Row, str, str]]:
        """Yield each row with the name and the kind to print: names as seen from the caller."""
        callers: list[str] = []
        for row in self.rows:
            del callers[row.depth :]
            if row.name:
                inside = f"{callers[-1]}." if callers and callers[-1] else ""
                yield row, row.name.removeprefix(inside), row.kind
            else:
                yield row, row.kind, ""
            callers.append(row.name.split(" = ")[0])

    def _remarks(self) -> Iterator[str]:
        """Yield what is to be said below the table."""
        if not self.rows:
            yield "No module was called in this block."
            return
        if self.failed is not None:
            error = self.failed.raised
            yield f"\nIt came as far as {_title(self.failed)}, which raised"
            yield f"{type(error).__name__}: {error}"
            returned = [row for row in self.rows if row.finished and row.raised is None]
            if returned:
                yield f"The last part to return was {_title(returned[-1])}: {returned[-1]}"
        elif self.never_called:
            yield f"\nNever called: {', '.join(self.never_called)}"


def _title(row: Row) -> str:
    return row.name or row.kind


def _count_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _keep(value: Any, level: int = 0) -> Any:
    """Return a value with `Seen` for its tensors, and nothing that would keep them alive."""
    if isinstance(value, Tensor):
        return Seen(tuple(value.shape), value.dtype)
    if isinstance(value, (type(None), bool, int, float)):
        return value
    if isinstance(value, str) and len(value) <= _LONGEST:
        return value
    if level < _DEEPEST and isinstance(value, Mapping):
        return {str(key): _keep(item, level + 1) for key, item in value.items()}
    if level < _DEEPEST and isinstance(value, (list, tuple)):
        kept = [_keep(item, level + 1) for item in value]
        return kept if isinstance(value, list) else tuple(kept)
    return type(value)


def _tensors(value: Any) -> Iterator[Seen]:
    """Yield the tensors in what `_keep` returned."""
    if isinstance(value, Seen):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)


def _text(value: Any) -> str:
    if isinstance(value, Seen):
        return str(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_text(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_text, value))}]"
    return value.__name__ if isinstance(value, type) else repr(value)
