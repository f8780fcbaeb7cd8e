"""Run chapters of checks, several at a time, each in a folder of its own."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

from tools.validation.checks import Chapter
from tools.validation.commands import environment, run_check
from tools.validation.report import Result
from tools.validation.starter import Starter


def run_chapter(
    chapter: Chapter,
    folder: Path,
    variables: Mapping[str, str],
    tell: Callable[[Result], None],
    stop: threading.Event,
    starter: Starter | None,
) -> None:
    """Run the checks of a chapter in its folder, in order, and tell each result."""
    outputs: dict[str, str] = {}
    for check in chapter.checks:
        if stop.is_set():
            return
        seconds, problem = run_check(check, folder, variables, outputs, starter)
        tell(Result("commands", f"{chapter.name}: {check.title}", seconds, problem))


def run_chapters(
    chapters: Sequence[Chapter],
    jobs: int,
    tell: Callable[[Result], None],
    *,
    forked: bool = False,
) -> None:
    """Run chapters, several at a time, each in a folder of its own.

    Args:
        chapters: a chapter that goes on with another's folder comes after it.
        jobs: how many at a time.
        tell: called with each result, from one thread at a time.
        forked: fork `tiny` from one Python that has PyTorch imported.
    """
    lock, stop = threading.Lock(), threading.Event()

    def told(result: Result) -> None:
        with lock:
            tell(result)

    with contextlib.ExitStack() as stack:
        place = stack.enter_context(tempfile.TemporaryDirectory(prefix="tiny-validate."))
        folders = {chapter.name: Path(place) / "work" / chapter.name for chapter in chapters}
        variables = environment(Path(place) / "cache")
        starter = stack.enter_context(Starter(variables)) if forked else None

        def run(chapter: Chapter) -> None:
            folder = folders[chapter.name]
            if chapter.after:
                shutil.copytree(folders[chapter.after], folder)
            else:
                folder.mkdir(parents=True)
            run_chapter(chapter, folder, variables, told, stop, starter)

        waiting, done = list(chapters), set[str]()
        running: dict[Future[None], str] = {}
        with ThreadPoolExecutor(jobs) as pool:
            try:
                while waiting or running:
                    # First what most others wait for.
                    ready = [c for c in waiting if not c.after or c.after in done]
                    ready.sort(key=lambda c: -_followers(c, chapters))
                    for chapter in ready[: jobs - len(running)]:
                        waiting.remove(chapter)
                        running[pool.submit(run, chapter)] = chapter.name
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        future.result()
                        done.add(running.pop(future))
            except BaseException:  # Ctrl-C, above all: no check is begun any more
                stop.set()
                raise


def _followers(chapter: Chapter, chapters: Sequence[Chapter]) -> int:
    """Return how many chapters come after one, directly or not."""
    direct = [other for other in chapters if other.after == chapter.name]
    return len(direct) + sum(_followers(other, chapters) for other in direct)


def with_foundations(names: Sequence[str], chapters: Sequence[Chapter]) -> list[Chapter]:
    """Return the chapters of these names and those that they go on with, in their order."""
    by_name = {chapter.name: chapter for chapter in chapters}
    wanted = set(names)
    for name in names:
        while after := by_name[name].after:
            wanted.add(after)
            name = after
    return [chapter for chapter in chapters if chapter.name in wanted]
