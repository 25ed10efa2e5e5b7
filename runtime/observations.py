"""What bench tells about a bundle besides rates: each function here adds lines of one sort."""

from collections.abc import Iterator
from dataclasses import dataclass

from edgellm.runtime import head_reads, sparsity
from edgellm.runtime.model import Model

GREEDY_BYTES = "weights read by greedy decoding"


@dataclass(frozen=True, kw_only=True)
class Observation:
    """A figure of a bundle; the unit is "B", or "" for a share of 1."""

    name: str
    value: float
    unit: str


def observe(model: Model) -> tuple[Observation, ...]:
    """Return all observations; they may take a second and change no session."""
    zeros, head = sparsity.measure(model), head_reads.measure(model)
    plan = model.engine.plan
    read = plan.weight_bytes_per_token() if zeros is None else zeros.bytes_read
    if head is not None:
        heads = (step for step in plan.steps if step.op_type == head_reads.OPERATOR)
        read += head.bytes_read - sum(map(plan.weight_bytes, heads))
    return (
        *_bytes_read(model),
        *_sparsity(zeros),
        *_head_reads(head),
        Observation(name=GREEDY_BYTES, value=read, unit="B"),
    )


def _bytes_read(model: Model) -> Iterator[Observation]:
    yield Observation(
        name="weights read a token", value=model.engine.plan.weight_bytes_per_token(), unit="B"
    )
    if states := model.info.state_bytes:
        yield Observation(name="recurrent states of a text", value=states, unit="B")
        return
    cached = model.info.cache_bytes_per_token
    yield Observation(name="keys and values a token of context", value=cached, unit="B")


def _sparsity(found: sparsity.Sparsity | None) -> Iterator[Observation]:
    if found is None:
        return
    if found.closed_gates is not None:
        yield Observation(name="gates not positive", value=found.closed_gates, unit="")
    if found.zero_codes is not None:
        yield Observation(name="zeros before down_proj", value=found.zero_codes, unit="")
    yield Observation(name="weights read without them", value=found.bytes_read, unit="B")


def _head_reads(found: head_reads.HeadReads | None) -> Iterator[Observation]:
    if found is None:
        return
    yield Observation(name="logits refined for the best", value=found.refined, unit="")
    yield Observation(name="logits head read for the best", value=found.bytes_read, unit="B")
