"""Check that an encoder computes here what it computed where it was exported, to the last bit."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from edgellm import registry
from edgellm.bundle import Bundle
from edgellm.runtime import executors as executors_package
from edgellm.runtime.encoder_golden import EncoderCase, layer_checksums, read_cases
from edgellm.runtime.executors import reference
from edgellm.runtime.plan import Plan
from edgellm.runtime.reports import Check, first_difference

ENGINE_EXECUTOR = "numba"
"""This one is checked with the batch cut into calls as well."""


def check_cases(
    bundle: Bundle,
    plan: Plan,
    chosen: Sequence[tuple[str, int]],
    progress: Callable[[int], object],
) -> list[Check]:
    """Run every golden case on each executor, given by name and number of threads."""
    cases = read_cases(bundle)
    if not cases:
        return [Check("golden cases", False, "the bundle has none; export it again")]
    checks = []
    for name, threads in chosen:
        module: Any = registry.load(executors_package, name)
        chunks = (None, 1) if name == ENGINE_EXECUTOR else (None,)
        for case in cases:
            differences = [
                _difference(bundle, plan, case, module.Executor(
                    bundle, plan, threads=threads, chunk=chunk))
                for chunk in chunks
            ]  # fmt: skip
            difference = next(filter(None, differences), "")
            sequences = f"{len(case.output)} sequences"
            checks.append(Check(f"{name}, {case.name}", not difference, difference or sequences))
            progress(1)
    return checks


def _difference(bundle: Bundle, plan: Plan, case: EncoderCase, executor: Any) -> str:  # noqa: ANN401
    """Return what differs, "" if nothing; names the first operator that does."""
    (name,) = plan.outputs
    if np.array_equal(executor.run(case.feeds)[name], case.output):
        return ""
    expected = reference.Executor(bundle, plan).run(case.feeds, trace=True)
    actual = executor.run(case.feeds, trace=True)
    if found := first_difference(plan, expected, actual):
        return found
    for layer, checksum in layer_checksums(plan, expected).items():
        if case.layers.get(layer) != checksum:
            return f"the reference itself differs from the export, first in {layer}"
    return "the output differs, but no operator does when it is traced"
