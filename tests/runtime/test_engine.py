"""The engine: the same logits for any chunk, any threads, any order of calls, as the reference."""

import gc
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgellm.bundle import Bundle, open_bundle
from edgellm.errors import ConfigError, ContextLengthError
from edgellm.runtime import cpu
from edgellm.runtime import engine as engine_module
from edgellm.runtime.choices import Choices
from edgellm.runtime.engine import Engine, usual_chunk
from edgellm.runtime.executors import reference
from edgellm.runtime.feed_engine import FeedEngine
from edgellm.runtime.kernels import simd
from edgellm.runtime.loader import load_plan
from edgellm.runtime.plan import Plan

CONTEXT = 64
VOCAB_SIZE = 288
IDS = np.random.default_rng(0).integers(0, VOCAB_SIZE, 40)


@pytest.fixture(scope="module")
def bundle(random_bundle: Path) -> Bundle:
    return open_bundle(random_bundle)


@pytest.fixture(scope="module")
def plan(bundle: Bundle) -> Plan:
    return load_plan(bundle)


@pytest.fixture(scope="module")
def expected(bundle: Bundle, plan: Plan) -> np.ndarray:
    """All logits of IDS, by the reference."""
    executor = FeedEngine(reference.Executor(bundle, plan), plan, CONTEXT)
    return executor.forward(IDS, executor.new_cache(), range(len(IDS)))


@pytest.fixture
def shared_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the threads share the work of this tiny model, too."""
    monkeypatch.setattr(engine_module, "SHARED_WORK_BYTES", 0)


@pytest.fixture
def engine(plan: Plan) -> Iterator[Engine]:
    made = Engine(plan, context_length=CONTEXT, threads=1, chunk=16)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("variant", "expected"), [("portable", 128), ("avx512_vnni", 128), ("avx512_amx", 256)]
)
def test_matrix_tiles_take_more_tokens_at_once(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, variant: str, expected: int
) -> None:
    if variant not in simd.available(cpu.host()):
        pytest.skip("this processor cannot run it")
    monkeypatch.setenv(simd.ENVIRONMENT, variant)

    assert usual_chunk(plan, Choices()) == expected


@pytest.mark.usefixtures("shared_work")
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_chunks_and_threads_make_no_difference(
    plan: Plan, expected: np.ndarray, chunk: int, threads: int
) -> None:
    engine = Engine(plan, context_length=CONTEXT, threads=threads, chunk=chunk)
    cache = engine.new_cache()

    first = engine.forward(IDS[:11], cache, range(11))
    second = engine.forward(IDS[11:], cache, range(len(IDS) - 11))

    np.testing.assert_array_equal(np.concatenate([first, second]), expected, strict=True)
    engine.close()


def test_decode_equals_prefill(engine: Engine, expected: np.ndarray) -> None:
    cache = engine.new_cache()

    rows = [engine.forward(IDS[i : i + 1], cache)[0] for i in range(len(IDS))]

    np.testing.assert_array_equal(rows, expected)


@pytest.mark.parametrize("rows", [[], [39], [0, 20, 39], [39, 0, 17, 17], [3, 2, 1], [7] * 20])
def test_rows_are_scored_in_their_order(
    engine: Engine, expected: np.ndarray, rows: list[int]
) -> None:
    logits = engine.forward(IDS, engine.new_cache(), rows)

    np.testing.assert_array_equal(logits, expected[rows], strict=True)


def test_rewinding_forgets(engine: Engine, expected: np.ndarray) -> None:
    cache = engine.new_cache()
    engine.forward(IDS[:10], cache)
    engine.forward(IDS[30:], cache)
    cache.truncate(10)

    logits = engine.forward(IDS[10:], cache)

    np.testing.assert_array_equal(logits[0], expected[-1])


def test_caches_are_independent(engine: Engine, expected: np.ndarray) -> None:
    """Two texts in turn; the second cache is a copy of the first, half way."""
    first = engine.new_cache()
    engine.forward(IDS[:20], first)
    second = first.copy()
    engine.forward(IDS[:20][::-1], second)
    for begin in (20, 30):
        logits = engine.forward(IDS[begin : begin + 10], first)
        engine.forward(IDS[:5], second)
        np.testing.assert_array_equal(logits[0], expected[begin + 9])


def test_a_freed_cache_is_not_taken_for_a_new_one(engine: Engine, expected: np.ndarray) -> None:
    for _ in range(3):
        cache = engine.new_cache()
        np.testing.assert_array_equal(engine.forward(IDS, cache)[0], expected[-1])
        del cache
        gc.collect()


@pytest.mark.usefixtures("shared_work")
def test_calls_from_several_threads_take_turns(plan: Plan, expected: np.ndarray) -> None:
    engine = Engine(plan, context_length=CONTEXT, threads=2, chunk=5)
    wrong: list[int] = []

    def call() -> None:
        logits = engine.forward(IDS, engine.new_cache())
        if not np.array_equal(logits[0], expected[-1]):
            wrong.append(1)

    callers = [threading.Thread(target=call) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert wrong == []
    engine.close()


def test_the_steps_of_a_prepared_call_run_apart(
    engine: Engine, plan: Plan, expected: np.ndarray
) -> None:
    cache = engine.new_cache()
    engine.forward(IDS[:10], cache)

    with engine.prepared(IDS[10:14], cache) as table:
        assert len(table) == len(engine.steps) == len(plan.steps)
        for index in range(len(table)):
            engine.run_rows(table[index : index + 1])

    assert cache.length == 10
    np.testing.assert_array_equal(engine.forward(IDS[10:], cache)[0], expected[-1])
    with (
        pytest.raises(ConfigError, match="30 tokens to prepare; the chunk is 16"),
        engine.prepared(IDS[:30], engine.new_cache()),
    ):
        pass


@pytest.mark.usefixtures("shared_work")
def test_many_short_calls_on_more_threads_than_cores(plan: Plan, expected: np.ndarray) -> None:
    """Barriers met thousands of times, by threads that lose their cores to each other."""
    engine = Engine(plan, context_length=CONTEXT, threads=3)
    for _ in range(8):
        cache = engine.new_cache()
        rows = [engine.forward(IDS[i : i + 1], cache)[0] for i in range(len(IDS))]
        np.testing.assert_array_equal(rows, expected)
    waited = engine.waited_seconds()
    assert waited.shape == (3,)
    assert waited.max() > 0
    engine.close()


def test_a_cache_longer_than_the_context_is_refused(engine: Engine) -> None:
    cache = engine.new_cache(capacity=CONTEXT + 10)

    with pytest.raises(ContextLengthError, match="context of 64"):
        engine.forward(np.full(CONTEXT + 1, 5), cache)


def test_an_interrupt_leaves_whole_chunks(
    engine: Engine, expected: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = engine.new_cache()
    run, calls = engine._run, []

    def interrupted(*arguments: int) -> None:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        run(*arguments)

    monkeypatch.setattr(engine, "_run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        engine.forward(IDS, cache)
    assert cache.length == 16
    np.testing.assert_array_equal(engine.forward(IDS[16:], cache)[0], expected[-1])


@pytest.mark.parametrize(
    ("ids", "rows", "error", "message"),
    [
        ([], None, ConfigError, "at least one token"),
        ([[1, 2]], None, ConfigError, "shape"),
        ([3, -1], None, ConfigError, "token id -1; allowed are 0 to 287"),
        ([3, 288], None, ConfigError, "token id 288"),
        ([3, 4], [2], ConfigError, "rows 2 to 2 of 2"),
        ([3, 4], [-1], ConfigError, "rows -1"),
        ([1] * 65, None, ContextLengthError, "context of 64"),
    ],
)
def test_wrong_calls_are_refused(
    engine: Engine, ids: list[int], rows: list[int] | None, error: type[Exception], message: str
) -> None:
    cache = engine.new_cache()

    with pytest.raises(error, match=message):
        engine.forward(np.array(ids, np.int64), cache, rows)
    assert cache.length == 0


def test_the_whole_context_can_be_used(engine: Engine) -> None:
    cache = engine.new_cache()
    engine.forward(np.full(CONTEXT, 5), cache)

    assert cache.length == CONTEXT
    with pytest.raises(ContextLengthError):
        engine.forward(IDS[:1], cache)


@pytest.mark.parametrize(
    ("threads", "chunk", "message"),
    [
        (0, 8, "threads is 0; allowed are 1 to 256"),
        (-1, 8, "threads is -1"),
        (1000, 8, "threads is 1000"),
        (1, 0, "chunk is 0; it must be at least 1"),
        (1, -3, "chunk is -3"),
    ],
)
def test_wrong_counts_are_refused(plan: Plan, threads: int, chunk: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Engine(plan, context_length=CONTEXT, threads=threads, chunk=chunk)


def test_a_closed_engine_refuses_and_leaves_no_thread(plan: Plan) -> None:
    before = threading.active_count()
    engine = Engine(plan, context_length=CONTEXT, threads=3)
    cache = engine.new_cache()
    assert threading.active_count() == before + 2
    engine.close()
    engine.close()

    assert threading.active_count() == before
    with pytest.raises(ConfigError, match="closed"):
        engine.forward(IDS, cache)


def test_bytes_per_token_counts_one_row_of_looked_up_tables(plan: Plan, engine: Engine) -> None:
    whole = sum(
        plan.constants[name].nbytes
        for step in plan.steps
        for name in step.inputs
        if name in plan.constants
    )
    tables = [step for step in plan.steps if step.op_type in ("Embedding", "RotaryEmbedding")]
    looked_up = [plan.constants[n] for s in tables for n in s.inputs if n in plan.constants]
    one_row = sum(table[0].nbytes for table in looked_up)

    assert engine.bytes_per_token == whole - sum(t.nbytes for t in looked_up) + one_row
