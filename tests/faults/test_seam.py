"""Whatever the package writes goes through the seam, where these tests can break it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.faults.scenarios import SCENARIOS, run_in
from tests.faults.seam import SEAM, Tracer, intercepted
from tests.training.helpers import tiny_config, trainer

SOURCE = Path(__file__).resolve().parents[2] / "src" / "tiny_transformer"
WRITERS = {
    *("write_text", "write_bytes", "touch", "mkdir", "makedirs", "unlink", "rmdir", "rmtree"),
    *("rename", "renames", "replace", "remove", "removedirs", "symlink", "symlink_to", "link"),
    *("hardlink_to", "truncate", "ftruncate", "chmod", "copy", "copy2", "copyfile", "copytree"),
    *("move", "mkstemp", "mkdtemp", "NamedTemporaryFile", "TemporaryFile", "savefig", "tofile"),
    *("savez", "savetxt", "save_file", "memmap", "mkfifo", "pwrite", "writev", "sendfile"),
}
OURS = {"files", "_files"}
# Words that name harmless methods of other things: str.replace, dict.copy, list.remove ...
ALSO_HARMLESS = {"replace", "copy", "remove", "touch", "truncate", "move", "link", "rename"}
FOLDERS = {"os", "shutil", "path", "Path", "tempfile"}
# What is allowed, and why: read-only maps; a folder for a self-test outside any run, which
# `tempfile` makes and removes.
# `tiny doctor` removes the file by which it tried whether a folder can be written to.
ALLOWED = {
    "data/dataset.py": {"memmap"},
    "data/prepared.py": {"memmap"},
    "cli/doctor_checks.py": {"unlink"},
}


def writes(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield line and name of each call that may write to a disk, and is not the seam's."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        name = function.attr if isinstance(function, ast.Attribute) else ""
        name = function.id if isinstance(function, ast.Name) else name
        owner = function.value if isinstance(function, ast.Attribute) else None
        base = owner.id if isinstance(owner, ast.Name) else ""
        if name == "open" and opens_for_writing(node, base):
            yield node.lineno, "open"
        elif name in WRITERS and base not in OURS:
            harmless = name in ALSO_HARMLESS and (base not in FOLDERS)
            if not harmless:
                yield node.lineno, name


def opens_for_writing(node: ast.Call, base: str) -> bool:
    """Tell whether a call of `open` asks for more than reading; unknown modes count."""
    if base == "os":
        return not any("O_RDONLY" in ast.unparse(argument) for argument in node.args[1:])
    place = 1 if isinstance(node.func, ast.Name) else 0
    modes = [k.value for k in node.keywords if k.arg == "mode"] + node.args[place : place + 1]
    return any(
        not isinstance(m, ast.Constant) or bool(set(str(m.value)) & set("wax+")) for m in modes
    )


@pytest.mark.requirement("faults.seam")
def test_nothing_but_files_py_writes_to_a_disk() -> None:
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        name = str(path.relative_to(SOURCE))
        if name == "runtime/files.py":
            continue
        for line, call in writes(ast.parse(path.read_text())):
            if call not in ALLOWED.get(name, set()):
                found.append(f"{name}:{line} {call}")
    # `filelock` makes the lock file, and the trackers' packages their own files. The pipe
    # that nobody reads any more is exchanged for /dev/null, which is no disk.
    assert [f for f in found if not (f.startswith("cli/main.py") and f.endswith("open"))] == []


@pytest.mark.requirement("faults.seam")
def test_files_py_itself_writes_through_the_names_of_the_seam() -> None:
    tree = ast.parse((SOURCE / "runtime" / "files.py").read_text())
    named = {
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    assert set(SEAM) == {name for name in named if name.startswith("os_")}
    # It calls its own functions, which have no `files.` before them.
    assert {call for _, call in writes(tree)} <= {"write_bytes", "write_text"}


@pytest.mark.parametrize(
    "line",
    [
        "open(p, 'w')",
        "open(p, mode='ab')",
        "p.open('r+')",
        "p.open(mode)",
        "os.open(p, os.O_WRONLY)",
        "p.write_text('')",
        "os.replace(a, b)",
        "shutil.copy(a, b)",
        "path.rename(b)",
        "np.memmap(p)",
        "shutil.rmtree(p)",
    ],
)
def test_each_way_to_write_is_caught(line: str) -> None:
    assert len(list(writes(ast.parse(line)))) == 1


@pytest.mark.parametrize(
    "line", ["open(p)", "p.open('rb')", "text.replace(a, b)", "files.write_text(p, t)", "d.copy()"]
)
def test_reading_is_not_caught(line: str) -> None:
    assert list(writes(ast.parse(line))) == []


@pytest.mark.requirement("faults.seam")
def test_all_that_a_run_leaves_was_written_through_the_seam(tmp_path: Path) -> None:
    tracer = Tracer()
    small = trainer(tiny_config(tmp_path, run_name="run", training__checkpoint_every=2))
    with intercepted(tracer):
        small.train()
    made = {call.target or call.path for call in tracer.calls}
    for path in (tmp_path / "runs").rglob("*"):
        inside = "/checkpoints/step-" in str(path) and path.is_file()  # moved with its folder
        assert inside or path.name == ".lock" or str(path.resolve()) in made, path


@pytest.mark.requirement("faults.seam")
@pytest.mark.parametrize("name", SCENARIOS)
def test_the_bytes_that_were_traced_are_those_on_the_disk(tmp_path: Path, name: str) -> None:
    scenario, tracer = SCENARIOS[name], Tracer()
    scenario.prepare(run_in(tmp_path))
    run = run_in(tmp_path)
    size = run.log.stat().st_size if run.log.exists() else 0
    with intercepted(tracer):
        scenario.act(run, tracer.mark)
    written = b"".join(
        c.data for c in tracer.calls if c.name == "os_write" and c.path.endswith("log.jsonl")
    )
    log = run.log.read_bytes() if run.log.exists() else b""
    assert log[size:] == written
