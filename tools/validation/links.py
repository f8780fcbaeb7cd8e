"""Links in the pages of the repository that lead to nothing in it.

A link to another place on the web is not followed. A path in backquotes that begins with one of
the repository's folders and ends like a file counts as a link too.
"""

from __future__ import annotations

import re
import urllib.parse
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

_FOLDERS = ("benchmarks", "configs", "course", "docs", "examples", "src", "tests", "tools")
_CODE_BLOCK = re.compile(r"^( {0,3})(`{3,}|~{3,})[^\n]*\n.*?^ {0,3}\2[`~]*[ \t]*$", re.M | re.S)
_CODE = re.compile(r"`[^`\n]+`")
_LINK = re.compile(
    r"!?\[[^\]\n]*(?:\n[^\]\n]+)?\]\(<?([^()\s>]*(?:\([^()\s]*\)[^()\s>]*)*)>?[^)]*\)"
)
_REFERENCE = re.compile(r"^ {0,3}\[[^\]]+\]:\s+<?(\S+?)>?(?:\s|$)", re.M)
_PATH = re.compile(rf"`((?:{'|'.join(_FOLDERS)})/[\w./-]+\.(?:md|py|sh|svg|toml|txt|ya?ml))`")
_HEADING = re.compile(r"^ {0,3}#{1,6}[ \t]+(.+?)[ \t#]*$", re.M)
_ANCHOR = re.compile(r"<a\s+(?:id|name)=\"([^\"]+)\"")


def pages(root: Path) -> list[Path]:
    """Return the pages of the repository: Markdown files at the top and in its folders."""
    found = [*root.glob("*.md")]
    for folder in _FOLDERS:
        found += [path for path in (root / folder).rglob("*.md") if ".ipynb_checkpoints" not in
                  path.parts]  # fmt: skip
    return sorted(found)


def broken_links(page: Path, root: Path) -> list[str]:
    """Return what the links of a page name and the repository does not have."""
    text = _CODE_BLOCK.sub("", page.read_text(encoding="utf-8"))
    broken = []
    for target in _targets(text):
        path, _, anchor = urllib.parse.unquote(target).partition("#")
        if "://" in target or target.startswith("mailto:"):
            continue
        place = root / path.lstrip("/") if path.startswith("/") else page.parent / path
        place = place if path else page
        if not place.exists():
            broken.append(target)
        elif anchor and place.suffix == ".md" and anchor not in anchors(place):
            broken.append(f"{target} (no heading makes #{anchor})")
    broken += [path for path in _PATH.findall(text) if not (root / path).exists()]
    return list(dict.fromkeys(broken))


def _targets(text: str) -> Iterator[str]:
    prose = _CODE.sub("``", text)
    yield from _LINK.findall(prose)
    yield from _REFERENCE.findall(prose)


def anchors(page: Path) -> set[str]:
    """Return what may follow `#` in a link to a page: its headings, as GitHub spells them."""
    text = _CODE_BLOCK.sub("", page.read_text(encoding="utf-8"))
    seen: Counter[str] = Counter()
    found = set(_ANCHOR.findall(text))
    for heading in _HEADING.findall(text):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return found
