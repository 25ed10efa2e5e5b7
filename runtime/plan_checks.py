"""Check what a step must fulfil beyond the shapes of its schema; its operator's file says what."""

from collections.abc import Mapping
from types import ModuleType

import numpy as np
import numpy.typing as npt

from edgellm.errors import PlanError
from edgellm.ops import Use
from edgellm.runtime.plan import Dim, Step


def check_attributes(step: Step, operator: ModuleType) -> None:
    """Check that every attribute is in its range.

    Raises:
        PlanError: one is not.
    """
    for name, value in step.attributes.items():
        least, most = operator.SCHEMA.attributes[name]
        if not least <= value <= most:
            raise PlanError(f"{step.name}: {name} is {value}; allowed are {least} to {most}")


def check_step(
    step: Step,
    operator: ModuleType,
    sizes: Mapping[str, Dim],
    context_length: int,
    weights: Mapping[str, npt.NDArray[np.generic]],
) -> None:
    """Check what a step's operator demands of its sizes and inputs.

    Args:
        step: to check.
        operator: its module.
        sizes: what its schema's letters are.
        context_length: positions that a text may have, or rows of an image.
        weights: of the graph, by name.

    Raises:
        PlanError: a demand is not fulfilled.
    """
    if not hasattr(operator, "demands"):
        return
    use = Use(
        inputs=step.inputs,
        outputs=step.outputs,
        attributes=step.attributes,
        sizes=sizes,
        context_length=context_length,
        stored={name: weights[name] for name in step.inputs if name in weights},
    )
    for fulfilled, demand in operator.demands(use):
        if not fulfilled:
            raise PlanError(f"{step.name} ({step.op_type}): {demand}; its sizes are {dict(sizes)}")
