"""However a run ends, nothing of its hooks is left behind."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any, NoReturn

import pytest
from tests.hooks.helpers import batch, labelled, small_model, with_hooks
from tests.training.helpers import tiny_config, trainer
from torch import Tensor, nn

from tiny_transformer.hooks.base import Event, ForwardHook, Hook, Observer, UpdateHook
from tiny_transformer.hooks.runner import HookRunner
from tiny_transformer.runtime.errors import DivergedError, HookError, StorageError
from tiny_transformer.training.interrupts import InterruptedRunError
from tiny_transformer.training.state import Gradients
from tiny_transformer.training.trainer import Trainer

pytestmark = pytest.mark.requirement("hooks.no-outliving")


def torch_hooks_on(model: nn.Module) -> int:
    """Return how many hooks of PyTorch's are on the modules and parameters of a model."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    on_modules = sum(len(getattr(m, kind)) for m in model.modules() for kind in kinds)
    return on_modules + sum(bool(p._backward_hooks) for p in model.parameters())


class Closes:
    """Counts how often it was closed."""

    closed = 0

    def close(self) -> None:
        self.closed += 1


class Changes(Closes, UpdateHook):
    pass


class Looks(Closes, ForwardHook):
    every = 1
    sites = ("block", "attention", "attention_weights", "mlp_hidden")

    def observe(self, site: Any, output: Tensor, probe: Any) -> None: ...


class Watches(Closes, Observer):
    every = 1

    def on_step_end(self, event: Event) -> None: ...


class Raises(Watches):
    def on_step_end(self, event: Event) -> None:
        raise ArithmeticError


class Interrupts(Watches):
    def __init__(self, times: int) -> None:
        self.times = times

    def on_step_end(self, event: Event) -> None:
        for _ in range(self.times):
            signal.raise_signal(signal.SIGINT)


def diverge(run: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = Gradients(float("nan"), float("nan"))
    monkeypatch.setattr(run.state, "compute_gradients", lambda: nothing)


def fill_the_disk(run: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> NoReturn:
        raise StorageError("The disk is full.")

    monkeypatch.setattr(run.state, "save", full)


def nothing(run: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the run be."""


ENDS = pytest.mark.parametrize(
    ("cause", "prepare", "error"),
    [
        (Watches, nothing, None),
        (Raises, nothing, HookError),
        (lambda: Interrupts(1), nothing, InterruptedRunError),
        (lambda: Interrupts(2), nothing, KeyboardInterrupt),
        (Watches, diverge, DivergedError),
        (Watches, fill_the_disk, StorageError),
    ],
    ids=["end", "HookError", "Ctrl-C", "Ctrl-C twice", "DivergedError", "StorageError"],
)


@ENDS
@pytest.mark.parametrize("failing_close", [False, True], ids=["", "a close fails"])
def test_every_hook_is_closed_once_and_leaves_nothing_on_the_model(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cause: Any,
    prepare: Any,
    error: type[BaseException] | None,
    failing_close: bool,
) -> None:
    class ClosesBadly(Watches):
        def close(self) -> None:
            super().close()
            if failing_close:
                raise ArithmeticError("close")

    hooks: list[Any] = [Changes(), ClosesBadly(), Looks(), cause()]
    run = with_hooks(trainer(tiny_config(tmp_path)), *hooks)
    prepare(run, monkeypatch)
    if error is not None or failing_close:
        with pytest.raises(error or HookError) as caught:
            run.train()
        # The first cause is told, not what came of it.
        assert ("ClosesBadly" in str(caught.value)) == (error is None)
    else:
        run.train()
    assert [hook.closed for hook in hooks] == [1, 1, 1, 1]
    assert torch_hooks_on(run.model) == 0
    assert all(module.training for module in run.model.modules()) or prepare is diverge


def test_a_forward_hook_that_fails_at_any_look_leaves_nothing_on_the_model() -> None:
    class FailsAt(Looks):
        looks = 0

        def __init__(self, number: int) -> None:
            self.number = number

        def observe(self, site: Any, output: Tensor, probe: Any) -> None:
            self.looks += 1
            assert torch_hooks_on(model) > 0
            if self.looks == self.number:
                raise ArithmeticError(site.name)

    model = small_model().train()
    model.get_submodule("blocks.1.mlp").eval()
    modes = [module.training for module in model.modules()]
    n_looks = 8  # two layers, four sites
    for number in range(1, n_looks + 2):
        hook = FailsAt(number)
        runner = HookRunner(labelled(Looks(), hook), model, seed=0)
        if number <= n_looks:
            place = r"ArithmeticError: blocks\.\d\S* \(.*test_no_hook_outlives\.py, line \d+\)"
            with pytest.raises(HookError, match=f"The hook FailsAt failed: {place}"):
                runner.before_forward(1, *batch())
        else:
            runner.before_forward(1, *batch())
        assert torch_hooks_on(model) == 0
        assert [module.training for module in model.modules()] == modes


def test_hooks_are_closed_the_last_first_also_where_one_fails() -> None:
    order: list[str] = []

    class Named(Hook):
        def __init__(self, name: str) -> None:
            self.label = name

        def close(self) -> None:
            order.append(self.label)
            if self.label == "b":
                raise ArithmeticError

    runner = HookRunner([Named(name) for name in "abc"], small_model(), seed=0)
    with pytest.raises(HookError, match="The hook b failed: ArithmeticError"):
        runner.close()
    assert order == ["c", "b", "a"]
    runner.close()
    assert order == ["c", "b", "a"]
