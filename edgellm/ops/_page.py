"""The operator reference as Markdown: ``python -m edgellm.ops._page > docs/operators.md``."""

import ast
import inspect
import re
import sys
from collections.abc import Iterator
from itertools import pairwise, starmap
from types import ModuleType

from edgellm import dtypes, int4, ops, row_codes, ternary_planes, trellis_codes
from edgellm.ops import OpSchema, Port, _shift_alphas

LAYOUTS = (dtypes, int4, row_codes, ternary_planes, trellis_codes, _shift_alphas)
"""Modules with names of layouts, each followed by what it means."""

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
    layouts = sorted(pair for module in LAYOUTS for pair in _layouts_of(module))
    return "\n".join(
        [
            _HEAD,
            *(_section(module) for module in modules),
            "# Layouts\n",
            *(f"## {name}\n\n```text\n{about}\n```\n" for name, about in layouts),
        ]
    )


def _layouts_of(module: ModuleType) -> Iterator[tuple[str, str]]:
    """Yield the constants of a module that name a layout, and the strings that explain them."""
    for statement, after in pairwise(ast.parse(inspect.getsource(module)).body):
        match statement, after:
            case (
                ast.Assign(value=ast.Constant(value=str(name))),
                ast.Expr(value=ast.Constant(value=str(about))),
            ) if re.fullmatch(r"[\w-]+/v\d+", name):
                yield name, inspect.cleandoc(about)


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
