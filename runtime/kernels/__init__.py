"""How each operator runs: a file an operator, named as in ops, holding a function of plain loops.

Files with a leading underscore are parts: ``_jit`` holds all Numba policy, ``_scalar`` the integer
arithmetic, ``_objects`` the cache of compiled code, ``_executor`` the walk through a program.
"""

import sys
from functools import cache

from edgellm import ops, registry
from edgellm.errors import UnknownNameError, UnsupportedOpError
from edgellm.runtime.kernels._jit import Kernel

__all__ = ["Kernel", "find"]


@cache
def find(op_type: str) -> Kernel:
    """Return the kernel of an operator type such as ``BitLinear``.

    Raises:
        UnsupportedOpError: the operator is unknown, or no kernel file has its name.
    """
    name = ops.find(op_type).__name__.rpartition(".")[2]
    try:
        module = registry.load(sys.modules[__name__], name)
    except UnknownNameError as error:
        raise UnsupportedOpError(f"operator {op_type} has no kernel: {error}") from error
    found: Kernel = getattr(module, name)
    return found
