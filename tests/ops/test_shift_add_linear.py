"""ShiftAddLinear: what it demands of a file from a stranger, and the bytes that it counts."""

from dataclasses import replace

import pytest

from edgellm.device import MatMul
from edgellm.ops import Use
from edgellm.ops.shift_add_linear import SCHEMA, demands, examples, work


@pytest.fixture
def use() -> Use:
    """Return 70 rows of 172 columns: 3 planes, 3 powers each, groups of 64."""
    return Use(
        inputs=("x", "planes", "alphas"),
        outputs=("acc",),
        attributes={"group_size": 64, "shift": 8, "terms": 3},
        sizes={"T": "tokens", "K": 172, "N": 70, "B": 2, "C": 22, "P": 3, "A": 3 * 5},
        context_length=64,
    )


def complaints(use: Use) -> list[str]:
    return [demand for fulfilled, demand in demands(use) if not fulfilled]


def test_a_sound_use_is_accepted(use: Use) -> None:
    assert complaints(use) == []


@pytest.mark.parametrize(
    ("size", "value", "message"),
    [
        ("A", 12, "alphas for each plane"),
        ("A", "tokens", "alphas for each plane"),
        ("P", 4, "alphas for each plane"),
        ("P", 9, "1 to 8 planes"),
        ("P", "tokens", "a fixed size"),
        ("A", 10, "alphas for each plane of each group"),
        ("N", 129, "another number of rows"),
        ("K", 180, "another number of rows or columns"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(
    use: Use, size: str, value: int | str, message: str
) -> None:
    assert message in "; ".join(complaints(replace(use, sizes={**use.sizes, size: value})))


@pytest.mark.parametrize("terms", [2, 4, 8])
def test_terms_that_do_not_fit_are_refused(use: Use, terms: int) -> None:
    attributes = {**use.attributes, "terms": terms}

    assert complaints(replace(use, attributes=attributes)) == [
        "it has alphas for each plane of each group"
    ]


def test_work_has_the_bytes_that_are_stored() -> None:
    example = next(one for one in examples() if one.name == "many_rows")
    sizes = SCHEMA.bind([array.shape for array in example.inputs])

    found = work({**sizes, **example.attributes})

    x, _, alphas = example.inputs
    rows, columns = len(alphas), x.shape[1]
    assert isinstance(found, MatMul)
    assert found.weight_bytes == rows * columns * 2 / 8 + alphas.nbytes
    assert found.shifts == 2 * 2
