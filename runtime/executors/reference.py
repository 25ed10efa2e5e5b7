"""The NumPy reference: each step by the definition of its operator."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from edgellm import ops
from edgellm.bundle import Bundle
from edgellm.runtime.plan import Plan

Array = npt.NDArray[np.generic]


class Executor:
    """Run a plan with the operators' ``reference``; threads and chunk make no difference."""

    def __init__(
        self, bundle: Bundle, plan: Plan, *, threads: int = 1, chunk: int | None = None
    ) -> None:
        self._plan = plan
        op_types = {step.op_type for step in plan.steps}
        self._references = {op_type: ops.find(op_type).reference for op_type in op_types}

    def run(self, feeds: Mapping[str, Array], *, trace: bool = False) -> dict[str, Array]:
        """Return the graph's outputs by name, or every value that a step makes when tracing."""
        values: dict[str, Array] = {**self._plan.constants, **feeds}
        made: dict[str, Array] = {}
        for step in self._plan.steps:
            arguments = [values[name] for name in step.inputs]
            results = self._references[step.op_type](*arguments, **step.attributes)
            results = results if isinstance(results, tuple) else (results,)
            made.update(zip(step.outputs, results, strict=True))
            values.update(zip(step.outputs, results, strict=True))
        return made if trace else {name: made[name] for name in self._plan.outputs}
