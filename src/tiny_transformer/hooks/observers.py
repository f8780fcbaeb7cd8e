"""Observers of other events: norms at each step, and texts written while training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from tiny_transformer.config.checks import check, check_at_least
from tiny_transformer.hooks.base import Event, Observer
from tiny_transformer.runtime import files


def _norms(tensors: Mapping[str, Tensor], detail: str) -> dict[str, float]:
    """Return the L2 norm of all tensors together, and by parameter if that is wanted."""
    norms = {name: tensors[name].float().norm().item() for name in tensors}
    total = {"total": math.sqrt(math.fsum(norm * norm for norm in norms.values()))}
    return total | (norms if detail == "parameters" else {})


@dataclass
class GradientNorms(Observer):
    """L2 norms of the gradients, after clipping and after the update hooks before this one.

    `detail`: `parameters` logs each parameter's norm too; `total` does not.
    """

    detail: str = "parameters"

    def __post_init__(self) -> None:
        _check_detail("gradient_norms", self.detail)

    def on_gradients(self, event: Event) -> dict[str, float]:
        """Return the norms of this step's gradients."""
        return _norms(event.gradients, self.detail)


@dataclass
class WeightNorms(Observer):
    """L2 norms of the weights after an update."""

    detail: str = "parameters"

    def __post_init__(self) -> None:
        _check_detail("weight_norms", self.detail)

    def on_step_end(self, event: Event) -> dict[str, float]:
        """Return the norms of the weights."""
        return _norms(event.weights, self.detail)


def _check_detail(hook: str, detail: str) -> None:
    check(
        detail in ("parameters", "total"),
        f"hooks.{hook}.detail is {detail!r}; it must be parameters or total.",
    )


@dataclass
class SampleWriter(Observer):
    """Writes what the model makes of each prompt to `samples/step-<step>-<n>.txt`."""

    prompts: tuple[str, ...] = ("\n",)
    max_new_tokens: int = 200
    temperature: float = 0.8
    seed: int = 0

    def __post_init__(self) -> None:
        check_at_least("hooks.sample_writer", "max_new_tokens", self.max_new_tokens, 1)
        check(bool(self.prompts), "hooks.sample_writer.prompts is empty; give a prompt.")

    def on_step_end(self, event: Event) -> None:
        """Write one file for each prompt."""
        assert event.folder is not None
        assert event.generate is not None
        folder = files.make_directory(event.folder / "samples")
        for number, prompt in enumerate(self.prompts, start=1):
            text = event.generate(
                prompt,
                max_new_tokens=self.max_new_tokens,
                temperature=self.temperature,
                seed=self.seed,
            )
            files.write_text(folder / f"step-{event.step:08d}-{number}.txt", prompt + text)
