"""How a run ended."""

from __future__ import annotations

from dataclasses import dataclass

from tiny_transformer.evaluation.evaluator import Evaluation
from tiny_transformer.tracking.run_folder import RunFolder


@dataclass(frozen=True)
class TrainingResult:
    """How a run ended.

    Attributes:
        folder: the run's folder.
        step: updates made.
        evaluation: of the final weights, on the whole validation part.
        first_sample: text before training (None for a resumed run).
        last_sample: text of the final weights.
        train_seconds: time spent in updates by this call, evaluation and saving left out.
        first_step: updates that had been made before this call.
    """

    folder: RunFolder
    step: int
    evaluation: Evaluation
    first_sample: str | None
    last_sample: str
    train_seconds: float
    first_step: int = 0
