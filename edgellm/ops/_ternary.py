"""What the operators on packed ternary weights share."""

from collections.abc import Callable

from edgellm.ops._use import Demands, Use, columns_at_most

MAX_COLUMNS = 16_777_215


def packed_columns_fit(use: Use, row_bytes: Callable[[int], int]) -> Demands:
    """Demand as many packed columns as the activations have.

    Args:
        use: of the operator.
        row_bytes: bytes of a packed row, a function of its columns.
    """
    columns = use.sizes["K"]
    fits = isinstance(columns, int) and row_bytes(columns) == use.sizes["B"]
    return [
        *columns_at_most(use, "K", MAX_COLUMNS),
        (fits, "the packed weight has another number of columns than the activations"),
    ]
