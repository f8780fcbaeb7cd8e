"""Observers see what happens, when it happens, and make no difference."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.hooks.helpers import (
    OBSERVERS,
    give_gradients,
    labelled,
    outcome,
    seed_everything,
    small_model,
    trained_with,
)
from tests.training.helpers import log_of, train
from torch import Tensor

from tiny_transformer.config import SamplingConfig
from tiny_transformer.hooks.base import EVENTS, Event, ForwardHook, Observer
from tiny_transformer.hooks.registry import build_hooks
from tiny_transformer.hooks.runner import HookRunner
from tiny_transformer.runtime.errors import HookError, PromptError, TinyError
from tiny_transformer.sampling.sampler import sample_text
from tiny_transformer.tracking.run_folder import RunFolder
from tiny_transformer.training.weights import named_weights

forward = pytest.mark.requirement("hooks.forward")

BUSY: dict[str, Any] = {
    "model__dropout": 0.1,
    "training__accumulation_steps": 2,
    "training__eval_every": 2,
    "training__sample_every": 3,
    "training__checkpoint_every": 4,
}


WATCHING = [
    {"name": name, "every": 1} | ({"max_new_tokens": 8} if name == "sample_writer" else {})
    for name in OBSERVERS
]


def ends(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    """Return the outcome of a run that began with known generators."""
    seed_everything()
    return outcome(train(tmp_path, **BUSY, **changes)[0])


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the outcome of a run without hooks."""
    return ends(tmp_path_factory.mktemp("plain"))


@pytest.mark.requirement("hooks.observers-harmless")
@pytest.mark.parametrize("hook", WATCHING, ids=OBSERVERS)
def test_each_observer_leaves_the_run_bit_for_bit_as_it_is(
    tmp_path: Path, plain: dict[str, Any], hook: dict[str, Any]
) -> None:
    assert ends(tmp_path, hooks=[hook]) == plain
    (run,) = (tmp_path / "runs").iterdir()
    looked = log_of(RunFolder(run), "hook") or list((run / "samples").glob("*-1.txt"))
    assert len(looked) == 6


@pytest.mark.requirement("hooks.observers-harmless")
@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer__name": "muon"},
        {"training__precision": "bfloat16"},
        {"model__position": "rotary", "model__norm": "rms_norm", "model__tie_weights": False},
    ],
    ids=["muon", "bfloat16", "rotary"],
)
def test_all_observers_together_leave_the_run_bit_for_bit_as_it_is(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    assert ends(tmp_path / "on", hooks=WATCHING, **changes) == ends(tmp_path / "off", **changes)


def draw() -> None:
    """Use every global generator, and leave each in another state."""
    torch.manual_seed(torch.randint(1000, (1,)).item())
    np.random.seed(np.random.randint(1000))
    random.seed(random.random())


class Draws(Observer):
    """Draws random numbers at each event."""

    every = 1


for _event in EVENTS:
    setattr(Draws, _event, lambda self, event: draw())


class DrawsLooking(ForwardHook):
    every = 1

    def observe(self, site: Any, output: Tensor, probe: Any) -> None:
        draw()


@pytest.mark.requirement("hooks.observers-harmless")
def test_an_observer_that_draws_random_numbers_does_no_harm(
    tmp_path: Path, plain: dict[str, Any]
) -> None:
    assert outcome(trained_with(tmp_path, Draws(), DrawsLooking(), **BUSY)) == plain


@pytest.mark.requirement("hooks.observers-harmless")
def test_an_observer_that_spoils_all_that_it_is_given_does_no_harm(
    tmp_path: Path, plain: dict[str, Any]
) -> None:
    class Spoils(Observer):
        every = 1

        def on_gradients(self, event: Event) -> None:
            for name in event.gradients:
                event.gradients[name].data.fill_(0)

        def on_step_end(self, event: Event) -> None:
            for name in event.weights:
                event.weights[name].fill_(0)
            vars(event)["metrics"].clear()

    class Later(Observer):
        every = 1

        def on_step_end(self, event: Event) -> None:
            assert event.metrics["loss"] > 0

    assert outcome(trained_with(tmp_path, Spoils(), Later(), **BUSY)) == plain


@pytest.mark.requirement("hooks.events")
@forward
@pytest.mark.parametrize("detail", ["parameters", "total"])
def test_norms_are_those_that_torch_computes(detail: str) -> None:
    model, found = small_model(), {}
    gradients = give_gradients(model)
    settings = [{"name": f"{of}_norms", "detail": detail} for of in ("gradient", "weight")]
    runner = HookRunner(
        build_hooks(settings),
        model,
        seed=0,
        report=lambda label, _, metrics: found.update({label: metrics}),
    )
    runner.change_gradients(50)
    runner.emit("on_step_end", Event(50))
    for name, tensors in (("gradient_norms", gradients), ("weight_norms", named_weights(model))):
        expected = {"total": torch.nn.utils.get_total_norm(list(tensors.values())).item()}
        if detail == "parameters":
            expected |= {n: torch.linalg.vector_norm(t).item() for n, t in tensors.items()}
        assert found[name] == pytest.approx(expected, rel=1e-5)


class Records(Observer):
    """Remembers each event by its name."""

    every = 2

    def __init__(self) -> None:
        self.seen: dict[str, list[Event]] = {name: [] for name in EVENTS}
        self.order: list[str] = []


def _recording(name: str) -> Any:
    def method(self: Records, event: Event) -> Mapping[str, float]:
        self.seen[name].append(event)
        self.order.append(name)
        return {name: event.step}

    return method


for _event in EVENTS:
    setattr(Records, _event, _recording(_event))


@pytest.mark.requirement("hooks.events")
def test_each_event_is_told_at_its_steps_with_its_fields_and_what_is_returned_is_logged(
    tmp_path: Path,
) -> None:
    hook = Records()
    trained = trained_with(tmp_path, hook, sampling__prompt="To ", **BUSY)
    assert trained._folder is not None
    steps = {name: [event.step for event in told] for name, told in hook.seen.items()}
    assert steps == {
        "on_start": [0],
        "on_gradients": [2, 4, 6],
        "on_step_end": [2, 4, 6],
        "on_evaluation_end": [2, 4, 6],
        "on_sample": [0, 3, 6],
        "on_checkpoint": [4, 6],
        "on_end": [6],
    }
    assert hook.order[:4] == ["on_start", "on_sample", "on_gradients", "on_step_end"]
    assert hook.order[-2:] == ["on_checkpoint", "on_end"]
    folder = RunFolder(trained._folder.path)
    log = log_of(folder)
    of_step = {line["step"]: line for line in log if line["event"] == "train"}
    for event in hook.seen["on_step_end"]:
        assert event.metrics["loss"] == of_step[event.step]["loss"]
        assert {"lr", "grad_norm"} <= event.metrics.keys()
    validation = {line["step"]: line["val_loss"] for line in log if line["event"] == "eval"}
    found = {e.step: e.metrics["val_loss"] for e in hook.seen["on_evaluation_end"]}
    assert found == validation
    texts = [line["prompt"] + line["text"] for line in log if line["event"] == "sample"]
    assert [event.text for event in hook.seen["on_sample"]] == texts
    assert [e.path for e in hook.seen["on_checkpoint"]] == folder.checkpoints()
    names = [name for name, _ in trained.model.named_parameters()]
    for name, told in hook.seen.items():
        for event in told:
            assert list(event.weights) == names
            assert list(event.gradients) == (names if name == "on_gradients" else [])
            assert event.folder == (None if name == "on_gradients" else folder.path)
            assert (event.path is None) == (name != "on_checkpoint")
            assert (event.text == "") == (name != "on_sample")
    logged = [line["metrics"] for line in log if line["event"] == "hook"]
    assert logged == [{n: s} for n, s in _in_order(hook)]


def _in_order(hook: Records) -> list[tuple[str, float]]:
    steps = {name: iter(told) for name, told in hook.seen.items()}
    return [(name, next(steps[name]).step) for name in hook.order]


@pytest.mark.requirement("hooks.events")
def test_a_forward_hook_is_told_of_events_as_well(tmp_path: Path) -> None:
    class Both(DrawsLooking):
        ended = 0

        def on_end(self, event: Event) -> None:
            self.ended += 1

    hook = Both()
    trained_with(tmp_path, hook)
    assert hook.ended == 1


@pytest.mark.requirement("hooks.events")
def test_sample_writer_writes_what_the_model_makes_of_each_prompt(tmp_path: Path) -> None:
    prompts = ["To be", "a"]
    hook = {"name": "sample_writer", "prompts": prompts, "every": 3, "max_new_tokens": 12}
    trained, result = train(tmp_path, hooks=[hook])
    found = sorted(path.name for path in (result.folder.path / "samples").glob("*-?.txt"))
    assert found == [f"step-{step:08d}-{n}.txt" for step in (3, 6) for n in (1, 2)]
    for number, prompt in enumerate(prompts, start=1):
        config = SamplingConfig(prompt=prompt, max_new_tokens=12, temperature=0.8, seed=0)
        text = sample_text(trained.model, trained.data.tokenizer, config)[0]
        path = result.folder.path / "samples" / f"step-00000006-{number}.txt"
        assert path.read_text() == prompt + text


@pytest.mark.requirement("hooks.events")
@pytest.mark.parametrize("name", EVENTS)
def test_an_error_at_any_event_names_the_hook_its_file_and_its_line(
    tmp_path: Path, name: str
) -> None:
    file = tmp_path / "my_hooks.py"
    file.write_text(
        "import json\n"
        "from tiny_transformer import Observer\n"
        "class MyHook(Observer):\n"
        "    every = 1\n"
        f"    def {name}(self, event):\n"
        "        json.loads('{')\n"
    )
    with pytest.raises(HookError) as caught:
        train(tmp_path, hooks=[{"name": f"{file}:MyHook"}])
    message = str(caught.value)
    assert message.startswith(f"The hook {file}:MyHook failed: JSONDecodeError: ")
    assert message.endswith(f"({file}, line 6).")  # its own line, not one of json's


@pytest.mark.requirement("hooks.events")
def test_a_prompt_that_cannot_be_one_names_the_hook(tmp_path: Path) -> None:
    hook = {"name": "sample_writer", "prompts": [""], "every": 1}
    with pytest.raises(PromptError, match=r"The hook sample_writer: The prompt is empty\."):
        train(tmp_path, hooks=[hook])


@pytest.mark.requirement("hooks.observers-harmless")
def test_an_observer_that_changes_a_weight_is_an_error_that_names_it(tmp_path: Path) -> None:
    class Shrinks(Observer):
        every = 1

        def on_step_end(self, event: Event) -> None:
            model: Any = getattr(event.generate, "__self__").model  # noqa: B009
            model.blocks[0].mlp.up_proj.weight.mul_(0.5)

    message = r"The hook Shrinks changed blocks\.0\.mlp\.up_proj\.weight"
    with pytest.raises(HookError, match=message):
        trained_with(tmp_path, Shrinks())


@pytest.mark.requirement("hooks.events")
@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (torch.ones(2), "The hook Returns returned a tensor"),
        (3, "The hook Returns returned 3; observers return a dictionary of names and numbers"),
        ({"a": "b"}, "returned {'a': 'b'}; observers return"),
        ({"a": torch.ones(2)}, "observers return"),
    ],
    ids=["tensor", "number", "text", "many numbers"],
)
def test_what_is_no_metric_is_an_error_that_names_the_hook(returned: Any, message: str) -> None:
    class Returns(Observer):
        def on_end(self, event: Event) -> Any:
            return returned

    with pytest.raises(TinyError, match=message):
        HookRunner(labelled(Returns()), small_model(), seed=0).emit("on_end", Event(1))


@pytest.mark.requirement("hooks.events")
def test_metrics_may_be_scalars_of_torch_and_numpy_and_no_numbers_at_all(tmp_path: Path) -> None:
    class Returns(Observer):
        def on_end(self, event: Event) -> Any:
            return {"a": torch.tensor(1.5), "b": np.float32(2), "c": float("nan"), "d": True}

        def on_start(self, event: Event) -> Any:
            return {}

    trained = trained_with(tmp_path, Returns())
    assert trained._folder is not None
    (line,) = log_of(RunFolder(trained._folder.path), "hook")
    assert line["metrics"] == {"a": 1.5, "b": 2.0, "c": "nan", "d": 1.0}
