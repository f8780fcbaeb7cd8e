"""The pinned versions: resolve them, and derive `requirements.txt` from them.

    python tools/pins.py update                  resolve again, write both files
    python tools/pins.py requirements            write requirements.txt from the pins
    python tools/pins.py requirements --check    exit 1 if requirements.txt is out of step

`constraints/constraints.txt` pins everything that any extra of the project can install, on
every platform. Each line says who asks for the package (`# via ...`), so that what the
package needs at run time can be read from the file alone. `constraints/held.txt` has the
versions that are chosen by hand. Only the standard library is used: the pins must be
readable before anything is installed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST_PYTHON = (3, 11)

CONSTRAINTS_HEADER = """\
# Every version that the project installs, with who asks for it.
# Made by `python tools/pins.py update`; versions chosen by hand are in held.txt.
"""
REQUIREMENTS_HEADER = """\
# What the package needs at run time, pinned.
# Made from constraints/constraints.txt by `python tools/pins.py requirements`.
"""

_REQUIREMENT = re.compile(
    r"^\s*(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[(?P<extras>[^\]]*)\])?(?P<rest>[^;]*)(?:;(?P<marker>.*))?$"
)
_EXTRA_MARKER = re.compile(r"extra\s*==\s*['\"]([^'\"]+)['\"]")
_PIN = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s#]+)(?:\s*#\s*via\s+(?P<via>.+))?$")


class PinsError(Exception):
    """The pins and the project do not fit together."""


@dataclass
class Pin:
    """One package: its version, and the names of those that ask for it."""

    version: str
    via: set[str] = field(default_factory=set)


def canonical(name: str) -> str:
    """Return a package's name as the registry compares it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def parse_requirement(line: str) -> tuple[str, set[str], str | None]:
    """Split `name[extras] >=1; marker` into its name, its extras and the extra it belongs to."""
    match = _REQUIREMENT.match(line)
    if match is None:
        raise PinsError(f"cannot read the requirement {line!r}")
    extras = {canonical(extra) for extra in (match["extras"] or "").split(",") if extra.strip()}
    belongs_to = _EXTRA_MARKER.search(match["marker"] or "")
    return canonical(match["name"]), extras, canonical(belongs_to[1]) if belongs_to else None


def parse_pins(text: str) -> dict[str, Pin]:
    """Read a constraints file.

    Raises:
        PinsError: a line is not `name==version`, a name stands twice, or a version carries a
            local label (`2.13.0+cpu`), which other systems cannot install.
    """
    pins: dict[str, Pin] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _PIN.match(line.strip())
        if match is None:
            raise PinsError(f"line {number} of the pins is not 'name==version': {line.strip()!r}")
        name = canonical(match["name"])
        if name in pins:
            raise PinsError(f"line {number} of the pins names {name} a second time")
        if "+" in match["version"]:
            raise PinsError(f"line {number} of the pins holds a local version: {line.strip()!r}")
        via = {asker.strip() for asker in (match["via"] or "").split(",") if asker.strip()}
        pins[name] = Pin(match["version"], via)
    return pins


def render_pins(pins: Mapping[str, Pin], header: str) -> str:
    """Write pins as a constraints file, sorted by name."""
    lines = []
    for name in sorted(pins):
        via = pins[name].via
        lines.append(
            f"{name}=={pins[name].version}" + (f"  # via {', '.join(sorted(via))}" * bool(via))
        )
    return header + "\n".join(lines) + "\n"


def read_project(root: Path = ROOT) -> dict[str, list[str]]:
    """Return what the project asks for, by asker: itself, each extra, and its build."""
    document = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    project = document["project"]
    name = canonical(project["name"])
    asked = {name: project["dependencies"], "build-system": document["build-system"]["requires"]}
    for extra, lines in project.get("optional-dependencies", {}).items():
        asked[f"{name}[{extra}]"] = lines
    return asked


def check_pinned(pins: Mapping[str, Pin], asked: Mapping[str, Iterable[str]]) -> None:
    """Raise if the project asks for a package that has no pin, or a pin's asker is out of date."""
    for asker, lines in asked.items():
        for line in lines:
            name = parse_requirement(line)[0]
            if asker not in pins.get(name, Pin("")).via:
                raise PinsError(
                    f"{asker} asks for {name}, and constraints/constraints.txt does not say so; "
                    "run: python tools/pins.py update"
                )


def runtime_pins(pins: Mapping[str, Pin], dependencies: Iterable[str]) -> dict[str, Pin]:
    """Return the pins that the dependencies need, with all that those need in turn."""
    wanted = {parse_requirement(line)[0] for line in dependencies}
    while True:
        more = {name for name, pin in pins.items() if pin.via & wanted} - wanted
        if not more:
            return {name: pins[name] for name in wanted}
        wanted |= more


def render_requirements(root: Path = ROOT) -> str:
    """Return what requirements.txt should hold."""
    pins = parse_pins((root / "constraints" / "constraints.txt").read_text(encoding="utf-8"))
    asked = read_project(root)
    check_pinned(pins, asked)
    project = next(iter(asked))
    needed = runtime_pins(pins, asked[project])
    for pin in needed.values():
        pin.via &= {project, *needed}
    return render_pins(needed, REQUIREMENTS_HEADER)


def pins_from_report(
    report: Mapping[str, list[dict]], asked: Mapping[str, Iterable[str]]
) -> dict[str, Pin]:
    """Turn pip's installation report into pins that know who asked for each.

    An edge is drawn wherever one package names another that was resolved, whatever its
    platform marker says: the file serves every platform.
    """
    packages = {canonical(item["metadata"]["name"]): item["metadata"] for item in report["install"]}
    pins: dict[str, Pin] = {}
    queue: list[tuple[str, str, set[str]]] = []  # who asks, for what, with which extras
    seen: set[tuple[str, str | None]] = set()

    def ask(asker: str, lines: Iterable[str], extra: str | None) -> None:
        for line in lines:
            name, extras, belongs_to = parse_requirement(line)
            if belongs_to == extra and name in packages:
                queue.append((asker, name, extras))

    for asker, lines in asked.items():
        ask(asker, lines, None)
    while queue:
        asker, name, extras = queue.pop()
        version = packages[name]["version"].split("+")[0]
        pins.setdefault(name, Pin(version)).via.add(asker)
        for extra in [None, *extras]:
            if (name, extra) not in seen:
                seen.add((name, extra))
                ask(name, packages[name].get("requires_dist", []), extra)
    return pins


def resolve(root: Path = ROOT) -> dict[str, Pin]:
    """Ask pip which versions fit together today, with everything the project can install."""
    if sys.version_info[:2] != OLDEST_PYTHON:
        raise PinsError(
            f"resolve with Python {'.'.join(map(str, OLDEST_PYTHON))}, the oldest that is "
            f"supported (this is {sys.version.split()[0]}): a newer one may pick versions that "
            "the oldest cannot install"
        )
    held_file = root / "constraints" / "held.txt"
    asked = read_project(root)
    # An editable build needs hatchling's helper, which its metadata does not name.
    asked["build-system"] = [*asked["build-system"], "editables"]
    lines = [line for wanted in asked.values() for line in wanted]
    index = (
        ["--extra-index-url", os.environ["TORCH_INDEX"]] if os.environ.get("TORCH_INDEX") else []
    )
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed"]
        command += ["--quiet", "--report", str(report), "--constraint", str(held_file), *index]
        subprocess.run([*command, *lines], check=True)
        pins = pins_from_report(json.loads(report.read_text(encoding="utf-8")), asked)
    for name, pin in parse_pins(held_file.read_text(encoding="utf-8")).items():
        pins.setdefault(name, Pin(pin.version, {"held.txt"}))
    return pins


def main(arguments: list[str] | None = None) -> int:
    """Run one of the commands; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("update", help="resolve again, write the constraints and requirements.txt")
    requirements = commands.add_parser("requirements", help="write requirements.txt from the pins")
    requirements.add_argument("--check", action="store_true", help="write nothing, compare")
    options = parser.parse_args(arguments)
    target = ROOT / "requirements.txt"
    try:
        if options.command == "update":
            text = render_pins(resolve(), CONSTRAINTS_HEADER)
            (ROOT / "constraints" / "constraints.txt").write_text(text, encoding="utf-8")
        wanted = render_requirements()
        if options.command == "requirements" and options.check:
            if not target.exists() or target.read_text(encoding="utf-8") != wanted:
                raise PinsError(
                    "requirements.txt is out of step with the pins; "
                    "run: python tools/pins.py requirements"
                )
        else:
            target.write_text(wanted, encoding="utf-8")
    except PinsError as error:
        print(f"pins: {error}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        print(f"pins: pip could not resolve (exit status {error.returncode})", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
