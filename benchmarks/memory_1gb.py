"""Peak anonymous memory while corpora of growing size are prepared and drawn from.

    python benchmarks/memory_1gb.py                  # 10 MB, 100 MB and 1 GB
    python benchmarks/memory_1gb.py --megabytes 4 64

Each size is measured in a process of its own, every five milliseconds, from `RssAnon` in
/proc/self/status (so it needs Linux). Pages of the memory-mapped token file are not
anonymous: the system drops them when memory runs short. Prints one JSON line a size.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path


def anonymous_mib() -> float:
    """Return the anonymous resident memory of this process in MiB."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    raise SystemExit("This system does not tell RssAnon in /proc/self/status.")


class Peak(threading.Thread):
    """Watches this process until it is told to stop."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.mib = anonymous_mib()
        self.done = threading.Event()

    def run(self) -> None:
        """Keep the highest value seen."""
        while not self.done.wait(0.005):
            self.mib = max(self.mib, anonymous_mib())


def write_text(path: Path, megabytes: int) -> None:
    """Write `megabytes` MB of lines, some with accents, without holding them."""
    lines = "".join(f"{n}: to be, or not to be, that is the question\n" for n in range(20_000))
    block = (lines + "café — “quoted”\n").encode()
    left = megabytes * 1_000_000
    with path.open("wb") as stream:
        while left > 0:
            left -= stream.write(block[:left].decode(errors="ignore").encode() or b"\n")


def measure(path: Path) -> dict[str, float]:
    """Prepare the file at `path`, draw batches from all over it, and return the numbers."""
    from tiny_transformer.config import DataConfig
    from tiny_transformer.data import DataLoader, WindowDataset, prepare, split_corpus
    from tiny_transformer.text import CharTokenizer

    before = anonymous_mib()
    peak = Peak()
    peak.start()
    start = time.perf_counter()
    corpus = prepare(DataConfig(corpus=str(path)), CharTokenizer())
    seconds = time.perf_counter() - start
    data = DataLoader(WindowDataset(split_corpus(corpus.tokens).train, 256))
    for step in range(300):
        data.batch(step)
    peak.done.set()
    peak.join()
    return {
        "megabytes": path.stat().st_size / 1e6,
        "before_mib": round(before, 1),
        "peak_anonymous_mib": round(max(peak.mib, anonymous_mib()), 1),
        "prepare_seconds": round(seconds, 2),
    }


def main() -> None:
    """Measure every size in a fresh process."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--megabytes", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--folder", type=Path, help="where the files are put for the while")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure)), flush=True)
        return
    for megabytes in options.megabytes:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            path = Path(folder) / "corpus.txt"
            write_text(path, megabytes)
            environment = {**os.environ, "TINY_TRANSFORMER_CACHE": str(Path(folder) / "cache")}
            command = [sys.executable, __file__, "--measure", str(path)]
            subprocess.run(command, check=True, env=environment)


if __name__ == "__main__":
    main()
