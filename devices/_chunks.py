"""A product, cut into what fits on a chip: blocks of outputs, and chunks of the inputs of each."""

from dataclasses import dataclass

from edgellm.device import MatMul


@dataclass(frozen=True)
class Chunk:
    """What one load brings: rows of activations, columns (outputs) of weights, inputs of both.

    Attributes:
        rows: of the activations.
        columns: of the outputs.
        inputs: along k.
        group: inputs that are multiplied before they are dequantised.
        k: all inputs of the product.
    """

    rows: range
    columns: range
    inputs: range
    group: int
    k: int

    @property
    def area(self) -> int:
        """Outputs that it contributes to."""
        return len(self.rows) * len(self.columns)

    @property
    def groups(self) -> list[range]:
        """The inputs of each group."""
        starts = range(self.inputs.start, self.inputs.stop, self.group)
        return [range(start, min(start + self.group, self.inputs.stop)) for start in starts]

    @property
    def first(self) -> bool:
        """Whether a block of outputs begins with it."""
        return self.inputs.start == 0

    @property
    def last(self) -> bool:
        """Whether a block of outputs is complete after it."""
        return self.inputs.stop == self.k


def cut(work: MatMul, most: tuple[int, int, int]) -> list[Chunk]:
    """Return a product's chunks; those of a block of outputs come one after the other.

    Args:
        work: the product.
        most: rows, columns and inputs of a chunk; inputs are whole groups, or part of one.
    """
    high, wide, deep = most
    group = min(work.group_size or deep, deep)
    spans = _ranges(work.k, work.group_size) if group < work.group_size else [range(work.k)]
    return [
        Chunk(rows, columns, inputs, group, work.k)
        for rows in _ranges(work.m, high)
        for columns in _ranges(work.n, wide)
        for span in spans
        for inputs in _ranges(span.stop, deep, span.start)
    ]


def _ranges(end: int, part: int, begin: int = 0) -> list[range]:
    return [range(first, min(first + part, end)) for first in range(begin, end, part)]
