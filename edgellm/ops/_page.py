"""The operator reference as Markdown: ``python -m edgellm.ops._page > docs/operators.md``."""

import inspect
import sys
from itertools import starmap
from types import ModuleType

from edgellm import ops
from edgellm.ops import OpSchema, Port

_HEAD = f"""\
<!-- Generated: python -m edgellm.ops._page > docs/operators.md -->

# Operators of `{ops.DOMAIN}`, version {ops.DOMAIN_VERSION}

All tensors are integers. The same letter is the same size everywhere in one operator. Attributes
are integers, and all are required. A *dyadic scale* is a pair of integers (mantissa, exponent) that
means mantissa * 2^-exponent, with 2^30 <= mantissa < 2^31. Rounding is half up:
`(x + 2^(s-1)) >> s`. What an operator does outside of the ranges stated here is not defined.
"""


def render() -> str:
    """Return the page, made from the modules' schemas and docstrings."""
    modules = sorted(ops.modules(), key=lambda module: module.SCHEMA.name)
    return "\n".join([_HEAD, *(_section(module) for module in modules)])


def _section(module: ModuleType) -> str:
    schema: OpSchema = module.SCHEMA
    about = inspect.getdoc(module) or ""
    attributes = ", ".join(starmap(_range, schema.attributes.items())) or "none"
    rows = [_row("input", port) for port in schema.inputs]
    rows += [_row("output", port) for port in schema.outputs]
    return "\n".join(
        [
            f"## {schema.name}\n",
            about.removeprefix(f"{schema.name}: ").replace("``", "`") + "\n",
            "| | name | type | shape |",
            "|---|---|---|---|",
            *rows,
            f"\nAttributes: {attributes}.\n",
            f"```text\n{inspect.getdoc(module.reference)}\n```\n",
        ]
    )


def _range(name: str, bounds: tuple[int, int]) -> str:
    least, most = (f"{bound:,}" for bound in bounds)
    return f"`{name}` ({least} to {most})"


def _row(kind: str, port: Port) -> str:
    shape = f"({port.dims[0]},)" if len(port.dims) == 1 else f"({', '.join(port.dims)})"
    return f"| {kind} | {port.name} | {port.dtype} | {shape} |"


if __name__ == "__main__":
    sys.stdout.write(render())
