"""Each kernel divides its work as it says: a thread touches its own elements and no others."""

from types import ModuleType

import numpy as np
import pytest

from edgellm import ops
from edgellm.ops import Example, Port
from edgellm.runtime.kernels import find

SMALL = 3000
"""Elements of an example that plain Python gets through quickly."""
SPLIT = [module for module in ops.modules() if find(module.SCHEMA.name).split]
ALL_CASES = [
    (module, example)
    for module in SPLIT
    for example in module.examples()
    if sum(array.size for array in example.inputs) <= SMALL
]
BY_ROWS = ("rows", "cells")
"""The executor divides these, or may."""
CASES = [case for case in ALL_CASES if find(case[0].SCHEMA.name).split != "rows"]
ROW_CASES = [case for case in ALL_CASES if find(case[0].SCHEMA.name).split in BY_ROWS]


def own_elements(
    port: Port, shape: tuple[int, ...], split: str, head_dim: int, thread: tuple[int, int]
) -> np.ndarray | None:
    """Return which elements of an operand belong to thread (number, of how many); None: no rule."""
    if split == "queries" and port.name in ("query", "y"):
        return np.broadcast_to(own_part(shape[0], thread)[:, None], shape)
    if split in ("columns", "cells") and port.dims == ("T", "N"):
        return np.broadcast_to(own_part(shape[1], thread), shape)
    if split == "heads" and port.dims == ("T", "M"):
        own = own_part(shape[0] * shape[1] // head_dim, thread)
        return np.repeat(own, head_dim).reshape(shape)
    return None


def own_part(total: int, thread: tuple[int, int]) -> np.ndarray:
    """Return which of so many items belong to thread (number, of how many)."""
    number, count = thread
    items = np.arange(total)
    return (items >= total * number // count) & (items < total * (number + 1) // count)


def head_dim_of(module: ModuleType, example: Example) -> int:
    sizes = module.SCHEMA.bind([array.shape for array in example.inputs])
    return 2 * sizes["P"] if "P" in sizes else sizes.get("D", 1)


def expected_outputs(module: ModuleType, example: Example) -> list[np.ndarray]:
    result = module.reference(*example.inputs, **example.attributes)
    return list(result) if isinstance(result, tuple) else [result]


@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize(
    ("module", "example"), CASES, ids=[f"{m.SCHEMA.name}-{e.name}" for m, e in CASES]
)
def test_a_thread_touches_its_own_elements_only(
    module: ModuleType, example: Example, threads: int
) -> None:
    """Each thread gets inputs in which the others' elements are something else."""
    kernel, schema = find(module.SCHEMA.name), module.SCHEMA
    head_dim = head_dim_of(module, example)
    expected = expected_outputs(module, example)
    outputs = [np.full_like(array, 99) for array in expected]
    if schema.inputs[1:] and schema.inputs[1].name == "past":  # the past is there already
        for past, present in zip(example.inputs[1:], outputs, strict=True):
            present[: len(past)] = past
    for number in range(threads):
        inputs = []
        for port, array in zip(schema.inputs, example.inputs, strict=True):
            own = own_elements(port, array.shape, kernel.split, head_dim, (number, threads))
            inputs.append(array if own is None else np.where(own, array, 1).astype(array.dtype))
        before = [array.copy() for array in outputs]
        kernel.py(number, threads, *inputs, *outputs, *example.attributes.values())
        for port, old, new in zip(schema.outputs, before, outputs, strict=True):
            own = own_elements(port, new.shape, kernel.split, head_dim, (number, threads))
            if own is not None:
                np.testing.assert_array_equal(new[~own], old[~own])
    for wanted, made in zip(expected, outputs, strict=True):
        np.testing.assert_array_equal(made, wanted, strict=True)


@pytest.mark.parametrize(
    ("module", "example"), ROW_CASES, ids=[f"{m.SCHEMA.name}-{e.name}" for m, e in ROW_CASES]
)
def test_rows_do_not_depend_on_each_other(module: ModuleType, example: Example) -> None:
    """What the executor gives a thread: rows of some operands, all of the others."""
    kernel, schema = find(module.SCHEMA.name), module.SCHEMA
    expected = expected_outputs(module, example)
    rows = len(expected[0])
    sizes = schema.bind([array.shape for array in example.inputs])
    for begin, end in ((0, rows // 2), (rows // 2, rows)):
        if begin == end:
            continue
        inputs = [
            array[begin:end]
            if sizes[port.dims[0]] == sizes["T"] and port.dims[0] in "TR"
            else array
            for port, array in zip(schema.inputs, example.inputs, strict=True)
        ]
        outputs = [np.full_like(array[begin:end], 99) for array in expected]
        kernel.py(0, 1, *inputs, *outputs, *example.attributes.values())
        for wanted, made in zip(expected, outputs, strict=True):
            np.testing.assert_array_equal(made, wanted[begin:end], strict=True)


def test_every_kind_of_split_is_checked() -> None:
    splits = {find(module.SCHEMA.name).split for module, _ in [*CASES, *ROW_CASES]}
    assert splits == {"rows", "columns", "cells", "queries", "heads"}
    assert {m.SCHEMA.name for m, _ in [*CASES, *ROW_CASES]} == {m.SCHEMA.name for m in SPLIT}
