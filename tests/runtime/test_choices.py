"""Kernels are chosen step by step; every mixture gives the reference's integers."""

from itertools import cycle
from pathlib import Path

import numpy as np
import pytest

from edgellm.bundle import open_bundle
from edgellm.errors import ConfigError
from edgellm.runtime import cpu, kernels
from edgellm.runtime.choices import Choices, kind_of
from edgellm.runtime.engine import Engine
from edgellm.runtime.executors import reference
from edgellm.runtime.feed_engine import FeedEngine
from edgellm.runtime.kernels import simd
from edgellm.runtime.loader import load_plan
from edgellm.runtime.plan import Plan, Step

IDS = np.random.default_rng(0).integers(0, 288, 20)
VARIANTS = simd.available(cpu.host())
USUAL = kernels.find("BitLinear", VARIANTS[0]).variant
"""The best unit of a processor may have no BitLinear of its own."""


@pytest.fixture(scope="module")
def plan(random_bundle: Path) -> Plan:
    return load_plan(open_bundle(random_bundle))


@pytest.fixture(autouse=True)
def no_override(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(simd.ENVIRONMENT, raising=False)


def find_step(plan: Plan, op_type: str) -> Step:
    return next(step for step in plan.steps if step.op_type == op_type)


def kinds(plan: Plan) -> list[str]:
    return sorted({str(kind_of(plan, step)) for step in plan.steps})


def test_a_kind_is_an_operator_and_its_fixed_sizes(plan: Plan) -> None:
    step = find_step(plan, "BitLinear")

    kind = kind_of(plan, step)

    rows, packed = plan.values[step.inputs[1]].shape
    columns = plan.values[step.inputs[0]].shape[1]
    assert str(kind) == f"BitLinear K={columns} N={rows} B={packed}"
    assert str(kind_of(plan, find_step(plan, "Requantize"))).count("T=") == 0


@pytest.mark.parametrize("first", range(len(VARIANTS)))
def test_mixed_variants_equal_the_reference(random_bundle: Path, plan: Plan, first: int) -> None:
    """Kind by kind another variant, and another for one token than for many."""
    executor = FeedEngine(reference.Executor(open_bundle(random_bundle), plan), plan, 64)
    expected = executor.forward(IDS, executor.new_cache(), range(len(IDS)))
    turns = cycle(VARIANTS[first:] + VARIANTS[:first])
    one = {kind: next(turns) for kind in kinds(plan)}
    next(turns)
    many = {kind: next(turns) for kind in kinds(plan)}
    engine = Engine(plan, context_length=64, threads=1, choices=Choices(one=one, many=many))
    cache = engine.new_cache()

    rows = [engine.forward(IDS[:1], cache), engine.forward(IDS[1:18], cache, range(17))]
    rows += [engine.forward(IDS[18:19], cache), engine.forward(IDS[19:], cache)]

    np.testing.assert_array_equal(np.concatenate(rows), expected, strict=True)
    engine.close()


def test_one_token_and_many_have_kernels_of_their_own(plan: Plan) -> None:
    step = find_step(plan, "BitLinear")
    choices = Choices(one={str(kind_of(plan, step)): "portable"})

    assert choices.kernel(plan, step, many=False).variant == "portable"
    assert choices.kernel(plan, step, many=True).variant == USUAL


def test_the_environment_goes_before_what_is_chosen(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = find_step(plan, "BitLinear")
    kind = str(kind_of(plan, step))
    choices = Choices(one={kind: VARIANTS[0]}, many={kind: VARIANTS[0]})
    monkeypatch.setenv(simd.ENVIRONMENT, "portable")

    assert choices.kernel(plan, step, many=False) == kernels.find("BitLinear", "portable")

    monkeypatch.setenv(simd.ENVIRONMENT, "avx3")
    with pytest.raises(ConfigError, match="avx3"):
        choices.kernel(plan, step, many=False)


@pytest.mark.parametrize("unknown", ["neon" if VARIANTS[0] != "neon" else "avx2", "no-such", ""])
def test_what_this_processor_lacks_is_never_run(plan: Plan, unknown: str) -> None:
    """A choice may come from a file of another machine."""
    step = find_step(plan, "BitLinear")
    choices = Choices(one={str(kind_of(plan, step)): unknown})

    assert choices.kernel(plan, step, many=False).variant == USUAL
