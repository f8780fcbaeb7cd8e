"""Draw a run's end, as `tiny train` shows it, for the README.

    python tools/demo_picture.py runs/NAME docs/figures/demo.svg

Everything in the picture is read from the run's folder.
"""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI

from tiny_transformer.cli.train import show_result
from tiny_transformer.config.loading import load_config
from tiny_transformer.evaluation.evaluator import Evaluation
from tiny_transformer.tracking.console import ConsoleReporter
from tiny_transformer.tracking.run_folder import RunFolder
from tiny_transformer.tracking.run_log import read_log
from tiny_transformer.training.result import TrainingResult

_WIDTH = 88
_SHOWN_EVERY = 100  # training steps


def draw(run: Path, picture: Path) -> None:
    """Write the picture of the finished run in folder `run`."""
    lines = read_log(run / "log.jsonl")
    config = load_config(run / "config.yaml")
    console = Console(record=True, width=_WIDTH, file=io.StringIO(), force_terminal=True)
    reporter = ConsoleReporter(console)
    last = lines[-1]["step"]
    reporter.message("$ make demo")
    for line in lines:
        step = line["step"]
        if line["event"] == "train" and (step == 1 or step % _SHOWN_EVERY == 0):
            rate = f"{line['tokens_per_second']:,.0f}"
            reporter.message(f"step {step}/{last}  loss {line['loss']:.3f}  {rate} tokens/s")
    evaluation = next(line for line in reversed(lines) if line["event"] == "eval")
    samples = [line["text"] for line in lines if line["event"] == "sample"]
    result = TrainingResult(
        folder=RunFolder(Path("runs") / run.name),
        step=last,
        evaluation=Evaluation(evaluation["val_loss"], evaluation["n_targets"]),
        first_sample=samples[0],
        last_sample=samples[-1],
        train_seconds=lines[-1]["train_seconds"],
    )
    show_result(result, config.sampling.prompt, console)
    svg = console.export_svg(title="tiny train --config configs/tiny.yaml", theme=MONOKAI)
    # rich points to fonts on the web; the reader's own fixed-width font will do.
    svg = re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL)
    picture.write_text(svg.replace("Fira Code", "Menlo, Consolas"), encoding="utf-8")


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
