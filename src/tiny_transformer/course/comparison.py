"""What comparing somebody's parts with the reference came to."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Divergence:
    """The first way in which a model with somebody's parts is not the reference.

    Attributes:
        stage: `building`, `parameters`, `evaluation`, `cache`, `training`, `gradients` or
            `dropout`.
        summary: one line.
        details: further lines.
    """

    stage: str
    summary: str
    details: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n".join([self.summary, *(f"  {line}" for line in self.details)])


@dataclass(frozen=True)
class Comparison:
    """What comparing came to.

    Attributes:
        parts: names of the parts that were theirs.
        divergence: the first; None where the model is the reference's.
        rounding: largest difference of a logit, as a share of the largest one; 0 is bit for bit.
    """

    parts: tuple[str, ...]
    divergence: Divergence | None
    rounding: float = 0.0

    @property
    def same(self) -> bool:
        """Whether the model is the reference's, up to rounding."""
        return self.divergence is None

    def sentence(self) -> str:
        """Return one line on what comparing came to."""
        who = " and ".join(self.parts) if len(self.parts) < 3 else f"all {len(self.parts)} together"
        if self.divergence is not None:
            return f"{who}: {self.divergence.summary}"
        how = (
            "bit for bit"
            if self.rounding == 0
            else f"up to rounding (a logit by {self.rounding:.0e} of the largest at most)"
        )
        return f"{who}: equal to the reference, {how}"


ROUNDING = Divergence("rounding", "Only rounding differs.")
"""A difference that goes away in float64."""


def is_wrong(found: Divergence | None) -> bool:
    """Return whether something was found that is more than rounding."""
    return found is not None and found is not ROUNDING
