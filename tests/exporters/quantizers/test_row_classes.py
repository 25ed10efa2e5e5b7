"""Rows in classes: each as if alone, and joined in their order."""

import numpy as np
import pytest

from edgellm import ops
from edgellm.exporters.quantizers import low_bit, row_classes
from edgellm.exporters.quantizers.low_bit import ROW, Scheme
from edgellm.exporters.quantizers.row_classes import JoinedLinear, RowSchemes, join, places_of

ONE = Scheme("shiftadd", 1, 32)
TWO = Scheme("group", 2, ROW)
FOUR = Scheme("group", 4, 32)


def test_rows_are_rounded_as_if_the_others_were_not_there() -> None:
    rng = np.random.default_rng(3)
    weight, schemes = rng.normal(size=(9, 64)), [ONE, TWO, FOUR] * 3

    joined = row_classes.quantize(weight, None, join(schemes))

    assert isinstance(joined, JoinedLinear)
    for row, scheme in enumerate(schemes):
        alone = low_bit.quantize(weight[row : row + 1], None, scheme).real(64)
        assert joined.real(64)[row] == pytest.approx(alone[0], rel=1e-9)


def test_products_of_the_classes_are_joined_in_the_order_of_the_rows() -> None:
    rng = np.random.default_rng(4)
    weight = rng.normal(size=(70, 64))
    schemes = [(FOUR, TWO, FOUR, ONE)[row % 4] for row in range(70)]
    x = rng.integers(-127, 128, (3, 64)).astype(np.int8)

    joined = row_classes.quantize(weight, None, join(schemes))

    assert isinstance(joined, JoinedLinear)
    sums = [
        ops.find(part.op_type).reference(x, *part.tensors.values(), **part.attributes)
        for part in joined.parts
    ]
    acc = sums[0]
    for other, places in zip(sums[1:], places_of(joined.classes), strict=True):
        acc = ops.find("JoinColumns").reference(acc, other, places)
    exact = x.astype(np.float64) @ joined.real(64).T
    # One step of an accumulator is one unit, and it is rounded once.
    assert (np.abs(acc * joined.unit - exact) <= 0.5 * joined.unit * (1 + 1e-6)).all()


def test_a_recipe_counts_its_bits_and_those_that_join() -> None:
    recipe = join([FOUR] * 20 + [TWO] * 12 + [ONE] * 4)

    assert isinstance(recipe, RowSchemes)
    assert recipe.schemes == (ONE, TWO, FOUR)
    weights = 20 * (4 * 64 + 2 * 24) + 12 * (2 * 64 + 24) + 4 * (64 + 2 * 8)
    assert recipe.stored_bits((36, 64)) == weights + 16 + 40
    assert str(recipe).startswith("rows: 4 of shift-and-add, 1 bits, groups of 32; 12 of W2A8")


def test_rows_of_one_scheme_need_no_classes() -> None:
    assert join([TWO] * 5) == TWO


def test_trellises_of_few_rows_become_one_of_as_many_bits() -> None:
    trellises = [Scheme("trellis", bits, ROW) for bits in (3, 2, 2.5)]

    assert join(trellises * 4) == Scheme("trellis", 2.5, ROW)
    assert join(trellises[:2] * 3 + [trellises[1]] * 2) == Scheme("trellis", 19 / 8, ROW)
    two, three, many = (Scheme("trellis", bits, ROW) for bits in (2, 3, 4))
    recipe = join([two] * 100 + [three] * 60 + [many] * 128)
    assert recipe == RowSchemes((many, Scheme("trellis", 2.375, ROW)), (1,) * 160 + (0,) * 128)
    recipe = join([*trellises[:2], FOUR] * 2)
    assert recipe == RowSchemes((FOUR, Scheme("trellis", 2.5, ROW)), (1, 1, 0) * 2)


def test_costs_go_with_their_rows() -> None:
    rng = np.random.default_rng(5)
    weight, costs = rng.normal(size=(70, 64)), np.exp(2 * rng.normal(size=70))
    one = Scheme("trellis", 2.5, ROW)
    classes = np.arange(70) % 10 == 0

    joined = row_classes.quantize(
        weight, None, join([FOUR if own else one for own in classes]), costs
    )

    assert isinstance(joined, JoinedLinear)
    alone = low_bit.quantize(weight[~classes], None, one, costs[~classes])
    np.testing.assert_array_equal(joined.real(64)[~classes], alone.real(64))
