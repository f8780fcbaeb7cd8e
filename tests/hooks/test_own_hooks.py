"""A hook of one's own: as the page shows it, and as it may be broken."""

from __future__ import annotations

import ast
import hashlib
import io
import re
import tokenize
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.hooks.helpers import OBSERVERS, UPDATE_HOOKS, outcome
from tests.training.helpers import SMALL, log_of, resumed, train

from tiny_transformer.cli.main import main
from tiny_transformer.hooks.base import ForwardHook, Hook
from tiny_transformer.hooks.registry import HOOKS, build_hooks, switch_hooks
from tiny_transformer.runtime.errors import ConfigError, HookError, TinyError
from tiny_transformer.tracking.run_folder import RunFolder

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "hooks.md"
EXAMPLE = ROOT / "examples" / "my_hooks.py"


@pytest.mark.requirement("hooks.registry")
def test_the_pages_table_has_every_hook_with_its_settings() -> None:
    rows = re.findall(r"^\| `(\w+)` \|([^|]*)\|", PAGE.read_text(encoding="utf-8"), re.M)
    rows = [row for row in rows if not row[0].startswith("on_")]
    assert [name for name, _ in rows] == list(HOOKS)
    for name, cell in rows:
        fields = getattr(HOOKS[name], "__dataclass_fields__", {})
        said = re.findall(r"`(\w+)`", cell)
        assert set(said) - {"parameters"} == set(fields) - {"parameters"}, name


@pytest.mark.requirement("hooks.own")
def test_the_page_shows_the_example_as_it_stands_and_it_has_fifteen_lines_of_code() -> None:
    source = EXAMPLE.read_text(encoding="utf-8")
    assert f"```python\n{source}```\n" in PAGE.read_text(encoding="utf-8")
    tree = ast.parse(source)
    texts = {
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    code = {token.start[0] for token in tokens if token.string.strip()} - texts
    assert len(code) <= 15


@pytest.mark.requirement("hooks.own")
def test_the_example_trains_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples" / "my_hooks.py").write_bytes(EXAMPLE.read_bytes())
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    hook = "examples/my_hooks.py:MyHook strength=0.9"
    assert main(["train", "--hook", hook, "--run-name", "own", *flags]) == 0
    hooks = log_of(RunFolder(tmp_path / "runs" / "own"), "start")[0]["hooks"]
    assert [(h["name"], h["strength"]) for h in hooks] == [("examples/my_hooks.py:MyHook", 0.9)]


@pytest.mark.requirement("hooks.own")
def test_the_example_does_what_it_says(tmp_path: Path) -> None:
    plain = outcome(train(tmp_path / "plain")[0])
    hook = {"name": f"{EXAMPLE}:MyHook"}
    off = outcome(train(tmp_path / "off", hooks=[{**hook, "strength": 0}])[0])
    assert off == plain
    on = outcome(train(tmp_path / "on", hooks=[hook])[0])
    assert on["losses"][:2] == plain["losses"][:2]  # the first update has one gradient to mean
    assert on["losses"][2:] != plain["losses"][2:]


@pytest.mark.requirement("hooks.own")
def test_the_observer_that_the_page_shows_trains(tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    path = tmp_path / "my_hooks.py"
    path.write_text(blocks[1])
    _, result = train(tmp_path, hooks=[{"name": f"{path}:LossJumps", "every": 3}])
    losses = {line["step"]: line["loss"] for line in log_of(result.folder, "train")}
    jumps = [line["metrics"]["jump"] for line in log_of(result.folder, "hook")]
    assert jumps == [0, losses[6] - losses[3]]


@pytest.mark.requirement("hooks.registry")
def test_the_config_and_the_flags_that_the_page_shows_are_read() -> None:
    page = PAGE.read_text(encoding="utf-8")
    (example,) = re.findall(r"^```yaml\n(.*?)^```", page, re.M | re.S)
    hooks = [entry for entry in yaml.safe_load(example)["hooks"] if ":" not in entry["name"]]
    assert len(build_hooks(hooks)) == 2
    flags = re.findall(r"--hook '([^']+)'", page)
    off = re.findall(r"--no-hook (\w+)", page)
    assert [hook.label for hook in build_hooks(switch_hooks(hooks, flags, off))] == [
        "activation_stats",
        "noise",
    ]


FORWARD = "from tiny_transformer import *\nfrom dataclasses import dataclass\n"


@pytest.mark.requirement("hooks.own")
@pytest.mark.parametrize(
    ("source", "kind", "message"),
    [
        ("class MyHook(:\n", HookError, r"SyntaxError: .*\(my_hooks\.py, line 1\)"),
        ("\n\n1 / 0\n", HookError, r"ZeroDivisionError: .*my_hooks\.py, line 3\)"),
        ("import sys\nsys.exit(0)\n", HookError, r"SystemExit: 0 .*my_hooks\.py, line 2\)"),
        ("import no_such_thing\n", HookError, r"ModuleNotFoundError: .*my_hooks\.py, line 1\)"),
        ("x = 1\n", ConfigError, "no class 'MyHook'. It has no class made from UpdateHook, "),
        ("class MyHok(UpdateHook): ...\n", ConfigError, "no class 'MyHook'. Did you mean 'MyHok'"),
        ("MyHook = UpdateHook\n", ConfigError, "no class 'MyHook'"),
        ("class MyHook: ...\n", ConfigError, "MyHook must be made from one of UpdateHook, Fo"),
        (
            "class MyHook(UpdateHook, Observer): ...\n",
            ConfigError,
            "MyHook must be made from one of",
        ),
        ("class MyHook(ForwardHook): ...\n", ConfigError, "MyHook has no method 'observe'"),
        (
            "class MyHook(Observer):\n    def on_step_ends(self, event): ...\n",
            ConfigError,
            "'on_step_ends' is not an event. Did you mean 'on_step_end'",
        ),
        (
            "@dataclass\nclass MyHook(UpdateHook):\n    much: float\n",
            ConfigError,
            "needs a value for 'much'",
        ),
        (
            "class MyHook(UpdateHook):\n    def __init__(self, much): ...\n",
            ConfigError,
            "needs a value for 'much'",
        ),
        (
            "class MyHook(UpdateHook):\n    def __init__(self):\n        {}['a']\n",
            HookError,
            r"KeyError: 'a' \(.*my_hooks\.py, line 5\)",
        ),
        (
            "@dataclass\nclass MyHook(UpdateHook):\n    def __post_init__(self):\n        {}[1]\n",
            HookError,
            r"KeyError: 1 \(.*my_hooks\.py, line 6\)",
        ),
        (
            "class MyHook(Observer):\n    every = 0\n",
            ConfigError,
            "every is 0; it must be a whole number from 1",
        ),
        ("class MyHook(UpdateHook):\n    parameters = 'lm_head'\n", ConfigError, "a list of names"),
    ],
)
def test_a_broken_file_is_a_message_with_file_and_class(
    tmp_path: Path, source: str, kind: type[TinyError], message: str
) -> None:
    path = tmp_path / "my_hooks.py"
    head = FORWARD if "MyHo" in source and "(:" not in source else ""
    path.write_text(head + source)
    with pytest.raises(kind, match=message) as caught:
        build_hooks([{"name": f"{path}:MyHook"}])
    assert type(caught.value) is kind
    assert f"The hook {path}:MyHook" in str(caught.value)


@pytest.mark.requirement("hooks.own")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "missing.py:MyHook",
            r"missing\.py:MyHook: there is no file.*count from the current folder",
        ),
        ("notes.txt:MyHook", r"notes\.txt:MyHook: .*ends in \.py"),
    ],
)
def test_a_file_that_is_not_there_or_no_python_is_refused(
    tmp_path: Path, name: str, message: str
) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ConfigError, match=message):
        build_hooks([{"name": str(tmp_path / name)}])


@pytest.mark.requirement("hooks.own")
def test_a_file_that_was_changed_a_moment_ago_is_run_as_it_is_now(tmp_path: Path) -> None:
    path = tmp_path / "my_hooks.py"
    for number in range(3):  # within one second, and of one length
        path.write_text(f"{FORWARD}class MyHook(UpdateHook):\n    number = {number}\n")
        (hook,) = build_hooks([{"name": f"{path}:MyHook"}])
        assert vars(type(hook))["number"] == number
    assert [file.name for file in tmp_path.iterdir()] == ["my_hooks.py"]


@pytest.mark.requirement("hooks.own")
@pytest.mark.parametrize("decorator", ["@dataclass", "@dataclass(frozen=True)", ""])
def test_settings_of_ones_own_come_with_the_common_ones(tmp_path: Path, decorator: str) -> None:
    path = tmp_path / "my_hooks.py"
    init = "" if decorator else "    def __init__(self, much: float = 1.0): self.much = much\n"
    source = f"{FORWARD}{decorator}\nclass MyHook(UpdateHook):\n    much: float = 1.0\n{init}"
    path.write_text(source)
    entry = {"name": f"{path}:MyHook", "much": 2.0, "parameters": ["*.bias"], "from_step": 3}
    hook: Any = build_hooks([entry])[0]
    assert (hook.much, hook.parameters, hook.from_step) == (2.0, ("*.bias",), 3)
    assert hook.label == f"{path}:MyHook"
    with pytest.raises(ConfigError, match="has no setting 'mich'"):
        build_hooks([{**entry, "mich": 1}])


@pytest.mark.requirement("hooks.own")
def test_a_hooks_file_that_has_changed_since_is_not_resumed_unasked(tmp_path: Path) -> None:
    path = tmp_path / "my_hooks.py"
    path.write_bytes(EXAMPLE.read_bytes())
    _, result = train(tmp_path, hooks=[{"name": f"{path}:MyHook"}], training__stop_at=3)
    path.write_text(path.read_text() + "\n")
    with pytest.raises(TinyError, match=r"the file of the hook .*my_hooks\.py:MyHook"):
        resumed(result.folder.path)


@pytest.mark.requirement("hooks.registry")
def test_a_hook_is_an_observer_or_an_update_hook() -> None:
    assert sorted(OBSERVERS + UPDATE_HOOKS) == sorted(HOOKS)
    assert all(issubclass(kind, Hook) for kind in HOOKS.values())
    assert sum(issubclass(kind, ForwardHook) for kind in HOOKS.values()) == 4


@pytest.mark.requirement("hooks.registry")
def test_hooks_that_were_built_are_closed_where_a_later_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "my_hooks.py"
    body = f"    def close(self):\n        open({str(tmp_path / 'closed')!r}, 'a').write('x')\n"
    path.write_text(f"{FORWARD}class MyHook(UpdateHook):\n{body}")
    with pytest.raises(ConfigError):
        build_hooks([{"name": f"{path}:MyHook"}, {"name": "sing"}])
    assert (tmp_path / "closed").read_text() == "x"
    build_hooks([{"name": f"{path}:MyHook", "enabled": False}])
    assert (tmp_path / "closed").read_text() == "xx"


@pytest.mark.requirement("hooks.registry")
def test_a_run_logs_its_list_of_hooks_with_the_hash_of_own_files(tmp_path: Path) -> None:
    hooks = [{"name": "sign", "enabled": False}, {"name": f"{EXAMPLE}:MyHook", "strength": 0.25}]
    _, result = train(tmp_path, hooks=hooks)
    digest = hashlib.sha256(EXAMPLE.read_bytes()).hexdigest()
    assert log_of(result.folder, "start")[0]["hooks"] == [
        {"name": "sign", "enabled": False},
        {"enabled": True, "sha256": digest, **hooks[1]},
    ]
