"""Pack ternary weights in another layout when a plan is loaded, where its own does not suit."""

import logging
import math
import time
from collections import Counter
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from edgellm.dtypes import TERNARY_2BIT, TERNARY_5TRIT
from edgellm.errors import BundleError
from edgellm.runtime import cpu
from edgellm.runtime.kernels import simd
from edgellm.runtime.memory import ALIGNMENT
from edgellm.runtime.plan import Plan, Step, Value
from edgellm.runtime.process_memory import available_memory_bytes
from edgellm.ternary_layouts import GATED_OPERATORS, LAYOUT_OF, TERNARY_LAYOUTS, TernaryLayout
from edgellm.ternary_planes import TERNARY_PLANES

logger = logging.getLogger(__name__)

BLOCK_WEIGHTS = 1 << 18
"""Weights that are packed at once: they stay in a level-2 cache."""
SCAN_BYTES = 1 << 24

Packed = npt.NDArray[np.uint8]


def names(plan: Plan) -> tuple[str, ...]:
    """Return the layouts that the ternary weights of a plan have."""
    return tuple(dict.fromkeys(_layout(step).name for step in _packed_steps(plan)))


def for_this_machine(plan: Plan, look_ups: bool | None = None) -> Plan:
    """Return the plan with its ternary weights packed as this processor reads them fastest.

    In ternary-planes/v1 where it looks up faster than it multiplies; else in ternary-2bit/v1 where
    it is slow on their layout, which is said in a warning. Weights that were mapped stay as they
    are if the memory is not there.

    Args:
        plan: a checked plan.
        look_ups: whether the first is so; default: what is usual for this kind of processor.

    Raises:
        BundleError: a byte of the weights stands for nothing.
    """
    variant = simd.chosen(cpu.host())
    wanted = looks_up(variant) if look_ups is None else look_ups
    advised = best_layout(variant, look_ups)
    if wanted:
        others = tuple(name for name in names(plan) if name != TERNARY_PLANES)
        plan = _convert_and_say(plan, others, TERNARY_PLANES, advised, logging.INFO)
    slow = tuple(name for name in names(plan) if not suits(name, variant, look_ups))
    return _convert_and_say(plan, slow, TERNARY_2BIT, advised, logging.WARNING)


def arranged(plan: Plan, *, look_ups: bool) -> Plan:
    """Return the plan with its ternary weights packed for look-ups, or for products; see above.

    Nothing is said, and the memory has to be there.
    """
    variant = simd.chosen(cpu.host())
    if look_ups:
        plan = convert(plan, TERNARY_PLANES)
    slow = [name for name in names(plan) if not suits(name, variant, look_ups)]
    return convert(plan, TERNARY_2BIT, slow)


def looks_up(variant: str) -> bool:
    """Tell whether kernels of a variant look ternary weights up faster than they multiply."""
    return variant != simd.PORTABLE and simd.find(variant).looks_up_ternary


def _convert_and_say(
    plan: Plan, sources: Collection[str], target: str, advised: TernaryLayout, level: int
) -> Plan:
    """Convert if the memory is there; say so, and which layout to export with instead."""
    size = converted_bytes(plan, target, sources)
    if size == 0:
        return plan
    packed = " and ".join(sources)
    slow = f"this processor ({cpu.host().model}) is slow on weights packed as {packed}"
    option = f"--layout {advised.alias}"
    if size > available_memory_bytes():
        logger.log(
            level,
            "%s, and there are no %d MiB of memory to pack them as %s; export with %s",
            slow, size >> 20, target, option,
        )  # fmt: skip
        return plan
    begin = time.perf_counter()
    converted = convert(plan, target, sources)
    logger.log(
        level,
        "%s: they were packed as %s in %.1f s and take %d MiB of memory; "
        "a bundle exported with %s is mapped instead",
        slow, target, time.perf_counter() - begin, size >> 20, option,
    )  # fmt: skip
    return converted


def suits(layout: str, variant: str, look_ups: bool | None = None) -> bool:
    """Tell whether kernels of a variant read a layout as fast as its bytes come from memory.

    Args:
        layout: a name in ``TERNARY_LAYOUTS``.
        variant: of the kernels.
        look_ups: whether they look up faster than they multiply; default: what is usual.
    """
    if layout == TERNARY_PLANES:
        return looks_up(variant) if look_ups is None else look_ups
    if layout == TERNARY_2BIT:
        return True
    return variant != simd.PORTABLE and simd.find(variant).reads_trits_fast


def best_layout(variant: str, look_ups: bool | None = None) -> TernaryLayout:
    """Return the layout to export with for kernels of a variant; ``look_ups`` as for ``suits``."""
    by_speed = (TERNARY_PLANES, TERNARY_5TRIT, TERNARY_2BIT)
    return TERNARY_LAYOUTS[next(name for name in by_speed if suits(name, variant, look_ups))]


def packed_again(variant: str) -> tuple[str, ...]:
    """Return what users call the layouts that ``for_this_machine`` converts where it can."""
    best = best_layout(variant)
    return tuple(
        layout.alias
        for layout in TERNARY_LAYOUTS.values()
        if layout is not best and (best.name == TERNARY_PLANES or not suits(layout.name, variant))
    )


def convert(plan: Plan, layout: str, sources: Collection[str] = tuple(TERNARY_LAYOUTS)) -> Plan:
    """Return a plan that computes the same, whose ternary weights are in another layout.

    They are packed in memory, and no longer mapped. Matrices that have no whole blocks of the
    layout, or a gate where it has no operator with one, stay as they are.

    Args:
        plan: a checked plan.
        layout: a name in ``TERNARY_LAYOUTS``.
        sources: names of the layouts that are converted; default: all others.

    Raises:
        BundleError: a byte of the weights stands for nothing.
    """
    target = TERNARY_LAYOUTS[layout]
    changing = _steps_to_change(plan, target, sources)
    for step in changing:
        if damage := find_damage(plan.constants[step.inputs[1]], _layout(step)):
            raise BundleError(f"{step.inputs[1]}: {damage}: the file is damaged")
    constants = dict(plan.constants)
    constants |= _pack_again(plan, {step.inputs[1]: step for step in changing}, target)
    values = dict(plan.values)
    for step in changing:
        name = step.inputs[1]
        values[name] = Value(name, "uint8", constants[name].shape)
    made = {step.outputs for step in changing}
    steps = tuple(
        replace(step, op_type=_operator(target, step)) if step.outputs in made else step
        for step in plan.steps
    )
    return replace(plan, steps=steps, values=values, constants=constants)


def converted_bytes(
    plan: Plan, layout: str, sources: Collection[str] = tuple(TERNARY_LAYOUTS)
) -> int:
    """Return the memory that ``convert`` takes."""
    target = TERNARY_LAYOUTS[layout]
    weights = {step.inputs[1]: step for step in _steps_to_change(plan, target, sources)}
    return sum(target.size_bytes(*_size(plan, step)) for step in weights.values())


def find_damage(packed: npt.NDArray[np.generic], layout: TernaryLayout) -> str:
    """Say which is the first byte of packed weights that stands for nothing; "" if all do."""
    flat = packed.reshape(-1).view(np.uint8)
    for begin in range(0, flat.size, SCAN_BYTES):
        part = flat[begin : begin + SCAN_BYTES]
        wrong = np.flatnonzero(layout.damaged(part))
        if wrong.size:
            where = begin + int(wrong[0])
            return f"byte {where} is {flat[where]}, which no weights give in {layout.name}"
    return ""


def _layout(step: Step) -> TernaryLayout:
    return LAYOUT_OF[step.op_type]


def _operator(layout: TernaryLayout, step: Step) -> str:
    """Return what does a step with weights in a layout; "" if nothing does."""
    return layout.operator(gated=step.op_type in GATED_OPERATORS)


def _packed_steps(plan: Plan) -> list[Step]:
    return [
        step
        for step in plan.steps
        if step.op_type in LAYOUT_OF and step.inputs[1] in plan.constants
    ]


def _steps_to_change(plan: Plan, target: TernaryLayout, sources: Collection[str]) -> list[Step]:
    """Return the steps whose weights have one of other layouts and are used in no other way."""
    steps = _packed_steps(plan)
    uses = Counter(name for step in plan.steps for name in step.inputs)
    alike = Counter((step.inputs[1], step.op_type, _size(plan, step)) for step in steps)
    return [
        step
        for step in steps
        if _layout(step) is not target
        and _layout(step).name in sources
        and _operator(target, step)
        and target.fits(_size(plan, step)[0])
        and uses[step.inputs[1]] == alike[step.inputs[1], step.op_type, _size(plan, step)]
    ]


def _size(plan: Plan, step: Step) -> tuple[int, int]:
    """Return the rows and columns of the weights of a step."""
    rows = len(plan.constants[step.inputs[1]]) * _layout(step).block_rows
    return rows, int(plan.values[step.inputs[0]].shape[1])


def _pack_again(
    plan: Plan, steps: Mapping[str, Step], target: TernaryLayout
) -> dict[str, npt.NDArray[np.generic]]:
    """Return weights by name in a layout, packed by all cores."""
    made: dict[str, npt.NDArray[np.generic]] = {}
    with ThreadPoolExecutor(cpu.host().physical_cores) as pool:
        parts = []
        for name, step in steps.items():
            source, (rows, columns) = _layout(step), _size(plan, step)
            out = _aligned(target.shape(rows, columns))
            made[name] = out
            together = math.lcm(source.block_rows, target.block_rows)
            at_once = max(1, BLOCK_WEIGHTS // columns // together) * together
            for first in range(0, rows, at_once):
                parts.append(
                    pool.submit(
                        _pack_rows,
                        _rows(plan.constants[name].view(np.uint8), source, first, at_once),
                        _rows(out, target, first, at_once),
                        columns,
                        source,
                        target,
                    )
                )
        for part in parts:
            part.result()
    for packed in made.values():
        packed.setflags(write=False)
    return made


def _rows(packed: Packed, layout: TernaryLayout, first: int, count: int) -> Packed:
    """Return the bytes of some rows, whole blocks of them."""
    return packed[first // layout.block_rows : (first + count) // layout.block_rows]


def _pack_rows(
    block: Packed, out: Packed, columns: int, source: TernaryLayout, target: TernaryLayout
) -> None:
    out[:] = target.pack(source.unpack(block, columns))


def _aligned(shape: tuple[int, ...]) -> Packed:
    size = math.prod(shape)
    raw = np.empty(size + ALIGNMENT, np.uint8)
    begin = -raw.ctypes.data % ALIGNMENT
    return raw[begin : begin + size].reshape(shape)
