"""What quantising costs and saves: the loss that is added, and the bytes of both models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tiny_transformer.evaluation.evaluator import Evaluation
from tiny_transformer.model.quantized import weight_bytes
from tiny_transformer.model.transformer import Transformer


@dataclass(frozen=True)
class QuantizationCost:
    """A model and its quantised copy, side by side.

    Attributes:
        float_bytes: of the weights before.
        bytes: of the weights after.
        float_evaluation: of the model, on some text; None where it was not evaluated.
        evaluation: of the quantised copy, on the same text.
    """

    float_bytes: int
    bytes: int
    float_evaluation: Evaluation | None = None
    evaluation: Evaluation | None = None

    @classmethod
    def of(
        cls,
        model: Transformer,
        quantized: Transformer,
        float_evaluation: Evaluation | None = None,
        evaluation: Evaluation | None = None,
    ) -> QuantizationCost:
        """Return the cost of `quantized`, which was made from `model`."""
        return cls(weight_bytes(model), weight_bytes(quantized), float_evaluation, evaluation)

    @property
    def loss_increase(self) -> float | None:
        """What the loss gains, in nats a token; below zero where rounding happens to help."""
        if self.float_evaluation is None or self.evaluation is None:
            return None
        return self.evaluation.loss - self.float_evaluation.loss

    @property
    def bits_per_char_increase(self) -> float | None:
        """The same in bits a character."""
        if self.float_evaluation is None or self.evaluation is None:
            return None
        return self.evaluation.bits_per_char - self.float_evaluation.bits_per_char

    def metrics(self) -> dict[str, Any]:
        """Return the numbers by name; those of the loss only where it was measured."""
        found: dict[str, Any] = {
            "float_weight_bytes": self.float_bytes,
            "weight_bytes": self.bytes,
        }
        if self.float_evaluation is not None:
            found |= {
                "float_val_loss": self.float_evaluation.loss,
                "loss_increase": self.loss_increase,
                "bits_per_char_increase": self.bits_per_char_increase,
            }
        return found

    def sentences(self) -> list[str]:
        """Return what a person wants to know, a sentence each."""
        told = [
            f"The weights take {self.bytes:,} bytes instead of {self.float_bytes:,} "
            f"({self.bytes / self.float_bytes:.0%})."
        ]
        if self.float_evaluation is not None and self.evaluation is not None:
            told.append(
                f"The loss is {self.evaluation.loss:.5f} nats instead of "
                f"{self.float_evaluation.loss:.5f}: {self.loss_increase:+.5f} nats, "
                f"{self.bits_per_char_increase:+.5f} bits a character, over "
                f"{self.evaluation.n_targets:,} tokens."
            )
        return told
