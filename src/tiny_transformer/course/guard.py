"""Notices where learners' code changes PyTorch itself, and puts it back.

A file that says `torch.allclose = ...`, or gives a helper the name of a function by
`from torch import *` and assigns it to the module, would change what the tests compare with.
So would a default dtype that is left changed.
"""

from __future__ import annotations

import builtins
import inspect
import math
import types
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from tiny_transformer.course import diagnosis, expect, picture

_WATCHED: dict[str, types.ModuleType | type] = {
    "torch": torch,
    "torch.Tensor": torch.Tensor,
    "torch.nn": nn,
    "torch.nn.Module": nn.Module,
    "torch.nn.functional": F,
    "math": math,
    "builtins": builtins,
    "tiny_transformer.course.expect": expect,
    "tiny_transformer.course.picture": picture,
    "tiny_transformer.course.diagnosis": diagnosis,
}
_OWN = {"_", "__warningregistry__"}  # what Python itself sets
_GONE = object()


class Guard:
    """Remembers PyTorch, `math` and the built-in names as they are when it is made."""

    def __init__(self) -> None:
        self._names = {
            where: {name: value for name, value in vars(thing).items() if name not in _OWN}
            for where, thing in _WATCHED.items()
        }
        self._inherited = {where: set(dir(thing)) for where, thing in _WATCHED.items()}
        self._settings = _settings()

    def restore(self) -> str:
        """Put back what was changed; return what the first such thing is called, or `""`."""
        changed = [name for name, value in _settings().items() if value != self._settings[name]]
        if changed:
            torch.set_default_dtype(self._settings["default dtype"])
            torch.set_default_device(None)
            torch.set_grad_enabled(self._settings["gradient mode"])
        found = [f"the {name} of PyTorch" for name in changed]
        for where, names in self._names.items():
            thing = _WATCHED[where]
            now = dict(vars(thing))
            for name, value in names.items():
                there = now.get(name, _GONE)
                if there is value:  # nearly always, for thousands of names at every test
                    continue
                if _wrapped_by_pytorch(there, value):
                    names[name] = there
                else:
                    found.append(f"{where}.{name}")
                    setattr(thing, name, value)
            for name in now.keys() - names.keys():
                if isinstance(thing, type) and name in self._inherited[where] - _OWN:
                    found.append(f"{where}.{name}")  # it hides a method of a class below
                    delattr(thing, name)
        return found[0] if found else ""


def _wrapped_by_pytorch(now: Any, before: Any) -> bool:
    """Tell PyTorch's own change: its compiler, imported with optimizers, wraps `manual_seed`."""
    code = getattr(now, "__code__", None)
    return (
        code is not None
        and Path(code.co_filename).is_relative_to(Path(torch.__file__).parent)
        and inspect.unwrap(now) is inspect.unwrap(before)
    )


def _settings() -> dict[str, Any]:
    return {
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "gradient mode": torch.is_grad_enabled(),
    }
