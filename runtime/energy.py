"""Estimate the energy of a model's matrix products by counting operations.

It compares number formats, not machines: on a processor most energy goes into instructions, clocks
and waiting. Only products with weights are counted: attention and norms are alike in all formats.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from edgellm.device import MatMul
from edgellm.runtime.calls import call_of
from edgellm.runtime.plan import Plan

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
TERNARY_BITS = 2
"""A weight of no more, without groups, is added, subtracted or left out."""


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
    ones: Mapping[str, int] = defaultdict(lambda: 1)
    picojoules = 0.0
    for step in plan.steps:
        work = call_of(plan, step, ones).work
        if isinstance(work, MatMul):
            picojoules += product_energy(work)
    bits = 8 * plan.weight_bytes_per_token()
    return Energy(operations=picojoules / 1000, weights=bits * DRAM_BIT / 1000)


def product_energy(work: MatMul) -> float:
    """Return what one row of a product takes, in picojoules."""
    weights = work.n * work.k
    if work.levels:
        outliers = work.outliers * (MULTIPLY_32 + ADD_32)
        return weights * (LOOK_UP + MULTIPLY_8 + ADD_32) + outliers
    if work.group_size:
        return _look_ups(work)
    return weights * (ADD_32 if work.weight_bits <= TERNARY_BITS else MULTIPLY_8 + ADD_32)


def _look_ups(work: MatMul) -> float:
    """Return what weights in planes of bits take, which are looked up in tables of sums."""
    planes, groups = work.weight_bits, work.n * work.groups
    tables = work.k / TABLE_COLUMNS * TABLE_ENTRIES * ADD_8
    look_ups = work.n * work.k / TABLE_COLUMNS * planes * (LOOK_UP + ADD_32)
    if work.shifts:
        return tables + look_ups + groups * work.shifts * (SHIFT + ADD_32)
    # Planes are weighed by shifts; then the zero and the scale of the group.
    return tables + look_ups + groups * (planes * (SHIFT + ADD_32) + 2 * MULTIPLY_32 + ADD_32)
