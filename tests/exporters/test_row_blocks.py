"""Rows are ranked, cut into blocks of whole planes, and every stored bit is counted."""

import numpy as np
import pytest

from edgellm.exporters.allocation import Choice, Option
from edgellm.exporters.quantizers.low_bit import Scheme
from edgellm.exporters.quantizers.row_classes import RowSchemes
from edgellm.exporters.row_blocks import MOST_BLOCKS, cut, recipes, stored_bits

COSTLY, CHEAP = Scheme("group", 5, 64), Scheme("group", 2, 64)
TRELLISES = Scheme("trellis", 3, 0), Scheme("trellis", 1.5, 0)


def chosen(scheme: Scheme) -> Option:
    return Option(scheme, 0, 0.0)


def test_the_costliest_rows_come_first_in_whole_blocks() -> None:
    costs = np.random.default_rng(1).permutation(300).astype(np.float64)

    blocks = cut("a", costs)

    assert [len(block.rows) for block in blocks.values()] == [64, 64, 64, 64, 44]
    ranked = [sorted(costs[block.rows], reverse=True) for block in blocks.values()]
    assert [cost for each in ranked for cost in each] == sorted(costs, reverse=True)


def test_large_linears_have_larger_blocks() -> None:
    blocks = cut("a", np.arange(64.0 * MOST_BLOCKS + 1))

    assert len(next(iter(blocks.values())).rows) == 128
    assert len(blocks) <= MOST_BLOCKS


def test_small_linears_stay_whole() -> None:
    assert len(cut("a", np.arange(64.0))) == 1


@pytest.mark.parametrize("pair", [(COSTLY, CHEAP), (Scheme("trellis", 3, 0), CHEAP), TRELLISES])
def test_bits_of_a_choice_are_those_of_its_recipes(pair: tuple[Scheme, Scheme]) -> None:
    linears = {"a": (172, 64), "b": (64, 128)}
    blocks = {
        **cut("a", np.sin(np.arange(172.0))),
        **cut("b", np.ones(64)),
    }
    names = list(blocks)
    for first in range(len(names) + 1):
        choice: Choice = {name: chosen(pair[place >= first]) for place, name in enumerate(names)}
        found = recipes(choice, blocks)

        total = sum(found[path].stored_bits(shape) for path, shape in linears.items())
        assert stored_bits(choice, blocks, linears) == total
    mixed = recipes({name: chosen(pair[name != names[0]]) for name in names}, blocks)
    assert isinstance(mixed["a"], Scheme if pair == TRELLISES else RowSchemes)
