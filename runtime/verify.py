"""Check that a bundle computes here what it computed where it was exported, to the last bit."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from edgellm import registry
from edgellm.bundle import Bundle, open_bundle
from edgellm.dtypes import TERNARY_2BIT
from edgellm.errors import ChecksumError
from edgellm.graph_names import present_name
from edgellm.runtime import encoder_contract, encoder_verify
from edgellm.runtime import executors as executors_package
from edgellm.runtime.engine import Engine
from edgellm.runtime.executors import reference
from edgellm.runtime.feed_engine import FeedEngine
from edgellm.runtime.golden import GoldenCase, feeds, layer_checksums, read_cases
from edgellm.runtime.golden_files import Arrays
from edgellm.runtime.kv_cache import KvCache
from edgellm.runtime.layouts import find_damage, for_this_machine
from edgellm.runtime.loader import load_plan
from edgellm.runtime.plan import Plan
from edgellm.runtime.reports import Check, first_difference
from edgellm.ternary_layouts import LAYOUT_OF, TERNARY_LAYOUTS

ENGINE_EXECUTOR = "numba"
"""This one is checked through the engine that generates text, threads and chunks included."""
LAYOUT_OF_PACKED = {
    **LAYOUT_OF,
    "ColumnBitLinear": TERNARY_LAYOUTS[TERNARY_2BIT],
}
"""By operator, what the bytes of its weights may be."""

Progress = Callable[[int], object]


@dataclass(frozen=True)
class Report:
    """What was checked; ``first_failure`` is empty if all passed."""

    bundle: str
    passed: bool
    first_failure: str
    checks: tuple[Check, ...]


def check_bundle(
    path: str | os.PathLike[str],
    *,
    executors: Sequence[str] | None = None,
    threads: int = 1,
    progress: Progress = lambda _: None,
) -> Report:
    """Check checksums, packed codes, golden cases, and equality of the executors.

    Args:
        path: the bundle.
        executors: file names in ``runtime/executors``; default: all of them.
        threads: for executors that use several.
        progress: called with 1 after each step.

    Returns:
        The report; a difference is reported, not raised.

    Raises:
        BundleError: the bundle cannot be opened at all.
        UnknownNameError: no executor has that name.
    """
    bundle = open_bundle(path)
    names = list(executors) if executors else registry.names(executors_package)
    checks = [_check_files(bundle)]
    progress(1)
    if checks[-1].passed:
        plan = load_plan(bundle)
        checks.append(_check_ternary_codes(plan))
    if checks[-1].passed:  # with damaged weights nothing is worth computing
        is_encoder = bundle.manifest.task in encoder_contract.TASKS
        check_cases = encoder_verify.check_cases if is_encoder else _check_cases
        checks += check_cases(bundle, plan, [(name, threads) for name in names], progress)
    failures = [f"{check.name}: {check.detail}" for check in checks if not check.passed]
    return Report(str(path), not failures, failures[0] if failures else "", tuple(checks))


def _check_files(bundle: Bundle) -> Check:
    try:
        bundle.verify_checksums()
    except ChecksumError as error:
        return Check("checksums", False, str(error))
    return Check("checksums", True, f"{len(bundle.manifest.files)} files")


def _check_ternary_codes(plan: Plan) -> Check:
    """Look for bytes that stand for no weights in packed ternary weights."""
    packed = [step for step in plan.steps if step.op_type in LAYOUT_OF_PACKED]
    for step in packed:
        name = step.inputs[1]
        if damage := find_damage(plan.constants[name], LAYOUT_OF_PACKED[step.op_type]):
            return Check("ternary codes", False, f"{name}: {damage}")
    return Check("ternary codes", True, f"{len(packed)} packed weights")


def _check_cases(
    bundle: Bundle, plan: Plan, chosen: Sequence[tuple[str, int]], progress: Progress
) -> list[Check]:
    cases = read_cases(bundle)
    if not cases:
        return [Check("golden cases", False, "the bundle has none; export it again")]
    checks = []
    caches: dict[str, tuple[str, Arrays]] = {}
    for name, threads in chosen:
        runner = _Runner(bundle, plan, name, threads)
        for case in cases:
            difference, cache = runner.run(case)
            if not difference:
                first, expected = caches.setdefault(case.name, (name, cache))
                difference = _cache_difference(expected, cache, first)
            tokens = f"{len(case.prompt)} + {len(case.greedy)} tokens"
            checks.append(Check(f"{name}, {case.name}", not difference, difference or tokens))
            progress(1)
        runner.close()
    return checks


class _Runner:
    """Runs golden cases on one executor."""

    def __init__(self, bundle: Bundle, plan: Plan, name: str, threads: int) -> None:
        self._plan = plan
        module: Any = registry.load(executors_package, name)
        self._new_executor = partial(module.Executor, bundle, plan, threads=threads)
        self._reference = reference.Executor(bundle, plan)
        context = bundle.manifest.context_length
        self._engine: Engine | FeedEngine = (
            Engine(for_this_machine(plan), context_length=context, threads=threads)
            if name == ENGINE_EXECUTOR
            else FeedEngine(self._new_executor(), plan, context)
        )

    def run(self, case: GoldenCase) -> tuple[str, Arrays]:
        """Return what differs ("" if nothing) and the cache after the case."""
        cache = self._engine.new_cache()
        logits = self._engine.forward(_array(case.prompt), cache, case.rows)
        if not np.array_equal(logits, case.logits):
            return self._explain(case, case.prompt, 0), {}
        following = [logits[-1]]
        for ids in self._steps(case.greedy[:-1]):
            following.extend(self._engine.forward(_array(ids), cache, range(len(ids))))
        for index, token in enumerate(case.greedy):
            if int(following[index].argmax()) != token:
                known = [*case.prompt, *case.greedy[:index]]
                return self._explain(case, known, len(known) - 1), {}
        if isinstance(self._engine, Engine):
            return self._token_by_token(case), cache.export_arrays()
        return "", cache.export_arrays()

    def _steps(self, tokens: Sequence[int]) -> list[Sequence[int]]:
        """Divide tokens into passes: the engine takes one by one, as when it generates.

        Others take one, and the rest at once: they unpack all weights in each pass.
        """
        if isinstance(self._engine, Engine):
            return [[token] for token in tokens]
        return [part for part in (tokens[:1], tokens[1:]) if part]

    def close(self) -> None:
        """End the threads of the engine."""
        self._engine.close()

    def _token_by_token(self, case: GoldenCase) -> str:
        """Decode the prompt instead of prefilling it; the integers must be the same."""
        cache = self._engine.new_cache()
        rows = [self._engine.forward(_array([token]), cache)[-1] for token in case.prompt]
        if np.array_equal(np.stack(rows)[-len(case.logits) :], case.logits):
            return ""
        return "decoding the prompt token by token gives other logits than prefilling it"

    def _explain(self, case: GoldenCase, ids: Sequence[int], start: int) -> str:
        """Name the first operator whose output differs from the reference's, for ids[start:]."""
        past = None
        if start:
            engine = FeedEngine(self._reference, self._plan, len(ids))
            cache: KvCache = engine.new_cache()
            engine.forward(_array(ids[:start]), cache)
            past = cache.export_arrays()
        rows = range(len(ids) - start)
        given = feeds(self._plan, ids[start:], rows=rows, start=start, past=past)
        expected = self._reference.run(given, trace=True)
        actual = self._new_executor().run(given, trace=True)
        return (
            first_difference(self._plan, expected, actual)
            or _layer_difference(case, layer_checksums(self._plan, expected), start)
            or "the logits differ, but no operator does when it is traced"
        )


def _layer_difference(case: GoldenCase, computed: dict[str, str], start: int) -> str:
    """Name where the reference departs from the export, if the executor agrees with it."""
    if start == 0:
        for name, checksum in case.layers.items():
            if computed.get(name) != checksum:
                return f"the reference itself differs from the export, first in {name}"
    return "the reference itself agrees, but not with what was computed at export"


def _cache_difference(expected: Arrays, actual: Arrays, first: str) -> str:
    for name, array in expected.items():
        if not np.array_equal(array, actual[name]):
            return f"the cache {present_name(name)} differs from that of {first}"
    return ""


def _array(ids: Sequence[int]) -> npt.NDArray[np.int64]:
    return np.array(ids, dtype=np.int64)
