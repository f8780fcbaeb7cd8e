"""`docs/cli-checklist.md`: the declared checks of the command line, for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tools.validation.checks import ROOT, Chapter, Check, During

PAGE = ROOT / "docs" / "cli-checklist.md"
_HEAD = """\
# What is checked of the command line

`make validate` runs every command below as a user types it, and looks at how it ends, what it
writes and what it leaves behind. Made by `python tools/validate.py --write-checklist` from
`tools/cli_checks.yaml`; do not edit. `python tools/validate.py --section commands` runs these
checks alone, and `--chapter train` one chapter of them.

Each chapter has a folder of its own, which begins empty or as the chapter before left it. Of
every command it holds that

- there is no traceback,
- no file is new, changed or gone but what is named here under "makes",
- the exit status is 0, unless another is named,
- a mistake is *refused*: exit status 2, one message on standard error, which has the words that
  are named here, nothing on standard output, and nothing left behind."""


def render(chapters: Sequence[Chapter]) -> str:
    """Return the page; the same checks give the same page."""
    count = sum(len(chapter.checks) for chapter in chapters)
    lines = [_HEAD, "", f"{count} checks in {len(chapters)} chapters."]
    for chapter in chapters:
        begins = f" It goes on where *{chapter.after}* ended." if chapter.after else ""
        lines += ["", f"## {chapter.name}", "", f"{chapter.about}{begins}", ""]
        lines += ["| what | command | expected |", "|---|---|---|"]
        lines += [_row(check) for check in chapter.checks]
    return "\n".join(lines) + "\n"


def _row(check: Check) -> str:
    cells = (check.title, _command(check), "; ".join(_expected(check)) or "exit status 0")
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _code(text: str) -> str:
    """Return a text as code on one line."""
    text = text.replace("\n", "⏎") or "⏎"
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def _codes(texts: Sequence[str]) -> str:
    return ", ".join(map(_code, texts))


def _command(check: Check) -> str:
    parts = [_code(check.command)]
    if check.write:
        parts.append(f"with {_codes(list(check.write))} written before")
    if check.copy:
        parts.append(f"with {_codes(list(check.copy))} copied before")
    if check.damage:
        parts.append(f"with a bit of {_code(check.damage)} flipped before")
    if check.stdin:
        parts.append(f"typed: {_codes(check.stdin.splitlines())}")
    if check.during is not None:
        parts.append(_during(check.during))
    return ", ".join(parts)


def _during(during: During) -> str:
    asked = f"{_code(during.post or during.get)} is asked, then " if _asks(during) else ""
    return f"once it shows {_code(during.shows)}: {asked}SIG{during.signal}"


def _asks(during: During) -> bool:
    return bool(during.get or during.post)


def _expected(check: Check) -> Iterator[str]:
    if check.refused:
        yield f"*refused*: {_codes(check.refused)}"
    elif check.status:
        yield f"exit status {check.status}"
    if check.during is not None and check.during.answer:
        yield f"the answer has {_codes(check.during.answer)}"
    if check.stdout:
        yield f"output has {_codes(check.stdout)}"
    if check.json:
        yield "output is JSON" if check.json == "object" else "output is JSON lines"
    if check.same_output:
        yield f'the output of "{check.same_output}"'
    if check.stderr:
        yield f"standard error has {_codes(check.stderr)}"
    if check.absent:
        yield f"nowhere {_codes(check.absent)}"
    if check.makes:
        yield f"makes {_codes(check.makes)}"
