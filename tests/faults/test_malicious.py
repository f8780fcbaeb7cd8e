"""A checkpoint from a stranger is refused quickly, in little memory, and executes nothing.

Its maker knows the format: sizes, hashes and the seal are right.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.faults.scenarios import run_in, save
from tests.faults.server import ForkServer

from tiny_transformer.training.checkpoint_files import seal

Count = Callable[[str, int], None]
TENSORS = ("model", "optimizer", "generators", "hooks")
LIMIT = 60.0  # seconds that a refusal may take on a busy machine; most take a hundredth


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    run = run_in(tmp_path)
    save(run, 2, 2, val_loss=0.1)
    return run.checkpoint(2)


def put(checkpoint: Path, name: str, content: bytes) -> None:
    """Replace a file of a checkpoint, and make the metadata agree."""
    (checkpoint / name).unlink(missing_ok=True)
    (checkpoint / name).write_bytes(content)
    facts = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    reseal(checkpoint, lambda m: m["files"].update({name: facts}))


def reseal(checkpoint: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    file = checkpoint / "metadata.json"
    metadata = json.loads(file.read_text())
    change(metadata)
    metadata["sha256"] = seal(metadata)
    file.write_text(json.dumps(metadata))


@pytest.fixture
def refused(server: ForkServer, checkpoint: Path, count: Count) -> Callable[..., str]:
    """Open the checkpoint in a process of its own; return the message of its refusal."""

    def open_it(use: str = "load", error: str = "CheckpointError") -> str:
        began = time.monotonic()
        name, message = server.call("open_stranger", LIMIT, path=str(checkpoint), use=use)
        assert name == error, message
        assert time.monotonic() - began < LIMIT
        assert "\n" not in message.strip() or "YAML" in message  # PyYAML shows the place
        assert len(message) < 5_000
        count("malicious checkpoints refused", 1)
        return message

    return open_it


class Bomb:
    """Touches a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


@pytest.mark.requirement("faults.malicious")
@pytest.mark.parametrize("name", TENSORS)
def test_a_pickle_is_not_unpickled(
    checkpoint: Path, refused: Callable[..., str], tmp_path: Path, name: str
) -> None:
    bomb = pickle.dumps(Bomb(tmp_path / "boom"))
    pickle.loads(bomb)
    (tmp_path / "boom").unlink()  # it would go off
    put(checkpoint, f"{name}.safetensors", bomb)
    assert f"{name}.safetensors" in refused()
    assert not (tmp_path / "boom").exists()


def tensors(header: dict[str, Any], data: bytes = b"", size: int | None = None) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + data


def entry(shape: list[int], start: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


HEADERS = {
    "a header of 2^60 bytes": tensors({}, size=1 << 60),
    "a header of 2^64 - 1 bytes": tensors({}, size=(1 << 64) - 1),
    "a tensor of 2^60 bytes": tensors({"a": entry([1 << 58], 0, 1 << 60)}),
    "overlapping tensors": tensors({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, b"\0" * 12),
    "a hole": tensors({"a": entry([1], 0, 4), "b": entry([1], 8, 12)}, b"\0" * 12),
    "offsets that go back": tensors({"a": entry([1], 4, 0)}, b"\0" * 4),
    "a shape whose product overflows": tensors({"a": entry([1 << 33, 1 << 33], 0, 4)}, b"\0" * 4),
    "a shape whose product wraps to one": tensors({"a": entry([1 << 32] * 2 + [1], 0, 0)}),
    "no elements of a huge shape": tensors({"a": entry([1 << 40, 1 << 40, 0], 0, 0)}),
    "a negative shape": tensors({"a": entry([-1], 0, 4)}, b"\0" * 4),
    "a type that is none": tensors({"a": entry([1], 0, 4, "PICKLE")}, b"\0" * 4),
    "a type of half a byte": tensors({"a": entry([2], 0, 1, "F4")}, b"\0"),
    "a deep header": struct.pack("<Q", 200_000) + b"[" * 200_000,
    "two of a name": struct.pack("<Q", 114)
    + b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
    + b'"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}    '
    + b"\0" * 4,
}


@pytest.mark.requirement("faults.malicious")
@pytest.mark.parametrize("what", HEADERS)
def test_a_header_that_lies_is_refused(
    checkpoint: Path, refused: Callable[..., str], what: str
) -> None:
    put(checkpoint, "model.safetensors", HEADERS[what])
    assert checkpoint.name in refused("build")  # what safetensors takes does not fit the model


@pytest.mark.requirement("faults.malicious")
@pytest.mark.parametrize("name", ["../../outside", "/etc/hostname", "model.safetensors/../x"])
def test_a_path_in_the_metadata_is_refused(
    checkpoint: Path, refused: Callable[..., str], name: str
) -> None:
    reseal(checkpoint, lambda m: m["files"].update({name: {"bytes": 0, "sha256": ""}}))
    assert name in refused()


@pytest.mark.requirement("faults.malicious")
def test_a_link_to_outside_is_refused(
    checkpoint: Path, refused: Callable[..., str], tmp_path: Path
) -> None:
    for name in ("model.safetensors", "config.yaml", "metadata.json"):
        outside = tmp_path / name
        (checkpoint / name).rename(outside)
        (checkpoint / name).symlink_to(outside)
        assert name in refused()
        (checkpoint / name).unlink()
        outside.rename(checkpoint / name)


LAUGHS = "l0: &l0 [lol, lol]\n" + "".join(
    f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]\n" for n in range(1, 12)
)
CONFIGS = {
    "a call": "run_name: !!python/object/apply:os.system ['touch BOOM']",
    "a new object": "hooks: !!python/object/new:subprocess.Popen [['touch', 'BOOM']]",
    "a name": "run_name: !!python/name:os.system",
    "a module": "run_name: !!python/module:antigravity",
    "a billion laughs": LAUGHS,
    "a billion laughs as a value": LAUGHS + "model: *l11\n",
    "a billion laughs as a hook": LAUGHS + "hooks: *l11\n",
    "a circle": "hooks: &a [*a]",
    "a merge of a billion": "m0: &m0 {a: 1}\n"
    + "".join(f"m{n}: &m{n} {{<<: [{', '.join([f'*m{n - 1}'] * 9)}]}}\n" for n in range(1, 9)),
    "brackets": "model: " + "[" * 50_000,
    "a huge number": "training: {max_steps: " + "9" * 4000 + "}",
    "a number of many places": "training: {max_steps: 1" + ":59" * 20_000 + "}",
}


@pytest.mark.requirement("faults.malicious")
@pytest.mark.parametrize("what", CONFIGS)
def test_a_config_that_is_an_attack_is_refused(
    checkpoint: Path, refused: Callable[..., str], tmp_path: Path, what: str
) -> None:
    boom = tmp_path / "boom"
    put(checkpoint, "config.yaml", CONFIGS[what].replace("BOOM", str(boom)).encode())
    assert "config" in refused("build")
    assert not boom.exists()


@pytest.mark.requirement("faults.malicious")
@pytest.mark.parametrize(
    "change",
    [
        {"n_layers": 10**9},
        {"context_length": 10**12},
        {"context_length": 10**12, "position": "rotary"},
        {"context_length": 10**12, "position": "sinusoidal"},
        {"d_model": 10**9},
        {"d_ff": 10**12},
        {"vocab_size": 10**12},
        {"n_heads": 10**9, "d_model": 10**9},
    ],
    ids=str,
)
def test_a_config_that_asks_for_a_huge_model_is_refused(
    checkpoint: Path, refused: Callable[..., str], change: dict[str, Any]
) -> None:
    config = yaml.safe_load((checkpoint / "config.yaml").read_text())
    config["model"].update(change)
    put(checkpoint, "config.yaml", yaml.safe_dump(config).encode())
    assert checkpoint.name in refused("build")


@pytest.mark.requirement("faults.malicious")
def test_a_pipe_that_never_ends_is_refused(checkpoint: Path, refused: Callable[..., str]) -> None:
    put(checkpoint, "model.safetensors", b"")
    (checkpoint / "model.safetensors").unlink()
    os.mkfifo(checkpoint / "model.safetensors")
    assert "model.safetensors" in refused()


def nested(depth: int) -> str:
    return '{"a":' * depth + "1" + "}" * depth


METADATA = {
    **{f"{depth} objects deep": nested(depth) for depth in (500, 900, 990, 1000, 10**5)},
    "16 MB and more": '{"a": "' + "x" * (17 << 20) + '"}',
    "many names": "{" + ", ".join(f'"{n}": {n}' for n in range(300_000)) + "}",
    "a number of many digits": '{"step": ' + "9" * 5000 + "}",
    "no text": "\xff\xfe",
}


@pytest.mark.requirement("faults.malicious")
@pytest.mark.parametrize("what", METADATA)
def test_metadata_that_are_an_attack_are_refused(
    checkpoint: Path, refused: Callable[..., str], what: str
) -> None:
    (checkpoint / "metadata.json").write_text(METADATA[what], encoding="latin-1")
    assert "metadata.json" in refused()


@pytest.mark.requirement("faults.malicious")
def test_metadata_of_any_depth_are_refused(server: ForkServer, checkpoint: Path) -> None:
    file = checkpoint / "metadata.json"
    whole = file.read_text().rstrip().removesuffix("}")
    for depth in range(940, 1010, 3):  # reading and sealing do not give up at the same depth
        file.write_text(f'{whole}, "deep": {nested(depth)}}}')
        name, message = server.call("open_stranger", LIMIT, path=str(checkpoint), use="load")
        assert name == "CheckpointError", (depth, message)


@pytest.mark.requirement("faults.malicious")
@pytest.mark.parametrize("step", ["NaN", "Infinity", "-1", "1e3", "2.0", "true", "[2]", "null"])
def test_a_step_that_is_no_step_is_refused(
    checkpoint: Path, refused: Callable[..., str], step: str
) -> None:
    reseal(checkpoint, lambda m: m.update(step=json.loads(step)))
    assert "metadata.json" in refused()


@pytest.mark.requirement("faults.malicious")
def test_a_huge_step_is_complete(checkpoint: Path, refused: Callable[..., str]) -> None:
    reseal(checkpoint, lambda m: m.update(step=10**400))
    assert checkpoint.name in refused("resume") or "complete" in refused("resume")


@pytest.mark.requirement("faults.malicious")
def test_a_hook_inside_the_run_is_not_executed(
    checkpoint: Path, refused: Callable[..., str], tmp_path: Path
) -> None:
    hook, boom = checkpoint.parents[1] / "hook.py", tmp_path / "boom"
    hook.write_text(f"from pathlib import Path\nPath({str(boom)!r}).touch()\n")
    inside = checkpoint.parent / "hook.py"
    inside.symlink_to(hook)
    for file in (hook, inside, checkpoint / ".." / ".." / "hook.py"):
        config = yaml.safe_load((checkpoint / "config.yaml").read_text())
        config["hooks"] = [{"name": f"{file}:Hook"}]
        put(checkpoint, "config.yaml", yaml.safe_dump(config).encode())
        assert "inside the run's own folder" in refused("resume")
        assert not boom.exists()
