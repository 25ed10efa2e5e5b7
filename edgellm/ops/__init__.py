"""What each operator of the domain ``ai.edgellm`` means; one file an operator.

A file holds SCHEMA, ``work`` (what a call amounts to), ``demands`` where a graph must fulfil more
than the schema says, ``reference`` (NumPy, the definition), ``body`` (the same in standard ONNX
operators) and ``examples``. Every executor is checked against ``reference`` on the examples.
"""

import sys
from functools import cache
from types import ModuleType

from edgellm import registry
from edgellm.errors import UnsupportedOpError
from edgellm.ops._schema import (
    DOMAIN,
    DOMAIN_VERSION,
    Example,
    OpSchema,
    Port,
    Shape,
    evaluate_dim,
)
from edgellm.ops._use import Use

__all__ = [
    "DOMAIN",
    "DOMAIN_VERSION",
    "Example",
    "OpSchema",
    "Port",
    "Shape",
    "Use",
    "evaluate_dim",
    "find",
    "modules",
]


def modules() -> list[ModuleType]:
    """Return all operator modules, by file name."""
    package = sys.modules[__name__]
    return [registry.load(package, name) for name in registry.names(package)]


@cache
def find(op_type: str) -> ModuleType:
    """Return the module of an operator type such as ``BitLinear``.

    Raises:
        UnsupportedOpError: no operator has that type.
    """
    for module in modules():
        if module.SCHEMA.name == op_type:
            return module
    known = ", ".join(module.SCHEMA.name for module in modules())
    raise UnsupportedOpError(f"operator {DOMAIN}.{op_type} is unknown; known are {known}")
