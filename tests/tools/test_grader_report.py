"""The report on the graders says what they did, and --check tells when it is old."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.course.made_up import write_course

from tiny_transformer.course.content import VARIABLE
from tools import grader_report

FRESH = """
from tiny_transformer.course.wrong_answers import mutant, rewrite


@mutant("double", "It adds two.")
def two_more(x):
    return 2 + x


@mutant("double", "It rounds.")
def rounded(x):
    return (x * 2).round()


@mutant("total", "It forgets the last.")
def short(x):
    return x[..., :-1].sum(-1)


@rewrite("double")
def halves(x):
    return x / 0.5


@rewrite("total")
def in_double(x):
    return x.double().sum(-1)
"""


@pytest.mark.requirement("course.grader-report")
def test_the_report_on_the_made_up_course(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    course, page = write_course(tmp_path / "course"), tmp_path / "page.md"
    monkeypatch.setenv(VARIABLE, str(course))
    words = ["--page", str(page)]
    assert grader_report.main([*words, "--check"]) == 1
    assert grader_report.main(words) == 0
    assert grader_report.main([*words, "--check"]) == 0
    text = page.read_text()
    assert "- wrong answers caught: 10 of 10 (100 %)" in text
    assert "- wrong answers named first: 10 of 10 (100 %)" in text
    assert "- rewrites passed: 6 of 6 (100 %)" in text
    assert "| `twice` | 2 | 3 of 3 | 3 of 3 | 2 of 2 |" in text
    assert "| `twice` | in place | leaves its input alone | its own |" in text
    assert "None yet" in text

    (course / "fresh_answers").mkdir()
    (course / "fresh_answers" / "first.py").write_text(FRESH)
    judged = "note: So far.\nfirst.double.two more: [plus two]\nfirst.total.short: [other]\n"
    (course / "fresh_answers" / "judged.yaml").write_text(judged)
    assert grader_report.main([*words, "--check"]) == 1
    assert "out of date: python tools/grader_report.py" in capsys.readouterr().err
    assert grader_report.main(words) == 0
    text = page.read_text()
    assert "## Answers written afresh\n\nSo far.\n" in text
    assert "- wrong answers caught: 2 of 3 (67 %)" in text
    assert "- with one that names the mistake: 1 of 3 (33 %)" in text
    assert "- right answers that fail (false alarms): 1 of 2 (50 %)" in text
    row = "| `twice` | two more | It adds two. | doubles each number | plus two | yes |"
    assert row in text
    assert "| `twice` | rounded | It rounds. | **none: it passes** | none | no |" in text
    assert "- `total`, in double: total(x) should be of dtype" in text
