"""A budget is spent where it helps the most, and never overspent."""

import itertools

import numpy as np
import pytest

from edgellm.errors import ConfigError
from edgellm.exporters.allocation import Choice, Option, allocate, refine, total_bits, useful
from edgellm.exporters.quantizers.low_bit import Scheme

WEIGHTS = 1000


def options(sensitivity: float) -> list[Option]:
    """Return what a linear of 1000 weights may become: a bit more, a quarter of the loss."""
    return [
        Option(Scheme("group", bits, 64), bits * WEIGHTS, sensitivity * 4.0**-bits)
        for bits in (2, 3, 4, 8)
    ]


def expected(choice: Choice) -> float:
    return sum(option.loss for option in choice.values())


def test_linears_that_lose_more_get_more_bits() -> None:
    found = {name: options(10.0**place) for place, name in enumerate("abc")}

    choice = allocate(found, 9 * WEIGHTS)

    assert [choice[name].scheme.bits for name in "abc"] == [2, 3, 4]


@pytest.mark.parametrize("budget", [6, 7, 9, 11, 14, 24, 30])
def test_no_other_choice_of_as_many_bits_loses_less(budget: int) -> None:
    found = {name: options(2.0**place) for place, name in enumerate("abc")}

    choice = allocate(found, budget * WEIGHTS)

    others = [dict(zip("abc", each, strict=True)) for each in itertools.product(*found.values())]
    least = min(expected(one) for one in others if total_bits(one) <= total_bits(choice))
    assert total_bits(choice) <= budget * WEIGHTS
    assert expected(choice) == least


def test_a_budget_below_the_smallest_is_refused() -> None:
    with pytest.raises(ConfigError, match="the smallest options take 2000"):
        allocate({"a": options(1)}, 1980)


def test_a_budget_that_joining_takes_up_leaves_the_smallest() -> None:
    found = {name: options(1) for name in "ab"}

    def bits(choice: Choice) -> int:
        return total_bits(choice) + 600 * (len({one.scheme for one in choice.values()}) - 1)

    assert allocate(found, 5 * WEIGHTS, bits) == {name: found[name][0] for name in "ab"}


def test_options_off_the_hull_are_left_out() -> None:
    scheme = Scheme("group", 2, 64)
    small, dear, worse, large = (
        Option(scheme, bits, loss) for bits, loss in ((2, 9.0), (3, 8.9), (3, 9.5), (4, 1.0))
    )

    assert useful([large, dear, worse, small]) == [small, large]


def test_evolution_finds_what_does_not_add_up() -> None:
    found = {name: options(1) for name in "abcdef"}
    hidden = dict(zip("abcdef", np.geomspace(1, 1000, 6), strict=True))

    def loss(choice: Choice) -> float:
        return sum(hidden[name] * option.loss for name, option in choice.items())

    start = allocate(found, 18 * WEIGHTS)
    best, least = refine(start, found, 18 * WEIGHTS, loss)

    assert least == loss(best) < 0.5 * loss(start)
    assert total_bits(best) <= 18 * WEIGHTS


def test_evolution_never_makes_it_worse() -> None:
    found = {name: options(1) for name in "ab"}
    start = allocate(found, 6 * WEIGHTS)

    best, _ = refine(start, found, 6 * WEIGHTS, lambda choice: float(choice != start))

    assert best == start
