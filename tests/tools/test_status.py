"""The status page is generated, and every requirement has a test."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import status

REQUIREMENTS = """
- heading: Roof
  requirements:
    - {id: roof.dry, sentence: It keeps the rain | snow out.}
    - {id: roof.warm, sentence: It keeps the heat in.}
"""
TESTS = """
import pytest

@pytest.mark.requirement("roof.dry")
@pytest.mark.requirement("roof.warm")
def test_one(): ...
"""


def a_project(folder: Path, tests: str = TESTS, requirements: str = REQUIREMENTS) -> Path:
    (folder / "docs").mkdir()
    (folder / "docs" / "requirements.yaml").write_text(requirements)
    (folder / "tests" / "roof").mkdir(parents=True)
    (folder / "tests" / "roof" / "test_roof.py").write_text(tests)
    return folder


def proofs(source: str) -> list[tuple[str, str]]:
    return list(status.proofs_in("import pytest\n" + source, "t.py"))


@pytest.mark.requirement("setup.status-sync")
def test_the_page_is_in_step_and_every_requirement_has_a_test(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert status.main(["--check"]) == 0, capsys.readouterr().err


@pytest.mark.requirement("setup.status-sync")
def test_the_page_is_written_and_checked(tmp_path: Path) -> None:
    arguments = ["--root", str(a_project(tmp_path))]
    assert status.main([*arguments, "--check"]) == 1
    assert status.main(arguments) == 0
    assert status.main([*arguments, "--check"]) == 0
    page = tmp_path / "docs" / "status.md"
    test = "`tests/roof/test_roof.py::test_one`"
    assert f"| `roof.dry` | It keeps the rain \\| snow out. | {test} |" in page.read_text()
    page.write_text(page.read_text() + "edited\n")
    assert status.main([*arguments, "--check"]) == 1


@pytest.mark.requirement("setup.status-sync")
def test_a_requirement_without_a_test_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tests = TESTS.replace('@pytest.mark.requirement("roof.warm")\n', "")
    assert status.main(["--root", str(a_project(tmp_path, tests))]) == 1
    assert capsys.readouterr().err == "status: roof.warm has no test\n"


@pytest.mark.requirement("setup.status-sync")
def test_a_mark_that_names_no_requirement_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tests = TESTS + '\n@pytest.mark.requirement("roof.wram")\ndef test_two(): ...\n'
    assert status.main(["--root", str(a_project(tmp_path, tests))]) == 1
    assert "roof.wram is no requirement, but tests/roof/test_roof.py::test_two" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    "requirements",
    [
        "",
        REQUIREMENTS.replace("roof.warm", "roof.dry"),
        REQUIREMENTS.replace("sentence: It keeps the heat in.", "text: Warm."),
    ],
    ids=["empty", "twice", "field"],
)
def test_a_faulty_requirements_file_fails(tmp_path: Path, requirements: str) -> None:
    assert status.main(["--root", str(a_project(tmp_path, TESTS, requirements))]) == 1


def test_marks_are_found_wherever_pytest_takes_them() -> None:
    assert proofs(
        """
pytestmark = [pytest.mark.slow, pytest.mark.requirement("module")]

@pytest.mark.requirement("a", "b")
@pytest.mark.slow
async def test_plain(): ...

@pytest.mark.parametrize("x", [1, pytest.param(2, marks=pytest.mark.requirement("param"))])
def test_parameter(x): ...

@pytest.mark.requirement("class")
class TestClass:
    pytestmark = pytest.mark.requirement("body")

    @pytest.mark.requirement("method")
    def test_method(self): ...

@pytest.mark.requirement("never")
def helper(): ...
"""
    ) == [
        *[(name, "t.py::test_plain") for name in ["a", "b", "module"]],
        *[(name, "t.py::test_parameter") for name in ["module", "param"]],
        *[(name, "t.py::TestClass::test_method") for name in ["body", "class", "method", "module"]],
    ]


def test_a_test_that_is_always_skipped_proves_nothing() -> None:
    marked = '@pytest.mark.requirement("a")\ndef test_it(): ...\n'
    assert proofs(marked)
    assert not proofs("@pytest.mark.skip\n" + marked)
    assert not proofs('@pytest.mark.skip(reason="later")\n' + marked)
    assert proofs("@pytest.mark.skipif(True, reason='')\n" + marked)


@pytest.mark.parametrize("mark", ["requirement(name)", "requirement()", "requirement(id='a')"])
def test_an_id_that_cannot_be_read_is_an_error(mark: str) -> None:
    with pytest.raises(status.StatusError, match=r"t\.py:2"):
        proofs(f"@pytest.mark.{mark}\ndef test_it(): ...")
