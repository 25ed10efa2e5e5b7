"""What a verification reports: checks, and the first operator whose output differs."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgellm.runtime.plan import Plan

Arrays = Mapping[str, npt.NDArray[np.generic]]


@dataclass(frozen=True)
class Check:
    """One thing that was checked."""

    name: str
    passed: bool
    detail: str


def first_difference(plan: Plan, expected: Arrays, actual: Arrays) -> str:
    """Return a sentence on the first operator output that differs, "" if none does."""
    for step in plan.steps:
        for name in step.outputs:
            if name not in actual or name not in expected:
                continue
            want, got = expected[name], actual[name]
            where = f"{step.name} ({step.op_type}), output {name}"
            if want.shape != got.shape:
                return f"{where}: shape {got.shape} instead of {want.shape}"
            different = np.argwhere(want != got)
            if len(different):
                index = tuple(int(item) for item in different[0])
                return (
                    f"{where}: {len(different)} of {want.size} values differ; the first, at "
                    f"{index}, is {got[index]} instead of {want[index]}"
                )
    return ""
