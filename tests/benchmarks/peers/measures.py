"""What is measured, and what can measure it."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

LEAST_SECONDS = 0.2
"""A sample lasts at least this long: what is short is repeated within it."""


@dataclass(frozen=True)
class Measure:
    """A piece of work: decode or prefill of so many tokens, or a product with so many rows."""

    phase: str
    tokens: int
    threads: int

    def __str__(self) -> str:
        threads = f"{self.threads} thread" + "s" * (self.threads > 1)
        unit = "row" if self.phase == "product" else "token"
        return f"{self.phase} {self.tokens} {unit}{'s' * (self.tokens > 1)}, {threads}"


class Runner(Protocol):
    """An engine with a model, in a process of its own."""

    weight_bytes: int
    """Bytes of weights that one decoded token, or one product, reads."""

    def seconds(self, measure: Measure) -> float:
        """Do the work once and return how long it took."""
        ...


class Engine(Protocol):
    """How to open a Runner: small, and pickled on the way to its process."""

    name: str

    def open(self) -> Runner:
        """Load the model. Raises ImportError where the peer is not installed."""
        ...


def mean_seconds(work: Callable[[], float]) -> float:
    """Repeat short work and return the mean of the seconds it says it took."""
    total, count = 0.0, 0
    while total < LEAST_SECONDS:
        total += work()
        count += 1
    return total / count


def timed(work: Callable[[], object]) -> float:
    """Return the seconds of one call."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin
