"""What must hold of a run's folder, whatever happened to the process that wrote it."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from tests.faults.scenarios import Scenario, run_in

from tiny_transformer.runtime.errors import CheckpointError
from tiny_transformer.tracking.run_folder import RunFolder, step_of
from tiny_transformer.tracking.run_log import check_chain, read_log
from tiny_transformer.training.checkpoint import load_checkpoint

_TOKEN = re.compile(r"\.[0-9a-f]{8}\.(tmp|old|gone)|superseded-[-0-9a-f]+")
_read: dict[str, tuple[int, str]] = {}  # what a folder's bytes were found to hold

State = dict[str, bytes | None]


def snapshot(root: Path) -> State:
    """Return every path below `root` with its bytes, None for a folder."""
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else None
        for path in sorted(root.rglob("*"))
        if path.name != ".lock"
    }


def materialise(state: State, root: Path) -> None:
    """Write what `snapshot` returned."""
    root.mkdir(parents=True)
    for name, content in sorted(state.items()):
        if content is None:
            (root / name).mkdir()
        else:
            (root / name).write_bytes(content)


def key_of(state: State) -> str:
    """Return a hash of a state in which random parts of names count as equal."""
    digest = hashlib.sha256()
    for name, content in sorted((_TOKEN.sub(r"#\1", name), c) for name, c in state.items()):
        digest.update(f"{name} {content is None} {len(content or b'')}\n".encode())
        digest.update(content or b"")
    return digest.hexdigest()


def content_of(checkpoint: Path) -> tuple[int, str]:
    """Load a checkpoint, as whole as it must be; return its content and the log's chain."""
    key = key_of(snapshot(checkpoint)) + str(step_of(checkpoint))
    if key not in _read:
        loaded = load_checkpoint(checkpoint)
        content = loaded.metadata["content"]
        assert loaded.step == step_of(checkpoint)
        assert all(bool((tensor == content).all()) for tensor in loaded.weights.values())
        _read[key] = content, loaded.metadata["log_chain"]
    return _read[key]


def check_promises(scenario: Scenario, root: Path, *, saved: bool) -> None:
    """Check what holds at every moment.

    Args:
        scenario: what was going on.
        root: where.
        saved: whether the scenario had been told that its work is safe.
    """
    run = run_in(root)
    listed = {step_of(path): content_of(path) for path in run.checkpoints()}
    for step, (content, _) in listed.items():
        assert content in scenario.allowed[step], f"step {step} holds {content}"
    if listed:
        latest, _ = content_of(run.latest_checkpoint())
        content_of(run.best_checkpoint())
        assert latest == listed[max(listed)][0]
        assert latest in scenario.latest or latest == scenario.done[max(scenario.done)]
        if saved:
            assert latest == scenario.done[max(scenario.done)]
    else:
        assert not scenario.latest, "no checkpoint is left"
        assert not saved, "what was saved is gone"
    aside = list(run.path.glob("checkpoints/superseded-*/*"))
    found = {content_of(path)[0] for path in aside} | {content for content, _ in listed.values()}
    assert found >= scenario.aside, "what was set aside is gone"
    _check_log(run, {chain for _, chain in listed.values()})


def _check_log(run: RunFolder, remembered: set[str]) -> None:
    if not run.log.exists():
        assert not remembered, "the log is gone"
        return
    report = check_chain(run.log)
    assert report.broken is None
    assert remembered <= report.chains, "lines that a checkpoint remembers are gone"
    read_log(run.log)


def check_restart(scenario: Scenario, root: Path) -> None:
    """Start again where it was stopped; all must be as if nothing had happened."""
    run = run_in(root)
    if run.path.exists():
        run.recover()
    scenario.act(run, lambda name: None)
    check_done(scenario, root)


def check_done(scenario: Scenario, root: Path) -> None:
    """Check that the scenario's work is done, and that nothing else is there."""
    run = run_in(root)
    assert {step_of(p): content_of(p)[0] for p in run.checkpoints()} == scenario.done
    assert {p.name for p in run.checkpoints()} == {f"step-{s:08d}" for s in scenario.done}
    aside = [content_of(path)[0] for path in run.path.glob("checkpoints/superseded-*/*")]
    assert sorted(aside) == sorted(scenario.aside)
    assert not any(not list(path.iterdir()) for path in run.path.glob("checkpoints/*"))
    left = [path for path in run.path.rglob("*") if path.name.startswith(".")]
    assert [path for path in left if path.name != ".lock"] == []
    assert {path.name for path in run.path.iterdir()} <= {"checkpoints", "log.jsonl", ".lock"}
    _check_log(run, set())


def refuses(root: Path) -> str:
    """Return the message with which a run without a checkpoint is refused."""
    try:
        run_in(root).latest_checkpoint()
    except CheckpointError as error:
        return str(error)
    return ""
