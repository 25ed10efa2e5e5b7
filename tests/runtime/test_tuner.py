"""The tuner times all variants and thread counts, remembers, and changes no logits."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import edgellm
from edgellm.bundle import open_bundle
from edgellm.errors import ConfigError
from edgellm.runtime import cpu, kernel_timing, tuner, tuning
from edgellm.runtime.choices import kind_of
from edgellm.runtime.engine import Engine
from edgellm.runtime.kernel_timing import variants_of
from edgellm.runtime.kernels import simd
from edgellm.runtime.kv_cache import KvCache
from edgellm.runtime.loader import load_plan
from edgellm.runtime.plan import Plan
from edgellm.runtime.tuner import tune

IntArray = npt.NDArray[np.int64]
VARIANTS = simd.available(cpu.host())


@pytest.fixture(scope="module")
def plan(random_bundle: Path) -> Plan:
    return load_plan(open_bundle(random_bundle))


@pytest.fixture(autouse=True)
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A memory of this test's own, beside the kernels of all tests."""
    monkeypatch.delenv(simd.ENVIRONMENT, raising=False)
    monkeypatch.setattr(tuning, "tuning_path", lambda: tmp_path / "tuning.json")
    return tmp_path / "tuning.json"


def test_every_variant_and_thread_count_is_timed(plan: Plan, memory: Path) -> None:
    lines: list[str] = []

    result = tune(plan, context_length=64, seconds=0.2, progress=lines.append)

    first = ["layouts of ternary weights"] if tuner.can_look_up(plan) else []
    assert lines == [*first, "kernels for one token", "kernels for 64 tokens", "threads"]
    assert memory.exists()
    assert result.path == str(memory)
    plan, _ = tuner.as_tuned(plan)
    variants = {str(kind_of(plan, step)): list(variants_of(step.op_type)) for step in plan.steps}
    expected = {name: found for name, found in variants.items() if len(found) > 1}
    if len(VARIANTS) > 1:
        assert any("BitLinear" in name for name in expected)
    timed = {(item.operator, item.tokens) for item in result.variants}
    assert timed == {(name, tokens) for name in expected for tokens in (1, 64)}
    for call in timed:
        own = [item for item in result.variants if (item.operator, item.tokens) == call]
        assert [item.variant for item in own] == expected[call[0]]
        assert sum(item.chosen for item in own) == 1
        assert all(0 < item.seconds < 10 for item in own)
    assert [count.threads for count in result.threads] == tuner._counts(cpu.host().physical_cores)
    assert sum(count.chosen for count in result.threads) == 1


def test_what_was_chosen_is_used_by_the_next_load(
    random_bundle: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    with edgellm.load(random_bundle) as model:
        expected = model.logits([1, 2, 3])
    monkeypatch.setattr(tuner, "_fastest", lambda times: dict.fromkeys(times, "portable"))

    result = tune(plan, context_length=64, seconds=0.1)

    with edgellm.load(random_bundle) as model:
        engine = model.engine
        kernels = [engine.choices.kernel(engine.plan, step, many=True) for step in engine.steps]
        assert {kernel.variant for kernel in kernels} == {"portable"}
        assert engine.threads == result.tuning.threads
        np.testing.assert_array_equal(model.logits([1, 2, 3]), expected)
    with edgellm.load(random_bundle, threads=3) as model:
        assert model.engine.threads == 3


def test_load_tunes_when_asked_and_only_once(
    random_bundle: Path, memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuner, "SECONDS", 0.1)
    with edgellm.load(random_bundle):
        assert not memory.exists()
    with edgellm.load(random_bundle, tune=True):
        assert memory.exists()
    monkeypatch.setattr(tuner, "tune", lambda *_, **__: pytest.fail("it was tuned before"))
    with edgellm.load(random_bundle, tune=True):
        pass


def test_where_the_environment_chose_there_is_nothing_to_tune(
    random_bundle: Path, plan: Plan, memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(simd.ENVIRONMENT, "portable")

    with pytest.raises(ConfigError, match="unset it to tune"):
        tune(plan, context_length=64)
    with edgellm.load(random_bundle, tune=True):
        pass
    assert not memory.exists()


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ({"usual": 1.0, "other": 0.9}, "other"),
        ({"usual": 1.0, "other": 0.98}, "usual"),
        ({"usual": 1.0, "other": 1.5, "third": 0.5}, "third"),
        ({"usual": 1.0, "other": 1.0}, "usual"),
    ],
)
def test_the_usual_variant_stays_unless_another_is_faster(
    times: dict[str, float], expected: str
) -> None:
    assert tuner._fastest({"kind": times}) == {"kind": expected}


def test_slow_variants_are_not_timed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simd, "available", lambda _: ("avx512_amx", "avx512_vbmi", "portable"))
    times = {
        "a": {"avx512_amx": 1.0, "avx512_vbmi": 2.0, "portable": 9.0},
        "b": {"avx512_vbmi": 0.1, "portable": 5.0},  # as it is with avx512_amx
        "c": {"portable": 1.0},
    }

    assert kernel_timing._fast(times) == ["avx512_amx", "avx512_vbmi"]


@pytest.mark.parametrize(
    ("cores", "counts"),
    [(1, [1]), (4, [1, 2, 3, 4]), (8, [*range(1, 9)]), (12, [1, 2, 4, 8, 12])],
)
def test_thread_counts_to_try(cores: int, counts: list[int]) -> None:
    assert tuner._counts(cores) == counts


@pytest.mark.parametrize(("context", "before"), [(2048, 512), (100, 99)])
@pytest.mark.parametrize("tokens", [1, 64])
def test_steps_are_timed_behind_a_context(
    plan: Plan, context: int, before: int, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths: list[int] = []
    prepared = Engine.prepared

    def noting(self: Engine, ids: IntArray, cache: KvCache) -> object:
        lengths.append(cache.length)
        return prepared(self, ids, cache)

    monkeypatch.setattr(Engine, "prepared", noting)
    engine = Engine(plan, context_length=context, threads=1, chunk=64)
    kernel_timing.time_variants(engine, tokens, 0.05)
    engine.close()

    assert lengths == [min(before, context - tokens)]


def test_a_context_of_one_token_is_tuned(plan: Plan) -> None:
    result = tune(plan, context_length=1, seconds=0.1)

    assert {item.tokens for item in result.variants} <= {1}
