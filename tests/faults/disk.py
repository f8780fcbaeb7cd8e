"""A disk in memory that forgets what was not synced when the power goes.

The model, after Pillai et al. 2014, "All File Systems Are Not Created Equal: On the
Complexity of Crafting Crash-Consistent Applications" (OSDI), whose tool explores the states
that a trace of system calls may leave:

- A file's bytes survive if the file was synced after they were written. Of what was
  appended since, there is nothing, a first half, zeros in its place, or all.
- A name (creation, rename, removal, new folder) survives if its folder was synced after it.
  Of the operations on a folder since, any first ones survive, in their order; folders go
  each at their own pace, and files apart from folders.
- A rename within a folder or from one to another is one operation: it happens in both or
  in neither. A folder whose own name did not survive takes with it all that is in it.

Real file systems keep more: ext4 with `data=ordered` orders folders among each other.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from tests.faults.promises import State
from tests.faults.seam import Call

LIMIT = 150  # states of one point beyond which they are drawn, not enumerated


@dataclass(eq=False)
class File:
    """A file: its bytes now, and those that are safe."""

    now: bytes = b""
    safe: bytes = b""

    def outcomes(self) -> list[bytes]:
        """Return what may be read after the power was cut."""
        if not self.now.startswith(self.safe):
            return [self.safe, self.now]
        new = self.now[len(self.safe) :]
        half, zeros = new[: len(new) // 2], b"\0" * len(new)
        return list(dict.fromkeys([self.safe, self.safe + half, self.safe + zeros, self.now]))


@dataclass(eq=False)
class Folder:
    """A folder: its entries now, those that are safe, and the operations in between."""

    now: dict[str, File | Folder] = field(default_factory=dict)
    safe: dict[str, File | Folder] = field(default_factory=dict)
    pending: list[Operation] = field(default_factory=list)


@dataclass(eq=False)
class Operation:
    """Entries that change together; None removes one."""

    changes: list[tuple[Folder, str, File | Folder | None]]


class Disk:
    """What a trace of calls has done to the folder `root`, which was safe at the start."""

    def __init__(self, root: str, state: State) -> None:
        self._root = root
        self.top = Folder()
        for name, content in sorted(state.items()):
            folder, last = self._place(str(PurePosixPath(root, name)))
            folder.now[last] = Folder() if content is None else File(content, content)
            folder.safe[last] = folder.now[last]

    def _node(self, path: str) -> File | Folder:
        node: File | Folder = self.top
        for part in PurePosixPath(path).relative_to(self._root).parts:
            assert isinstance(node, Folder)
            node = node.now[part]
        return node

    def _place(self, path: str) -> tuple[Folder, str]:
        pure = PurePosixPath(path)
        folder = self._node(str(pure.parent))
        assert isinstance(folder, Folder)
        return folder, pure.name

    def _change(self, *changes: tuple[Folder, str, File | Folder | None]) -> None:
        operation = Operation(list(changes))
        for folder, name, node in changes:
            if node is None:
                del folder.now[name]
            else:
                folder.now[name] = node
            if operation not in folder.pending:
                folder.pending.append(operation)

    def apply(self, call: Call) -> None:
        """Do what a call did."""
        if call.name in ("mark", "failed"):
            return
        if call.name in ("os_write", "os_truncate", "os_fsync"):
            self._apply_to_node(call)
            return
        folder, name = self._place(call.path)
        if call.name == "os_open":
            if name not in folder.now:
                self._change((folder, name, File()))
            node = folder.now[name]
            if call.flags & os.O_TRUNC and isinstance(node, File):
                node.now = b""
        elif call.name == "os_mkdir":
            self._change((folder, name, Folder()))
        elif call.name == "os_replace":
            target, new_name = self._place(call.target)
            self._change((folder, name, None), (target, new_name, folder.now[name]))
        else:
            self._change((folder, name, None))

    def _apply_to_node(self, call: Call) -> None:
        node = self._node(call.path)
        if isinstance(node, Folder):
            assert call.name == "os_fsync"
            for operation in list(node.pending):
                self._settle(operation)
        elif call.name == "os_write":
            node.now += call.data
        elif call.name == "os_truncate":
            node.now = node.now[: call.size]
        else:
            node.safe = node.now

    def _settle(self, operation: Operation) -> None:
        for folder, name, node in operation.changes:
            if node is None:
                folder.safe.pop(name, None)
            else:
                folder.safe[name] = node
            if operation in folder.pending:
                folder.pending.remove(operation)

    def _all(self) -> tuple[list[Folder], list[File]]:
        """Return every folder and file that a name, safe or not, leads to."""
        folders, files, todo = [self.top], [], [self.top]
        seen: set[int] = {id(self.top)}
        while todo:
            folder = todo.pop()
            nodes = [*folder.safe.values(), *folder.now.values()]
            nodes += [n for o in folder.pending for _, _, n in o.changes if n is not None]
            for node in nodes:
                if id(node) in seen:
                    continue
                seen.add(id(node))
                if isinstance(node, Folder):
                    folders.append(node)
                    todo.append(node)
                else:
                    files.append(node)
        return folders, files

    def crashes(self, draw: random.Random) -> Iterator[State]:
        """Yield what may be on the disk if the power is cut now."""
        folders, files = self._all()
        busy = [folder for folder in folders if folder.pending]
        dirty = [(file, file.outcomes()) for file in files if file.now != file.safe]
        sizes = [len(folder.pending) + 1 for folder in busy] + [len(o) for _, o in dirty]
        total = 1
        for size in sizes:
            total *= size
        if total <= LIMIT:
            choices: Iterator[tuple[int, ...]] = itertools.product(*map(range, sizes))
        else:
            ends = [tuple(0 for _ in sizes), tuple(size - 1 for size in sizes)]
            drawn = [tuple(draw.randrange(size) for size in sizes) for _ in range(LIMIT - 2)]
            choices = iter(ends + drawn)
        for choice in choices:
            kept = {
                operation
                for folder, n in zip(busy, choice, strict=False)
                for operation in folder.pending[:n]
            }
            read = {id(f): o[n] for (f, o), n in zip(dirty, choice[len(busy) :], strict=True)}
            yield self._left(kept, read)

    def _left(self, kept: set[Operation], read: dict[int, bytes]) -> State:
        state: State = {}
        todo: list[tuple[str, Folder]] = [("", self.top)]
        entries = self._entries(kept)
        while todo:
            prefix, folder = todo.pop()
            for name, node in entries.get(id(folder), folder.safe).items():
                path = f"{prefix}{name}"
                if isinstance(node, Folder):
                    state[path] = None
                    todo.append((f"{path}/", node))
                else:
                    state[path] = read.get(id(node), node.safe)
        return state

    def _entries(self, kept: set[Operation]) -> dict[int, dict[str, File | Folder]]:
        """Return the entries of the folders that the operations `kept` change."""
        entries: dict[int, dict[str, File | Folder]] = {}
        for folder in self._all()[0]:
            for operation in folder.pending:
                if operation not in kept:
                    continue
                for changed, name, node in operation.changes:
                    if changed is not folder:
                        continue
                    own = entries.setdefault(id(folder), dict(folder.safe))
                    if node is None:
                        own.pop(name, None)
                    else:
                        own[name] = node
        return entries
