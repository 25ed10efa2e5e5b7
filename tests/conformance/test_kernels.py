"""Every operator on its own examples: ``reference`` in NumPy against the kernel of the same name.

Compiled, in every variant that this processor runs, with the work split among 1, 2 and 3 threads;
and as plain Python.
"""

import ctypes
from collections.abc import Callable, Iterator
from types import ModuleType

import numpy as np
import pytest

from edgellm import ops
from edgellm.ops import Example
from edgellm.runtime import cpu, kernels
from edgellm.runtime.kernels import Kernel, _objects, simd

MODULES = ops.modules()
CASES = [(module, example) for module in MODULES for example in module.examples()]
PLAIN_STEPS = 20_000
"""Inner steps of a kernel that plain Python gets through in about 20 ms."""

Arrays = list[np.ndarray]


def each_of(cases: list[tuple[ModuleType, Example]]) -> pytest.MarkDecorator:
    names = [f"{module.SCHEMA.name}-{example.name}" for module, example in cases]
    return pytest.mark.parametrize(("module", "example"), cases, ids=names)


def compiled_cases() -> Iterator[object]:
    """Yield each example with each variant of its kernel that this processor runs."""
    variants = simd.available(cpu.host())
    own = {
        module: [one for one in variants if kernels.find(module.SCHEMA.name, one).variant == one]
        for module in MODULES
    }
    for module, example in CASES:
        for variant in own[module]:
            name = f"{module.SCHEMA.name}-{example.name}-{variant}"
            yield pytest.param(module, example, variant, id=name)


def count_steps(module: ModuleType, example: Example) -> int:
    """Estimate the inner steps of a kernel: products of two numbers, and numbers."""
    sizes = module.SCHEMA.bind([array.shape for array in example.inputs])
    work = module.work({**sizes, **example.attributes})
    return int(work.macs) + sum(array.size for array in example.inputs)


SMALL_CASES = [case for case in CASES if count_steps(*case) <= PLAIN_STEPS]


def expected_outputs(module: ModuleType, example: Example) -> Arrays:
    result = module.reference(*example.inputs, **example.attributes)
    return list(result) if isinstance(result, tuple) else [result]


def empty_outputs(module: ModuleType, example: Example) -> Arrays:
    """Return outputs that hold no zeros by chance; a cache holds its past, as in the engine."""
    schema = module.SCHEMA
    shapes = schema.infer([array.shape for array in example.inputs])
    outputs = [
        np.full(shape, 99, port.dtype) for shape, port in zip(shapes, schema.outputs, strict=True)
    ]
    if schema.inputs[1:] and schema.inputs[1].name == "past":
        for past, present in zip(example.inputs[1:], outputs, strict=True):
            present[: len(past)] = past
    return outputs


def run_compiled(kernel: Kernel, example: Example, outputs: Arrays, threads: int) -> None:
    """Call the compiled kernel stage by stage for each thread in turn, last thread first."""
    schema = kernel.schema
    sizes = schema.bind([array.shape for array in example.inputs])
    inputs = [np.ascontiguousarray(array) for array in example.inputs]
    notes = np.full((threads, kernel.notes), 99, np.int64)
    row = np.array(
        [
            0,
            *(array.ctypes.data for array in [*inputs, *outputs]),
            *(sizes[letter] for letter in schema.letters),
            *(example.attributes[name] for name in schema.attributes),
            notes.ctypes.data,
        ],
        np.int64,
    )
    prototype = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)
    call: Callable[[int, int, int], None] = prototype(_objects.kernel_address(kernel))
    for stage in range(kernel.stages):
        for thread in reversed(range(threads)):
            call(row.ctypes.data, thread + threads * stage, threads)


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.SCHEMA.name)
def test_operator_has_a_kernel(module: ModuleType) -> None:
    kernel = kernels.find(module.SCHEMA.name)

    assert kernel.op_type == module.SCHEMA.name
    assert kernel.py.__name__ == module.__name__.rpartition(".")[2]


@pytest.mark.parametrize(("module", "example", "variant"), list(compiled_cases()))
def test_compiled_kernel_equals_reference(
    module: ModuleType, example: Example, variant: str
) -> None:
    kernel = kernels.find(module.SCHEMA.name, variant)
    wanted = expected_outputs(module, example)
    for threads in (1, 2, 3):
        outputs = empty_outputs(module, example)

        run_compiled(kernel, example, outputs, threads)

        for expected, actual in zip(wanted, outputs, strict=True):
            np.testing.assert_array_equal(actual, expected, strict=True, err_msg=f"{threads=}")


@each_of(SMALL_CASES)
def test_plain_python_equals_reference(module: ModuleType, example: Example) -> None:
    outputs = empty_outputs(module, example)

    kernel = kernels.find(module.SCHEMA.name)
    operands = [*example.inputs, *outputs, *example.attributes.values()]
    notes = np.full((2, kernel.notes), 99, np.int64)
    for stage in range(kernel.stages):
        for thread in range(2):
            kernel.py(thread, 2, *operands, *([stage, notes] if kernel.stages > 1 else []))

    for expected, actual in zip(expected_outputs(module, example), outputs, strict=True):
        np.testing.assert_array_equal(actual, expected, strict=True)


def test_every_operator_runs_as_plain_python() -> None:
    """The limit above leaves each operator an example."""
    checked = {module.SCHEMA.name for module, _ in SMALL_CASES}
    assert checked == {module.SCHEMA.name for module in MODULES}
