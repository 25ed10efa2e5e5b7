"""Estimate the energy of a model's matrix products by counting operations.

It compares number formats, not machines: on a processor most energy goes into instructions, clocks
and waiting. Only products with weights are counted: attention and norms are alike in all formats.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from edgellm.runtime.plan import Plan, Step

BASIS = (
    "45 nm: operations and DRAM by Horowitz (ISSCC 2014), look-ups and shifts by ShiftAddLLM "
    "(arXiv 2406.05981); products with weights alone"
)
ADD_8, ADD_32, MULTIPLY_8, MULTIPLY_32 = 0.03, 0.1, 0.2, 3.1
SHIFT, LOOK_UP = 0.1, 0.37
"""Picojoules an operation; of integers of so many bits."""
DRAM_BIT = 1300 / 64
"""Picojoules a bit: the lower end of 1.3 to 2.6 nJ for 64 bits."""
TABLE_COLUMNS = 4
TABLE_ENTRIES = 16
TERNARY = ("BitLinear", "TritLinear", "GatedBitLinear", "ColumnBitLinear", "LookUpBitLinear")
INT8 = ("Int8Linear", "LogitsHead", "PlanarLogitsHead", "Int4LogitsHead")


@dataclass(frozen=True, kw_only=True)
class Energy:
    """Estimated energy in nanojoules.

    Attributes:
        operations: of the products of one token (a row of activations).
        weights: of reading from memory, once, the weights that one token takes.
    """

    operations: float
    weights: float


def estimate(plan: Plan) -> Energy:
    """Count the operations of a plan."""
    picojoules = sum(_products(plan, step) for step in plan.steps)
    bits = 8 * plan.weight_bytes_per_token()
    return Energy(operations=picojoules / 1000, weights=bits * DRAM_BIT / 1000)


def _products(plan: Plan, step: Step) -> float:
    """Return what the products of a step take for one row, 0 if it has no weights."""
    op_type = step.op_type
    if op_type not in (*TERNARY, *INT8, "GroupLinear", "ShiftAddLinear"):
        return 0.0
    columns = int(plan.values[step.inputs[0]].shape[-1])
    rows = int(plan.values[step.outputs[0]].shape[-1])
    if op_type in INT8:
        return rows * columns * (MULTIPLY_8 + ADD_32)
    if op_type in TERNARY:
        return rows * columns * ADD_32
    constants: Mapping[str, tuple[int, ...]] = {
        name: plan.constants[name].shape for name in step.inputs if name in plan.constants
    }
    planes = constants[step.inputs[1]][2]
    tables = columns / TABLE_COLUMNS * TABLE_ENTRIES * ADD_8
    look_ups = rows * columns / TABLE_COLUMNS * planes * (LOOK_UP + ADD_32)
    scale = constants[step.inputs[2]]
    groups = rows * scale[0]
    if op_type == "GroupLinear":
        # Planes are weighed by shifts; then the zero and the scale of the group.
        return tables + look_ups + groups * (planes * (SHIFT + ADD_32) + 2 * MULTIPLY_32 + ADD_32)
    return tables + look_ups + groups * planes * scale[2] * (SHIFT + ADD_32)
