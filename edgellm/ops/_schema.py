"""What an operator declares about itself: ports, attributes, shapes, examples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from edgellm.errors import PlanError

DOMAIN = "ai.edgellm"
DOMAIN_VERSION = 1

Dim = int | str
"""A size: a number, or a name such as ``tokens``, or a sum such as ``past+tokens``, in which a name
may have a factor: ``images*197``."""

Shape = tuple[Dim, ...]


@dataclass(frozen=True)
class Port:
    """One input or output: its name, element type, and dimensions by letter.

    The same letter is the same size everywhere in one schema, a number is that size, and an output
    may use sums and products ("S+T", "B*F+T").
    """

    name: str
    dtype: str
    dims: tuple[str, ...]


@dataclass(frozen=True)
class OpSchema:
    """The signature of an operator.

    Attributes:
        name: of the operator.
        inputs: in order.
        outputs: in order.
        attributes: smallest and largest value by name; all are integers, and all are required.
        tables: letters that count the rows of constants of which a call looks rows up.
    """

    name: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    attributes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    tables: tuple[str, ...] = ()

    @property
    def letters(self) -> tuple[str, ...]:
        """Dimension letters of the inputs in order of first appearance."""
        return tuple(dict.fromkeys(letter for port in self.inputs for letter in port.dims))

    def bind(self, shapes: Sequence[Shape]) -> dict[str, Dim]:
        """Match input shapes against the declared letters.

        Raises:
            PlanError: an input has another rank, or one letter would need two sizes.
        """
        if len(shapes) != len(self.inputs):
            raise PlanError(f"{self.name} takes {len(self.inputs)} inputs, got {len(shapes)}")
        bound: dict[str, Dim] = {}
        for port, shape in zip(self.inputs, shapes, strict=True):
            if len(shape) != len(port.dims):
                raise PlanError(f"{self.name}.{port.name} has rank {len(port.dims)}, got {shape}")
            for letter, size in zip(port.dims, shape, strict=True):
                if bound.setdefault(letter, int(letter) if letter.isdigit() else size) != size:
                    raise PlanError(
                        f"{self.name}.{port.name}: {letter} is {size} here, "
                        f"{bound[letter]} elsewhere"
                    )
        return bound

    def infer(self, shapes: Sequence[Shape]) -> list[Shape]:
        """Return the output shapes that follow from the input shapes."""
        bound = self.bind(shapes)
        return [tuple(_combine(dim, bound) for dim in port.dims) for port in self.outputs]


def dim_terms(dim: Dim) -> dict[str, int]:
    """Return the factor of each name in a size; a number is the factor of the name ""."""
    if isinstance(dim, int):
        return {"": dim}
    terms: dict[str, int] = {}
    for term in dim.split("+"):
        name, _, factor = ("", "", term) if term.isdigit() else term.partition("*")
        terms[name] = terms.get(name, 0) + int(factor or 1)
    return terms


def evaluate_dim(dim: Dim, sizes: Mapping[str, int]) -> int:
    """Return a size as a number, by those of its names."""
    terms = dim_terms(dim).items()
    return sum(factor * (sizes[name] if name else 1) for name, factor in terms)


def _combine(expression: str, bound: Mapping[str, Dim]) -> Dim:
    """Return a sum of products of letters as a size."""
    total: dict[str, int] = {}
    for term in expression.split("+"):
        product = {"": 1}
        for letter in term.split("*"):
            size = int(letter) if letter.isdigit() else bound[letter]
            product = _multiply(product, dim_terms(size), expression)
        for name, factor in product.items():
            total[name] = total.get(name, 0) + factor
    constant = total.pop("", 0)
    if not total:
        return constant
    parts = [name if factor == 1 else f"{name}*{factor}" for name, factor in total.items()]
    return "+".join([*parts, str(constant)] if constant else parts)


def _multiply(a: Mapping[str, int], b: Mapping[str, int], expression: str) -> dict[str, int]:
    for x, y in ((a, b), (b, a)):
        if set(x) == {""}:
            return {name: factor * x[""] for name, factor in y.items()}
    raise PlanError(f"{expression} multiplies two sizes that are no numbers")


@dataclass(frozen=True)
class Example:
    """Inputs and attributes on which every executor must agree with ``reference``."""

    name: str
    inputs: tuple[npt.NDArray[np.generic], ...]
    attributes: Mapping[str, int] = field(default_factory=dict)
