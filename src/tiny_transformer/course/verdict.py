"""What becomes of an answer: the verdict on it, and the name of its mistake.

Only plain data, so that the command line needs no PyTorch to show it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Status = Literal[
    "passed",
    "not attempted",
    "wrong",
    "raised",  # the learner's code raised an exception
    "missing",  # the file or the function is not there
    "not theirs",  # the reference's, imported
    "blocked",  # an exercise that it uses is not done
    "timed out",
    "crashed",  # the process ended: a segmentation fault, os._exit
]


@dataclass(frozen=True)
class Diagnosis:
    """A mistake by name.

    Attributes:
        name: of the wrong answer.
        says: what to tell its writer.
        exact: it behaves as the answer does on every probe; else on `share` of them.
        share: of the probes on which either differs from the reference.
    """

    name: str
    says: str
    exact: bool
    share: float


@dataclass(frozen=True)
class Verdict:
    """What became of one exercise.

    Attributes:
        exercise: its id.
        status: see `Status`.
        n_passed: tests that passed.
        n_tests: tests in all.
        test: the first promise that does not hold, in words.
        message: what is wrong with it.
        where: `file.py, line 12` of the learner's, where an exception came from.
        picture: theirs beside the expected.
        diagnosis: the known mistake that it is.
        seconds: it took.
    """

    exercise: str
    status: Status
    n_passed: int = 0
    n_tests: int = 0
    test: str = ""
    message: str = ""
    where: str = ""
    picture: str = ""
    diagnosis: Diagnosis | None = None
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether every test passed."""
        return self.status == "passed"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as JSON has them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Verdict:
        """Return what `to_dict` was made of."""
        inner = value["diagnosis"]
        return cls(**{**value, "diagnosis": None if inner is None else Diagnosis(**inner)})
