"""What an operator declares about itself: ports, attributes, shapes, examples."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from edgellm.errors import PlanError

DOMAIN = "ai.edgellm"
DOMAIN_VERSION = 1

Dim = int | str
"""A size: a number, or a name such as ``tokens``, or a sum of names such as ``past+tokens``."""

Shape = tuple[Dim, ...]


@dataclass(frozen=True)
class Port:
    """One input or output: its name, element type, and dimensions by letter.

    The same letter is the same size everywhere in one schema, a number is that size, and an output
    may use a sum ("S+T"), or a product of numbers and fixed sizes ("4*S*W").
    """

    name: str
    dtype: str
    dims: tuple[str, ...]


@dataclass(frozen=True)
class OpSchema:
    """The signature of an operator. Attributes are all integers and all required."""

    name: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    attributes: tuple[str, ...] = ()

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
        return [tuple(_evaluate(dim, bound) for dim in port.dims) for port in self.outputs]


def _evaluate(expression: str, bound: Mapping[str, Dim]) -> Dim:
    sizes = [_multiply(term, bound) for term in expression.split("+")]
    if all(isinstance(size, int) for size in sizes):
        return sum(int(size) for size in sizes)
    return "+".join(str(size) for size in sizes)


def _multiply(term: str, bound: Mapping[str, Dim]) -> Dim:
    factors = [int(factor) if factor.isdigit() else bound[factor] for factor in term.split("*")]
    if len(factors) == 1:
        return factors[0]
    sizes = [factor for factor in factors if isinstance(factor, int)]
    if len(sizes) < len(factors):
        raise PlanError(f"{term} needs fixed sizes, got {factors}")
    return math.prod(sizes)


@dataclass(frozen=True)
class Example:
    """Inputs and attributes on which every executor must agree with ``reference``."""

    name: str
    inputs: tuple[npt.NDArray[np.generic], ...]
    attributes: Mapping[str, int] = field(default_factory=dict)
