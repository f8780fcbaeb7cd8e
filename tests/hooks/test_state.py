"""What a hook remembers is in the checkpoint, and comes back bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.hooks.helpers import labelled, outcome, small_model, trained_with, with_hooks
from tests.training.helpers import log_of, resumed, tiny_config, train, trainer
from torch import Tensor

from tiny_transformer.hooks.base import Event, Gradient, Observer, UpdateHook
from tiny_transformer.hooks.runner import HookRunner
from tiny_transformer.runtime.errors import CheckpointError, HookError
from tiny_transformer.tracking.run_folder import RunFolder
from tiny_transformer.training.checkpoint import load_checkpoint

pytestmark = pytest.mark.requirement("hooks.state")

STEPS = 6
REMEMBERS = '''
import torch
from tiny_transformer import Observer, UpdateHook

class Momentum(UpdateHook):
    """Skips each third update of a parameter, and passes on running means otherwise."""

    def __init__(self):
        self.seen, self.means = {}, {}

    def transform(self, gradient, at):
        self.seen[at.name] = self.seen.get(at.name, 0) + 1
        if self.seen[at.name] % 3 == 0:
            return torch.zeros_like(gradient)
        mean = self.means.get(at.name, gradient)
        self.means[at.name] = mean.lerp(gradient, 0.3)
        return self.means[at.name]

    def state_dict(self):
        return {"seen": self.seen, **self.means}

    def load_state_dict(self, state):
        self.seen = state.pop("seen")
        self.means = state

class Lowest(Observer):
    every = 1
    losses = None

    def on_step_end(self, event):
        self.losses = [*(self.losses or []), event.metrics["loss"]]
        return {"lowest": min(self.losses)}

    def state_dict(self):
        return {"losses": self.losses, "infinity": float("inf")}

    def load_state_dict(self, state):
        assert state["infinity"] == float("inf")
        self.losses = state["losses"]
'''


def remembering(tmp_path: Path) -> dict[str, Any]:
    file = tmp_path / "my_hooks.py"
    file.write_text(REMEMBERS)
    names = ("Momentum", "Lowest", "Momentum")
    return {"hooks": [{"name": f"{file}:{name}"} for name in names], "training__max_steps": STEPS}


def remembered(folder: RunFolder) -> tuple[Any, ...]:
    checkpoint = load_checkpoint(folder.latest_checkpoint())
    tensors = {key: tensor.tolist() for key, tensor in checkpoint.hook_state.items()}
    assert tensors
    lowest = [line["metrics"] for line in log_of(folder, "hook")]
    assert len(lowest) == STEPS
    return tensors, checkpoint.metadata["hooks"], lowest


def test_a_run_stopped_at_any_step_goes_on_with_what_its_hooks_remember(tmp_path: Path) -> None:
    changes = remembering(tmp_path)
    whole, result = train(tmp_path, **changes)
    expected = outcome(whole)
    without = outcome(train(tmp_path, training__max_steps=STEPS)[0])
    assert expected["weights"] != without["weights"]
    for stop in range(1, STEPS):
        _, stopped = train(tmp_path, training__stop_at=stop, **changes)
        again = resumed(stopped.folder.path)
        again.train()
        found = outcome(again)
        for key in ("weights", "optimizer", "losses"):
            assert found[key] == expected[key], (stop, key)
        assert remembered(stopped.folder) == remembered(result.folder)


class Holds(UpdateHook):
    """Has the state that it is given."""

    def __init__(self, state: Any) -> None:
        self.state = state

    def state_dict(self) -> Any:
        return self.state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state = state


def through_a_checkpoint(tmp_path: Path, state: Any) -> dict[str, Any]:
    """Save a run with a state, and return what another hook is given back."""
    trained = trained_with(tmp_path, Holds(state))
    assert trained._folder is not None
    checkpoint = load_checkpoint(trained._folder.latest_checkpoint())
    hook = Holds({})
    runner = HookRunner(labelled(hook), trained.model, seed=0)
    runner.load_state(checkpoint.hook_state, checkpoint.metadata["hooks"])
    return hook.state


def test_tensors_and_json_values_come_back_as_they_were(tmp_path: Path) -> None:
    whole = torch.arange(12.0).view(3, 4)
    tensors = {
        "whole": whole,
        "same": whole,  # memory that is shared
        "row": whole[1],
        "columns": whole.t(),
        "a/b": torch.tensor(2.5, dtype=torch.bfloat16),
        "none": torch.empty(0),
        "bits": torch.get_rng_state(),
        "nan": torch.tensor([float("nan"), -0.0, 1e-45]),
    }
    plain = {"n": 3, "x": 0.1, "text": "caf\u00e9 \n", "no": None, "yes": True, "deep": {"a": [1]}}
    found = through_a_checkpoint(tmp_path, {**tensors, **plain})
    assert found.keys() == tensors.keys() | plain.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].shape == tensor.shape
        flat = tensor.contiguous().view(-1)
        assert found[name].view(-1).view(torch.uint8).equal(flat.view(torch.uint8))
    assert {name: found[name] for name in plain} == plain
    assert type(found["n"]) is int


ODD = [(1, 2), {1: "one"}, {"deep": [{"a": {1, 2}}]}, [torch.ones(1)], 1j, Path("x"), b"x"]


@pytest.mark.parametrize("value", ODD, ids=str)
def test_a_state_that_would_not_come_back_as_it_is_is_an_error_that_names_the_hook(
    value: Any,
) -> None:
    runner = HookRunner(labelled(Holds({"odd": value})), small_model(), seed=0)
    with pytest.raises(HookError, match="The hook Holds keeps 'odd' in its state, a"):
        runner.state()


def test_a_run_whose_hook_has_such_a_state_ends_with_the_message(tmp_path: Path) -> None:
    with pytest.raises(HookError, match="The hook Holds keeps 'odd' in its state, a set"):
        trained_with(tmp_path, Holds({"odd": {1}}))


@pytest.mark.parametrize("state", [None, [1], {1: 2}], ids=str)
def test_a_state_that_is_no_dictionary_is_an_error_that_names_the_hook(state: Any) -> None:
    with pytest.raises(HookError, match="The hook Holds has a state that is no dictionary"):
        HookRunner(labelled(Holds(state)), small_model(), seed=0).state()


def test_the_state_of_other_hooks_is_refused() -> None:
    model = small_model()
    tensors, rest = HookRunner(labelled(Holds({"a": 1})), model, seed=0).state()
    other = HookRunner([], model, seed=0)
    with pytest.raises(CheckpointError, match=r"state of the hooks \['Holds'\]; .* has \[\]"):
        other.load_state(tensors, rest)


def test_what_a_hook_does_to_a_state_it_was_given_leaves_the_checkpoint_alone() -> None:
    model = small_model()
    runner = HookRunner(labelled(Holds({"a": [1], "t": torch.zeros(2)})), model, seed=0)
    tensors, rest = runner.state()
    hook = Holds({})
    again = HookRunner(labelled(hook), model, seed=0)
    again.load_state(tensors, rest)
    hook.state["a"].append(2)
    hook.state["t"].fill_(3)
    assert rest[0]["state"] == {"a": [1]}
    assert tensors["0/t"].tolist() == [0, 0]
    again.load_state(*runner.state())
    assert hook.state["a"] == [1]


def test_an_error_while_state_is_kept_or_taken_back_names_the_hook_and_the_line(
    tmp_path: Path,
) -> None:
    class Fails(Observer):
        def state_dict(self) -> dict[str, Any]:
            raise ArithmeticError("kept")

        def load_state_dict(self, state: dict[str, Any]) -> None:
            raise ArithmeticError("taken")

    place = r"\(.*test_state\.py, line \d+\)"
    with pytest.raises(HookError, match=f"The hook Fails failed: ArithmeticError: kept {place}"):
        trained_with(tmp_path, Fails())
    runner = HookRunner(labelled(Fails()), small_model(), seed=0)
    with pytest.raises(HookError, match=f"The hook Fails failed: ArithmeticError: taken {place}"):
        runner.load_state({}, [{"label": "Fails", "state": {}, "off_cpu": []}])


def test_a_hook_without_state_resumes_as_well(tmp_path: Path) -> None:
    class Counts(UpdateHook):
        def transform(self, gradient: Tensor, at: Gradient) -> Tensor:
            return gradient * (1 + at.step % 2)

    whole = trained_with(tmp_path / "whole", Counts())
    stopped = trained_with(tmp_path / "part", Counts(), training__stop_at=3)
    assert stopped._folder is not None
    config = tiny_config(tmp_path)
    again = with_hooks(trainer(config), Counts())
    again.state.load(load_checkpoint(stopped._folder.latest_checkpoint()))
    again.train()
    assert outcome(again)["weights"] == outcome(whole)["weights"]


def test_events_are_told_again_after_a_resume_from_the_step_on(tmp_path: Path) -> None:
    file = tmp_path / "my_hooks.py"
    file.write_text(
        "from tiny_transformer import Observer\n"
        "class Starts(Observer):\n"
        "    def on_start(self, event):\n        return {'step': event.step}\n"
    )
    _, result = train(tmp_path, hooks=[{"name": f"{file}:Starts"}], training__stop_at=4)
    resumed(result.folder.path).train()
    assert [line["metrics"] for line in log_of(result.folder, "hook")] == [{"step": 0}, {"step": 4}]
    assert Event(3).weights == {}
