"""TrellisLinear by hand, and what it demands of a file from a stranger."""

from dataclasses import replace

import numpy as np
import pytest

from edgellm.device import MatMul
from edgellm.ops import Use
from edgellm.ops.trellis_linear import SCHEMA, demands, examples, reference, work

NAMES = ("x", "codes", "offsets", "columns", "values")


def test_weights_and_outliers_by_hand() -> None:
    """All bits are 0: all states are, and their level is twice the first."""
    codes, x = np.zeros((4, 1), np.uint8), np.array([[1, 2]], np.int8)
    offsets, columns = np.array([0, 0, 1, 1, 2], np.int32), np.array([1, 0], np.int16)
    values = np.array([1000, 126], np.int16)

    acc = reference(x, codes, offsets, columns, values)

    assert acc.tolist() == [[-378, -378 + 2000, -378, -378 + 126]]


@pytest.fixture
def use() -> Use:
    """Return 20 rows of 70 columns, 2.8 bits a weight, one with an outlier."""
    return Use(
        inputs=NAMES,
        outputs=("acc",),
        attributes={},
        sizes={"T": "tokens", "K": 70, "N": 20, "B": 25, "R": 21, "Z": 1},
        context_length=64,
        stored={
            "offsets": np.array([0, *[1] * 20], np.int32),
            "columns": np.array([69], np.int16),
        },
    )


def complaints(use: Use) -> list[str]:
    return [demand for fulfilled, demand in demands(use) if not fulfilled]


def test_a_sound_use_is_accepted(use: Use) -> None:
    assert complaints(use) == []


@pytest.mark.parametrize(
    ("size", "value", "message"),
    [
        ("K", 40_000, "at most 32768 columns"),
        ("K", 0, "a column, or more"),
        ("N", 0, "a byte for each column, or more"),
        ("B", 3, "a byte for each column, or more"),
        ("B", 74, "at most 8 bits a weight"),
        ("R", 2, "one offset, or one more than rows"),
        ("N", "tokens", "a fixed size"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(
    use: Use, size: str, value: int | str, message: str
) -> None:
    assert message in "; ".join(complaints(replace(use, sizes={**use.sizes, size: value})))


@pytest.mark.parametrize("value", [70, -1])
def test_places_of_outliers_are_checked(use: Use, value: int) -> None:
    stored = {**use.stored, "columns": np.array([value], np.int16)}

    assert complaints(replace(use, stored=stored)) == ["outliers are in columns below 70"]


def test_work_has_the_bytes_that_are_stored() -> None:
    example = next(one for one in examples() if one.name == "more_tokens")
    sizes = SCHEMA.bind([array.shape for array in example.inputs])

    found = work(sizes)

    _, codes, offsets, columns, values = example.inputs
    assert isinstance(found, MatMul)
    sparse = offsets.nbytes - 4 + columns.nbytes + values.nbytes
    assert found.weight_bytes == codes.nbytes + sparse
