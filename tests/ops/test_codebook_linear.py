"""CodebookLinear by hand, and what it demands of the outliers of a file from a stranger."""

from dataclasses import replace

import numpy as np
import pytest

from edgellm.device import MatMul
from edgellm.ops import Use
from edgellm.ops.codebook_linear import SCHEMA, demands, examples, reference, work
from edgellm.row_codes import pack_row_codes
from edgellm.runtime.energy import product_energy

NAMES = ("x", "codes", "levels", "offsets", "columns", "values")


def test_levels_and_outliers_by_hand() -> None:
    codes = pack_row_codes(np.array([[0, 1, 3], [2, 2, 0]], np.uint8), 2)
    levels = np.array([[[-5, 1, 2, 100]], [[7, 0, -1, 0]]], np.int8)
    offsets, columns = np.array([0, 0, 2], np.int32), np.array([0, 2], np.int16)
    values = np.array([1000, -7], np.int16)
    x = np.array([[1, 2, 3]], np.int8)

    acc = reference(x, codes, levels, offsets, columns, values, group_size=64)

    # -5 + 2*1 + 3*100; (-1 + 1000) + 2*-1 + 3*(7 - 7)
    assert acc.tolist() == [[297, 997]]


@pytest.fixture
def use() -> Use:
    """Return two rows of 70 columns, 3 bits a code, with one and two outliers."""
    return Use(
        inputs=NAMES,
        outputs=("acc",),
        attributes={"group_size": 64},
        sizes={"T": "tokens", "K": 70, "N": 2, "B": 48, "G": 2, "L": 8, "R": 3, "Z": 3},
        context_length=64,
        stored={
            "levels": np.arange(-127, -95, dtype=np.int8).reshape(2, 2, 8),
            "offsets": np.array([0, 1, 3], np.int32),
            "columns": np.array([69, 0, 1], np.int16),
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
        ("L", 7, "4, 8 or 16 levels"),
        ("L", 2, "4, 8 or 16 levels"),
        ("B", 47, "another number of columns"),
        ("G", 1, "one table for each group"),
        ("R", 2, "one offset, or one more than rows"),
        ("N", "tokens", "a fixed size"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(
    use: Use, size: str, value: int | str, message: str
) -> None:
    assert message in "; ".join(complaints(replace(use, sizes={**use.sizes, size: value})))


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("offsets", [1, 1, 3], "ascend from 0"),
        ("offsets", [0, 2, 1], "ascend from 0"),
        ("offsets", [0, 1, 4], "ascend from 0"),
        ("columns", [70, 0, 1], "columns below 70"),
        ("columns", [69, -1, 1], "columns below 70"),
        ("columns", [69, 1, 1], "a row's outliers ascend"),
        ("columns", [69, 1, 0], "a row's outliers ascend"),
    ],
)
def test_places_of_outliers_are_checked(
    use: Use, name: str, values: list[int], message: str
) -> None:
    changed = np.array(values, use.stored[name].dtype)

    assert message in "; ".join(complaints(replace(use, stored={**use.stored, name: changed})))


def test_computed_places_are_refused(use: Use) -> None:
    stored = {name: use.stored[name] for name in ("levels", "offsets")}

    assert complaints(replace(use, stored=stored)) == [
        "the places of its outliers are stored in the bundle"
    ]


def test_levels_have_a_negative_or_are_refused(use: Use) -> None:
    """A kernel moves the signs of activations to them."""
    refused = ["its levels are stored in the bundle, and are from -127 to 127"]
    levels = use.stored["levels"] - np.int8(1)

    assert complaints(replace(use, stored={**use.stored, "levels": levels})) == refused
    stored = {name: array for name, array in use.stored.items() if name != "levels"}
    assert complaints(replace(use, stored=stored)) == refused


@pytest.mark.parametrize("outliers", [False, True])
def test_work_has_the_bytes_that_are_stored(outliers: bool) -> None:
    name = "many_tokens_3_bits" if outliers else "one_token_3_bits"
    example = next(one for one in examples() if one.name == name)
    sizes = SCHEMA.bind([array.shape for array in example.inputs])

    found = work({**sizes, **example.attributes})

    x, codes, levels, offsets, columns, values = example.inputs
    assert isinstance(found, MatMul)
    # Rows are filled up to whole blocks of 64 columns, and there is one offset more than rows.
    padding = codes.nbytes - len(codes) * x.shape[1] * 3 / 8
    sparse = columns.nbytes + values.nbytes + offsets.nbytes - 4 if outliers else 0
    assert found.weight_bytes == codes.nbytes - padding + levels.nbytes + sparse
    assert product_energy(found) == pytest.approx(
        found.k * found.n * (0.37 + 0.2 + 0.1) + found.outliers * (3.1 + 0.1)
    )
