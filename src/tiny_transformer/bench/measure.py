"""Measure things in turns, so that a busy moment of the machine hits all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Budget:
    """How much is measured.

    Attributes:
        rounds: times that every subject has its turn.
        training_steps: optimizer steps of a turn.
        new_tokens: tokens that a stream generates in a turn, after a prompt of one token.
        characters: length of the text that tokenizers read.
        seconds: a tokenizer's turn lasts at least as long.
        gemm_size: rows and columns of the matrices of the roofline.
    """

    rounds: int
    training_steps: int
    new_tokens: int
    characters: int
    seconds: float
    gemm_size: int


FULL = Budget(7, 4, 255, 1_000_000, 0.3, 1024)
QUICK = Budget(3, 1, 127, 200_000, 0.1, 1024)


@dataclass(frozen=True)
class Rate:
    """How fast one subject was in each round: units a second.

    Attributes:
        samples: one rate a round.
    """

    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle rate."""
        return statistics.median(self.samples)


@dataclass(frozen=True)
class Ratio:
    """How many times as fast one subject is as another: the middle, the least, the most."""

    median: float
    least: float
    most: float


def ratio(ours: Rate, peer: Rate) -> Ratio:
    """Return `ours / peer`, each round divided by the same round of the peer."""
    pairs = [a / b for a, b in zip(ours.samples, peer.samples, strict=True)]
    return Ratio(statistics.median(pairs), min(pairs), max(pairs))


def in_turns(subjects: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, Rate]:
    """Let every subject have its turn, `rounds` times over: A B A B and so on.

    Args:
        subjects: each measures itself once and returns units a second.
        rounds: at least 1. A round that comes before them warms up and is not counted.
    """
    samples: dict[str, list[float]] = {name: [] for name in subjects}
    for number in range(rounds + 1):
        for name, measure in subjects.items():
            rate = measure()
            if number:
                samples[name].append(rate)
    return {name: Rate(tuple(values)) for name, values in samples.items()}


def rate_of(action: Callable[[], object], units: float, *, times: int = 1) -> float:
    """Return the units a second of calling `action` `times` times; each call does `units`."""
    began = time.perf_counter()
    for _ in range(times):
        action()
    return units * times / (time.perf_counter() - began)


def rate_for(action: Callable[[], object], units: float, seconds: float) -> float:
    """Return the units a second of calling `action` until `seconds` have passed."""
    began = time.perf_counter()
    calls, elapsed = 0, 0.0
    while not calls or elapsed < seconds:
        action()
        calls += 1
        elapsed = time.perf_counter() - began
    return units * calls / elapsed


def gemm_flops(size: int, *, times: int = 4) -> float:
    """Return the floating-point operations a second of a float32 matrix product.

    Args:
        size: rows and columns of both matrices; a product takes `2 size^3` operations.
        times: products in one measurement.
    """
    a, b = torch.randn(size, size), torch.randn(size, size)
    out = torch.empty(size, size)
    torch.mm(a, b, out=out)
    return rate_of(lambda: torch.mm(a, b, out=out), 2.0 * size**3, times=times)
