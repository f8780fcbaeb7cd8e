"""Makes the evidence of the bug hunts: `python tools/bug_hunts.py [NAME ...]`.

Each model with its bug is trained shortly, beside the right one, with the same seed; what is
seen of it is written to `course/bug_hunts/NAME/`. On one thread a hunt takes a minute or so.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `tools` itself

import torch
from tools.hunt_evidence.shows import SHOWS
from tools.hunt_evidence.training import SETTINGS, Side

from tiny_transformer.config.loading import load_config
from tiny_transformer.course.hunt import MADE_WITH, Hunt, find_hunt, load_hunts, model_sources
from tiny_transformer.runtime import files


def make(hunt: Hunt) -> None:
    """Write the evidence of one hunt."""
    with tempfile.TemporaryDirectory() as temporary:
        buggy = Side("this model", hunt, hunt.sources(), Path(temporary) / "buggy")
        right = Side("others' model", hunt, model_sources(), Path(temporary) / "right")
        for kind in hunt.evidence:
            SHOWS[kind](hunt.folder, buggy, right)
    settings = {**SETTINGS, **hunt.settings}
    config = load_config("course", settings)
    made = (
        f"python tools/bug_hunts.py {hunt.name}\n"
        f"the preset course with {settings}\n"
        f"seed {config.training.seed}, {config.training.max_steps} steps on "
        f"{config.data.corpus}, PyTorch {torch.__version__}, one thread\n"
    )
    files.write_text(hunt.folder / MADE_WITH, made)


def main() -> None:
    """Make the evidence of the hunts that are named, or of all."""
    torch.set_num_threads(1)
    for name in sys.argv[1:] or list(load_hunts()):
        print(name, flush=True)
        make(find_hunt(name))


if __name__ == "__main__":
    main()
