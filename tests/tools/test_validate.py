"""`make validate`: what fails is told, nothing is left out, and nothing passes for nothing."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tools.validation import checklist, links, sections
from tools.validation.chapters import run_chapters, with_foundations
from tools.validation.checks import Chapter, Check, ChecksError, During, load_chapters, touched
from tools.validation.commands import (
    Outcome,
    compare_files,
    environment,
    fingerprints,
    judge,
    run_check,
    run_command,
)
from tools.validation.report import Report, Result
from tools.validation.sections import Section, Settings
from tools.validation.starter import Starter

from tiny_transformer.cli.main import COMMANDS, main
from tools import validate

ROOT = Path(__file__).resolve().parents[2]

SERVER = """
import http.server, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        size = int(self.headers["Content-Length"])
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"got " + self.rfile.read(size))
    def do_GET(self):
        self.send_error(401)
    def log_message(self, *words):
        pass
server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
print(f"at http://127.0.0.1:{server.server_port}/v1 now", flush=True)
try:
    server.serve_forever()
except KeyboardInterrupt:
    sys.exit(130)
"""


def python(title: str, code: str, **fields: Any) -> Check:
    """Return a check of a short program."""
    return Check(title, "python program.py", write={"program.py": code}, **fields)


def problem_of(check: Check, folder: Path) -> str:
    """Run one check in a folder; return what is wrong."""
    return run_check(check, folder, environment(folder.parent / "cache"), {})[1]


def run_all(chapters: list[Chapter], jobs: int = 2) -> dict[str, str]:
    """Run chapters; return the problem of each check by its title."""
    found: dict[str, str] = {}
    run_chapters(chapters, jobs, lambda result: found.update({result.title: result.problem}))
    return found


# One check


@pytest.mark.requirement("validate.failures")
@pytest.mark.parametrize(
    ("code", "fields", "told"),
    [
        ("raise SystemExit(3)", {}, "the exit status is 3, and should be 0"),
        ("raise SystemExit(3)", {"status": 3}, ""),
        ("1 / 0", {"status": 1}, "there is a traceback"),
        ("print('a   b\\nc')", {"stdout": ("a b c",)}, ""),
        ("print('a')", {"stdout": ("b",)}, "standard output lacks 'b'"),
        ("print('a')", {"stderr": ("a",)}, "standard error lacks 'a'"),
        ("print('a')", {"absent": ("a",)}, "it says 'a'"),
        ("print('{}')", {"json": "object"}, ""),
        ("print('{')", {"json": "object"}, "standard output is not JSON"),
        ("print('1\\n2')", {"json": "lines"}, ""),
        ("pass", {"json": "lines"}, "standard output is empty"),
        ("open('x', 'w')", {"makes": ("x",)}, ""),
        ("open('x', 'w')", {}, "x is new"),
        ("pass", {"makes": ("x",)}, "x is not there"),
        ("pass", {"makes": ("program.py",)}, "program.py is as it was before"),
        ("open('program.py', 'a').write('#')", {}, "program.py is changed"),
        ("import os; os.remove('program.py')", {}, "program.py is gone"),
        ("import os; os.makedirs('a/b')", {"makes": ("a/b",)}, ""),
        ("import os; os.makedirs('a/b'); os.mkdir('a/c')", {"makes": ("a/b",)}, "a/c is new"),
        ("print(input())", {"stdin": "typed", "stdout": ("typed",)}, ""),
        ("import time; time.sleep(60)", {"seconds": 0.3}, "it was stopped after 0.3 s"),
    ],
)
def test_what_a_command_does_is_held_to_what_is_expected(
    code: str, fields: dict[str, Any], told: str, tmp_path: Path
) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    problem = problem_of(python("it", code, **fields), folder)
    if told:
        assert problem.startswith(told), problem
        assert "$ python program.py" in problem
    else:
        assert problem == ""


@pytest.mark.requirement("validate.failures")
@pytest.mark.parametrize(
    ("out", "err", "told"),
    [
        ("", "tiny: no such run\n", []),
        ("", "usage: tiny\ntiny: error: no such run\n", []),
        ("", "╭─ no such ─╮\n│ run │\n", []),
        ("so\n", "tiny: no such run\n", ["standard output is not empty"]),
        ("", "tiny: no such run\ntiny: and more\n", ["standard error is not one message"]),
        ("", "a warning\ntiny: no such run\n", ["standard error is not one message"]),
        ("", "no such run\n", ["standard error is not one message"]),
        ("", "tiny: none\n", ["the message lacks 'no such run'"]),
    ],
)
def test_a_refusal_is_one_message_and_nothing_else(out: str, err: str, told: list[str]) -> None:
    check = Check("it", "tiny x", status=2, refused=("no such run",))
    assert judge(check, Outcome(2, out, err)) == told
    assert judge(check, Outcome(0, out, err)) != []


def test_the_output_of_a_failing_command_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    code = "import sys; print('to out'); print('to err', file=sys.stderr); sys.exit(1)"
    problem = problem_of(python("it", code), folder)
    assert "[stdout]\nto out" in problem and "[stderr]\nto err" in problem


def test_an_earlier_output_is_compared_with() -> None:
    check = Check("it", "tiny x", same_output="before")
    assert judge(check, Outcome(0, "a", ""), {"before": "a"}) == []
    assert judge(check, Outcome(0, "a", ""), {"before": "b"}) != []


def test_a_bit_is_flipped_and_a_file_is_copied_before(tmp_path: Path) -> None:
    (tmp_path / "kept").write_bytes(b"aaa")
    check = python(
        "it",
        "print(open('kept').read(), open('copy/of/licence').readline())",
        stdout=("a`a MIT License",),
        damage="kept",
        copy={"LICENSE": "copy/of/licence"},
    )
    assert problem_of(check, tmp_path) == ""
    gone = Check("it", "python x", damage="not there")
    assert problem_of(gone, tmp_path).startswith("it cannot be prepared")


def test_a_server_is_asked_and_stopped(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()

    def asked(**fields: Any) -> str:
        during = During(shows=" now", signal="INT", **fields)
        return problem_of(python("it", SERVER, status=130, during=during), folder)

    assert asked(post="/x", body={"a": 1}, answer=('got {"a": 1}',)) == ""
    assert asked(get="/x", answer=("401",)) == ""
    assert "the answer lacks 'this'" in asked(get="/x", answer=("this",))
    silent = python("it", "pass", during=During("ready", "INT"))
    assert "it never showed 'ready'" in problem_of(silent, folder)


def test_folders_are_compared() -> None:
    before = {"a": "1", "b": "/", "b/c": "2"}
    assert compare_files(before, before, ()) == []
    assert compare_files(before, {**before, "b/d": "3"}, ("b",)) == []
    assert compare_files(before, {"a": "1"}, ()) == ["b is gone", "b/c is gone"]


# Chapters


@pytest.mark.requirement("validate.commands")
@pytest.mark.parametrize("jobs", [1, 2])
def test_a_chapter_goes_on_with_a_copy_of_another(jobs: int) -> None:
    make = python("make", "open('made', 'w').write('x')", makes=("made",))
    take = python("take", "print(open('made').read()); open('made', 'a').write('y')",
                  stdout=("x",), absent=("xy",), makes=("made",))  # fmt: skip
    lost = python("lost", "open('made')")
    chapters = [
        Chapter("alone", "", (lost,)),
        Chapter("first", "", (make,)),
        Chapter("second", "", (take,), after="first"),
        Chapter("third", "", (take,), after="first"),
    ]
    found = run_all(chapters, jobs)
    problem = found.pop("alone: lost")
    assert "FileNotFoundError" in problem
    assert found == {"first: make": "", "second: take": "", "third: take": ""}
    names = [chapter.name for chapter in with_foundations(["third"], chapters)]
    assert names == ["first", "third"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems start Python anew")
@pytest.mark.requirement("validate.bounded")
def test_a_fork_does_what_a_python_that_was_started_anew_does(tmp_path: Path) -> None:
    """Exit status, both streams, files, standard input, and a signal."""
    lines = [
        "tiny --version",
        "tiny trian",
        "tiny data lst",
        "tiny data --help",
        "tiny course init",
    ]
    checks = [Check(line, line) for line in lines]
    checks.append(Check("keys", "tiny course watch", stdin="q"))
    checks.append(Check("kill", "tiny course watch", during=During("checking", "TERM")))
    variables = environment(tmp_path / "cache")
    (tmp_path / "anew").mkdir()
    (tmp_path / "forked").mkdir()
    with Starter(variables) as starter:
        for check in checks:
            anew = run_command(check, tmp_path / "anew", variables)
            forked = run_command(check, tmp_path / "forked", variables, starter)
            assert forked.status == anew.status == (130 if check.during else anew.status), forked
            if check.during is None:  # a signal comes when it comes
                assert forked.out.replace("forked", "anew") == anew.out
                assert forked.err == anew.err
        late = Check("late", "tiny course watch", seconds=0.5)
        assert run_command(late, tmp_path / "forked", variables, starter).status == -signal.SIGKILL
    assert set(fingerprints(tmp_path / "forked")) == set(fingerprints(tmp_path / "anew"))
    with pytest.raises(OSError, match="the starter has ended"):
        starter.start(["--version"], tmp_path, [tmp_path / name for name in ("in", "out", "err")])


def a_file(folder: Path, text: str) -> Path:
    path = folder / "checks.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "declares no check"),
        ("- 3", "is 3, and not a chapter"),
        ("- {name: a, about: b}", "no checks"),
        ("- {name: a, about: b, checks: []}", "it has no check"),
        ("- {name: a, about: b, checks: [{title: t}]}", "no command"),
        ("- {name: a, about: b, checks: [{title: t, command: c, stdot: x}]}", "'stdout'"),
        ("- {name: a, about: b, checks: [{title: t, command: c, stdout: [1]}]}", "list of texts"),
        ("- {name: a, about: b, checks: [{title: t, command: c, json: xml}]}", "'xml'"),
        ("- {name: a, about: b, checks: [{title: t, command: c, refused: x, status: 1}]}", "other"),
        ("- {name: a, about: b, checks: [{title: t, command: c, same_output: u}]}", "no earlier"),
        (
            "- {name: a, about: , checks: [{title: t, command: c, during: {shows: x, signal: K}}]}",
            "'K'",
        ),
        (
            "- {name: a, about: b, checks: [{title: t, command: c}, {title: t, command: d}]}",
            "twice",
        ),
        ("- {name: a, about: b, after: z, checks: [{title: t, command: c}]}", "'z'"),
        ("- &a {name: a, about: b, checks: [{title: t, command: c}]}\n- *a", "twice"),
    ],
)
def test_a_faulty_file_of_checks_is_refused(text: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(ChecksError, match=re.escape(told)):
        load_chapters(a_file(tmp_path, text))


# What is declared


def subcommands(command: str) -> list[str]:
    """Return the subcommands that a command's own help lists in its usage."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        assert main([command, "--help"]) == 0
    usage = re.search(r"usage:(.*?)\n\s*\n", shown.getvalue(), re.S)
    assert usage
    names = re.search(r"(?:\]|tiny [\w-]+)\s+\{([\w,\s-]+)\}", usage[1])
    return re.split(r",\s*", names[1].strip()) if names else []


@pytest.fixture(scope="module")
def commands() -> dict[str, list[str]]:
    found = {name: subcommands(name) for name in COMMANDS}
    assert {"list", "prepare", "describe"} == set(found["data"])
    assert {"init", "check", "bug-hunt"} <= set(found["course"])
    return found


@pytest.mark.requirement("validate.commands")
def test_every_command_is_asked_for_help_used_and_used_wrongly(
    commands: dict[str, list[str]],
) -> None:
    kinds = touched(load_chapters(), commands)
    for name, found in kinds.items():
        group = bool(commands.get(name))  # it does nothing but hand on to its subcommands
        wanted = {"help", "refused"} if group else {"help", "used", "refused"}
        assert wanted <= found, (
            f"tools/cli_checks.yaml has no check of: tiny {name}: {wanted - found}"
        )


@pytest.mark.requirement("validate.commands")
def test_a_command_without_a_check_is_noticed(commands: dict[str, list[str]]) -> None:
    more = {**commands, "dance": [], "data": [*commands["data"], "burn"]}
    kinds = touched(load_chapters(), more)
    assert kinds["dance"] == kinds["data burn"] == set()


@pytest.mark.requirement("validate.checklist")
def test_the_checklist_is_what_the_checks_say() -> None:
    assert sections.checklist_is_current(), "python tools/validate.py --write-checklist"


@pytest.mark.requirement("validate.checklist")
def test_every_check_stands_in_the_checklist() -> None:
    chapters = load_chapters()
    page = checklist.render(chapters)
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    n_checks = sum(len(chapter.checks) for chapter in chapters)
    assert len(rows) == n_checks + len(chapters)  # and the heads
    assert f"{n_checks} checks in {len(chapters)} chapters." in page
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 4 for row in rows)
    for chapter in chapters:
        for check in chapter.checks:
            assert sum(row.startswith(f"| {check.title} |") for row in rows) >= 1


def test_a_row_tells_all_that_a_check_asks_for() -> None:
    check = Check(
        "A | b", "tiny `x`", stdin="one\ntwo\n", write={"f": ""}, copy={"LICENSE": "g"}, damage="h",
        status=3, stdout=("o",), stderr=("e",), absent=("n",), json="lines", same_output="s",
        makes=("m",), during=During("r", "INT", get="/g", answer=("w",)),
    )  # fmt: skip
    page = checklist.render([Chapter("c", "About.", (check,), after="b")])
    row = page.splitlines()[-1]
    assert "A \\| b" in row and "`` tiny `x` ``" in row and "It goes on where *b* ended." in page
    for words in (
        "`f` written before", "`LICENSE` copied before", "a bit of `h` flipped",
        "typed: `one`, `two`",
        "once it shows `r`: `/g` is asked, then SIGINT", "exit status 3", "the answer has `w`",
        "output has `o`", "output is JSON lines", 'the output of "s"', "standard error has `e`",
        "nowhere `n`", "makes `m`",
    ):  # fmt: skip
        assert words in row, words
    refused = checklist.render([Chapter("c", "", (Check("t", "x", refused=("no",)),))])
    assert "*refused*: `no`" in refused
    assert "| t | `x` | exit status 0 |" in checklist.render([Chapter("c", "", (Check("t", "x"),))])


# Sections


def telling(*problems: str) -> Section:
    """Return a section with these results."""

    def run(settings: Settings, report: Report) -> None:
        for number, problem in enumerate(problems):
            report.tell(Result("made-up", f"check {number}", 1.5, problem))

    return Section("made up", run)


def validated(capsys: pytest.CaptureFixture[str], section: Section, *words: str) -> tuple[int, str]:
    capsys.readouterr()
    status = validate.main([*words], {"made-up": section})
    return status, capsys.readouterr().out


@pytest.mark.requirement("validate.failures")
def test_results_are_told_with_their_time_and_summed_up(capsys: pytest.CaptureFixture[str]) -> None:
    status, out = validated(capsys, telling("", ""))
    assert status == 0 and out.endswith("validate: all is well\n")
    assert "ok      1.5 s  check 0\n" in out
    assert re.search(r"^made-up +2 +0 +\d", out, re.M) and re.search(r"^all +2 +0", out, re.M)
    status, out = validated(capsys, telling("", "it\nbroke"))
    assert status == 1 and out.endswith("failed: made-up, check 1\nvalidate: failed\n")
    assert "FAIL    1.5 s  check 1\n        it\n        broke\n" in out
    assert re.search(r"^made-up +2 +1", out, re.M)


@pytest.mark.requirement("validate.failures")
def test_a_section_that_checks_nothing_fails(capsys: pytest.CaptureFixture[str]) -> None:
    status, out = validated(capsys, telling())
    assert status == 1 and "nothing was" in out


@pytest.mark.requirement("validate.failures")
def test_a_section_that_breaks_fails_and_the_others_are_run(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(settings: Settings, report: Report) -> None:
        raise RuntimeError("no")

    both = {"broken": Section("", run), "made-up": telling("")}
    assert validate.main([], both) == 1
    out = capsys.readouterr().out
    assert "RuntimeError: no" in out and "check 0" in out


@pytest.mark.requirement("validate.failures")
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--section", "doc"], "'doc' is not a section. Did you mean 'docs'?"),
        (["--chapter", "trian"], "'trian' is not a chapter. Did you mean 'train'?"),
        (["--jobs", "0"], "--jobs is 0; it must be at least 1."),
    ],
)
def test_an_unknown_name_is_refused(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert validate.main(words) == 2
    assert capsys.readouterr() == ("", f"validate: {told}\n")


@pytest.mark.requirement("validate.bounded")
def test_the_bounded_form_leaves_out_what_the_tests_have_run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []

    def recorded(name: str) -> Callable[[Settings, Report], None]:
        def run(settings: Settings, report: Report) -> None:
            ran.append(name)
            report.tell(Result(name, "it", 0.0))

        return run

    every = {n: Section("", recorded(n), s.bounded) for n, s in sections.SECTIONS.items()}
    assert validate.main(["--bounded"], every) == 0
    assert ran == ["commands", "docs", "notebooks"]
    assert f"of a budget of {validate.BUDGET:.0f} s" in capsys.readouterr().out
    ran.clear()
    assert validate.main([], every) == 0
    assert set(ran) == {"lint", "commands", "docs", "notebooks", "exercises", "tests"}
    assert "budget" not in capsys.readouterr().out
    ran.clear()
    assert validate.main(["--section", "docs", "--section", "lint"], every) == 0
    assert ran == ["docs", "lint"]


def jobs_of(
    monkeypatch: pytest.MonkeyPatch, name: str, **changes: Any
) -> tuple[list, list[Result]]:
    """Run a section with stand-ins for its programs; return those and the results."""
    started: list[list[str]] = []

    def stand_in(section: str, title: str, command: list[str], **how: Any) -> Result:
        started.append(list(command))
        return Result(section, title, 0.0)

    monkeypatch.setattr(sections, "_job", stand_in)
    report = Report()
    sections.SECTIONS[name].run(Settings(**changes), report)
    return started, report.results


def test_lint_and_tests_are_those_of_the_makefile(monkeypatch: pytest.MonkeyPatch) -> None:
    assert jobs_of(monkeypatch, "lint")[0] == [["make", "--no-print-directory", "lint"]]
    assert jobs_of(monkeypatch, "tests")[0] == [["make", "--no-print-directory", "test"]]


@pytest.mark.requirement("validate.docs")
def test_the_pages_are_checked_and_their_tests_only_in_full(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    full, results = jobs_of(monkeypatch, "docs")
    bounded, _ = jobs_of(monkeypatch, "docs", bounded=True)
    assert [job[1:] for job in bounded] == [
        ["tools/status.py", "--check"],
        ["tools/pins.py", "requirements", "--check"],
        ["tools/notebooks.py", "check"],
        ["tools/scaling.py", "--check"],
    ]
    assert [job for job in full if "pytest" in job]
    assert "links of README.md" in {result.title for result in results}
    assert [result for result in results if result.problem] == []


def test_a_program_that_fails_is_told() -> None:
    assert sections._job("x", "it", [sys.executable, "-c", "pass"]).problem == ""
    failing = [sys.executable, "-c", "print('why'); raise SystemExit(4)"]
    problem = sections._job("x", "it", failing).problem
    assert "exit status 4" in problem and "why" in problem
    assert "cannot be started" in sections._job("x", "it", ["no such program"]).problem


@pytest.mark.parametrize(
    ("program", "found"),
    [
        ("print('pass   1.5 s  00/a.md')", {"00/a.md": ""}),
        (
            "print('pass   1.5 s  00/a.md\\nfail  2.0 s  00/b.md\\n      a cell\\n      broke')\n"
            "raise SystemExit(1)",
            {"00/a.md": "", "00/b.md": "a cell\nbroke"},
        ),
        (
            "raise SystemExit('no jupytext')",
            {"tools/notebooks.py run": "exit status 1\nno jupytext"},
        ),
        ("print('0 pages')", {}),
    ],
)
def test_each_notebook_is_told_with_its_time(
    program: str, found: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sections, "_python", lambda *words: [sys.executable, "-c", program])
    report = Report()
    sections.notebooks(Settings(), report)
    assert {result.title: result.problem for result in report.results} == found


@pytest.mark.slow
@pytest.mark.requirement("validate.exercises")
def test_a_stub_that_passes_and_a_solution_that_fails_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.course.made_up import write_course

    from tiny_transformer.course.content import VARIABLE

    folder = write_course(tmp_path / "course")
    monkeypatch.setenv(VARIABLE, str(folder))
    report = Report()
    sections.exercises(Settings(), report)
    assert report.failed() == [] and len(report.results) == 8
    stub, solution = folder / "my_transformer" / "sums.py", folder / "solutions" / "sums.py"
    solution_text = solution.read_text()
    shutil.copy(stub, solution)
    stub.write_text(solution_text)
    report = Report()
    sections.exercises(Settings(), report)
    titles = {result.title for result in report.failed()}
    assert {"the stub of twice is not attempted", "the solution of twice is passed"} <= titles


# Links


@pytest.mark.requirement("validate.docs")
def test_links_that_lead_to_nothing_are_found(tmp_path: Path) -> None:
    (tmp_path / "docs" / "figures").mkdir(parents=True)
    (tmp_path / "docs" / "b c.md").write_text("# One two: `three`!\n\n## One two: `three`!\n")
    (tmp_path / "docs" / "figures" / "x.svg").touch()
    page = tmp_path / "docs" / "a.md"
    page.write_text(
        "# Here\n[b](<b%20c.md>) [b](b%20c.md#one-two-three) "
        "[b](b%20c.md#one-two-three-1) [top](#here)\n"
        "![x](figures/x.svg) [web](https://example.org/none) [mail](mailto:a@example.org)\n"
        "[root](/docs/a.md) `docs/a.md` `[code](none.md)` `docs/*.md` `runs/first/log.txt`\n"
        "```\n[block](none.md)\n```\n"
        "[gone](gone.md) [part](b%20c.md#four) [nowhere](#there) ![y](figures/y.svg) "
        '[two\nlines](lines.md "title") `docs/none.md`\n\n[ref]: none.md\n'
    )
    assert links.broken_links(page, tmp_path) == [
        "gone.md",
        "b%20c.md#four (no heading makes #four)",
        "#there (no heading makes #there)",
        "figures/y.svg",
        "lines.md",
        "none.md",
        "docs/none.md",
    ]
    assert links.pages(tmp_path) == [page, tmp_path / "docs" / "b c.md"]


# Continuous integration

MAKE = """\
#!/bin/sh
echo "$@" >>"$LOG"
case "$1" in
    test) printf '== 3 passed in 1.0s ==\\n\\n' ;;
    *) echo "$1 ran" ;;
esac
case " $FAILS " in *" $1 "*) exit 1 ;; esac
"""


@pytest.mark.requirement("validate.bounded")
@pytest.mark.parametrize("fails", ["", "lint", "test", "validate"])
def test_continuous_integration_runs_all_three_and_ends_with_pytests_line(
    fails: str, tmp_path: Path
) -> None:
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci" / "run")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "make").write_text(MAKE)
    (tmp_path / "bin" / "make").chmod(0o755)
    done = subprocess.run(
        [str(tmp_path / ".ci" / "run")],
        env={"PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}",
             "LOG": str(tmp_path / "log"), "FAILS": fails},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (tmp_path / "log").read_text().splitlines() == [
        "lint",
        "test",
        "validate VALIDATE=--bounded",
    ]
    words = {name: "failed" if name == fails else "passed" for name in ("lint", "test", "validate")}
    summary = ", ".join(f"{name} {word}" for name, word in words.items())
    assert done.stdout.splitlines()[-2:] == [summary, "== 3 passed in 1.0s =="]
    assert (done.returncode == 0) == (fails == "")
