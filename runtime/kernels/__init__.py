"""How each operator runs: a file an operator, named as in ops, holding a function of plain loops.

Files with a leading underscore are parts: ``_jit`` holds all Numba policy, ``_scalar`` the integer
arithmetic, ``_objects`` the cache of compiled code, ``_executor`` the walk through a program.
Where the time goes there are variants for vector units: ``vector`` has their loops, ``simd`` the
units' instructions. All variants give the same bits.
"""

import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

from edgellm import ops, registry
from edgellm.errors import UnknownNameError, UnsupportedOpError
from edgellm.runtime import cpu
from edgellm.runtime.kernels import simd
from edgellm.runtime.kernels._jit import Kernel

__all__ = ["Kernel", "find"]

VECTOR_LOOPS = Path(__file__).parent / "vector"


def find(op_type: str, variant: str | None = None) -> Kernel:
    """Return the kernel of an operator type such as ``BitLinear``.

    Args:
        op_type: the name of its schema.
        variant: a vector unit (see ``simd``) or "portable"; None for the one that this processor
            runs best. Operators that have nothing for vector units have a portable kernel only.

    Raises:
        UnsupportedOpError: the operator is unknown, or no kernel file has its name.
    """
    return _find(op_type, variant or simd.chosen(cpu.host()))


@cache
def _find(op_type: str, variant: str) -> Kernel:
    name = ops.find(op_type).__name__.rpartition(".")[2]
    try:
        module = registry.load(sys.modules[__name__], name)
    except UnknownNameError as error:
        raise UnsupportedOpError(f"operator {op_type} has no kernel: {error}") from error
    found: Kernel = getattr(module, name)
    if variant == simd.PORTABLE or not (VECTOR_LOOPS / f"{name}.py").exists():
        return found
    unit = simd.find(variant)
    if unit.has_own(op_type):
        return replace(found, variant=variant)
    return _find(op_type, unit.base or simd.PORTABLE)
