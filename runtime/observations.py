"""What bench tells about a bundle besides rates: each function here adds lines of one sort."""

from collections.abc import Iterator
from dataclasses import dataclass

from edgellm.runtime.model import Model


@dataclass(frozen=True, kw_only=True)
class Observation:
    """A figure of a bundle; the unit is "B", or "" for a share of 1."""

    name: str
    value: float
    unit: str


def observe(model: Model) -> tuple[Observation, ...]:
    """Return all observations; they may take a second and change no session."""
    return (*_bytes_read(model),)


def _bytes_read(model: Model) -> Iterator[Observation]:
    yield Observation(
        name="weights read a token", value=model.engine.plan.weight_bytes_per_token(), unit="B"
    )
    cached = model.info.cache_bytes_per_token
    yield Observation(name="keys and values a token of context", value=cached, unit="B")
