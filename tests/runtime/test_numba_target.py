"""Kernels are compiled with Numba's front end, beside what else a process compiles with Numba."""

import numba
import numpy as np
import pytest

from edgellm.runtime import cpu
from edgellm.runtime.kernels import _jit, find


def largest(values: np.ndarray, limit: int) -> int:
    found = 0
    for value in values[1:]:
        found = max(found, min(int(value), limit))
    if found == limit:
        raise ValueError("limit", limit)
    return found


@pytest.mark.parametrize("kernels_first", [True, False])
def test_other_code_is_compiled_as_ever(*, kernels_first: bool) -> None:
    """It uses builtins that the kernel uses as well, which must not come from there."""
    if kernels_first:
        _jit.compile_kernel(find("Requantize"), cpu.host())
    compiled = numba.njit(largest)
    values = np.array([9, 3, 7])

    assert compiled(values, 8) == 7
    with pytest.raises(ValueError, match="limit") as raised:
        compiled(values, 5)

    assert raised.value.args == ("limit", 5)
    assert _jit.compile_kernel(find("Requantize"), cpu.host())


def test_functions_are_linked_once() -> None:
    """Of a kernel only its C function is left, with what it calls."""
    module = _jit.lower_kernel(find("Attention", "portable"), cpu.host())
    defined = [function for function in module.functions if not function.is_declaration]

    assert [one.name for one in defined if one.linkage.name == "external"] == ["edgellm_attention"]
