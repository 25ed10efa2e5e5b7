"""Where the time of a call goes: all of its steps, once each, and work counted by hand."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgellm.bundle import open_bundle
from edgellm.exporters.architectures.bitnet import TINY
from edgellm.runtime import limits
from edgellm.runtime.engine import Engine
from edgellm.runtime.loader import load_plan
from edgellm.runtime.profile import (
    CLOCK_NS,
    CallFigures,
    OpFigures,
    products_of,
    profile,
    time_steps,
)

HIDDEN, LAYERS, VOCAB_SIZE = (
    TINY[name] for name in ("hidden_size", "num_hidden_layers", "vocab_size")
)


@pytest.fixture(scope="module")
def engine(random_bundle: Path) -> Iterator[Engine]:
    plan = load_plan(open_bundle(random_bundle))
    made = Engine(plan, context_length=64, threads=1, chunk=16)
    yield made
    made.close()


def find_operator(call: CallFigures, name: str) -> OpFigures:
    (found,) = [item for item in call.operators if item.operator.startswith(name)]
    return found


def test_every_step_is_timed_and_the_cache_stays(engine: Engine) -> None:
    cache = engine.new_cache()
    engine.forward(np.arange(10), cache)

    begin = time.perf_counter()
    times = time_steps(engine, np.arange(4), cache, repetitions=2)
    taken = time.perf_counter() - begin

    assert len(times) == len(engine.steps)
    # The least that a step is taken to need is what all get where no time was noted.
    assert 2 * CLOCK_NS / 1e9 * len(times) < sum(times) < taken
    assert cache.length == 10


def test_a_profile_is_complete(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BANDWIDTH_BYTES", 1 << 20)

    result = profile(engine, context=20, repetitions=2)

    assert (result.decode.context, result.decode.tokens) == (20, 1)
    assert (result.prefill.context, result.prefill.tokens) == (0, 16)
    for call in (result.decode, result.prefill):
        assert sum(item.calls for item in call.operators) == len(engine.steps)
        assert sum(item.share for item in call.operators) == pytest.approx(1)
        assert sum(item.seconds for item in call.operators) == pytest.approx(call.seconds)
        seconds = [item.seconds for item in call.operators]
        assert seconds == sorted(seconds, reverse=True)
    head = find_operator(result.decode, "LogitsHead")
    assert head.products == HIDDEN * VOCAB_SIZE
    assert head.bytes_read == HIDDEN * VOCAB_SIZE + 4 * VOCAB_SIZE  # with a multiplier a row
    assert head.limit_share is not None
    assert head.limit_share >= head.bytes_per_s / result.bytes_per_s * 0.999
    assert find_operator(result.decode, "ResidualAdd").limit_share is None


def test_attention_reads_and_multiplies_what_a_token_sees(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "BANDWIDTH_BYTES", 1 << 20)

    result = profile(engine, context=20, repetitions=1)

    attention = find_operator(result.decode, "Attention")
    heads = TINY["num_key_value_heads"]
    dim = HIDDEN // TINY["num_attention_heads"]
    assert attention.calls == LAYERS
    assert attention.bytes_read == LAYERS * 21 * 2 * heads * (dim + 4)
    assert attention.products == LAYERS * 21 * 2 * HIDDEN
    prefill = find_operator(result.prefill, "Attention")
    assert prefill.products == LAYERS * sum(range(1, 17)) * 2 * HIDDEN


def test_products_are_counted_for_all_tokens(engine: Engine) -> None:
    def count(op_type: str, keys_seen: list[int]) -> int:
        step = next(step for step in engine.steps if step.op_type == op_type)
        return products_of(engine.plan, step, keys_seen)

    assert count("BitLinear", [1, 2, 3]) == 3 * HIDDEN * HIDDEN  # q_proj
    assert count("LogitsHead", [1, 2, 3]) == HIDDEN * VOCAB_SIZE
    assert count("Requantize", [1, 2, 3]) == 0
