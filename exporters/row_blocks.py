"""Blocks of rows of linears: what gets a scheme of its own where a budget is spent.

The rows of a linear are ranked by what rounding them costs the model, and cut into blocks. Weights
are stored in blocks of 64 rows, so these have as many or a multiple.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgellm.dtypes import PLANE_ROWS
from edgellm.exporters.allocation import Choice
from edgellm.exporters.quantizers import row_classes
from edgellm.exporters.quantizers.low_bit import Scheme
from edgellm.exporters.quantizers.row_classes import Recipe

MOST_BLOCKS = 16
"""Of a linear. Half as many take 0.02 bits a weight more for the same expected loss (vit-mnist)."""


@dataclass(frozen=True)
class RowBlock:
    """Some rows of a linear, in ascending order."""

    path: str
    rows: npt.NDArray[np.intp]


def cut(path: str, costs: npt.NDArray[np.float64]) -> dict[str, RowBlock]:
    """Return the blocks of a linear by name, the rows that cost most first.

    Args:
        path: of the linear.
        costs: (N,) what rounding each row costs.
    """
    order = np.argsort(-costs, kind="stable")
    size = PLANE_ROWS * -(-len(costs) // (PLANE_ROWS * MOST_BLOCKS))
    parts = [np.sort(order[first : first + size]) for first in range(0, len(order), size)]
    return {f"{path}#{number}": RowBlock(path, rows) for number, rows in enumerate(parts)}


def recipes(choice: Choice, blocks: Mapping[str, RowBlock]) -> dict[str, Recipe]:
    """Return how each linear is quantised, by its path, if each block gets what is chosen."""
    return {path: row_classes.join(each) for path, each in schemes_of_rows(choice, blocks).items()}


def schemes_of_rows(choice: Choice, blocks: Mapping[str, RowBlock]) -> dict[str, list[Scheme]]:
    """Return the scheme of each row of each linear, by its path."""
    schemes: dict[str, list[Scheme]] = {}
    for name, block in blocks.items():
        of_path = schemes.setdefault(block.path, [])
        missing = int(block.rows.max()) + 1 - len(of_path)
        of_path += [choice[name].scheme] * max(0, missing)
        for row in block.rows:
            of_path[row] = choice[name].scheme
    return schemes


def stored_bits(
    choice: Choice, blocks: Mapping[str, RowBlock], linears: Mapping[str, tuple[int, int]]
) -> int:
    """Return the bits of all linears if each block gets what is chosen.

    Args:
        choice: by name of block.
        blocks: of all linears.
        linears: (N, K) by path.
    """
    classes: dict[str, dict[Scheme, int]] = {}
    for name, block in blocks.items():
        counts, scheme = classes.setdefault(block.path, {}), choice[name].scheme
        counts[scheme] = counts.get(scheme, 0) + len(block.rows)
    joined = {path: _joined(counts) for path, counts in classes.items()}
    return sum(
        scheme.stored_bits((count, linears[path][1]))
        for path, counts in joined.items()
        for scheme, count in counts.items()
    ) + sum(_joining_bits(list(counts.values())) for counts in joined.values())


def _joined(counts: Mapping[Scheme, int]) -> dict[Scheme, int]:
    """Return the rows of each scheme once they are joined."""
    found: dict[Scheme, int] = {}
    for scheme, one in row_classes.merged(counts).items():
        found[one] = found.get(one, 0) + counts[scheme]
    return found


def _joining_bits(counts: Sequence[int]) -> int:
    """Return the bits that join classes of so many rows: see ``row_classes.places_of``."""
    ends = np.cumsum(sorted(counts))[1:]
    return 8 * sum(-(-int(end) // 8) for end in ends)
